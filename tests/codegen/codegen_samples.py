"""LLVM IR for the tests, of the kind that the compiler makes: tiled, unrolled, vectorised."""

from __future__ import annotations


def micro_kernel(rows: int, lanes: int, unroll: int = 2, name: str = "micro") -> str:
    """C[rows, lanes] = sum over k < K of A[k, rows] B[k, lanes]; K is a multiple of `unroll`. name(A, B, C, K)."""
    vec = f"<{lanes} x float>"
    out = [
        f"declare {vec} @llvm.fma.v{lanes}f32({vec}, {vec}, {vec})",
        f"define void @{name}(ptr noalias %A, ptr noalias %B, ptr noalias %C, i64 %K) nounwind {{",
        "entry:", "  br label %loop", "loop:", "  %k = phi i64 [0, %entry], [%next, %loop]",
    ]  # fmt: skip
    out += [f"  %c{r} = phi {vec} [zeroinitializer, %entry], [%n{unroll - 1}_{r}, %loop]" for r in range(rows)]
    for u in range(unroll):
        out += [
            f"  %k{u} = add i64 %k, {u}",
            f"  %bo{u} = mul i64 %k{u}, {lanes}",
            f"  %bp{u} = getelementptr float, ptr %B, i64 %bo{u}",
            f"  %b{u} = load {vec}, ptr %bp{u}, align 4",
            f"  %ao{u} = mul i64 %k{u}, {rows}",
        ]
        for r in range(rows):
            old = f"%c{r}" if u == 0 else f"%n{u - 1}_{r}"
            out += [
                f"  %ai{u}_{r} = add i64 %ao{u}, {r}",
                f"  %ap{u}_{r} = getelementptr float, ptr %A, i64 %ai{u}_{r}",
                f"  %as{u}_{r} = load float, ptr %ap{u}_{r}, align 4",
                f"  %av{u}_{r} = insertelement {vec} poison, float %as{u}_{r}, i32 0",
                f"  %a{u}_{r} = shufflevector {vec} %av{u}_{r}, {vec} poison, <{lanes} x i32> zeroinitializer",
                f"  %n{u}_{r} = call {vec} @llvm.fma.v{lanes}f32({vec} %a{u}_{r}, {vec} %b{u}, {vec} {old})",
            ]
    out += [f"  %next = add i64 %k, {unroll}", "  %done = icmp sge i64 %next, %K"]
    out += ["  br i1 %done, label %exit, label %loop", "exit:"]
    for r in range(rows):
        out.append(f"  %cp{r} = getelementptr float, ptr %C, i64 {r * lanes}")
        out.append(f"  store {vec} %n{unroll - 1}_{r}, ptr %cp{r}, align 4")
    return "\n".join([*out, "  ret void", "}", ""])


# Coefficients that no compiler folds away, for the constant pool.
COEFFICIENTS = (0.7310585, -1.3862944, 2.2360680, -0.5772157)


def polynomial(lanes: int, name: str = "poly") -> str:
    """y = ((c3 x + c2) x + c1) x + c0, with mul and add, over n elements, n a multiple of `lanes`. name(x, y, n).

    Every coefficient comes from the constant pool as a vector of distinct lanes: lane i scales it by 1 + i.
    """
    vec = f"<{lanes} x float>"
    out = [
        f"define void @{name}(ptr noalias %x, ptr noalias %y, i64 %n) nounwind {{",
        "entry:", "  br label %test", "test:", "  %i = phi i64 [0, %entry], [%next, %body]",
        "  %more = icmp slt i64 %i, %n", "  br i1 %more, label %body, label %exit", "body:",
        "  %p = getelementptr float, ptr %x, i64 %i", f"  %v = load {vec}, ptr %p, align 4",
    ]  # fmt: skip
    value = ""
    for degree, coefficient in reversed(list(enumerate(COEFFICIENTS))):
        constant = "<" + ", ".join(f"float {_literal(coefficient * (1 + lane))}" for lane in range(lanes)) + ">"
        if not value:
            value = constant
        else:
            out += [f"  %m{degree} = fmul {vec} {value}, %v", f"  %s{degree} = fadd {vec} %m{degree}, {constant}"]
            value = f"%s{degree}"
    out += [
        "  %q = getelementptr float, ptr %y, i64 %i", f"  store {vec} {value}, ptr %q, align 4",
        f"  %next = add i64 %i, {lanes}", "  br label %test", "exit:", "  ret void", "}", "",
    ]  # fmt: skip
    return "\n".join(out)


def _literal(value: float) -> str:
    """A float constant as LLVM spells it: the bits of the double that equals the float."""
    import struct

    single = struct.unpack("<f", struct.pack("<f", value))[0]
    return f"0x{struct.unpack('<Q', struct.pack('<d', single))[0]:016X}"


def kernel(body: str = "  ret void", name: str = "k", arguments: str = "ptr %p", before: str = "") -> str:
    """A PTX kernel around a body."""
    return f"{before}\ndefine ptx_kernel void @{name}({arguments}) {{\n{body}\n}}\n"


def gpu_saxpy(name: str = "saxpy") -> str:
    """y[i] = a x[i] + y[i], multiplied and added apart, one thread an element."""
    return kernel(
        """entry:
  %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
  %b = call i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()
  %d = call i32 @llvm.nvvm.read.ptx.sreg.ntid.x()
  %o = mul i32 %b, %d
  %i = add i32 %o, %t
  %in = icmp ult i32 %i, %n
  br i1 %in, label %work, label %done
work:
  %j = zext i32 %i to i64
  %xp = getelementptr float, ptr addrspace(1) %x, i64 %j
  %yp = getelementptr float, ptr addrspace(1) %y, i64 %j
  %xv = load float, ptr addrspace(1) %xp
  %yv = load float, ptr addrspace(1) %yp
  %m = fmul float %a, %xv
  %s = fadd float %m, %yv
  store float %s, ptr addrspace(1) %yp
  br label %done
done:
  ret void""",
        name,
        "ptr addrspace(1) %x, ptr addrspace(1) %y, float %a, i32 %n",
        """declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()
declare i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()
declare i32 @llvm.nvvm.read.ptx.sreg.ntid.x()""",
    )

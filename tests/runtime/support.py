"""Small kernels compiled for this machine, and a bundle around them, for the runtime's tests."""

from __future__ import annotations

from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from tessera_runtime.core.manifest import (
    Arg,
    Buffer,
    Copy,
    Function,
    Guard,
    Input,
    Kernel,
    Launch,
    Output,
    Param,
    Plan,
    Provenance,
    Source,
    Symbol,
    Target,
)  # fmt: skip
from tessera_runtime.devices.cpu import machine
from tesseracc.bundle import Contents, TestCase, image_entry, write
from tesseracc.codegen.elf import link_image

# Kernel ABI: void f(void **args, i64 begin, i64 end, void *scratch). Each loop runs groups begin..end.
KERNELS = """
define void @saxpy(ptr %args, i64 %begin, i64 %end, ptr %scratch) nounwind {
entry:
  %a = load float, ptr %args
  %xs = getelementptr i64, ptr %args, i64 1
  %x = load ptr, ptr %xs
  %ys = getelementptr i64, ptr %args, i64 2
  %y = load ptr, ptr %ys
  %ns = getelementptr i64, ptr %args, i64 3
  %n = load i64, ptr %ns
  %from = mul i64 %begin, 128
  %wide = mul i64 %end, 128
  %less = icmp slt i64 %wide, %n
  %to = select i1 %less, i64 %wide, i64 %n
  br label %head
head:
  %i = phi i64 [ %from, %entry ], [ %i1, %body ]
  %go = icmp slt i64 %i, %to
  br i1 %go, label %body, label %out
body:
  %xp = getelementptr float, ptr %x, i64 %i
  %yp = getelementptr float, ptr %y, i64 %i
  %xv = load float, ptr %xp
  %yv = load float, ptr %yp
  %m = fmul float %a, %xv
  %s = fadd float %m, %yv
  store float %s, ptr %yp
  %i1 = add i64 %i, 1
  br label %head
out:
  ret void
}

; out[r, c] = x[r, c] + w[c]; one group per row
define void @add_row(ptr %args, i64 %begin, i64 %end, ptr %scratch) nounwind {
entry:
  %x = load ptr, ptr %args
  %ws = getelementptr i64, ptr %args, i64 1
  %w = load ptr, ptr %ws
  %os = getelementptr i64, ptr %args, i64 2
  %o = load ptr, ptr %os
  %ds = getelementptr i64, ptr %args, i64 3
  %d = load i64, ptr %ds
  br label %rows
rows:
  %r = phi i64 [ %begin, %entry ], [ %r1, %next ]
  %gor = icmp slt i64 %r, %end
  br i1 %gor, label %cols, label %out
cols:
  %c = phi i64 [ 0, %rows ], [ %c1, %body ]
  %goc = icmp slt i64 %c, %d
  br i1 %goc, label %body, label %next
body:
  %rd = mul i64 %r, %d
  %k = add i64 %rd, %c
  %xp = getelementptr float, ptr %x, i64 %k
  %wp = getelementptr float, ptr %w, i64 %c
  %op = getelementptr float, ptr %o, i64 %k
  %xv = load float, ptr %xp
  %wv = load float, ptr %wp
  %s = fadd float %xv, %wv
  store float %s, ptr %op
  %c1 = add i64 %c, 1
  br label %cols
next:
  %r1 = add i64 %r, 1
  br label %rows
out:
  ret void
}

; reverses each row through scratch: two passes, so that threads sharing scratch would be seen
define void @reverse(ptr %args, i64 %begin, i64 %end, ptr %scratch) nounwind {
entry:
  %x = load ptr, ptr %args
  %os = getelementptr i64, ptr %args, i64 1
  %o = load ptr, ptr %os
  %ds = getelementptr i64, ptr %args, i64 2
  %d = load i64, ptr %ds
  br label %rows
rows:
  %r = phi i64 [ %begin, %entry ], [ %r1, %next ]
  %gor = icmp slt i64 %r, %end
  br i1 %gor, label %first, label %out
first:
  %c = phi i64 [ 0, %rows ], [ %c1, %fill ]
  %goc = icmp slt i64 %c, %d
  br i1 %goc, label %fill, label %second
fill:
  %rd = mul i64 %r, %d
  %k = add i64 %rd, %c
  %xp = getelementptr float, ptr %x, i64 %k
  %sp = getelementptr float, ptr %scratch, i64 %c
  %xv = load float, ptr %xp
  store float %xv, ptr %sp
  %c1 = add i64 %c, 1
  br label %first
second:
  %e = phi i64 [ 0, %first ], [ %e1, %drain ]
  %goe = icmp slt i64 %e, %d
  br i1 %goe, label %drain, label %next
drain:
  %d1 = sub i64 %d, 1
  %back = sub i64 %d1, %e
  %tp = getelementptr float, ptr %scratch, i64 %back
  %tv = load float, ptr %tp
  %re = mul i64 %r, %d
  %q = add i64 %re, %e
  %op = getelementptr float, ptr %o, i64 %q
  store float %tv, ptr %op
  %e1 = add i64 %e, 1
  br label %second
next:
  %r1 = add i64 %r, 1
  br label %rows
out:
  ret void
}

; stores the 8 bytes of each scalar slot
define void @scalars(ptr %args, i64 %begin, i64 %end, ptr %scratch) nounwind {
  %as = getelementptr i64, ptr %args, i64 0
  %a = load i64, ptr %as
  %bs = getelementptr i64, ptr %args, i64 1
  %b = load i64, ptr %bs
  %cs = getelementptr i64, ptr %args, i64 2
  %c = load i64, ptr %cs
  %os = getelementptr i64, ptr %args, i64 3
  %o = load ptr, ptr %os
  store i64 %a, ptr %o
  %o1 = getelementptr i64, ptr %o, i64 1
  store i64 %b, ptr %o1
  %o2 = getelementptr i64, ptr %o, i64 2
  store i64 %c, ptr %o2
  ret void
}
"""

ND: tuple[Any, ...] = (("B",), ("D",))
N: tuple[Any, ...] = (("N",),)


@cache
def cpu_image(old: str = "", new: str = "") -> bytes:
    """The kernels as a code image for this machine's baseline CPU; with `new` for the text `old` in them."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    triple = {"x86-64": "x86_64-unknown-linux-gnu", "aarch64": "aarch64-unknown-linux-gnu"}[machine()]
    module = llvm.parse_assembly(KERNELS.replace(old, new) if old else KERNELS)
    module.triple = triple
    target = llvm.Target.from_triple(triple).create_target_machine(reloc="pic", opt=1)
    return link_image([target.emit_object(module)], machine())


def functions() -> tuple[Function, ...]:
    n, b, d = Symbol("N", "x", 0), Symbol("B", "x", 0), Symbol("D", "x", 1)
    x2 = Input("x", "tensor", "f32", ND)
    return (
        Function(
            "saxpy",
            "a*x + y",
            (n,),
            (Input("a", "scalar", "f32"), Input("x", "tensor", "f32", N), Input("y", "tensor", "f32", N, True)),
            (Output("y", "f32", N, "y"),),
        ),
        Function(
            "chain",
            "reverse(x) + w, reverse(x)",
            (b,),
            (Input("x", "tensor", "f32", (("B",), 5)),),
            (Output("out0", "f32", (("B",), 5)), Output("out1", "f32", (("B",), 5))),
        ),
        Function(
            "doubled",
            "needs an even extent",
            (Symbol("H", "x", 0, 2),),
            (
                Input("x", "tensor", "f32", (("H", 2, "mul"), 3)),
                Input("w", "tensor", "f32", (3,)),
                Input("v", "tensor", "f32", (("H", 1, "add"),)),
            ),
            (Output("out", "f32", (("H", 2, "mul"), 3)),),
            (Guard((10, "H", "sub"), "ge", "H <= 10"),),
        ),
        Function("reverse", "", (b, d), (x2,), (Output("out", "f32", ND),)),
        Function(
            "scalars",
            "",
            (),
            (Input("a", "scalar", "f32"), Input("b", "scalar", "i8"), Input("c", "scalar", "bf16")),
            (Output("out", "i64", (3,)),),
        ),
    )


def kernels() -> tuple[Kernel, ...]:
    f = Param("buffer", "f32")
    w = Param("buffer", "f32", "write")
    dim = Param("dim", "i64")
    return (
        Kernel("saxpy", "saxpy", (Param("scalar", "f32"), f, Param("buffer", "f32", "readwrite"), dim), group=128,
               source=Source("model.py", 3)),
        Kernel("add_row", "add_row", (f, f, w, dim), group=128),
        Kernel("reverse", "reverse", (f, w, dim), group=128, scratch_bytes=40_000),
        Kernel("scalars", "scalars", (Param("scalar", "f32"), Param("scalar", "i8"), Param("scalar", "bf16"),
                                      Param("buffer", "i64", "write")), group=1),
    )  # fmt: skip


def plans() -> tuple[Plan, ...]:
    b5: tuple[Any, ...] = (("B",), 5)
    even: tuple[Any, ...] = (("H", 2, "mul"), 3)
    return (
        Plan(
            "saxpy",
            (Buffer("input", "x", "f32", N), Buffer("input", "y", "f32", N)),
            (
                Launch(
                    0, (("N", 128, "ceildiv"), 1, 1), (Arg(scalar="a"), Arg(buffer=0), Arg(buffer=1), Arg(dim=("N",)))
                ),
            ),
        ),
        Plan(
            "chain",
            (
                Buffer("input", "x", "f32", b5),
                Buffer("temp", "", "f32", b5),
                Buffer("constant", "w", "f32", (5,)),
                Buffer("output", "out0", "f32", b5),
                Buffer("output", "out1", "f32", b5),
            ),
            (
                Launch(2, (("B",), 1, 1), (Arg(buffer=0), Arg(buffer=1), Arg(dim=5))),
                Launch(1, (1, ("B",), 1), (Arg(buffer=1), Arg(buffer=2), Arg(buffer=3), Arg(dim=5))),
                Copy(1, 4),
            ),
        ),
        Plan(
            "doubled",
            (
                Buffer("input", "x", "f32", even),
                Buffer("input", "w", "f32", (3,)),
                Buffer("output", "out", "f32", even),
            ),
            (Launch(1, (("H", 2, "mul"), 1, 1), (Arg(buffer=0), Arg(buffer=1), Arg(buffer=2), Arg(dim=3))),),
        ),
        Plan(
            "reverse",
            (Buffer("input", "x", "f32", ND), Buffer("output", "out", "f32", ND)),
            (Launch(2, (("B",), 1, 1), (Arg(buffer=0), Arg(buffer=1), Arg(dim=("D",)))),),
        ),
        Plan(
            "scalars",
            (Buffer("output", "out", "i64", (3,)),),
            (Launch(3, (1, 1, 1), (Arg(scalar="a"), Arg(scalar="b"), Arg(scalar="c"), Arg(buffer=0))),),
        ),
    )


WEIGHT = np.array([0.5, -1.25, 3.0, 1e-3, 7.0], dtype=np.float32)


def cpu_target(name: str = "cpu-base", **changes: Any) -> Target:
    fields: dict[str, Any] = {
        "name": name, "kind": "cpu", "format": "elf", "image": image_entry("cpu-base", "elf"), "preference": 1,
        "kernels": kernels(), "plans": plans(), "machine": machine(),
    }  # fmt: skip
    return Target(**{**fields, **changes})


def contents(**changes: Any) -> Contents:
    """A bundle's contents with five functions, one weight and two embedded tests."""
    rng = np.random.default_rng(11)
    x = rng.standard_normal((4, 5)).astype(np.float32)
    a, s, t = np.float32(1.5), rng.standard_normal(300).astype(np.float32), rng.standard_normal(300).astype(np.float32)
    fields: dict[str, Any] = {
        "functions": functions(), "targets": (cpu_target(),), "images": {image_entry("cpu-base", "elf"): cpu_image()},
        "constants": {"w": WEIGHT}, "provenance": Provenance("tesseracc 0.1.0", "22", "", ("--arch", "cpu"), "ab" * 32),
        "tests": (TestCase("chain", "chain", {"x": x}, {"out0": x[:, ::-1] + WEIGHT, "out1": x[:, ::-1]}),
                  TestCase("saxpy", "saxpy", {"a": a, "x": s, "y": t}, {"y": a * s + t}, rtol="1e-6")),
    }  # fmt: skip
    return Contents(**{**fields, **changes})


@cache
def bundle_bytes() -> bytes:
    return write(None, contents())

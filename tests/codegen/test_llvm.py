"""LLVM IR of Target IR: every arithmetic operation on hard values, run natively, against the interpreter's meaning."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from tessera_runtime.core.errors import TesseraError
from tesseracc.arch.arch import load
from tesseracc.codegen.llvm import llvm_text
from tesseracc.interpret import scalar
from tesseracc.ir.builder import Builder
from tesseracc.ir.parser import parse_module
from tesseracc.ir.types import I64, PtrType, ScalarType, Type, VecType, bits_of, kind_of, size_of
from tesseracc.ir.value import Func, Loc, Value
from tesseracc.ir.verify import verify_func
from tests.passes.target.native import assembly, jit, levels

LEVEL = levels()[-1]
INTS = ("i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64")
FLOATS = ("f32", "f64")
FORMS = pytest.mark.parametrize("count", [1, 16])  # a scalar, a vector


def specials(dtype: str) -> Any:
    """Values at which an operation is most likely to go wrong, and random ones; a multiple of 16."""
    rng = np.random.default_rng(bits_of(dtype))
    if dtype == "bool":
        return np.resize([False, True], 16)
    if kind_of(dtype) == "f":
        limits = [
            0.0,
            -0.0,
            1.0,
            -1.0,
            0.5,
            1.5,
            2.5,
            -0.5,
            -2.5,
            np.inf,
            -np.inf,
            np.nan,
            1e-40,
            3e38,
            2.0**31,
            -(2.0**31),
        ]
        more = [
            2.0**63,
            -(2.0**63),
            2.0**64,
            255.0,
            256.0,
            -129.0,
            127.9,
            4294967295.0,
            65535.5,
            1e300,
            -1e300,
            7.0,
            -7.0,
            3.0,
        ]
        values = np.concatenate([limits, more, rng.standard_normal(34) * 10.0 ** rng.integers(-3, 12, 34)])
        with np.errstate(over="ignore"):
            return values.astype(dtype.replace("f", "float"))
    kind = np.dtype(dtype.replace("i", "int").replace("u", "uint"))
    low, high = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
    edges = [low, high, low + 1, high - 1, 0, 1, 2, 3, 7, 8, 31, 63, 64, 100, low // 2, high // 2]
    edges += [-1, -2, -7] if low else [5, 6, 9]
    values = np.array([e for e in edges if low <= e <= high], dtype=object)
    rest = rng.integers(low, high, 64 - len(values), dtype=kind, endpoint=True)
    return np.concatenate([values.astype(kind), rest])


def compute(name: str, inputs: list[Any], dtypes: list[str], out: str, count: int, **attrs: Any) -> Any:
    """The operation over arrays, one machine operation per `count` elements."""
    b = Builder()
    args, begin, end, scratch = Value(PtrType("global")), Value(I64), Value(I64), Value(PtrType("global"))

    def form(dtype: str) -> Type:
        return ScalarType(dtype) if count == 1 else VecType(count, dtype)

    slots = [
        b.op("target.load", b.op("target.offset", args, b.const(at), dtype="i64"), types=PtrType("global"), align=8)
        for at in range(len(inputs) + 1)
    ]

    def body(inner: Builder, i: Value, _: list[Value]) -> list[Value]:
        at = inner.op("arith.mul", i, inner.const(count))
        places = [inner.op("target.offset", p, at, dtype=d) for p, d in zip(slots, [*dtypes, out], strict=True)]
        values = [
            inner.op("target.load", p, types=form(d), align=size_of(d)) for p, d in zip(places, dtypes, strict=False)
        ]
        inner.emit("target.store", inner.op(f"arith.{name}", *values, **attrs), places[-1], align=size_of(out))
        return []

    b.for_(begin, end, b.const(1), [], body)
    func = Func("target.func", "f", b.region([args, begin, end, scratch]), {"group": 1, "scratch": 0, "symbol": "f"})
    verify_func(func)
    arch = load(LEVEL)
    engine = jit(llvm_text([func], arch), arch)
    result = np.zeros(
        len(inputs[0]), bool if out == "bool" else out.replace("i", "int").replace("u", "uint").replace("f", "float")
    )
    arrays = [np.ascontiguousarray(x) for x in inputs] + [result]
    packed = (ctypes.c_int64 * len(arrays))(*(x.ctypes.data for x in arrays))
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    call(engine.get_function_address("f"))(ctypes.addressof(packed), 0, len(result) // count, 0)
    return result


def pairs(dtype: str) -> tuple[Any, Any]:
    """All pairs of special values."""
    a = specials(dtype)
    return np.repeat(a, len(a)), np.tile(a, len(a))


@FORMS
@pytest.mark.parametrize("dtype", [*INTS, *FLOATS, "bool"])
def test_binary(dtype: str, count: int) -> None:
    kind = kind_of(dtype)
    names = {
        "f": ["add", "sub", "mul", "div", "max", "min"],
        "b": ["and", "or", "xor", "max", "min", "add", "mul"],
    }.get(kind, ["add", "sub", "mul", "floordiv", "mod", "max", "min", "and", "or", "xor", "shl", "shr"])
    a, b = pairs(dtype)
    for name in names:
        found = compute(name, [a, b], [dtype, dtype], dtype, count)
        np.testing.assert_array_equal(found, scalar.binary(name, a, b, dtype), err_msg=name)


@FORMS
@pytest.mark.parametrize("dtype", FLOATS)
def test_division_of_floats_floors(dtype: str, count: int) -> None:
    rng = np.random.default_rng(11)
    a, b = (rng.standard_normal((2, 512)) * [[50.0], [3.0]]).astype(dtype.replace("f", "float"))
    whole = np.floor(a / b)
    np.testing.assert_array_equal(compute("floordiv", [a, b], [dtype] * 2, dtype, count), whole)
    rest = a - whole * b
    rest = np.where((rest != 0) & ((rest < 0) != (b < 0)), rest + b, rest)
    found = compute("mod", [a, b], [dtype] * 2, dtype, count)
    np.testing.assert_array_equal(found, rest)
    np.testing.assert_allclose(found, np.mod(a, b), rtol=0, atol=float(np.finfo(dtype.replace("f", "float")).eps) * 200)


@pytest.mark.parametrize("divisor", [1, 2, 3, 8, -1, -4, 7, 0])
@pytest.mark.parametrize("dtype", ["i32", "u32", "i64"])
def test_division_by_a_known_divisor(dtype: str, divisor: int) -> None:
    if dtype[0] == "u" and divisor < 0:
        divisor = 2**32 + divisor
    a = specials(dtype)
    text = f"""
target.func @f(%args: ptr<global>, %begin: i64, %end: i64, %scratch: ptr<global>) {{group = 1, scratch = 0}} {{
  %one = arith.constant {{value = 1}} : i64
  %p = target.load %args {{align = 8}} : ptr<global>
  %q0 = target.offset %args, %one {{dtype = "i64"}} : ptr<global>
  %q = target.load %q0 {{align = 8}} : ptr<global>
  %a = target.load %p {{align = 4}} : vec<64x{dtype}>
  %d = arith.constant {{value = {divisor}}} : vec<64x{dtype}>
  %x = arith.floordiv %a, %d : vec<64x{dtype}>
  %y = arith.mod %a, %d : vec<64x{dtype}>
  target.store %x, %p {{align = 4}}
  target.store %y, %q {{align = 4}}
}}
"""
    quotient, rest = a.copy(), a.copy()
    arch = load(LEVEL)
    engine = jit(llvm_text(parse_module(text).funcs, arch), arch)
    packed = (ctypes.c_int64 * 2)(quotient.ctypes.data, rest.ctypes.data)
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    call(engine.get_function_address("f"))(ctypes.addressof(packed), 0, 1, 0)
    by = np.full_like(a, divisor)
    np.testing.assert_array_equal(quotient, scalar.binary("floordiv", a, by, dtype))
    np.testing.assert_array_equal(rest, scalar.binary("mod", a, by, dtype))


@FORMS
@pytest.mark.parametrize("dtype", [*INTS, *FLOATS, "bool"])
def test_comparisons(dtype: str, count: int) -> None:
    a, b = pairs(dtype)
    for pred in ("lt", "le", "gt", "ge", "eq", "ne"):
        found = compute("cmp", [a, b], [dtype, dtype], "bool", count, pred=pred)
        np.testing.assert_array_equal(found, scalar.compare(pred, a, b), err_msg=pred)


@FORMS
@pytest.mark.parametrize("dtype", [*INTS, *FLOATS, "bool"])
def test_unary(dtype: str, count: int) -> None:
    a = specials(dtype)
    names = {"f": ["neg", "abs", "sqrt", "floor", "ceil", "round", "trunc"], "b": ["not"]}.get(
        kind_of(dtype), ["neg", "abs", "not"]
    )
    for name in names:
        found = compute(name, [a], [dtype], dtype, count)
        np.testing.assert_array_equal(found, scalar.unary(name, a, dtype), err_msg=name)
        if kind_of(dtype) == "f":
            np.testing.assert_array_equal(
                np.signbit(found)[a == a], np.signbit(scalar.unary(name, a, dtype))[a == a], err_msg=name
            )
    found = compute("isnan", [a], [dtype], "bool", count)
    np.testing.assert_array_equal(found, scalar.unary("isnan", a, dtype))


@FORMS
@pytest.mark.parametrize("source", [*INTS, *FLOATS, "bool"])
def test_casts(source: str, count: int) -> None:
    a = specials(source)
    for target in (*INTS, *FLOATS, "bool"):
        if target != source:
            found = compute("cast", [a], [source], target, count, to=target)
            np.testing.assert_array_equal(found, scalar.cast(a, source, target), err_msg=target)


@FORMS
@pytest.mark.parametrize("dtype", FLOATS)
def test_fma_rounds_once(dtype: str, count: int) -> None:
    rng = np.random.default_rng(5)
    a, b, c = rng.standard_normal((3, 4096)).astype(dtype.replace("f", "float"))
    c = np.where(rng.random(4096) < 0.5, -a * b, c)  # what is left is the rounding of the product
    found = compute("fma", [a, b, c], [dtype] * 3, dtype, count)
    np.testing.assert_array_equal(found, scalar.fma(a, b, c, dtype))
    assert (found != a * b + c).any()


@FORMS
def test_select_and_bitcast(count: int) -> None:
    rng = np.random.default_rng(9)
    a, b = rng.standard_normal((2, 64)).astype(np.float32)
    cond = rng.random(64) < 0.5
    found = compute("select", [cond, a, b], ["bool", "f32", "f32"], "f32", count)
    np.testing.assert_array_equal(found, np.where(cond, a, b))
    np.testing.assert_array_equal(compute("bitcast", [a], ["f32"], "i32", count, to="i32"), a.view(np.int32))


def text_of(body: str, arch: str = "x86-64-v4", *, debug: bool = False) -> str:
    """LLVM IR of a function with the CPU's parameters."""
    head = (
        "target.func @f(%args: ptr<global>, %begin: i64, %end: i64, %scratch: ptr<global>) {group = 1, scratch = 0} {"
    )
    return llvm_text(parse_module(f"{head}\n{body}\n}}").funcs, load(arch), debug=debug)


def test_nothing_is_fast_or_contracted() -> None:
    text = text_of("""
  %a = target.load %scratch {align = 4} : vec<16xf32>
  %b = arith.mul %a, %a : vec<16xf32>
  %c = arith.add %b, %a : vec<16xf32>
  target.store %c, %scratch {align = 4}
""")
    assert "fmul <16 x float>" in text and "fadd <16 x float>" in text
    for flag in (" fast ", "contract", "reassoc", "nnan", "ninf", "nsz", "arcp", "afn"):
        assert flag not in text
    code = assembly(text, load(LEVEL))
    assert "mulps" in code
    assert "vfma" not in code


def test_operations_without_an_instruction_are_named() -> None:
    for line in (
        "%b = arith.exp %a : f32",
        "%b = arith.pow %a, %a : f32",
        '%b = arith.cast %a {to = "fp8_e4m3"} : fp8_e4m3',
    ):
        with pytest.raises(TesseraError, match=r"machine instruction") as caught:
            text_of(f"  %a = target.load %scratch {{align = 4}} : f32\n  {line}")
        assert caught.value.code == "E502"


def test_bools_are_bytes_in_memory_and_allocas_live_in_the_entry() -> None:
    text = text_of("""
  %one = arith.constant {value = 1} : i64
  scf.for %begin, %end, %one, [] (%i: i64) {
    %m = target.alloca {bytes = 64, align = 64} : ptr<local>
    %v = target.load %args {align = 1} : vec<8xbool>
    %w = arith.not %v : vec<8xbool>
    target.store %w, %m {align = 1}
    %x = target.load %m {align = 1} : vec<8xbool>
    target.store %x, %scratch {align = 1}
  }
""")
    entry = text[text.index("entry:") : text.index("br label")]
    assert "alloca [64 x i8], align 64" in entry and "load <8 x i8>" in text and "store <8 x i8>" in text
    jit(text, load(LEVEL))


def test_locations_reach_the_metadata() -> None:
    b = Builder(Loc("model.py", 12, 4))
    p = Value(PtrType("global"))
    value = b.op("target.load", p, types=ScalarType("f32"), align=4)
    b.loc = Loc("other.py", 3, 1)
    b.emit("target.store", b.op("arith.neg", value), p, align=4)
    body = b.region([p])
    func = Func("target.func", "k", body, {"group": 32}, Loc("model.py", 10))
    text = llvm_text([func], load("sm_90"), debug=True)
    assert (
        '!DIFile(filename: "model.py", directory: "")' in text
        and '!DIFile(filename: "other.py", directory: "")' in text
    )
    assert "!DILocation(line: 12, scope" in text and "!DILocation(line: 3, scope" in text
    assert "!DILocation" not in llvm_text([func], load("sm_90"))


def test_gpu_functions() -> None:
    """Address spaces, the kernel's calling convention and attributes, and what a thread knows, down to PTX."""
    from tesseracc.codegen.pool import Request, compile_many

    text = """
target.func @k(%x: ptr<global>, %n: i64) {group = 64, shared = 512} {
  %t = target.sreg {name = "tid.x"} : i32
  %i = arith.cast %t {to = "i64"} : i64
  %p = target.offset %x, %i {dtype = "f32"} : ptr<global>
  %v = target.load %p {align = 4} : f32
  %s = target.shared {offset = 128} : ptr<shared>
  %q = target.offset %s, %i {dtype = "f32"} : ptr<shared>
  target.store %v, %q {align = 4}
  target.barrier
  %one = arith.constant {value = 1} : i32
  %d = target.shfl %v, %one {mode = "down"} : f32
  %m = arith.max %d, %v : f32
  target.store %m, %p {align = 4}
}
"""
    arch = load("sm_90")
    tool = arch.toolchain
    ir = llvm_text(parse_module(text).funcs, arch)
    assert "define ptx_kernel void @k(ptr addrspace(1)" in ir and '"nvvm.reqntid"="64,1,1"' in ir
    (response,) = compile_many([Request(ir, tool.triple, tool.cpu, tool.features, "assembly")])
    ptx = response.data.decode()
    for piece in (
        ".entry k(",
        ".reqntid 64",
        "ld.global",
        "st.shared",
        "bar.sync",
        "shfl.sync.down.b32",
        "max.NaN.f32",
        "%tid.x",
    ):
        assert piece in ptx, piece
    assert "512" in ptx

"""Products of narrow elements by instructions that take several along k: dot products of pairs, and tile registers.

Where this machine lacks the instructions, the interpreter of Target IR computes what they would, bit for bit.
"""

import math
import re
from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera_runtime.core.dtypes import decode, encode, np_dtype
from tessera_runtime.core.errors import TesseraError
from tesseracc.arch.arch import load
from tesseracc.codegen.llvm import llvm_text
from tesseracc.driver import Build, front
from tesseracc.interpret.target import Memory, run, run_kernel
from tesseracc.interpret.target_products import amx_dot
from tesseracc.ir.builder import Builder
from tesseracc.ir.parser import parse_module
from tesseracc.ir.pipeline import Context, parse_pipeline, run_pipeline
from tesseracc.ir.types import I64, PtrType, VecType
from tesseracc.ir.value import Func, Module, Value
from tesseracc.ir.verify import verify
from tests.passes.target.cpu_kernels import matmul
from tests.passes.target.native import Interpreted, Native, assembly, levels

PASSES = "tile-to-cpu,expand-narrow,expand-fma"
AMX, PAIRS = "x86-64-v4-amx", "x86-64-v4-bf16"
#: what runs a level: this machine, for levels with such instructions that it has and one that widens; the interpreter
RUNS = [("native", name) for name in levels(AMX, PAIRS) if name in (AMX, PAIRS, "x86-64-v3")] + [("interpreted", AMX)]
TILE = (30, 96, 48)
SHAPES = [(1, 1, 1), (30, 96, 48), (31, 97, 49), (5, 10, 63), (2, 3, 0), (0, 5, 2)]
SUMS = {"bf16": "f32", "i8": "i32", "u8": "i32"}
Array = np.ndarray[Any, Any]


@cache
def made(how: str, level: str, dtype: str, transposed: bool, extents: bool) -> Native | Interpreted:
    text = matmul(*TILE, dtype, SUMS[dtype], transposed=transposed, extents=extents)
    return (Native if how == "native" else Interpreted)(text, level, PASSES)


def bf16(x: Array) -> tuple[Array, Array]:
    """Bit patterns, and the values that they stand for."""
    raw = np.asarray(encode("bf16", x.astype(np.float32))).view(np.uint16)
    return raw, decode("bf16", raw).astype(np.float64)


def drawn(rng: np.random.Generator, dtype: str, *shape: int) -> tuple[Array, Array]:
    """Random elements, and their values in a type that holds sums of products exactly enough."""
    if dtype == "bf16":
        return bf16(rng.standard_normal(shape))
    limits = np.iinfo(np.dtype(f"{'int' if dtype == 'i8' else 'uint'}8"))
    raw = rng.integers(limits.min, limits.max, shape, limits.dtype, endpoint=True)
    return raw, raw.astype(np.int64)


@pytest.mark.parametrize(("how", "level"), RUNS)
@pytest.mark.parametrize("dtype", SUMS)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("extents", [False, True])
def test_product(how: str, level: str, dtype: str, transposed: bool, extents: bool) -> None:
    for m, n, k in SHAPES if how == "native" or extents else SHAPES[:1] + SHAPES[3:]:
        rng = np.random.default_rng([m, n, k])
        (a, wide_a), (b, wide_b) = drawn(rng, dtype, m, k), drawn(rng, dtype, k, n)
        sums = np.dtype(np.float32 if dtype == "bf16" else np.int32)
        bias, found = (99 * rng.standard_normal(n)).astype(sums), np.full((m, n), 7, sums)
        given = [np.ascontiguousarray(x.T if transposed else x) for x in (a, b)]
        made(how, level, dtype, transposed, extents)("mm", [*given, bias, found], {"M": m, "N": n, "K": k})
        bound = 2.0**-23 * (k + 1) * (np.abs(wide_a) @ np.abs(wide_b) + np.abs(bias)) * (dtype == "bf16")
        assert (np.abs(found - (wide_a @ wide_b + bias)) <= bound).all(), (m, n, k)


@pytest.mark.parametrize("level", levels(AMX, PAIRS)[-2:])
@pytest.mark.parametrize("transposed", [False, True])
def test_interpreter_gives_the_machine_s_bits(level: str, transposed: bool) -> None:
    m, n, k = 9, 67, 35
    rng = np.random.default_rng(k)
    # small numbers too: products and sums of subnormals
    a, b = (bf16(rng.standard_normal(size) * 2.0 ** rng.integers(-80, 2, size))[0] for size in ((m, k), (k, n)))
    a[::3, ::5] = rng.integers(0, 1 << 7, a[::3, ::5].shape)
    found = [np.full((m, n), 7, np.float32) for _ in range(2)]
    given = [np.ascontiguousarray(x.T if transposed else x) for x in (a, b)]
    for how, result in zip(("native", "interpreted"), found, strict=True):
        made(how, level, "bf16", transposed, True)(
            "mm", [*given, np.zeros(n, np.float32), result], {"M": m, "N": n, "K": k}
        )
    np.testing.assert_array_equal(*(x.view(np.uint32) for x in found))


@pytest.mark.parametrize(("level", "pairs"), [(PAIRS, True), ("x86-64-v4", False)])
def test_machine_code(level: str, pairs: bool) -> None:
    text = code(level)
    assert ("vdpbf16ps" in text, "vfmadd231ps" in text) == (pairs, not pairs)


@pytest.mark.parametrize(("dtype", "instruction"), [("bf16", "tdpbf16ps"), ("i8", "tdpbssd"), ("u8", "tdpbuud")])
def test_tile_registers_stay_where_they_are(dtype: str, instruction: str) -> None:
    """Of blocks of two and of one register of rows: sums are loaded and stored once, and a step loads no more than it
    multiplies. Were registers saved and restored, there would be more of both."""
    text = code(AMX, dtype)
    used = Counter(re.findall(r"^\t(tile\w+|tdp\w+|ldtilecfg)", text, re.M))
    assert used == {
        "ldtilecfg": 1, "tilerelease": 1, instruction: 4 + 2, "tileloadd": (4 + 4) + (2 + 3), "tilestored": 4 + 2,
    }  # fmt: skip
    loops = [block for block in re.split(r"^\.LBB\w+:", text, flags=re.M) if block.count(instruction) == 4]
    assert [(loop.count("tileloadd"), loop.count("tilestored")) for loop in loops] == [(4, 0)]


@ts.function
def attention(
    q: ts.Tensor["B", "H", "S", 40, ts.bf16],
    k: ts.Tensor["B", "H", "S", 40, ts.bf16],
    v: ts.Tensor["B", "H", "S", 40, ts.bf16],
):
    return ts.nn.flash_attention(q, k, v, causal=True)


@ts.function
def dense(x: ts.Tensor["M", "K", ts.bf16], w: ts.Tensor["N", "K", ts.bf16], b: ts.Tensor["N", ts.bf16]):
    return ts.relu(x @ w.mT + b)


@pytest.mark.parametrize("name", ["attention", "dense"])
def test_functions_on_tile_registers(name: str) -> None:
    """Whole functions as the compiler blocks them, on ragged sizes, against f64 on the rounded inputs."""
    rng, arch = np.random.default_rng(8), load(AMX)
    shapes = [(1, 2, 37, 40)] * 3 if name == "attention" else [(37, 71), (45, 71), (45,)]
    inputs = [rng.standard_normal(shape).astype(np_dtype("bf16")) for shape in shapes]
    build = Build(front({name: {"attention": attention, "dense": dense}[name]}), (arch,))
    target = build.target(arch)
    assert any(op.name == "target.amx_dot" for func in target.of_kind("target.func") for op in func.walk())
    (found,) = run(build.tile(arch), target, name, inputs)
    x, y, z = (np.asarray(item, np.float64) for item in inputs)
    if name == "attention":
        weights = np.exp(np.where(np.tri(37, dtype=bool), x @ y.swapaxes(-1, -2) / math.sqrt(40), -np.inf))
        expected, near = weights / weights.sum(-1, keepdims=True) @ z, 4.0
    else:
        expected, near = np.maximum(x @ y.T + z, 0), 4.0
    # bf16 keeps 8 bits: the result is rounded, weights of attention and the product too
    assert np.abs(np.asarray(found, np.float64) - expected).max() <= near * 2.0**-9 * np.abs(expected).max()


def code(level: str, dtype: str = "bf16") -> str:
    arch = load(level)
    text = matmul(448, 512, 256, dtype, SUMS[dtype])
    module = run_pipeline(parse_pipeline(PASSES), parse_module(text), Context(arch))
    return assembly(llvm_text(module.of_kind("target.func"), arch), arch)


def test_sums_of_one_instruction() -> None:
    """Two partial sums of fma in order of k, then their sum, then acc: by scalars of f64, which hold each step."""
    rng = np.random.default_rng(3)
    (a, wide_a), (b, wide_b) = bf16(rng.standard_normal((16, 32))), bf16(rng.standard_normal((32, 16)))
    acc = rng.standard_normal((16, 16)).astype(np.float32)
    grouped = np.ascontiguousarray(b.reshape(16, 2, 16).swapaxes(1, 2))
    raw = [np.ascontiguousarray(x).reshape(-1).view(np.uint8).reshape(16, 64) for x in (acc, a, grouped)]
    found = amx_dot(raw[0], raw[1], raw[2], ("bf16", "bf16")).view(np.float32)
    for m, n in rng.integers(0, 16, (40, 2)):
        partial = [np.float32(0), np.float32(0)]
        for k in range(32):
            partial[k % 2] = np.float32(wide_a[m, k] * wide_b[k, n] + np.float64(partial[k % 2]))
        assert found[m, n] == acc[m, n] + (partial[0] + partial[1])
    tiny = np.full((16, 64), 0, np.uint8)
    tiny.view(np.uint16)[:] = 1  # the least subnormal, of bf16 and in pairs of f32
    assert not amx_dot(tiny, raw[1], tiny, ("bf16", "bf16")).view(np.float32).any()


def test_operations_are_checked() -> None:
    b = Builder()
    pairs, sums = (b.op("arith.constant", types=VecType(n, t), value=0) for n, t in ((8, "i32"), (16, "f32")))
    b.emit("target.dot_pairs", pairs, pairs, sums)
    with pytest.raises(TesseraError, match="not pairs of bf16"):
        verify(Module((Func("target.func", "f", b.region([]), {}),)))
    for attrs, wrong in (
        ({"registers": (0, 4, 8), "dtypes": ("i8", "i8")}, "three tile registers"),
        ({"registers": (0, 4, 4), "dtypes": ("i8", "i8")}, "three tile registers"),
        ({"registers": (0, 4, 6), "dtypes": ("bf16", "i8")}, "no instruction multiplies"),
    ):
        b = Builder()
        b.emit("target.amx_dot", **attrs)
        with pytest.raises(TesseraError, match=wrong):
            verify(Module((Func("target.func", "f", b.region([]), {}),)))
    b = Builder()
    b.emit("target.amx_load", Value(PtrType("global"), "p"), b.const(64), register=8)
    with pytest.raises(TesseraError, match="no tile register 8"):
        verify(Module((Func("target.func", "f", b.region([b.ops[-1]["ptr"]]), {}),)))


@pytest.mark.parametrize(("index", "align", "wrong"), [(1, 8, "multiple of 8"), (4, 4, "outside"), (-1, 4, "outside")])
def test_accesses_are_checked(index: int, align: int, wrong: str) -> None:
    b = Builder()
    args, begin, end = Value(PtrType("global"), "args"), Value(I64, "begin"), Value(I64, "end")
    scratch = Value(PtrType("global"), "scratch")
    ptr = b.op("target.load", args, types=PtrType("global"), align=8)
    place = b.op("target.offset", ptr, b.const(index), dtype="f32")
    b.emit("target.store", b.const(0.0, VecType(1, "f32")), place, align=align)
    func = Func("target.func", "f", b.region([args, begin, end, scratch]), {"scratch": 0})
    memory = Memory()
    with pytest.raises(TesseraError, match=wrong) as caught:
        run_kernel(func, memory, [memory.add(np.zeros(4, np.float32))], 0, 1)
    assert caught.value.code == "E921"

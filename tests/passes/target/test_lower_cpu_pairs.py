"""Products of bf16 by dot products of pairs: the layout of operands, the sums, and the machine code."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from tessera_runtime.core.dtypes import decode, encode
from tessera_runtime.core.errors import TesseraError
from tesseracc.arch.arch import load
from tesseracc.codegen.llvm import llvm_text
from tesseracc.ir.builder import Builder
from tesseracc.ir.parser import parse_module
from tesseracc.ir.pipeline import Context, parse_pipeline, run_pipeline
from tesseracc.ir.types import VecType
from tesseracc.ir.value import Func, Module
from tesseracc.ir.verify import verify
from tests.passes.target.cpu_kernels import matmul
from tests.passes.target.native import Native, assembly, levels

#: the level with the instruction where this machine has it, and one that widens
LEVELS = pytest.mark.parametrize("level", [name for name in levels("x86-64-v4-bf16") if name[-2:] in ("16", "v3")])
TILE = (30, 96, 48)
SHAPES = [(1, 1, 1), (30, 96, 48), (31, 97, 49), (5, 10, 63), (67, 130, 97), (2, 3, 0), (0, 5, 2)]
Array = np.ndarray[Any, Any]


@cache
def native(level: str, transposed: bool, extents: bool) -> Native:
    text = matmul(*TILE, "bf16", "f32", transposed=transposed, extents=extents)
    return Native(text, level, "tile-to-cpu,expand-narrow,expand-fma")


def bf16(x: Array) -> tuple[Array, Array]:
    """Bit patterns, and the values that they stand for."""
    raw = np.asarray(encode("bf16", x.astype(np.float32))).view(np.uint16)
    return raw, decode("bf16", raw).astype(np.float64)


@LEVELS
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("extents", [False, True])
def test_product(level: str, m: int, n: int, k: int, transposed: bool, extents: bool) -> None:
    rng = np.random.default_rng([m, n, k])
    (a, wide_a), (b, wide_b) = bf16(rng.standard_normal((m, k))), bf16(rng.standard_normal((k, n)))
    bias, found = rng.standard_normal(n).astype(np.float32), np.full((m, n), 7, np.float32)
    given = [np.ascontiguousarray(x.T if transposed else x) for x in (a, b)]
    native(level, transposed, extents)("mm", [*given, bias, found], {"M": m, "N": n, "K": k})
    bound = 2.0**-23 * (k + 1) * (np.abs(wide_a) @ np.abs(wide_b) + np.abs(bias))
    assert (np.abs(found - (wide_a @ wide_b + bias)) <= bound).all()


@pytest.mark.parametrize(("level", "pairs"), [("x86-64-v4-bf16", True), ("x86-64-v4", False)])
def test_machine_code(level: str, pairs: bool) -> None:
    arch = load(level)
    steps = parse_pipeline("tile-to-cpu,expand-narrow,expand-fma")
    module = run_pipeline(steps, parse_module(matmul(*TILE, "bf16", "f32")), Context(arch))
    text = assembly(llvm_text(module.of_kind("target.func"), arch), arch)
    assert ("vdpbf16ps" in text, "vfmadd231ps" in text) == (pairs, not pairs)


def test_dot_pairs_is_checked() -> None:
    b = Builder()
    pairs, sums = (b.op("arith.constant", types=VecType(n, t), value=0) for n, t in ((8, "i32"), (16, "f32")))
    b.emit("target.dot_pairs", pairs, pairs, sums)
    with pytest.raises(TesseraError, match="not pairs of bf16"):
        verify(Module((Func("target.func", "f", b.region([]), {}),)))

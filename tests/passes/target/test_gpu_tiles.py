"""Kernels on whole tiles as PTX, on the emulator with its race detection, against the Tile interpreter."""

from __future__ import annotations

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tesseracc.codegen.image import Image
from tesseracc.interpret.tile import Memory, run_kernel
from tesseracc.ir.value import Module
from tests.passes.target.test_lower_gpu import compiled, run
from tests.passes.tile import kernels

Array = np.ndarray[Any, Any]
DTYPES: dict[str, Any] = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16, "i8": np.int8}
#: one target of each way to multiply, and the types that it multiplies by instructions
ARCHS = {"sm_70": ("f16",), "sm_75": ("f16",), "sm_80": ("f16", "bf16"), "sm_90": ("f16", "bf16")}


@cache
def built(arch: str, name: str, **options: object) -> tuple[Module, Image]:
    module: Module = getattr(kernels, name)(**options)
    return module, compiled(module, arch)


def both(built: tuple[Module, Image], args: list[Array], symbols: dict[str, int]) -> tuple[list[Array], list[Array]]:
    """The arguments after the interpreter and after the emulator, which must find nothing."""
    module, image = built
    kernel = module.funcs[0]
    ours, theirs = [a.copy() for a in args], [a.copy() for a in args]
    run_kernel(kernel, [Memory(a, None) for a in ours], symbols)
    run(module, kernel, image, theirs, symbols)
    # one warp cannot hold all of the largest tiles
    assert kernel.attrs["group"] == 32 or all(k.spill_stores == k.spill_loads == 0 for k in image.kernels)
    return ours, theirs


def uses_matrix_units(image: Image) -> bool:
    return "mma.sync" in image.ptx or "wgmma.mma_async" in image.ptx


def operands(m: int, n: int, k: int, dtype: str) -> tuple[Array, Array]:
    rng = np.random.default_rng([m, n, k])
    if dtype == "i8":
        return rng.integers(-128, 128, (m, k), np.int8), rng.integers(-128, 128, (k, n), np.int8)
    a, b = rng.standard_normal((m, k)), rng.standard_normal((k, n))
    return a.astype(DTYPES[dtype]), b.astype(DTYPES[dtype])


def check_product(found: Array, a: Array, b: Array) -> None:
    """Within the rounding of k products that are summed in f32, in any order."""
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    bound = (a.shape[1] + 2) * 2**-24 * (np.abs(wide_a) @ np.abs(wide_b))
    assert (np.abs(found - np.maximum(wide_a @ wide_b, 0)) <= bound).all()


#: by default every pair of target and type, of target and staging, of type and staging; the rest is slow
STAGED = ("none", "async", "write")
PRODUCTS = [
    pytest.param(arch, dtype, staged, marks=() if (i + j + k) % 3 == 0 else pytest.mark.slow)
    for i, arch in enumerate(sorted(ARCHS))
    for j, dtype in enumerate(("f32", "f16", "bf16"))
    for k, staged in enumerate(STAGED)
]
SHAPES = [(16, 8, 16), (128, 32, 64), (32, 128, 16), (96, 48, 32)]
TILES = [
    pytest.param(*shape, group, marks=() if (i + j) % 3 == 0 else pytest.mark.slow)
    for i, shape in enumerate(SHAPES)
    for j, group in enumerate((32, 64, 256))
]


@pytest.mark.parametrize("arch,dtype,staged", PRODUCTS)
def test_product(arch: str, dtype: str, staged: str) -> None:
    code = built(arch, "gemm", m=64, n=64, k=32, dtype=dtype, staged=staged)
    assert uses_matrix_units(code[1]) == (dtype in ARCHS[arch])
    for m, n, k in ((64, 64, 32), (70, 104, 41), (1, 3, 5), (2, 8, 64)):
        a, b = operands(m, n, k, dtype)
        ours, theirs = both(code, [a, b, np.full((m, n), np.nan, np.float32)], {"M": m, "N": n, "K": k})
        check_product(theirs[2], a, b)
        if dtype == "f32":
            np.testing.assert_array_equal(ours[2], theirs[2])


@pytest.mark.parametrize("m,n,k,group", TILES)
def test_tile_shapes(m: int, n: int, k: int, group: int) -> None:
    code = built("sm_80", "gemm", m=m, n=n, k=k, dtype="bf16", staged="async", group=group)
    assert uses_matrix_units(code[1])
    a, b = operands(m + 5, n + 8, 2 * k + 8, "bf16")
    symbols = {"M": m + 5, "N": n + 8, "K": 2 * k + 8}
    check_product(both(code, [a, b, np.full((m + 5, n + 8), np.nan, np.float32)], symbols)[1][2], a, b)


@pytest.mark.parametrize("trans_a,trans_b", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("staged", ["none", "async"])
def test_transposed_operands_take_ldmatrix(trans_a: bool, trans_b: bool, staged: str) -> None:
    code = built("sm_80", "gemm", m=64, n=64, k=32, dtype="bf16", staged=staged, trans_a=trans_a, trans_b=trans_b)
    assert code[1].ptx.count("ldmatrix") >= 4 and "ld.shared" not in code[1].ptx
    m, n, k = 72, 104, 48
    a, b = operands(m, n, k, "bf16")
    given = [np.ascontiguousarray(a.T) if trans_a else a, np.ascontiguousarray(b.T) if trans_b else b]
    check_product(both(code, [*given, np.full((m, n), np.nan, np.float32)], {"M": m, "N": n, "K": k})[1][2], a, b)


def test_integers_are_exact() -> None:
    code = built("sm_80", "gemm", m=64, n=64, k=64, dtype="i8", acc="i32", out="i32", staged="async")
    assert uses_matrix_units(code[1])
    a, b = operands(64, 80, 96, "i8")
    found = both(code, [a, b, np.zeros((64, 80), np.int32)], {"M": 64, "N": 80, "K": 96})[1][2]
    np.testing.assert_array_equal(found, np.maximum(a.astype(np.int64) @ b, 0))


@pytest.mark.parametrize("dtype,rows", [("f32", 32), ("f16", 64), ("bf16", 128)])
@pytest.mark.parametrize("arch", ["sm_70", "sm_80"])
def test_attention(arch: str, dtype: str, rows: int) -> None:
    code = built(arch, "attention", rows=rows, dtype=dtype)
    for size in (1, 32, 77):
        q, k, v = (np.random.default_rng([size, i]).standard_normal((size, 64)).astype(DTYPES[dtype]) for i in range(3))
        found = both(code, [q, k, v, np.full((size, 64), np.nan, np.float32)], {"S": size})[1][3]
        scores = q.astype(np.float64) @ k.astype(np.float64).T / 8
        scores[np.triu_indices(size, 1)] = -np.inf
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        expected = p / p.sum(axis=1, keepdims=True) @ v.astype(np.float64)
        unit = {"f32": 2.0**-21, "f16": 2.0**-10, "bf16": 2.0**-7}[dtype]
        np.testing.assert_allclose(found, expected, rtol=0, atol=unit * np.abs(v.astype(np.float64)).max())


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("dtype", ["f32", "i32"])
def test_folds_have_the_interpreters_bits(dtype: str, group: int) -> None:
    code = built("sm_80", "folds", dtype=dtype, group=group)
    for rows, columns in ((40, 100), (16, 48), (1, 1)):
        x = np.random.default_rng(rows).standard_normal((rows, columns)) * 100
        x = x.astype(np.float32 if dtype == "f32" else np.int32)
        groups = -(-rows // 16)
        args = [x, *(np.zeros(s, x.dtype) for s in (rows, (groups, columns), rows))]
        ours, theirs = both(code, args, {"R": rows, "C": columns, "G": groups})
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("rows,columns", [(50, 33), (1, 7), (32, 16)])
def test_transpose(rows: int, columns: int) -> None:
    x = np.random.default_rng(rows).standard_normal((rows, columns), dtype=np.float32)
    ours, theirs = both(
        built("sm_80", "transpose"), [x, np.full((columns, rows), np.nan, np.float32)], {"R": rows, "C": columns}
    )
    np.testing.assert_array_equal(ours[1], theirs[1])

"""Products of 8-bit types by warp groups and in tensor memory, on the emulator."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tesseracc.arch.arch import load
from tesseracc.codegen.image import Image
from tesseracc.emulator import tensor_cores
from tesseracc.ir.value import Module
from tests.passes.target import test_lower_gpu
from tests.passes.target.test_lower_gpu import attempt, compiled
from tests.passes.tile import kernels

Array = np.ndarray[Any, Any]
TYPES: dict[str, Any] = {
    "fp8_e4m3": ml_dtypes.float8_e4m3fn, "fp8_e5m2": ml_dtypes.float8_e5m2, "i8": np.int8, "u8": np.uint8,
}  # fmt: skip
UNITS = {"sm_90": "wgmma", "sm_100": "tcgen05"}
ALL = [(arch, dtype) for arch in UNITS for dtype in TYPES]


def gemm(arch: str, dtype: str, m: int, n: int, k: int, **options: Any) -> tuple[Module, Image]:
    """relu(a b) with b given transposed, as instructions for 8-bit types want it on sm_90."""
    wide = "i32" if dtype in ("i8", "u8") else "f32"
    module = kernels.gemm(m, n, k, dtype, wide, wide, trans_b=True, **options)
    return module, compiled(module, arch)


def operands(dtype: str, m: int, n: int, k: int) -> tuple[Array, Array]:
    """a [m, k] and b [n, k]."""
    rng = np.random.default_rng([m, n, k])
    if dtype in ("i8", "u8"):
        info = np.iinfo(TYPES[dtype])
        return tuple(rng.integers(info.min, info.max + 1, (rows, k)).astype(TYPES[dtype]) for rows in (m, n))  # type: ignore[return-value]
    return rng.standard_normal((m, k)).astype(TYPES[dtype]), rng.standard_normal((n, k)).astype(TYPES[dtype])


def product(arch: str, code: tuple[Module, Image], a: Array, b: Array, seed: int = 0) -> Array:
    """By matrix instructions of warp groups, without findings."""
    (m, k), n = a.shape, len(b)
    out = np.zeros((m, n), np.int32 if a.dtype.kind in "iu" else np.float32)
    found = attempt(code[0].funcs[0], code[1], [a, b, out], {"M": m, "N": n, "K": k}, seed=seed)
    assert found is not None and not found[1].findings, [f.render() for f in found[1].findings]
    assert all(name.startswith(UNITS[arch]) for name in found[1].counters.mma), found[1].counters.mma
    return out


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "dtype"), ALL)
def test_products(arch: str, dtype: str) -> None:
    code = gemm(arch, dtype, 128, 64, 64)
    assert code[1].findings == () and all(k.spill_stores == 0 for k in code[1].kernels)
    for seed, (m, n, k) in enumerate(((128, 64, 64), (144, 80, 336), (5, 8, 16))):
        a, b = operands(dtype, m, n, k)
        found, wide_a, wide_b = product(arch, code, a, b, seed), a.astype(np.float64), b.astype(np.float64)
        # integers are exact; else the rounding of k products
        bound = 0 if a.dtype.kind in "iu" else (k + 2) * 2**-24 * (np.abs(wide_a) @ np.abs(wide_b).T)
        assert (np.abs(found - np.maximum(wide_a @ wide_b.T, 0)) <= bound).all()


def cut(total: Array, kind: str) -> Array:
    """Sums as the unit of sm_90 keeps them: 14 bits, the others are cut off."""
    assert kind == "f32"
    mantissa, exponent = np.frexp(total)
    return np.ldexp(np.trunc(mantissa * 2**14) / 2**14, exponent).astype(np.float32).view(np.uint32)


@pytest.mark.parametrize("promoted", [True, False])
def test_partial_sums_are_promoted(promoted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of positive fp8 products in 14 bits: cut off at most four times before they are added to a full f32."""
    arch = load("sm_90")
    if not promoted:
        arch = replace(arch, mma=tuple(replace(row, full_k=0) for row in arch.mma))
    monkeypatch.setattr(test_lower_gpu, "load", lambda _: arch)
    monkeypatch.setattr(tensor_cores, "round_sums", cut)
    code = gemm("sm_90", "fp8_e4m3", 64, 64, 128)
    a, b = (np.abs(x.astype(np.float32)).astype(x.dtype) for x in operands("fp8_e4m3", 64, 64, 4096))
    found = product("sm_90", code, a, b)
    want = a.astype(np.float64) @ b.astype(np.float64).T
    within = np.abs(found - want) <= (4 * 2**-13 + 4096 * 2**-24) * want
    assert within.all() if promoted else not within.any()

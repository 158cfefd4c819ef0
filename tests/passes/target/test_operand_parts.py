"""Operands of products by fused multiply-adds that go through shared memory in parts of the depth, for want of room."""

import re

import numpy as np
import pytest

import tessera as ts
from tesseracc.arch.arch import load
from tesseracc.driver import Build
from tesseracc.frontend.kernel import lower
from tests.kernel.everywhere import levels


@ts.kernel
def chain(
    X: ts.Tensor["M", "K", ts.f32],
    Y: ts.Tensor["K", "N", ts.f32],
    Z: ts.Tensor["N", "P", ts.f32],
    R: ts.Tensor["M", "P", ts.f32],
):
    for m in ts.tile.range(0, M, 128):
        first = ts.tile.mma(X[m : m + 128, 0:32], Y[0:32, 0:128])
        R[m : m + 128, 0:32] = ts.tile.mma(first, Z[0:128, 0:32])


@ts.kernel
def deep(A: ts.Tensor["M", "K", ts.f32], B: ts.Tensor["N", "K", ts.f32], R: ts.Tensor["M", "N", ts.f32]):
    for m in ts.tile.range(0, M, 64):
        for n in ts.tile.range(0, N, 32):
            R[m : m + 64, n : n + 32] = ts.tile.mma(A[m : m + 64, 0:256], B[n : n + 32, 0:256].T)


@pytest.mark.parametrize("n", [100, 40])
def test_parts_give_the_same_sums(n: int) -> None:
    """sm_70 has room for the whole, sm_75 for half of it; a part may hold nothing of a ragged depth."""
    rng = np.random.default_rng(n)
    x, y, z = (rng.standard_normal(shape).astype(np.float32) for shape in ((130, 29), (29, n), (n, 31)))
    runs = levels(chain.definition, ("sm_70", "sm_75"))
    whole, parts = (np.full((130, 31), 7, np.float32) for _ in range(2))
    runs["sm_70"](x, y, z, whole)
    runs["sm_75"](x, y, z, parts)
    np.testing.assert_array_equal(whole, parts)
    left, y, z = (t.astype(np.float64) for t in (x, y, z))
    bound = (29 + n + 4) * 2.0**-24 * (np.abs(left) @ np.abs(y) @ np.abs(z))
    assert (np.abs(parts - left @ y @ z) <= bound).all() and np.abs(parts - left @ y[:, :64] @ z[:64]).max() > 0


def test_the_parts_fill_the_memory() -> None:
    needed = {}
    for arch in ("sm_70", "sm_75"):
        text = Build(lower(chain.definition), [load(arch)]).text("target")
        needed[arch] = re.findall(r"dynamic_shared = (\d+)", text)
    assert needed == {"sm_70": ["98304"], "sm_75": ["65536"]}


@pytest.mark.parametrize("k", [256, 131])
def test_threads_write_what_they_have_of_a_part(k: int) -> None:
    """Neighbours of a row are those of other threads; sm_75 has room for half of it."""
    rng = np.random.default_rng(k)
    a, b = rng.standard_normal((70, k)).astype(np.float32), rng.standard_normal((37, k)).astype(np.float32)
    runs, found = levels(deep.definition, ("sm_70", "sm_75", "sm_90")), {}
    for arch in ("sm_70", "sm_75", "sm_90"):
        found[arch] = np.full((70, 37), 7, np.float32)
        runs[arch](a, b, found[arch])
        np.testing.assert_array_equal(found[arch], found["sm_70"])
    wide = a.astype(np.float64), b.astype(np.float64)
    bound = (k + 4) * 2.0**-24 * (np.abs(wide[0]) @ np.abs(wide[1]).T)
    assert (np.abs(found["sm_75"] - wide[0] @ wide[1].T) <= bound).all()
    for arch, needed in (("sm_70", 98304), ("sm_75", 49152)):
        text = Build(lower(deep.definition), [load(arch)]).text("target")
        assert max(int(n) for n in re.findall(r"shared = (\d+)", text)) == needed

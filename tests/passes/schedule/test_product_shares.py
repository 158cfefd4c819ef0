"""Products on CPUs have groups for many threads; what a thread has of them is one tile as far as it can be."""

from functools import cache

import numpy as np
import pytest

import tessera as ts
from tesseracc.arch.arch import load
from tesseracc.driver import Build, front
from tesseracc.interpret.binding import evaluate_dim
from tests.passes.target.native import Native, levels


@ts.function
def product(x: ts.Tensor["M", "K", ts.f32], w: ts.Tensor["K", "N", ts.f32]):
    return x @ w


@ts.function
def even(x: ts.Tensor[1000, "K", ts.f32], w: ts.Tensor["K", "N", ts.f32]):
    return x @ w


@cache
def compiled(name: str, level: str) -> Native:
    build = Build(front({name: {"product": product, "even": even}[name]}), (load(level),))
    return Native(build.tile(load(level)), level)


@pytest.mark.parametrize("level", levels())
@pytest.mark.parametrize(
    ("name", "m", "n"),
    [*(("product", m, 7) for m in (0, 1, 5, 125, 127, 253, 999, 1900)), ("product", 300, 2100), ("even", 1000, 9)],
)
def test_any_share_of_the_groups_gives_the_same_bits(level: str, name: str, m: int, n: int) -> None:
    code, k = compiled(name, level), 11
    (kernel,) = code.kernels
    rng = np.random.default_rng([m, n])
    x, w = rng.standard_normal((m, k)).astype(np.float32), rng.standard_normal((k, n)).astype(np.float32)
    symbols = {name: {"M": m, "K": k, "N": n}[name] for name in code.kernels[kernel].attrs["symbols"]}
    total = code.groups(kernel, symbols)
    whole, apart, pieces = (np.full((m, n), np.nan, np.float32) for _ in range(3))
    code(kernel, [x, w, whole], symbols)
    code(kernel, [x, w, apart], symbols, [(g, g + 1) for g in range(total)])
    cuts = sorted({0, total, *(int(c) for c in rng.integers(0, total + 1, 2))})
    code(kernel, [x, w, pieces], symbols, list(zip(cuts, cuts[1:], strict=False)))
    np.testing.assert_array_equal(apart, whole)
    np.testing.assert_array_equal(pieces, whole)
    bound = 2.0**-23 * (k + 2) * (np.abs(x).astype(float) @ np.abs(w))
    assert (np.abs(whole - x.astype(float) @ w) <= bound).all()


@pytest.mark.parametrize("name", ["product", "even"])
@pytest.mark.parametrize(("n", "groups"), [(100, 14), (9000, 9 * 14), (30000, 30 * 3)])
def test_few_columns_are_made_up_for_by_rows(name: str, n: int, groups: int) -> None:
    (kernel,) = compiled(name, "x86-64-v4").kernels.values()
    assert evaluate_dim(kernel.attrs["grid"][0], {"M": 1000, "K": 9, "N": n}) == groups

"""Products whose number of rows is open: few rows go without packed operands, with the bits of many."""

from functools import cache
from typing import Any

import numpy as np
import pytest

import tessera as ts
import tessera_runtime
from tesseracc.arch.arch import load
from tesseracc.driver import Build, front, host_level
from tesseracc.interpret import target, tile


@ts.function
def dense(x: ts.Tensor["M", "K", ts.f32], w: ts.Tensor["K", "N", ts.f32], b: ts.Tensor["N", ts.f32]):
    return ts.relu(x @ w + b)


@ts.function
def batched(x: ts.Tensor["B", "M", "K", ts.f16], w: ts.Tensor["B", "K", "N", ts.f16]):
    return ts.matmul(x, w)


@ts.function
def fixed(x: ts.Tensor[3, "K", ts.f32], w: ts.Tensor["K", "N", ts.f32]):
    return x @ w


@cache
def build(name: str, level: str = "") -> Build:
    arch = load(level) if level else host_level()
    return Build(front({name: {"dense": dense, "batched": batched, "fixed": fixed}[name]}), (arch,))


@cache
def compiled(name: str) -> Any:
    return tessera_runtime.load(build(name).bundle(), threads=2)[name]


@pytest.mark.parametrize("m", [1, 2, 4, 5])
@pytest.mark.parametrize(("k", "n"), [(9, 3000), (130, 33), (0, 5)])
def test_rows_have_the_bits_that_they_have_among_many(m: int, k: int, n: int) -> None:
    rng = np.random.default_rng([m, k, n])
    x, w, b = (rng.standard_normal(size).astype(np.float32) for size in ((40, k), (k, n), n))
    many, few = compiled("dense")(x, w, b), compiled("dense")(x[7 : 7 + m], w, b)
    np.testing.assert_array_equal(few, many[7 : 7 + m])
    bound = 2.0**-23 * (k + 2) * (np.abs(x).astype(float) @ np.abs(w) + np.abs(b))
    assert (np.abs(many - np.maximum(x.astype(float) @ w + b, 0)) <= bound).all()


@pytest.mark.parametrize("m", [1, 3, 6])
def test_batches_and_narrow_elements(m: int) -> None:
    rng = np.random.default_rng(m)
    x, w = (rng.standard_normal(size).astype(np.float16) for size in ((3, m, 50), (3, 50, 70)))
    found = compiled("batched")(x, w)
    wide = x.astype(float), w.astype(float)
    bound = 2.0**-11 * np.abs(wide[0] @ wide[1]) + 2.0**-20 * (np.abs(wide[0]) @ np.abs(wide[1]))
    assert found.dtype == np.float16 and (np.abs(found - wide[0] @ wide[1]) <= bound).all()


def test_a_target_without_fma_rounds_few_rows_as_many() -> None:
    """The exact fma, which takes thirty times as long there, is in neither."""
    made, arch = build("dense", "x86-64-v2"), load("x86-64-v2")
    assert not arch.has("fma")
    (kernel,) = made.tile(arch).of_kind("tile.kernel")
    assert not any(op.name == "arith.fma" for op in kernel.walk())
    rng = np.random.default_rng(5)
    x, w, b = (rng.standard_normal(size).astype(np.float32) for size in ((9, 37), (37, 21), 21))
    many, few = (tile.run(made.tile(arch), "dense", [rows, w, b])[0] for rows in (x, x[:2]))
    np.testing.assert_allclose(few, many[:2], rtol=1e-4, atol=1e-5)
    if host_level().toolchain.machine == arch.toolchain.machine:
        dense = tessera_runtime.load(made.bundle(), device="cpu:x86-64-v2")["dense"]
        np.testing.assert_array_equal(dense(x[:2], w, b), dense(x, w, b)[:2])


def test_a_known_number_of_rows() -> None:
    """Nothing is packed: no tile is left; every access lies in its buffer."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((3, 21)).astype(np.float32), rng.standard_normal((21, 77)).astype(np.float32)
    made, arch = build("fixed"), host_level()
    assert not any(op.name == "tile.mma" for func in made.tile(arch).of_kind("tile.kernel") for op in func.walk())
    (found,) = target.run(made.tile(arch), made.target(arch), "fixed", [x, w])
    np.testing.assert_array_equal(found, compiled("fixed")(x, w))

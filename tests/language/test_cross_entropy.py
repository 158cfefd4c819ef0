"""Targets of no class: no loss, no gradient, a place in the mean; the same eagerly, compiled, and in every int type."""

import numpy as np
import pytest

import tessera as ts
from tesseracc.driver import jit


@pytest.mark.parametrize(("dtype", "compiled"), [
    ("i8", False), ("i32", False), ("i64", False), ("u8", False), ("u64", False), ("i64", True), ("u8", True),
])  # fmt: skip
def test_targets_of_no_class(dtype: str, compiled: bool) -> None:
    rng = np.random.default_rng(ord(dtype[0]) + len(dtype))
    classes, rows = 300 if dtype == "i64" else 5, 9
    x = rng.normal(0, 3, (rows, classes)).astype(np.float32)
    x[1] = np.inf  # a row that does not count has nothing to say
    numpy = getattr(np, {"i": "int", "u": "uint"}[dtype[0]] + dtype[1:])
    target = rng.integers(0, classes, rows).astype(numpy)
    target[1], target[3] = np.iinfo(numpy).max, classes
    target[6] = np.iinfo(numpy).max if dtype[0] == "u" else -1

    @ts.function
    def f(x: ts.Tensor["N", "C", ts.f32], t: ts.Tensor["N", ts.dtypes.as_dtype(dtype)]):
        return ts.value_and_grad(lambda logits: ts.nn.cross_entropy(logits, t))(x)

    loss, gradient = (jit(f) if compiled else f)(ts.tensor(x), ts.tensor(target))
    wide = x.astype(np.float64)
    want, slope = 0.0, np.zeros_like(wide)
    for row in set(range(rows)) - {1, 3, 6}:
        p = np.exp(wide[row] - wide[row].max())
        p /= p.sum()
        want -= np.log(p[int(target[row])]) / rows
        slope[row] = p / rows
        slope[row, int(target[row])] -= 1 / rows
    np.testing.assert_allclose(np.asarray(loss), want, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(gradient), slope, rtol=1e-5, atol=1e-7)

"""NumPy's operators and functions beside tensors: operators compute as the language's, functions by name are E320."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.errors import SourceError

RNG = np.random.default_rng(12)
FLOATS = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "lt", "le", "gt", "ge", "eq", "ne")
INTEGERS = ("and_", "or_", "xor")
UFUNCS = {getattr(np, name).__name__: getattr(np, name) for name in dir(np) if isinstance(getattr(np, name), np.ufunc)}


def floats(*shape: int) -> Any:
    return (RNG.random(shape) + 0.5).astype(np.float32)


@pytest.mark.parametrize("name", FLOATS + INTEGERS)
def test_operators_of_arrays_and_tensors(name: str) -> None:
    """Either side may be NumPy's: an array, one of rank 0, or a scalar of NumPy."""
    apply = getattr(operator, name)
    for shape in ((3, 4), ()):
        a, b = (floats(*shape), floats(*shape)) if name in FLOATS else RNG.integers(0, 99, (2, *shape)).astype(np.int32)
        for left, right in ((a, ts.tensor(b)), (ts.tensor(a), b), (a[()], ts.tensor(b)), (ts.tensor(a), b[()])):
            found = apply(left, right)
            assert isinstance(found, ts.Tensor)
            np.testing.assert_allclose(found.numpy(), apply(a, b), rtol=2e-6)


def test_products_and_sums_in_place() -> None:
    a, b = floats(3, 4), floats(4, 5)
    np.testing.assert_allclose((a @ ts.tensor(b)).numpy(), a @ b, rtol=1e-6)
    total: Any = np.zeros((4, 5), np.float32)
    held = total
    total += ts.tensor(b)
    assert isinstance(total, ts.Tensor) and not held.any()
    np.testing.assert_array_equal(total.numpy(), b)
    assert sum([b, ts.tensor(b)]).numpy().tolist() == (b + b).tolist()


@pytest.mark.parametrize("name", sorted(UFUNCS))
def test_functions_of_one_element(name: str) -> None:
    """By name they are errors which say ours, but for those that NumPy does not tell from operators."""
    function, x = UFUNCS[name], ts.tensor(floats(2, 2))
    try:
        found = function(*[x] * function.nin)
    except SourceError as error:
        assert error.code == "E320" or (error.code == "E303" and name.startswith(("bitwise_", "left_", "right_")))
        ours = (error.help or "").removeprefix("use ts.") if (error.help or "").startswith("use ts.") else None
        assert ours is None or callable(getattr(ts, ours))
        assert (ours or name) == name or ours in ("abs", "floordiv", "mod", "shift_left", "shift_right", "logical_not")
    else:
        assert isinstance(found, ts.Tensor) and function.nin == 2
    with pytest.raises(SourceError, match=rf"E320.*np\.{name}"):
        function(*[x] * function.nin, dtype=np.float32)


@pytest.mark.parametrize(("call", "help"), [
    (lambda a, x: np.exp(x), "use ts.exp"),
    (lambda a, x: np.add(a, x, out=a), "use ts.add"),
    (lambda a, x: np.add(a, x, dtype=np.float64), "use ts.add"),
    (lambda a, x: np.add.reduce(x), "use ts.add"),
    (lambda a, x: np.multiply.outer(a, x), "use ts.multiply"),
    (lambda a, x: np.sum(x, axis=0), "use ts.sum"),
    (lambda a, x: np.hypot(a, x), "ts has no hypot: use functions of ts, as in ts.exp(x)"),
])  # fmt: skip
def test_what_is_called_by_name(call: Any, help: str) -> None:
    a = floats(3)
    before = a.copy()
    with pytest.raises(SourceError) as told:
        call(a, ts.tensor(floats(3)))
    assert (told.value.code, told.value.help) == ("E320", help)
    np.testing.assert_array_equal(a, before)


def test_what_only_looks_is_left_alone() -> None:
    x = ts.tensor(floats(3, 4))
    assert np.shape(x) == (3, 4) and np.ndim(x) == 2 and np.allclose(x, x.numpy())
    np.testing.assert_array_equal(np.concatenate([x, x]), np.concatenate([x.numpy()] * 2))
    np.testing.assert_array_equal(np.argmax(x, axis=1), x.numpy().argmax(axis=1))
    assert np.array_equal(np.asarray(x), x.numpy()) and not np.array_equal(x, -x.numpy())
    with pytest.raises(TypeError, match="argument"):
        np.tile(x)

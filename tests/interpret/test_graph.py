"""The Graph interpreter: `ref` is never called, reductions are ordered, accesses are checked."""

from __future__ import annotations

import numpy as np
import pytest

from tessera.elements import Elements
from tessera.operator import registry
from tessera.ops.linalg import Matmul
from tessera.types import TensorType
from tessera_runtime.core.errors import TesseraError
from tesseracc.frontend.trace import trace
from tesseracc.interpret.graph import NumpyElements, evaluate, run
from tests.passes import programs


def test_ref_is_never_called(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("ref was called")

    module = trace(programs.layer_norm).module
    rng = np.random.default_rng(1)
    x, w, b = (rng.standard_normal(s).astype(np.float32) for s in ((4, 9), (9,), (9,)))
    for cls in registry().values():
        monkeypatch.setattr(cls, "ref", forbidden)
    (y,) = run(module, "layer_norm", [x, w, b])
    wide = x.astype(np.float64)
    centred = wide - wide.mean(1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5) * w + b
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_products_are_summed_in_order() -> None:
    rng = np.random.default_rng(2)
    x, w = rng.standard_normal((3, 50)).astype(np.float32), rng.standard_normal((50, 4)).astype(np.float32)
    (y,) = evaluate(Matmul(), [x, w])
    total = np.zeros((3, 4), np.float32)
    for k in range(50):
        total = total + x[:, k : k + 1] * w[k]
    assert np.array_equal(y, total)


def test_reads_are_checked() -> None:
    e: Elements = NumpyElements(1, set())
    assert isinstance(e, NumpyElements)
    read = e.reader(np.arange(3, dtype=np.int32), "i32")
    with pytest.raises(TesseraError) as error:
        read(e.const(3, "i64"))
    assert error.value.code == "E412"
    assert read(e.const(3, "i64"), where=e.const(False, "bool")).value == 0


def test_the_kinds_of_arithmetic_are_recorded() -> None:
    kinds: set[str] = set()
    evaluate(registry()["softmax"](1), [np.ones((2, 3), np.float32)], kinds)  # type: ignore[call-arg]
    assert {"exp", "sub", "div"} <= kinds


def test_empty_boxes_give_the_identity() -> None:
    for name, expected in (("sum", 0.0), ("prod", 1.0), ("max", -np.inf), ("min", np.inf)):
        op = registry()[name]((1,))  # type: ignore[call-arg]
        (y,) = evaluate(op, [np.zeros((2, 0), np.float32)])
        assert y.dtype == np.float32 and y.tolist() == [expected] * 2
    assert TensorType.parse("f32[2]").rank == 1

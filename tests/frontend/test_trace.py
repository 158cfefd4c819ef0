"""Tracing: types, names, constants, places, results and errors."""

from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.decorators import Function
from tessera.shapes import parse_dim
from tessera.types import TensorType
from tessera_runtime.core.errors import TesseraError
from tesseracc.frontend.trace import trace
from tesseracc.ir.parser import parse_module
from tesseracc.ir.printer import module_text
from tesseracc.ir.value import Module, Op
from tests.passes import programs

BIAS = ts.tensor(np.arange(7, dtype=np.float32))
PARAMS = {"w": ts.tensor(np.ones((5, 7), np.float32)), "layers": [BIAS]}


@ts.function
def inner(x: ts.Tensor["N", 7, ts.f32]):
    return x + BIAS + PARAMS["layers"][0]


@ts.function
def outer(x: ts.Tensor["N", 5, ts.f32], scale: float):
    """Two layers.

    And more."""
    return {"y": inner(x @ PARAMS["w"]) * scale, "parts": (x, ts.zeros(3))}


@ts.function
def open_types(x, causal=True):
    return ts.relu(x) if causal else x


@ts.function
def halves(x: ts.Tensor["N", "D", ts.f32]):
    n, d = x.shape
    return x.reshape(n, 2, d // 2)


@ts.function
def wrong(x: ts.Tensor["N", 5, ts.f32]):
    return x @ x


def ops(module: Module) -> list[Op]:
    return list(module.funcs[0].body.ops)


def test_parameters_results_and_attributes() -> None:
    func = trace(outer).module.funcs[0]
    assert [(p.name, str(p.type)) for p in func.params] == [("x", "tensor<f32[N, 5]>"), ("scale", "tensor<f32[]>")]
    assert [str(t) for t in func.result_types] == ["tensor<f32[N, 5]>", "tensor<f32[3]>", "tensor<f32[N, 7]>"]
    assert func.attrs["outputs"] == ("parts_0", "parts_1", "y")
    assert func.attrs["doc"].startswith("Two layers.") and "assume" not in func.attrs


def test_constants_are_named_and_shared() -> None:
    module = trace(outer).module
    assert sorted(module.constants) == ["BIAS", "PARAMS.w"]
    assert sum(op.name == "graph.constant" for op in ops(module)) == 2
    assert np.array_equal(module.constants["BIAS"], np.arange(7, dtype=np.float32))


def test_called_functions_are_traced_in_place_with_their_own_lines() -> None:
    module = trace(outer).module
    adds = [op for op in ops(module) if op.name == "graph.add"]
    product = next(op for op in ops(module) if op.name == "graph.matmul")
    assert len(adds) == 2 and all(op.loc is not None and op.loc.file == "test_trace.py" for op in adds)
    assert adds[0].loc is not None and product.loc is not None
    assert adds[0].loc.line == inner.line + 2 and product.loc.line == outer.line + 5
    assert product.loc.end_col > product.loc.col


def test_text_round_trip() -> None:
    module = trace(outer).module
    text = module_text(module, locations=True)
    assert module_text(parse_module(text), locations=True) == text


def test_result_names() -> None:
    assert trace(programs.softmax).module.funcs[0].attrs["outputs"] == ("out",)
    assert trace(programs.totals).module.funcs[0].attrs["outputs"] == ("out0", "out1")


def test_types_given_from_outside() -> None:
    func = trace(open_types, {"x": TensorType.parse("bf16[B, 64]")}).module.funcs[0]
    assert [str(p.type) for p in func.params] == ["tensor<bf16[B, 64]>"]
    assert [op.name for op in func.body.ops] == ["graph.relu"]


def test_a_parameter_without_a_type_is_named_with_the_option_that_gives_one() -> None:
    with pytest.raises(TesseraError) as error:
        trace(open_types)
    assert error.value.code == "E307" and "`x`" in error.value.message
    assert error.value.help is not None and "--input-spec x=" in error.value.help


def test_what_operators_assume_of_sizes_is_recorded() -> None:
    assert trace(halves).module.funcs[0].attrs["assume"] == ((parse_dim("D"), 2),)


def test_errors_of_operators_have_the_users_line() -> None:
    with pytest.raises(ts.SourceError) as error:
        trace(wrong)
    assert error.value.code == "E302" and error.value.span is not None
    assert error.value.span.line == wrong.line + 2
    assert [call.function for call in error.value.calls][:1] == ["wrong"]


def test_a_result_that_is_no_tensor() -> None:
    @ts.function
    def text(x: ts.Tensor[3, ts.f32]):
        return x, "no"

    with pytest.raises(TesseraError) as error:
        trace(text)
    assert error.value.code == "E317"


def test_what_control_flow_carries_has_its_own_lines() -> None:
    """The lines of bodies and branches, not that of the loop; also in a derivative, which repeats them."""

    def body(h: Any, row: Any) -> Any:
        doubled = row * 2.0
        return ts.tanh(h + doubled), doubled

    def loss(w: Any, x: Any) -> Any:
        last, _ = ts.scan(body, w, x)
        return ts.sum(
            ts.cond(ts.sum(x) > 0.0, lambda a: ts.exp(a), lambda a: a, last)
        )  # fmt: skip

    types = {"w": TensorType((3,), ts.f32), "x": TensorType((parse_dim("T"), 3), ts.f32)}
    first = body.__code__.co_firstlineno
    for function in (loss, ts.grad(loss, argnums=0)):
        module = trace(Function(function), types).module
        lines = {(op.name, op.loc.line - first) for f in module.funcs for op in f.walk() if op.loc is not None}
        assert {("graph.mul", 1), ("graph.tanh", 2), ("graph.scan", 5), ("graph.exp", 7)} <= lines
        assert ("graph.tanh", 5) not in lines

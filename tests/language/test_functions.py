"""@ts.function, @ts.jit, @ts.kernel: calls, annotations, what they record."""

import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera import decorators
from tessera.errors import SourceError
from tessera.pytree import flatten, flatten_with_names, tree_map, unflatten

RNG = np.random.default_rng(11)


@ts.function
def mlp(
    x: ts.Tensor["B", "D", ts.f32], w: ts.Tensor["D", "3*D", ts.f32], scale: ts.f32 = 1.0, *, act: str = "relu",
) -> ts.Tensor["B", "3*D", ts.f32]:
    """A layer."""
    y = x @ w * scale
    return ts.relu(y) if act == "relu" else y


@ts.function
def tree(x, options):
    return {"sum": options["a"] + x, "parts": [x, (options["b"], 2)]}


def test_a_function_records_what_it_is() -> None:
    assert (mlp.name, mlp.__name__, mlp.__doc__, mlp.__module__) == ("mlp", "mlp", "A layer.", __name__)
    assert mlp.file == __file__
    assert inspect.getsourcelines(mlp.python)[1] == mlp.line
    assert [p.name for p in mlp.parameters] == ["x", "w", "scale", "act"]
    assert [str(p.tensor) for p in mlp.parameters[:3]] == [
        'Tensor["B", "D", ts.f32]', 'Tensor["D", "3*D", ts.f32]', "Tensor[ts.f32]"]
    assert mlp.parameters[2].default == 1.0 and mlp.parameters[3].tensor is None
    assert str(mlp.returns) == 'Tensor["B", "3*D", ts.f32]'
    assert tree.parameters[0].spec is None and tree.returns is None
    assert repr(mlp) == "<function mlp>" and ts.function(mlp) is mlp
    assert list(inspect.signature(mlp).parameters) == ["x", "w", "scale", "act"]


def test_calls() -> None:
    a, b = RNG.standard_normal((2, 3)).astype(np.float32), RNG.standard_normal((3, 9)).astype(np.float32)
    want = np.maximum(a @ b * 2, 0)
    np.testing.assert_allclose(mlp(ts.tensor(a), ts.tensor(b), 2.0).numpy(), want, rtol=1e-5)
    np.testing.assert_allclose(mlp(a, w=b, scale=2.0).numpy(), want, rtol=1e-5)
    assert (mlp(a, b, act="none").numpy() < 0).any()


def test_trees_in_and_out() -> None:
    x = np.ones(2, np.float32)
    out = tree(x, {"b": x * 3, "a": ts.tensor(x)})
    assert out["sum"].tolist() == [2, 2]
    assert isinstance(out["parts"][1][0], ts.Tensor) and out["parts"][1][1] == 2


@pytest.mark.parametrize(("call", "code", "message"), [
    (lambda: mlp(ts.ones(2, 3)), "E314", "`mlp` was called wrongly: missing a required argument: 'w'"),
    (lambda: mlp(1, 2, 3, 4), "E314", "`mlp` was called wrongly: too many positional arguments"),
    (lambda: mlp(ts.ones(2, 3), ts.ones(3, 8)), "E307", "`w` of `mlp` has size 8 in dim 1, expected 3*D = 9"),
    (lambda: mlp(ts.ones(2, 3), ts.ones(4, 12)), "E307", "`w` of `mlp` has size 4 in dim 0, expected D = 3"),
    (lambda: mlp(ts.ones(3), ts.ones(3, 9)), "E307", "`x` of `mlp` has rank 1, expected 2"),
    (lambda: mlp(ts.ones(2, 3, dtype=ts.f64), ts.ones(3, 9)), "E307", "`x` of `mlp` has dtype f64, expected f32"),
    (lambda: mlp("x", ts.ones(3, 9)), "E311", "`x` of `mlp` needs a tensor, got str"),
])
def test_bad_calls_are_diagnosed(call: Any, code: str, message: str) -> None:
    with pytest.raises(SourceError) as caught:
        call()
    assert (caught.value.code, caught.value.message) == (code, message)
    assert caught.value.span is not None and caught.value.span.file == __file__


def test_results_are_checked() -> None:
    @ts.function
    def wrong(x: ts.Tensor["N", ts.f32]) -> ts.Tensor["2*N", ts.f32]:
        return x

    @ts.function
    def nothing(x: ts.Tensor["N", ts.f32]) -> ts.Tensor["N", ts.f32]:
        pass

    for fn, message in ((wrong, "`result` of `wrong` has size 3 in dim 0, expected 2*N = 6"),
                        (nothing, "`nothing` is declared to return Tensor[\"N\", ts.f32], but returns NoneType")):
        with pytest.raises(SourceError) as caught:
            fn(ts.ones(3))
        assert (caught.value.code, caught.value.message) == ("E317", message)


def test_an_annotation_that_fails() -> None:
    def f(x):
        return x

    f.__annotations__["x"] = "missing_name"
    with pytest.raises(SourceError) as caught:
        ts.function(f)(1)
    assert caught.value.code == "E305" and "missing_name" in caught.value.message


def test_jit_without_the_compiler_is_eager_with_one_notice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(decorators, "_driver", lambda: None)
    monkeypatch.setattr(decorators, "_NOTICED", [])

    @ts.jit
    def f(x):  # type: ignore[no-untyped-def]
        return x * 2

    @ts.jit(capture_graph=True)
    def g(x):  # type: ignore[no-untyped-def]
        return f(x) + 1

    assert f.compiled and not mlp.compiled and ts.jit(mlp).compiled
    assert g(ts.ones(2)).tolist() == [3, 3] and f(ts.ones(2)).tolist() == [2, 2]
    assert capsys.readouterr().err == "tessera: the compiler is not installed, so ts.jit runs functions eagerly\n"
    with pytest.raises(SourceError) as caught:
        mlp.inspect_ir("graph")
    assert caught.value.code == "E318"
    with pytest.raises(SourceError) as caught:
        mlp.inspect_ir("grap")
    assert (caught.value.code, caught.value.help) == ("E305", "did you mean `graph`?")
    with pytest.raises(SourceError) as caught:
        ts.jit(capture_grap=True)
    assert caught.value.code == "E305"


def test_jit_hands_eager_calls_to_the_driver_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def jit(entry: Any) -> Any:
        made.append(entry)
        return lambda x: {"y": np.asarray(x.numpy() + 1)}

    driver = SimpleNamespace(jit=jit, inspect_ir=lambda entry, level: f"{entry.name} {level}")
    monkeypatch.setattr(decorators, "_driver", lambda: driver)

    @ts.jit
    def f(x):  # type: ignore[no-untyped-def]
        return {"y": x * 10.0}

    assert f(ts.ones(2))["y"].tolist() == [2, 2] and f(ts.zeros(1))["y"].tolist() == [1]
    assert made == [f]
    assert f.inspect_ir("tile") == "f tile"
    # Inside a derivative the body itself is run.
    assert ts.grad(lambda w: ts.sum(f(w)["y"]))(ts.ones(2)).tolist() == [10, 10]


@ts.kernel
def saxpy(x: ts.Tensor["n", ts.f32], y: ts.Tensor["n", ts.f32], alpha: ts.f32) -> ts.Tensor["n", ts.f32]:
    i = ts.tile.linear_id()
    if i < n:
        y[i] = alpha * x[i] + y[i]
    return y


@pytest.mark.parametrize("n", [0, 1, 127, 128, 129, 1000])
def test_kernels_run_eagerly(n: int) -> None:
    a, b = RNG.standard_normal(n).astype(np.float32), RNG.standard_normal(n).astype(np.float32)
    x, y = ts.tensor(a), ts.tensor(b)
    z = saxpy(x, y, 2.0)
    assert z is y
    np.testing.assert_allclose(y.numpy(), 2 * a + b, rtol=1e-6)
    np.testing.assert_array_equal(x.numpy(), a)
    array = b.copy()
    saxpy(a, array, 0.5)
    np.testing.assert_allclose(array, a / 2 + b, rtol=1e-6)


def test_kernels_record_their_launch() -> None:
    wide = ts.kernel(group=64)(saxpy.python)
    tuned = ts.kernel.autotune(space={"BM": [64, 128]})(saxpy.python)
    assert (saxpy.definition.group, wide.definition.group, tuned.space) == (128, 64, {"BM": (64, 128)})
    assert ts.jit(tuned).compiled and ts.jit(tuned).space == tuned.space
    with pytest.raises(SourceError) as caught:
        ts.grad(lambda w: ts.sum(saxpy(w, w, 1.0)))(ts.ones(2))
    assert caught.value.code == "E316"
    with pytest.raises(SourceError) as caught:
        saxpy(ts.ones(2))
    assert caught.value.code == "E314"


def test_kernel_words_belong_into_kernels() -> None:
    with pytest.raises(SourceError) as caught:
        ts.tile.linear_id()
    assert caught.value.code == "E319"
    with pytest.raises(AttributeError, match="did you mean `linear_id`"):
        _ = ts.tile.linear_ids
    assert callable(ts.kernel)


def test_pytrees() -> None:
    value = {"b": (1, [2, None]), "a": 3}
    leaves, structure = flatten(value)
    assert leaves == [3, 1, 2] and unflatten(structure, leaves) == value
    assert [name for name, _ in flatten_with_names(value)[0]] == ["a", "b.0", "b.1.0"]
    assert str(structure) == "{a: *, b: (*, [*, None])}"
    assert tree_map(lambda x, y: x + y, value, value) == {"b": (2, [4, None]), "a": 6}
    with pytest.raises(ValueError, match="structures differ"):
        tree_map(lambda x, y: x, value, [1])
    with pytest.raises(TypeError):
        flatten({1: 2})


def test_methods_are_functions_too() -> None:
    class Model:
        scale = 3.0

        def forward(self, x):
            return x * self.scale

    forward = ts.function(Model().forward)
    assert forward(np.float32([1.0, 2.0])).numpy().tolist() == [3.0, 6.0]
    with pytest.raises(SourceError) as caught:
        ts.function(Model())  # type: ignore[arg-type]
    assert caught.value.code == "E305" and "object of type Model" in caught.value.message

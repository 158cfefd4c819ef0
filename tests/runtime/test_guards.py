"""Guards name the function, the input, the dim, what was expected and what was given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tessera_runtime
from tessera_runtime.core.manifest import Function, Input, Output, Symbol
from tessera_runtime.guards import scalar_bits, solve
from tests.runtime.support import bundle_bytes


@pytest.fixture(scope="module")
def bundle() -> tessera_runtime.Bundle:
    return tessera_runtime.load(bundle_bytes(), threads=1)


def f32(*shape: int) -> np.ndarray:
    return np.ones(shape, dtype=np.float32)


CASES = [
    ("saxpy", (1.0, f32(3)), {}, "E701", "saxpy: input 'y' is missing"),
    ("saxpy", (1.0,), {}, "E701", "saxpy: inputs 'x', 'y' are missing"),
    ("saxpy", (1.0, f32(3), f32(3), 4), {}, "E701", "saxpy: takes 3 inputs, got 4"),
    ("saxpy", (1.0, f32(3)), {"z": f32(3)}, "E701", "saxpy: has no input 'z'"),
    ("saxpy", (1.0, f32(3)), {"x": f32(3)}, "E701", "saxpy: input 'x' is given twice"),
    (
        "saxpy",
        (1.0, f32(3, 1), f32(3)),
        {},
        "E702",
        "saxpy: input 'x' has rank 2, expected 1: got f32[3, 1], expected f32[N]",
    ),
    (
        "saxpy",
        (1.0, f32(3).astype(np.float64), f32(3)),
        {},
        "E703",
        "saxpy: input 'x' has element type f64, expected f32",
    ),
    (
        "saxpy",
        (1.0, f32(3).astype(np.complex64), f32(3)),
        {},
        "E703",
        "saxpy: input 'x' has element type complex64, expected f32",
    ),
    ("saxpy", (1.0, f32(3).astype(">f4"), f32(3)), {}, "E703", "saxpy: input 'x' has element type >f4, expected f32"),
    ("chain", (f32(2, 4),), {}, "E704", "chain: input 'x' axis 1: expected 5, got 4"),
    (
        "saxpy",
        (1.0, f32(3), f32(4)),
        {},
        "E705",
        "saxpy: input 'y' axis 0: expected N with N = 3 from input 'x' axis 0, got 4",
    ),
    (
        "doubled",
        (f32(5, 3), f32(3), f32(3)),
        {},
        "E706",
        "doubled: input 'x' axis 0 is 5, which is not of the form 2*H",
    ),
    (
        "doubled",
        (f32(4, 3), f32(3), f32(4)),
        {},
        "E706",
        "doubled: input 'v' axis 0: expected H + 1 = 3 with H = 2 from input 'x' axis 0, got 4",
    ),
    ("doubled", (f32(22, 3), f32(3), f32(12)), {}, "E707", "doubled: needs H <= 10; H = 11 from input 'x' axis 0"),
    ("saxpy", (1.0, [1.0, 2.0], f32(2)), {}, "E708", "saxpy: input 'x' is a list, expected an array f32[N]"),
    ("saxpy", ("1", f32(2), f32(2)), {}, "E709", "saxpy: scalar 'a' is a str, expected a number of type f32"),
    ("scalars", (1.0, 200, 0.0), {}, "E709", "scalars: scalar 'b' is 200, outside i8: -128..127"),
    ("scalars", (1.0, 1.5, 0.0), {}, "E709", "scalars: scalar 'b' is 1.5, expected an integer of type i8"),
    ("scalars", (10**400, 1, 0.0), {}, "E709", "scalars: scalar 'a' is 1" + "0" * 400 + ", beyond f32"),
]


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "code", "message"), CASES, ids=lambda v: v if isinstance(v, str) else ""
)
def test_message(bundle: tessera_runtime.Bundle, name: str, args: tuple, kwargs: dict, code: str, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(tessera_runtime.InputError) as caught:
        bundle[name](*args, **kwargs)
    assert (caught.value.code, caught.value.message) == (code, message)
    assert caught.value.exit_code == 7


def test_a_failed_guard_leaves_in_out_arrays_alone(bundle: tessera_runtime.Bundle) -> None:
    y = f32(4)
    with pytest.raises(tessera_runtime.InputError):
        bundle["saxpy"](2.0, f32(3), y)
    np.testing.assert_array_equal(y, f32(4))
    np.testing.assert_array_equal(bundle["saxpy"](2.0, f32(4), y), 3 * f32(4))


def test_doubled_accepts_what_its_guards_allow(bundle: tessera_runtime.Bundle) -> None:
    x = np.arange(60, dtype=np.float32).reshape(20, 3)
    np.testing.assert_array_equal(bundle["doubled"](x, f32(3), v=f32(11)), x + 1)


def test_symbol_from_a_scalar_with_an_offset() -> None:
    function = Function(
        "f",
        "",
        (Symbol("N", "n", -1), Symbol("M", "x", 0, 3, -1)),
        (Input("n", "scalar", "i32"), Input("x", "tensor", "f32", (("M", 3, "mul", 1, "sub"),))),
        (Output("o", "f32", (("N",),)),),
    )
    assert solve(function, {"x": (8,)}, {"n": 5}) == {"N": 5, "M": 3}
    for shape, n, message in (((7,), 5, "f: input 'x' axis 0 is 7, which is not of the form 3*M - 1"),
                              ((8,), -5, "f: scalar 'n' is -5, which is not of the form N")):  # fmt: skip
        with pytest.raises(tessera_runtime.InputError) as caught:
            solve(function, {"x": shape}, {"n": n})
        assert caught.value.message == message


def test_scalar_bits_of_special_values() -> None:
    function = Function("f", "", (), (Input("a", "scalar", "f16"),), ())
    assert scalar_bits(function, function.inputs[0], float("inf")) == 0x7C00
    assert scalar_bits(function, function.inputs[0], 65519.99) == 0x7BFF
    assert scalar_bits(function, function.inputs[0], True) == 0x3C00


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("device", 3), ("device", None), ("threads", "2"), ("threads", 1.5), ("threads", True), ("weights", 3),
        ("require_signature", 3), ("require_signature", [3]), ("graph_limit", -1), ("graph_limit", 0),
        ("graph_limit", True), ("capture_graph", "lazily"), ("source", None), ("source", True), ("source", 1.5),
    ],
)  # fmt: skip
def test_arguments_of_load(name: str, value: object) -> None:
    given: dict[str, Any] = {"source": bundle_bytes(), name: value}
    with pytest.raises(tessera_runtime.UsageError, match=f"load: {name} is ") as caught:
        tessera_runtime.load(**given)
    assert caught.value.code == "E801"
    assert tessera_runtime.load(bundle_bytes(), threads=np.int64(1), graph_limit=1, require_signature=()).functions


@pytest.mark.parametrize("number", [-1, 1 << 31, 1 << 70, np.int64(1 << 40), np.int64(-1)])
def test_numbers_that_are_no_descriptor(number: Any) -> None:
    with pytest.raises(tessera_runtime.UsageError, match="cannot read file descriptor") as caught:
        tessera_runtime.load(number)
    assert caught.value.code == "E802"


def test_masked_arrays_are_refused(bundle: tessera_runtime.Bundle) -> None:
    """What is masked would count: the function sees the data alone."""
    for masked in (np.ma.masked_array(f32(3), mask=[0, 1, 0]), np.ma.masked_array(f32(3))):
        for arguments in ((masked, f32(3)), (f32(3), masked)):
            with pytest.raises(tessera_runtime.InputError, match="is a masked array") as caught:
                bundle["saxpy"](2.0, *arguments)
            assert caught.value.code == "E708"

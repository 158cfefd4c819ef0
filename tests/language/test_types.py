"""Element types, policies, tensor types and annotations."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tessera as ts
from tessera.arrays import convert, dtype_of, widen
from tessera.dtypes import DTYPES, DType, as_dtype, parse_dtype, promote
from tessera.errors import SourceError
from tessera.shapes import symbol
from tessera.types import RegionSpec, TensorSpec, TensorType, check_spec, tensor_spec


def test_names_and_aliases() -> None:
    assert ts.int8 is ts.i8 and ts.fp32 is ts.f32 and ts.float32 is ts.f32 and ts.uint64 is ts.u64
    assert [ts.f32, ts.bf16, ts.bool] == [DType("f32"), DType("bf16"), DType("bool")]
    assert as_dtype(float) == ts.f32 and as_dtype(int) == ts.i64 and as_dtype(bool) == ts.bool
    assert as_dtype(np.int16) == ts.i16 and as_dtype(ml_dtypes.bfloat16) == ts.bf16
    for name, dtype in DTYPES.items():
        assert parse_dtype(name) == dtype
        assert as_dtype(dtype.numpy) == dtype
        assert dtype.numpy.itemsize == dtype.itemsize


def test_policies_are_part_of_the_type() -> None:
    chained = ts.bf16 @ ts.accum(ts.f32) @ ts.stochastic_round
    assert chained == ts.bf16 @ ts.stochastic_round @ ts.accum(ts.f32)
    assert chained != ts.bf16
    assert chained.base == ts.bf16
    assert str(chained) == "bf16 @accum(f32) @stochastic_round"
    assert parse_dtype(str(chained)) == chained
    assert parse_dtype("fp8_e4m3 @accum(f32) @loss_scale(128.0)") == ts.fp8_e4m3 @ ts.accum("fp32") @ ts.loss_scale(128)
    assert chained.accum == ts.f32 and (ts.f32 @ ts.accum(ts.f64)).accum == ts.f64
    assert hash(chained) == hash(parse_dtype(str(chained)))


@pytest.mark.parametrize(("text", "column"), [
    ("bf17", 1), ("  bf17", 3), ("", 1), ("bf16 @", 7), ("bf16 @acum(f32)", 7), ("bf16 @accum(f33)", 13),
    ("bf16 @accum(f32) @loss_scale(x)", 30), ("bf16 @loss_scale(-1)", 18), ("bf16 @accum(f32", 16),
    ("bf16 @accum", 7), ("bf16 @stochastic_round(3)", 7),
])
def test_bad_dtype_strings_show_the_column(text: str, column: int) -> None:
    with pytest.raises(SourceError) as caught:
        parse_dtype(text)
    assert caught.value.code == "E301"
    assert f"at column {column}:" in caught.value.message


def test_bad_policies() -> None:
    for bad in (lambda: ts.bf16 @ ts.accum, lambda: ts.bf16 @ 3, lambda: ts.loss_scale(0.0), lambda: ts.accum(ts.bool),
                lambda: ts.bf16 @ ts.accum(ts.f32) @ ts.accum(ts.f64), lambda: as_dtype(object()),
                lambda: as_dtype(np.complex64)):
        with pytest.raises(SourceError) as caught:
            bad()
        assert caught.value.code == "E301"
    assert caught.value.help is not None
    with pytest.raises(SourceError) as caught:
        parse_dtype("f23")
    assert caught.value.help == "did you mean `f32`?"


PROMOTIONS = [
    ("bool", "i8", "i8"), ("bool", "bf16", "bf16"), ("i8", "i32", "i32"), ("i64", "f16", "f16"), ("f16", "bf16", "f32"),
    ("bf16", "f32", "f32"), ("f32", "f64", "f64"), ("fp8_e4m3", "bf16", "bf16"), ("fp8_e4m3", "fp8_e5m2", "f32"),
    ("u8", "i8", "i16"), ("u32", "i8", "i64"), ("u64", "i8", "i64"), ("u8", "i32", "i32"), ("u8", "u32", "u32"),
]


@pytest.mark.parametrize(("a", "b", "result"), PROMOTIONS)
def test_promotion(a: str, b: str, result: str) -> None:
    assert promote(DType(a), DType(b)) == promote(DType(b), DType(a)) == DType(result)


dtypes = st.sampled_from(list(DTYPES.values()))


@given(dtypes, dtypes)
def test_promotion_is_commutative_and_idempotent(a: DType, b: DType) -> None:
    both = promote(a, b)
    assert both == promote(b, a)
    assert promote(a, a) == a
    assert promote(both, a) == both or both.is_float == a.is_float


def test_python_numbers_are_weak() -> None:
    x = {d: ts.ones(2, dtype=d) for d in (ts.bf16, ts.i8, ts.bool, ts.f64)}
    assert (x[ts.bf16] * 2.5).dtype == ts.bf16
    assert (2 + x[ts.bf16]).dtype == ts.bf16
    assert (x[ts.i8] + 3).dtype == ts.i8
    assert (x[ts.i8] * 0.5).dtype == ts.f32
    assert (x[ts.f64] * 0.5).dtype == ts.f64
    assert ts.maximum(x[ts.bool], True).dtype == ts.bool
    assert (x[ts.i8] / 2).dtype == ts.f32
    with pytest.raises(SourceError) as caught:
        x[ts.i8] + 300
    assert caught.value.code == "E303"


def test_conversion_rules() -> None:
    specials = np.array([np.nan, np.inf, -np.inf, 1e9, -1e9, 2.7, -2.7, 0.0])
    assert convert(specials, ts.i8).tolist() == [0, 127, -128, 127, -128, 2, -2, 0]
    assert convert(specials, ts.u8).tolist() == [0, 255, 0, 255, 0, 2, 0, 0]
    assert convert(specials, ts.i64).tolist()[:3] == [0, 2**63 - 1, -(2**63)]
    assert convert(specials, ts.u64).tolist()[:3] == [0, 2**64 - 1, 0]
    assert convert(np.array([300, -1]), ts.u8).tolist() == [44, 255]
    assert convert(np.array([0.5, 0.0, np.nan]), ts.bool).tolist() == [True, False, True]
    assert widen(convert(np.array([1e9, -np.inf, 500.0]), ts.fp8_e4m3)).tolist() == [448, -448, 448]
    assert widen(convert(np.array([1e9]), ts.fp8_e5m2)).tolist() == [57344]
    # One rounding from f64: through f32 this value would become a tie and round to even.
    tricky = np.array([1 + 2.0**-8 + 2.0**-40])
    assert widen(convert(tricky, ts.bf16))[0] == 1 + 2.0**-7


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20), st.sampled_from(["bf16", "f16"]))
def test_rounding_is_to_nearest_even(values: list[float], name: str) -> None:
    array = np.array(values, np.float32)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(widen(convert(array, DType(name))),
                                      array.astype(DType(name).numpy).astype(np.float32))


@given(st.lists(st.one_of(st.integers(0, 99), st.sampled_from(["B", "D", "3*D + 1", "min(B, D)"])), max_size=4), dtypes)
def test_tensor_types_round_trip(dims: list[Any], dtype: DType) -> None:
    text = f"{dtype}[{', '.join(map(str, dims))}]"
    parsed = TensorType.parse(text)
    assert str(parsed) == text
    assert TensorType.parse(text.replace(" ", "")) == parsed
    assert len(parsed.dims) == len(dims) and parsed.dtype == dtype


def test_tensor_type() -> None:
    t = TensorType.parse("bf16@accum(f32)[B, 3*D]")
    assert str(t) == "bf16@accum(f32)[B, 3*D]"
    assert t.symbols == {"B", "D"} and t.rank == 2 and str(t.size) == "3*B*D"
    assert t.substitute({"B": 2, "D": 5}).dims == (2, 15)
    assert TensorType.parse("f32") == TensorType.parse("f32[]")
    for bad, code in (("f32[B", "E306"), ("f33[B]", "E301"), ("f32[B,]", "E306")):
        with pytest.raises(SourceError) as caught:
            TensorType.parse(bad)
        assert caught.value.code == code


def test_annotations() -> None:
    spec: Any = ts.Tensor["B", "3*D", 64, "?", ts.bf16 @ ts.accum(ts.f32)]
    assert str(spec) == 'Tensor["B", "3*D", 64, "?", ts.bf16 @accum(f32)]'
    assert spec.dims == (symbol("B"), 3 * symbol("D"), 64, None)
    assert str(spec.type("x")) == "bf16@accum(f32)[B, 3*D, 64, x_3]"
    assert tensor_spec(("N", "f32")) == TensorSpec((symbol("N"),), ts.f32)
    assert tensor_spec(ts.f32) == TensorSpec((), ts.f32)
    assert tensor_spec(("N",)) == TensorSpec((symbol("N"),), None)
    tile: Any = ts.Tile["S", "D", ts.bf16]
    assert tile.kind == "tile" and str(tile) == 'Tile["S", "D", ts.bf16]'
    region: Any = ts.Region[ts.reduce_sum]
    assert region == RegionSpec("reduce_sum") and str(region) == "Region[reduce_sum]"
    both: Any = ts.Region["read", ts.Tensor["N", ts.f32]]
    assert both.privilege == "read" and both.inner.dims == (symbol("N"),)


@pytest.mark.parametrize(("make", "code"), [
    (lambda: ts.Tensor["3**D", ts.f32], "E306"), (lambda: ts.Tensor[-1, ts.f32], "E306"),
    (lambda: ts.Tensor[1.5, ts.f32], "E306"), (lambda: ts.Tensor[True, ts.f32], "E306"),
    (lambda: ts.Tensor[ts.f32, "B"], "E306"), (lambda: ts.Tensor["B", "bf16 @acum(f32)"], "E301"),
    (lambda: ts.Region["reed"], "E305"), (lambda: ts.Tensor["B"].type("x"), "E307"),  # type: ignore[attr-defined]
])
def test_bad_annotations(make: Any, code: str) -> None:
    with pytest.raises(SourceError) as caught:
        make()
    assert caught.value.code == code


def test_check_spec_names_what_the_user_wrote() -> None:
    spec: Any = ts.Tensor["D", "3*D", ts.f32]
    assert check_spec("`f`", "w", spec, TensorType.parse("f32[4, 12]"), {}) == {"D": 4}
    messages = {
        "f32[4]": "`w` of `f` has rank 1, expected 2",
        "f64[4, 12]": "`w` of `f` has dtype f64, expected f32",
        "f32[4, 13]": "`w` of `f` has size 13 in dim 1, expected 3*D = 12",
    }
    for text, message in messages.items():
        with pytest.raises(SourceError) as caught:
            check_spec("`f`", "w", spec, TensorType.parse(text), {})
        assert (caught.value.code, caught.value.message) == ("E307", message)


def test_dtype_of_arrays() -> None:
    for dtype in DTYPES.values():
        assert dtype_of(np.zeros(2, dtype.numpy)) == dtype

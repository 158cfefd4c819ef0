"""The Schedule interpreter on hand-written text, against float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from tessera_runtime.core.errors import TesseraError
from tesseracc.interpret.schedule import run
from tesseracc.ir.parser import parse_module
from tesseracc.ir.verify import verify

SOFTMAX = """
schedule.func @f(%x: tensor<f32[N, D]>) -> (tensor<f32[N, D]>) {
  %y = schedule.group {domain = [<N>]} (%i: i64) {
    %m = schedule.reduce {kind = "max", sizes = [<D>]} (%k: i64) {
      %a = schedule.read %x, [%i, %k] : f32
      yield %a
    } : f32
    %s = schedule.reduce {kind = "add", sizes = [<D>]} (%k1: i64) {
      %b = schedule.read %x, [%i, %k1] : f32
      %c = arith.sub %b, %m : f32
      %d = arith.exp %c : f32
      yield %d
    } : f32
    schedule.each {sizes = [<D>]} (%j: i64) {
      %e = schedule.read %x, [%i, %j] : f32
      %f = arith.sub %e, %m : f32
      %g = arith.exp %f : f32
      %h = arith.div %g, %s : f32
      schedule.write %h, [%i, %j] {result = 0}
    }
  } : tensor<f32[N, D]>
  yield %y
}
"""


def _load(text: str):
    return verify(parse_module(text))


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (3, 0), (4, 7), (33, 129)])
def test_softmax_in_one_group(shape: tuple[int, int]) -> None:
    x = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    (y,) = run(_load(SOFTMAX), "f", [x])
    assert y.dtype == np.float32 and y.shape == shape
    if x.size:
        e = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
        np.testing.assert_allclose(y, e / e.sum(axis=1, keepdims=True), rtol=2e-6)


WHERE = """
schedule.func @f(%x: tensor<i32[N]>) -> (tensor<i32[N + 4]>) {
  %y = schedule.group {domain = [<N + 4>]} (%i: i64) {
    %two = arith.constant {value = 2} : i64
    %n = schedule.dim {expr = <N>} : i64
    %j = arith.sub %i, %two : i64
    %low = arith.cmp %i, %two {pred = "ge"} : bool
    %high = arith.cmp %j, %n {pred = "lt"} : bool
    %in = arith.and %low, %high : bool
    %v = schedule.read %x, [%j], where %in : i32
    schedule.write %v, [%i] {result = 0}
  } : tensor<i32[N + 4]>
  yield %y
}
"""


@pytest.mark.parametrize("size", [0, 1, 5])
def test_where_does_not_touch_memory(size: int) -> None:
    x = np.arange(1, size + 1, dtype=np.int32)
    (y,) = run(_load(WHERE), "f", [x])
    assert np.array_equal(y, np.pad(x, 2))


def test_reads_out_of_bounds_are_found() -> None:
    text = WHERE.replace(", where %in", "")
    with pytest.raises(TesseraError) as error:
        run(_load(text), "f", [np.arange(3, dtype=np.int32)])
    assert error.value.code == "E412"


def test_every_element_is_written_once() -> None:
    text = WHERE.replace("schedule.write %v, [%i]", "schedule.write %v, [%two]")
    with pytest.raises(TesseraError) as error:
        run(_load(text), "f", [np.arange(3, dtype=np.int32)])
    assert error.value.code == "E411"


ARGMAX = """
schedule.func @f(%x: tensor<f32[N, D]>) -> (tensor<i64[N]>) {
  %y = schedule.group {domain = [<N>]} (%i: i64) {
    %m = schedule.reduce {kind = "KIND", sizes = [<D>]} (%k: i64) {
      %a = schedule.read %x, [%i, %k] : f32
      yield %a
    } : i64
    schedule.write %m, [%i] {result = 0}
  } : tensor<i64[N]>
  yield %y
}
"""


def test_argmax_takes_the_first_winner_and_nan_wins() -> None:
    x = np.array(
        [[1, 3, 3, 2], [np.nan, 5, np.nan, 9], [7, np.nan, 9, np.nan], [-np.inf, -np.inf, -np.inf, -np.inf]], np.float32
    )
    (y,) = run(_load(ARGMAX.replace("KIND", "argmax")), "f", [x])
    assert y.tolist() == [1, 0, 1, 0]
    (z,) = run(_load(ARGMAX.replace("KIND", "argmin")), "f", [-x])
    assert z.tolist() == [1, 0, 1, 0]


def test_sums_are_ordered() -> None:
    # sequential in f32: every small term is lost against the first; another order would keep them
    text = ARGMAX.replace("KIND", "add").replace("i64[N]", "f32[N]").replace("} : i64", "} : f32")
    x = np.concatenate([[2.0**24], np.ones(2000)]).astype(np.float32)[None]
    (y,) = run(_load(text), "f", [x])
    assert y[0] == 2.0**24
    (z,) = run(_load(text), "f", [np.ascontiguousarray(x[:, ::-1])])
    assert z[0] == 2.0**24 + 2000


def test_reduction_over_a_box_runs_in_row_major_order() -> None:
    text = """
schedule.func @f(%x: tensor<f32[A, B]>) -> (tensor<f32[]>) {
  %y = schedule.group {domain = []} () {
    %m = schedule.reduce {kind = "add", sizes = [<A>, <B>]} (%i: i64, %j: i64) {
      %a = schedule.read %x, [%i, %j] : f32
      yield %a
    } : f32
    schedule.write %m, [] {result = 0}
  } : tensor<f32[]>
  yield %y
}
"""
    rng = np.random.default_rng(4)
    for shape in [(0, 3), (1, 1), (37, 113)]:
        x = rng.standard_normal(shape).astype(np.float32)
        total = np.float32(0)
        for v in x.ravel():
            total = total + v
        (y,) = run(_load(text), "f", [x])
        assert y == total


def test_view_and_constant() -> None:
    text = """
schedule.func @f(%x: tensor<f32[A, B]>) -> (tensor<f32[A*B]>) {
  %c = schedule.constant {name = "w"} : tensor<f32[1]>
  %v = schedule.view %x : tensor<f32[A*B]>
  %y = schedule.group {domain = [<A*B>]} (%i: i64) {
    %zero = arith.constant {value = 0} : i64
    %a = schedule.read %v, [%i] : f32
    %b = schedule.read %c, [%zero] : f32
    %s = arith.add %a, %b : f32
    schedule.write %s, [%i] {result = 0}
  } : tensor<f32[A*B]>
  yield %y
}
"""
    module = verify(parse_module(text, constants={"w": np.array([2.5], np.float32)}))
    x = np.random.default_rng(5).standard_normal((3, 5)).astype(np.float32)
    (y,) = run(module, "f", [x])
    assert np.array_equal(y, x.ravel() + np.float32(2.5))

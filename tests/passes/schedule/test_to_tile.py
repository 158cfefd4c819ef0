"""Every strategy of schedule-to-tile computes what the Schedule interpreter computes, on ragged sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tesseracc.arch.arch import load
from tesseracc.interpret import schedule, tile
from tesseracc.ir.parser import parse_module
from tesseracc.ir.pipeline import Context, parse_pipeline, run_pipeline
from tesseracc.ir.printer import module_text
from tesseracc.ir.value import Module
from tesseracc.ir.verify import verify
from tesseracc.passes.schedule import choose_strategy as _choose  # noqa: F401
from tesseracc.passes.schedule import to_tile as _to_tile  # noqa: F401
from tesseracc.passes.schedule.tuning import STRIP

Array = np.ndarray[Any, Any]

SOFTMAX = """
schedule.func @f(%x: tensor<f32[N, D]>) -> (tensor<f32[N, D]>) {
  %y = schedule.group {domain = [<N>]} (%i: i64) {
    %m = schedule.reduce {kind = "max", sizes = [<D>]} (%j: i64) {
      %v = schedule.read %x, [%i, %j] : f32
      yield %v
    } : f32
    %s = schedule.reduce {kind = "add", sizes = [<D>]} (%j: i64) {
      %v = schedule.read %x, [%i, %j] : f32
      %d = arith.sub %v, %m : f32
      %e = arith.exp %d : f32
      yield %e
    } : f32
    schedule.each {sizes = [<D>]} (%j: i64) {
      %v = schedule.read %x, [%i, %j] : f32
      %d = arith.sub %v, %m : f32
      %e = arith.exp %d : f32
      %q = arith.div %e, %s : f32
      schedule.write %q, [%i, %j] {result = 0}
    }
  } : tensor<f32[N, D]>
  yield %y
}
"""
LINEAR = """
schedule.func @f(%x: tensor<f32[M, K]>, %w: tensor<f32[K, N]>, %b: tensor<f32[N]>) -> (tensor<f32[M, N]>) {
  %y = schedule.group {domain = [<M>, <N>]} (%i: i64, %j: i64) {
    %s = schedule.reduce {kind = "add", sizes = [<K>]} (%k: i64) {
      %p = schedule.read %x, [%i, %k] : f32
      %q = schedule.read %w, [%k, %j] : f32
      %r = arith.mul %p, %q : f32
      yield %r
    } : f32
    %c = schedule.read %b, [%j] : f32
    %t = arith.add %s, %c : f32
    %zero = arith.constant {value = 0.0} : f32
    %u = arith.max %t, %zero : f32
    schedule.write %u, [%i, %j] {result = 0}
  } : tensor<f32[M, N]>
  yield %y
}
"""
BATCHED = """
schedule.func @f(%x: tensor<f32[B, M, K]>, %w: tensor<f32[B, N, K]>) -> (tensor<f32[B, M, N]>) {
  %y = schedule.group {domain = [<B>, <M>, <N>]} (%b: i64, %i: i64, %j: i64) {
    %s = schedule.reduce {kind = "add", sizes = [<K>]} (%k: i64) {
      %p = schedule.read %x, [%b, %i, %k] : f32
      %q = schedule.read %w, [%b, %j, %k] : f32
      %r = arith.mul %p, %q : f32
      yield %r
    } : f32
    schedule.write %s, [%b, %i, %j] {result = 0}
  } : tensor<f32[B, M, N]>
  yield %y
}
"""
COLUMNS = """
schedule.func @f(%x: tensor<f32[N, D]>) -> (tensor<f32[D]>) {
  %y = schedule.group {domain = [<D>]} (%j: i64) {
    %s = schedule.reduce {kind = "add", sizes = [<N>]} (%i: i64) {
      %v = schedule.read %x, [%i, %j] : f32
      yield %v
    } : f32
    schedule.write %s, [%j] {result = 0}
  } : tensor<f32[D]>
  yield %y
}
"""
VECTOR = """
schedule.func @f(%c: tensor<f32[N]>, %x: tensor<f32[B, K]>, %w: tensor<f32[B, K, N]>) -> (tensor<f32[B, N]>) {
  %y = schedule.group {domain = [<B>, <N>]} (%b: i64, %j: i64) {
    %d = schedule.read %c, [%j] : f32
    %e = arith.mul %d, %d : f32
    %s = schedule.reduce {kind = "add", sizes = [<K>]} (%k: i64) {
      %p = schedule.read %x, [%b, %k] : f32
      %q = schedule.read %w, [%b, %k, %j] : f32
      %t = arith.sub %q, %e : f32
      %r = arith.mul %p, %t : f32
      yield %r
    } : f32
    %u = arith.add %s, %d : f32
    schedule.write %u, [%b, %j] {result = 0}
  } : tensor<f32[B, N]>
  yield %y
}
"""
ALONE = """
schedule.func @f(%x: tensor<f32[1, K]>, %w: tensor<f32[K, N]>) -> (tensor<f32[N]>) {
  %y = schedule.group {domain = [<N>]} (%j: i64) {
    %zero = arith.constant {value = 0} : i64
    %s = schedule.reduce {kind = "add", sizes = [<K>]} (%k: i64) {
      %p = schedule.read %x, [%zero, %k] : f32
      %q = schedule.read %w, [%k, %j] : f32
      %r = arith.mul %p, %q : f32
      yield %r
    } : f32
    schedule.write %s, [%j] {result = 0}
  } : tensor<f32[N]>
  yield %y
}
"""
ARGMAX = """
schedule.func @f(%x: tensor<f32[N, D]>) -> (tensor<i64[N]>) {
  %y = schedule.group {domain = [<N>]} (%i: i64) {
    %s = schedule.reduce {kind = "argmax", sizes = [<D>]} (%j: i64) {
      %v = schedule.read %x, [%i, %j] : f32
      yield %v
    } : i64
    schedule.write %s, [%i] {result = 0}
  } : tensor<i64[N]>
  yield %y
}
"""
SHORT = ARGMAX.replace("<D>", "10").replace("N, D]", "N, 10]")
POINTWISE = """
schedule.func @f(%x: tensor<f32[N, D]>, %w: tensor<f32[D]>) -> (tensor<f32[N, D]>) {
  %y = schedule.group {domain = [<N>, <D>]} (%i: i64, %j: i64) {
    %v = schedule.read %x, [%i, %j] : f32
    %s = schedule.read %w, [%j] : f32
    %t = arith.mul %v, %s : f32
    schedule.write %t, [%i, %j] {result = 0}
  } : tensor<f32[N, D]>
  yield %y
}
"""
TOTAL = """
schedule.func @f(%x: tensor<f32[N, D]>) -> (tensor<f32[]>) {
  %y = schedule.group {domain = []} () {
    %s = schedule.reduce {kind = "add", sizes = [<N>, <D>]} (%i: i64, %j: i64) {
      %v = schedule.read %x, [%i, %j] : f32
      yield %v
    } : f32
    schedule.write %s, [] {result = 0}
  } : tensor<f32[]>
  yield %y
}
"""
TURNED = """
schedule.func @f(%x: tensor<f32[B, D, N]>, %y: tensor<f32[N, B, D]>, %w: tensor<f32[N]>) -> (tensor<f32[B, N, D]>) {
  %z = schedule.group {domain = [<B>, <N>, <D>]} (%b: i64, %i: i64, %j: i64) {
    %last = schedule.dim {expr = <D - 1>} : i64
    %r = arith.sub %last, %j : i64
    %p = schedule.read %x, [%b, %j, %i] : f32
    %q = schedule.read %x, [%b, %r, %i] : f32
    %u = schedule.read %y, [%i, %b, %j] : f32
    %v = schedule.read %w, [%i] : f32
    %s = arith.mul %p, %v : f32
    %t = arith.sub %s, %u : f32
    %o = arith.add %t, %q : f32
    schedule.write %o, [%b, %i, %j] {result = 0}
  } : tensor<f32[B, N, D]>
  yield %z
}
"""
CASES: dict[str, tuple[str, str, list[tuple[tuple[int, ...], ...]]]] = {
    "softmax": (SOFTMAX, "rows", [((3, 131),), ((1, 1),), ((0, 5),), ((2, 300),)]),
    "linear": (
        LINEAR,
        "mma",
        [
            ((5, 7), (7, 9), (9,)),
            ((70, 33), (33, 65), (65,)),
            ((1, 300), (300, 3), (3,)),
            ((900, 2), (2, 3), (3,)),
            ((0, 4), (4, 2), (2,)),
            ((3, 0), (0, 2), (2,)),
        ],
    ),
    "batched": (BATCHED, "mma", [((2, 5, 7), (2, 9, 7)), ((3, 66, 17), (3, 5, 17))]),
    "columns": (COLUMNS, "lanes", [((5, 7),), ((33, 130),), ((6, STRIP + 70),), ((0, 3),), ((4, 0),)]),
    "vector": (VECTOR, "lanes", [((STRIP + 33,), (2, 7), (2, 7, STRIP + 33)), ((65,), (1, 4), (1, 4, 65))]),
    "alone": (ALONE, "lanes", [((1, 9), (9, 5)), ((1, 70), (70, 66)), ((1, 0), (0, 3))]),
    "argmax": (ARGMAX, "rows", [((5, 7),), ((2, 300),)]),
    "short argmax": (SHORT, "lanes", [((5, 10),), ((300, 10),), ((0, 10),)]),
    "pointwise": (POINTWISE, "lanes", [((5, 7), (7,)), ((2, 2100), (2100,)), ((1, 1), (1,)), ((0, 4), (4,))]),
    "turned": (
        TURNED,
        "turn",
        [
            ((2, 7, 5), (5, 2, 7), (5,)),
            ((1, 70, 130), (130, 1, 70), (130,)),
            ((3, 1, 65), (65, 3, 1), (65,)),
            ((1, 0, 4), (4, 1, 0), (4,)),
        ],
    ),
    "total": (TOTAL, "rows", [((5, 7),), ((0, 4),), ((3, 500),)]),
}  # fmt: skip


def lowered(text: str, arch: str) -> Module:
    context = Context(load(arch))
    return run_pipeline(parse_pipeline("choose-strategy,schedule-to-tile"), verify(parse_module(text)), context)


@pytest.mark.parametrize("arch", ["x86-64-v4", "x86-64-v2", "sm_90"])
@pytest.mark.parametrize("name", sorted(CASES))
def test_equals_the_schedule_interpreter(name: str, arch: str) -> None:
    text, _, shapes = CASES[name]
    module = lowered(text, arch)
    rng = np.random.default_rng(len(name))
    for shape in shapes:
        inputs: list[Array] = [rng.standard_normal(s).astype(np.float32) for s in shape]
        expected = schedule.run(parse_module(text), "f", inputs)
        found = tile.run(module, "f", inputs)
        for a, b in zip(found, expected, strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-5)


@pytest.mark.parametrize("name", sorted(CASES))
def test_strategy(name: str) -> None:
    text, strategy, _ = CASES[name]
    module = run_pipeline(parse_pipeline("choose-strategy"), parse_module(text), Context())
    plans = [op.attrs["plan"] for op in module.funcs[0].walk() if op.name == "schedule.group"]
    assert plans == [strategy]


@pytest.mark.parametrize("shape", [(7, STRIP + 1), (130, 65), (3, 64)])
def test_columns_take_their_terms_in_order(shape: tuple[int, int]) -> None:
    x = np.random.default_rng(shape).standard_normal(shape).astype(np.float32)
    total = np.zeros(shape[1], np.float32)
    for row in x:
        total = total + row
    (found,) = tile.run(lowered(COLUMNS, "x86-64-v4"), "f", [x])
    np.testing.assert_array_equal(found, total)


def test_first_nan_and_first_of_equals_win() -> None:
    x = np.zeros((4, 200), np.float32)
    x[1, [150, 90]] = np.nan
    x[2, 199] = 5
    x[3] = -np.inf
    for arch in ("x86-64-v4", "sm_90"):
        (found,) = tile.run(lowered(ARGMAX, arch), "f", [x])
        np.testing.assert_array_equal(found, [0, 90, 199, 0])


def test_text_round_trips() -> None:
    for text, _, _ in CASES.values():
        module = lowered(text, "sm_90")
        printed = module_text(module, locations=True)
        assert module_text(verify(parse_module(printed)), locations=True) == printed


def test_an_output_is_memory_of_its_own() -> None:
    text = "schedule.func @f(%x: tensor<f32[N]>) -> (tensor<f32[N]>, tensor<f32[N]>) {\n  yield %x, %x\n}\n"
    x = np.arange(5, dtype=np.float32)
    first, second = tile.run(lowered(text, "x86-64-v3"), "f", [x])
    np.testing.assert_array_equal(first, x)
    assert not np.shares_memory(first, x) and not np.shares_memory(first, second)

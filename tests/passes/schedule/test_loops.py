"""Passes that change loops: unit axes, flattened accesses, collapsed dims, copies as views, split reductions."""

from __future__ import annotations

import numpy as np
import pytest

from tesseracc.frontend.trace import trace
from tesseracc.interpret.schedule import run
from tesseracc.ir.parser import parse_module
from tesseracc.ir.value import Module
from tests.passes import programs
from tests.passes.programs import groups, loops, passes


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(list(shape)).standard_normal(shape).astype(np.float32)


def domain(module: Module) -> list[str]:
    (group,) = groups(module)
    return [str(size) for size in group.attrs["domain"]]


UNIT = """
schedule.func @f(%x: tensor<f32[N, 1]>) -> (tensor<f32[N, 1]>) {
  %y = schedule.group {domain = [<N>, 1]} (%i: i64, %j: i64) {
    %s = schedule.reduce {kind = "KIND", sizes = [1]} (%k: i64) {
      %a = schedule.read %x, [%i, %k] : f32
      yield %a
    } : f32
    schedule.each {sizes = [1]} (%l: i64) {
      schedule.write %s, [%i, %l] {result = 0}
    }
  } : tensor<f32[N, 1]>
  yield %y
}
"""


@pytest.mark.parametrize("kind", ["add", "max", "mul"])
def test_drop_unit_axes(kind: str) -> None:
    before = parse_module(UNIT.replace("KIND", kind))
    done = passes(before, "drop-unit-axes")
    (group,) = groups(done)
    assert domain(done) == ["N"] and loops(group) == []
    x = np.array([[1.5], [-0.0], [np.nan], [-np.inf]], np.float32)
    assert run(done, "f", [x])[0].tobytes() == run(before, "f", [x])[0].tobytes()


ARGUMENT = """
schedule.func @f(%x: tensor<i64[1, N]>) -> (tensor<i64[1, N]>) {
  %y = schedule.group {domain = [1, <N>]} (%i: i64, %j: i64) {
    %s = schedule.reduce {kind = "argmax", sizes = [1]} (%k: i64) {
      %a = schedule.read %x, [%i, %j] : i64
      yield %a
    } : i64
    schedule.write %s, [%i, %j] {result = 0}
  } : tensor<i64[1, N]>
  yield %y
}
"""


def test_the_first_of_one_is_at_0() -> None:
    done = passes(parse_module(ARGUMENT), "drop-unit-axes")
    assert domain(done) == ["N"] and loops(groups(done)[0]) == []
    np.testing.assert_array_equal(run(done, "f", [np.array([[3, -1]])])[0], [[0, 0]])


SPLIT = """
schedule.func @f(%x: tensor<f32[A, B, C]>) -> (tensor<f32[A, B*C]>) {
  %y = schedule.group {domain = [<A>, <B*C>]} (%i: i64, %j: i64) {
    %c = schedule.dim {expr = <C>} : i64
    %p = arith.floordiv %j, %c : i64
    %q = arith.mod %j, %c : i64
    %v = schedule.read %x, [%i, %p, %q] : f32
    %r = arith.OP %v : f32
    schedule.write %r, [%i, %j] {result = 0}
  } : tensor<f32[A, B*C]>
  yield %y
}
"""


@pytest.mark.parametrize("shape", [(2, 3, 4), (0, 3, 4), (1, 1, 1), (2, 0, 3)])
def test_flatten_accesses_then_collapse_dims(shape: tuple[int, int, int]) -> None:
    before = parse_module(SPLIT.replace("OP", "exp"))
    flat = passes(before, "flatten-accesses")
    read = next(op for op in flat.funcs[0].walk() if op.name == "schedule.read")
    assert len(read.group("indices")) == 2 and domain(flat) == ["A", "B*C"]
    done = passes(flat, "collapse-dims")
    assert domain(done) == ["A*B*C"]
    x = random(*shape)
    for module in (flat, done):
        assert np.array_equal(run(module, "f", [x])[0], run(before, "f", [x])[0])


TRANSPOSED = """
schedule.func @f(%x: tensor<f32[A, B, C]>, %b: tensor<f32[C]>) -> (tensor<f32[B, A, C]>) {
  %y = schedule.group {domain = [<B>, <A>, <C>]} (%i: i64, %j: i64, %k: i64) {
    %v = schedule.read %x, [%j, %i, %k] : f32
    %w = schedule.read %b, [%k] : f32
    %r = arith.add %v, %w : f32
    schedule.write %r, [%i, %j, %k] {result = 0}
  } : tensor<f32[B, A, C]>
  yield %y
}
"""


def test_only_contiguous_loops_collapse() -> None:
    done = passes(parse_module(TRANSPOSED), "collapse-dims")
    assert domain(done) == ["B", "A", "C"]
    straight = TRANSPOSED.replace("[%j, %i, %k]", "[%i, %j, %k]").replace(
        "%x: tensor<f32[A, B, C]>", "%x: tensor<f32[B, A, C]>"
    )
    before = parse_module(straight)
    done = passes(before, "collapse-dims")
    assert domain(done) == ["A*B", "C"]  # b is read along the last axis only
    inputs = [random(2, 3, 4), random(4)]
    assert np.array_equal(run(done, "f", inputs)[0], run(before, "f", inputs)[0])


def test_an_index_that_is_a_value_does_not_collapse() -> None:
    text = SPLIT.replace(
        "    %r = arith.OP %v : f32\n", '    %n = arith.cast %i {to = "f32"} : f32\n    %r = arith.add %v, %n : f32\n'
    )
    before = parse_module(text)
    done = passes(before, "flatten-accesses,collapse-dims")
    assert domain(done) == ["A", "B*C"]
    x = random(3, 2, 5)
    assert np.array_equal(run(done, "f", [x])[0], run(before, "f", [x])[0])


def test_boxes_of_reductions_collapse() -> None:
    module = programs.scheduled(trace(programs.totals).module)
    done = passes(module, "fuse,drop-unit-axes,tidy,collapse-dims")
    for group in groups(done):
        (reduce,) = (op for op in group.regions[0].ops if op.regions)
        assert [str(size) for size in reduce.attrs["sizes"]] == ["D*N"]


def test_copies_are_views() -> None:
    copy = SPLIT.replace("    %r = arith.OP %v : f32\n", "").replace("write %r", "write %v")
    done = passes(parse_module(copy), "copies-to-views")
    assert [op.name for op in done.funcs[0].body.ops] == ["schedule.view"]
    x = random(2, 3, 4)
    assert np.array_equal(run(done, "f", [x])[0], x.reshape(2, 12))
    moved = passes(
        parse_module(copy.replace("[%i, %p, %q]", "[%i, %q, %p]").replace("A, B, C", "A, C, B")), "copies-to-views"
    )
    assert [op.name for op in moved.funcs[0].body.ops] == ["schedule.group"]


FULL = """
schedule.func @f(%x: tensor<f32[N]>, %s: tensor<f32[]>) -> (tensor<f32[]>) {
  %y = schedule.group {domain = []} () {
    %c = schedule.read %s, [] : f32
    %t = schedule.reduce {kind = "KIND", sizes = [<N>]} (%k: i64) {
      %a = schedule.read %x, [%k] : f32
      %b = arith.add %a, %c : f32
      yield %b
    } : f32
    %r = arith.mul %t, %c : f32
    schedule.write %r, [] {result = 0}
  } : tensor<f32[]>
  yield %y
}
"""


@pytest.mark.parametrize("kind", ["add", "max", "min"])
@pytest.mark.parametrize("size", [0, 1, 5, 16384, 16385, 40000])
def test_split_reductions(kind: str, size: int) -> None:
    before = parse_module(FULL.replace("KIND", kind))
    done = passes(before, "split-reductions")
    first, second = groups(done)
    assert [str(d) for d in first.attrs["domain"]] == ["ceildiv(N, 16384)"] and second.attrs["domain"] == ()
    x, s = random(size), np.float32(1.25).reshape(())
    (got,) = run(done, "f", [x, s])
    (expected,) = run(before, "f", [x, s])
    if kind == "add":
        exact = (x.astype(np.float64) + 1.25).sum() * 1.25
        assert abs(got - exact) <= 1e-5 * (np.abs(x) + 1.25).sum(dtype=np.float64) + 1e-6
    else:
        assert got == expected


TWO = """
schedule.func @f(%x: tensor<f32[N]>, %s: tensor<f32[]>) -> (tensor<f32[]>, tensor<f32[]>) {
  %y, %z = schedule.group {domain = []} () {
    %c = schedule.read %s, [] : f32
    %d = arith.abs %c : f32
    schedule.write %d, [] {result = 1}
    %t = schedule.reduce {kind = "max", sizes = [<N>]} (%k: i64) {
      %a = schedule.read %x, [%k] : f32
      %b = arith.add %a, %d : f32
      yield %b
    } : f32
    schedule.write %t, [] {result = 0}
  } : tensor<f32[]>, tensor<f32[]>
  yield %y, %z
}
"""


def test_other_results_of_a_split_group_are_written_once() -> None:
    before = parse_module(TWO)
    done = passes(before, "split-reductions")
    assert [len(group.results) for group in groups(done)] == [1, 2]
    args = [random(20000), np.float32(-1.25).reshape(())]
    np.testing.assert_array_equal(run(done, "f", args), run(before, "f", args))


def test_short_and_parallel_reductions_stay_whole() -> None:
    assert (
        len(
            groups(
                passes(
                    parse_module(FULL.replace("KIND", "add").replace("<N>", "20000").replace("[N]", "[20000]")),
                    "split-reductions",
                )
            )
        )
        == 1
    )
    assert (
        len(
            groups(
                passes(
                    parse_module(FULL.replace("KIND", "add").replace("<N>", "40000").replace("[N]", "[40000]")),
                    "split-reductions",
                )
            )
        )
        == 2
    )
    rows = programs.scheduled(trace(programs.softmax).module)
    assert len(groups(passes(rows, "split-reductions"))) == len(groups(rows))


EXPECTED = {
    "softmax": [(["N"], ["max", "add", "each"])],
    "log_softmax": [(["N"], ["max", "add", "each"])],
    "layer_norm": [(["N"], ["add", "add", "each"])],
    "rms_norm": [(["N"], ["add", "each"])],
    "linear_gelu": [(["B*S", "7"], ["add"])],
    "chain": [(["A", "B"], [])],
    "residual": [(["N"], ["add", "add", "each"])],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_functions_that_become_one_group(name: str) -> None:
    done = programs.fused(trace(programs.FUNCTIONS[name]).module)
    assert [([str(d) for d in g.attrs["domain"]], loops(g)) for g in groups(done)] == EXPECTED[name]


def test_cross_entropy_is_one_group_of_rows_and_the_mean() -> None:
    rows, *mean = groups(programs.fused(trace(programs.cross_entropy).module))
    assert loops(rows) == ["max", "add"] and len(rows.results) == 1
    assert [loops(group) for group in mean] == [["add"], ["add"]]

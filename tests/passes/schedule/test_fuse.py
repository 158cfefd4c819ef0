"""Fusion on hand-written text: what becomes one group, what must not, and that values stay the same."""

from __future__ import annotations

import numpy as np
import pytest

import tesseracc.passes.schedule.fuse  # noqa: F401  (registers the pass)
from tesseracc.analysis.access import is_contraction
from tesseracc.interpret.schedule import run
from tesseracc.ir.parser import parse_module
from tesseracc.ir.pipeline import Context, parse_pipeline, run_pipeline
from tesseracc.ir.printer import module_text
from tesseracc.ir.value import Module, Op
from tesseracc.ir.verify import verify


def load(text: str) -> Module:
    return verify(parse_module(text))


def fused(module: Module) -> Module:
    done = run_pipeline(parse_pipeline("fuse"), module, Context())
    assert module_text(parse_module(module_text(done))) == module_text(done)
    return done


def groups(module: Module) -> list[Op]:
    return [op for op in module.funcs[0].body.ops if op.name == "schedule.group"]


def random(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def pointwise(name: str, domain: str, body: str, reads: str) -> str:
    """A group over a domain of axes i, j: `reads` are lines, `body` lines that define %r."""
    args = ", ".join(f"%{a}: i64" for a in "ij"[: len(domain.split(","))])
    index = ", ".join(f"%{a}" for a in "ij"[: len(domain.split(","))])
    shape = ", ".join(part.strip(" <>") for part in domain.split(","))
    return f"""
  %{name} = schedule.group {{domain = [{domain}]}} ({args}) {{
    {reads}
    {body}
    schedule.write %r, [{index}] {{result = 0}}
  }} : tensor<f32[{shape}]>"""


def rows(name: str, kind: str, source: str) -> str:
    return f"""
  %{name} = schedule.group {{domain = [<N>, 1]}} (%i: i64, %j: i64) {{
    %r = schedule.reduce {{kind = "{kind}", sizes = [<D>]}} (%k: i64) {{
      %a = schedule.read %{source}, [%i, %k] : f32
      yield %a
    }} : f32
    schedule.write %r, [%i, %j] {{result = 0}}
  }} : tensor<f32[N, 1]>"""


ZERO = "%z = arith.constant {value = 0} : i64"
SOFTMAX = (
    "schedule.func @f(%x: tensor<f32[N, D]>) -> (tensor<f32[N, D]>) {"
    + rows("m", "max", "x")
    + pointwise(
        "e",
        "<N>, <D>",
        "%d = arith.sub %a, %b : f32\n    %r = arith.exp %d : f32",
        f"{ZERO}\n    %a = schedule.read %x, [%i, %j] : f32\n    %b = schedule.read %m, [%i, %z] : f32",
    )
    + rows("s", "add", "e")
    + pointwise(
        "y",
        "<N>, <D>",
        "%r = arith.div %a, %b : f32",
        f"{ZERO}\n    %a = schedule.read %e, [%i, %j] : f32\n    %b = schedule.read %s, [%i, %z] : f32",
    )
    + "\n  yield %y\n}\n"
)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (5, 17)])
def test_softmax_becomes_one_group_over_rows(shape: tuple[int, int]) -> None:
    module = load(SOFTMAX)
    done = fused(module)
    (group,) = groups(done)
    assert [str(d) for d in group.attrs["domain"]] == ["N"]
    assert [op.name for op in group.regions[0].ops if op.regions] == [
        "schedule.reduce",
        "schedule.reduce",
        "schedule.each",
    ]
    x = random(shape)
    assert np.array_equal(run(done, "f", [x])[0], run(module, "f", [x])[0])


MATMUL = """
schedule.func @f(%x: tensor<f32[M, K]>, %w: tensor<f32[K, N]>, %b: tensor<f32[N]>) -> (YIELDS) {
  %mm = schedule.group {domain = [<M>, <N>]} (%i: i64, %j: i64) {
    %r = schedule.reduce {kind = "add", sizes = [<K>]} (%k: i64) {
      %a = schedule.read %x, [%i, %k] : f32
      %c = schedule.read %w, [%k, %j] : f32
      %p = arith.mul %a, %c : f32
      yield %p
    } : f32
    schedule.write %r, [%i, %j] {result = 0}
  } : tensor<f32[M, N]>
  %h = schedule.group {domain = [<M>, <N>]} (%i1: i64, %j1: i64) {
    %a1 = schedule.read %mm, [%i1, %j1] : f32
    %b1 = schedule.read %b, [%j1] : f32
    %r1 = arith.add %a1, %b1 : f32
    schedule.write %r1, [%i1, %j1] {result = 0}
  } : tensor<f32[M, N]>
  %g = schedule.group {domain = [<M>, <N>]} (%i2: i64, %j2: i64) {
    %a2 = schedule.read %h, [%i2, %j2] : f32
    %t2 = arith.erf %a2 : f32
    %r2 = arith.mul %t2, %a2 : f32
    schedule.write %r2, [%i2, %j2] {result = 0}
  } : tensor<f32[M, N]>
  yield RESULTS
}
"""


def matmul(results: str = "%g") -> Module:
    types = ", ".join(["tensor<f32[M, N]>"] * len(results.split(",")))
    return load(MATMUL.replace("YIELDS", types).replace("RESULTS", results))


def test_matmul_bias_activation_is_one_contraction_with_an_epilogue() -> None:
    module = matmul()
    done = fused(module)
    (group,) = groups(done)
    found = is_contraction(group)
    assert found is not None and (found.batch, found.m, found.n) == ((), (0,), (1,))
    inputs = [random((3, 5)), random((5, 7)), random((7,))]
    assert np.array_equal(run(done, "f", inputs)[0], run(module, "f", inputs)[0])


def test_a_value_that_is_also_returned_is_one_more_result() -> None:
    module = matmul("%g, %h")
    done = fused(module)
    (group,) = groups(done)
    assert len(group.results) == 2 and is_contraction(group) is not None
    inputs = [random((4, 1)), random((1, 2)), random((2,))]
    for got, expected in zip(run(done, "f", inputs), run(module, "f", inputs), strict=True):
        assert np.array_equal(got, expected)


def test_a_costly_function_does_not_move_into_a_matrix_product() -> None:
    text = (
        MATMUL.replace("YIELDS", "tensor<f32[M, N]>")
        .replace("RESULTS", "%mm")
        .replace("schedule.read %x,", "schedule.read %e,")
    )
    before = """  %e = schedule.group {domain = [<M>, <K>]} (%i9: i64, %k9: i64) {
    %a9 = schedule.read %x, [%i9, %k9] : f32
    %r9 = arith.OP %a9 : f32
    schedule.write %r9, [%i9, %k9] {result = 0}
  } : tensor<f32[M, K]>
"""
    text = text.replace("  %mm =", before + "  %mm =", 1)
    assert len(groups(fused(load(text.replace("OP", "exp"))))) == 2
    cheap = fused(load(text.replace("OP", "neg")))
    (group,) = groups(cheap)
    assert is_contraction(group) is not None


SHIFT = """
schedule.func @f(%x: tensor<f32[N]>) -> (tensor<f32[N + 1]>) {
  %e = schedule.group {domain = [<N>]} (%i: i64) {
    %a = schedule.read %x, [%i] : f32
    %r = arith.exp %a : f32
    schedule.write %r, [%i] {result = 0}
  } : tensor<f32[N]>
  %y = schedule.group {domain = [<N + 1>]} (%i1: i64) {
    %one = arith.constant {value = 1} : i64
    %j = arith.sub %i1, %one : i64
    %in = arith.cmp %i1, %one {pred = "ge"} : bool
    %v = schedule.read %e, [%j], where %in : f32
    schedule.write %v, [%i1] {result = 0}
  } : tensor<f32[N + 1]>
  yield %y
}
"""


@pytest.mark.parametrize("size", [0, 1, 6])
def test_conditions_of_reads_reach_the_producers_reads(size: int) -> None:
    module = load(SHIFT)
    done = fused(module)
    assert len(groups(done)) == 1
    x = random((size,))
    (y,) = run(done, "f", [x])
    assert y[0] == 0 and np.array_equal(y, run(module, "f", [x])[0])


def test_a_full_reduction_is_not_repeated_for_every_element() -> None:
    text = """
schedule.func @f(%x: tensor<f32[N]>) -> (tensor<f32[N]>) {
  %s = schedule.group {domain = []} () {
    %r = schedule.reduce {kind = "add", sizes = [<N>]} (%k: i64) {
      %a = schedule.read %x, [%k] : f32
      yield %a
    } : f32
    schedule.write %r, [] {result = 0}
  } : tensor<f32[]>
  %y = schedule.group {domain = [<N>]} (%i: i64) {
    %b = schedule.read %x, [%i] : f32
    %c = schedule.read %s, [] : f32
    %d = arith.div %b, %c : f32
    schedule.write %d, [%i] {result = 0}
  } : tensor<f32[N]>
  yield %y
}
"""
    assert len(groups(fused(load(text)))) == 2
    # short static rows may be done by one group alone
    short = fused(load(text.replace("<N>", "100").replace("[N]", "[100]")))
    assert len(groups(short)) == 1


def test_a_producer_with_several_readers_is_written_by_the_first() -> None:
    text = (
        "schedule.func @f(%x: tensor<f32[N, D]>, %w: tensor<f32[N, D]>) -> (tensor<f32[N, D]>, tensor<f32[N, D]>) {"
        + pointwise(
            "h",
            "<N>, <D>",
            "%q = arith.add %a, %b : f32\n    %r = arith.exp %q : f32",
            "%a = schedule.read %x, [%i, %j] : f32\n    %b = schedule.read %w, [%i, %j] : f32",
        )
        + rows("s", "add", "h")
        .replace("%a", "%a3")
        .replace("%r", "%r3")
        .replace("%k", "%k3")
        .replace("%i", "%i3")
        .replace("%j", "%j3")
        + pointwise(
            "y",
            "<N>, <D>",
            "%r = arith.div %a, %b : f32",
            f"{ZERO}\n    %a = schedule.read %h, [%i, %j] : f32\n    %b = schedule.read %s, [%i, %z] : f32",
        )
        + pointwise("t", "<N>, <D>", "%r = arith.tanh %a : f32", "%a = schedule.read %h, [%i, %j] : f32")
        + "\n  yield %y, %t\n}\n"
    )
    module = load(text)
    done = fused(module)
    first, second = groups(done)
    assert len(first.results) == 2 and len(second.results) == 1
    inputs = [random((4, 6)), random((4, 6), 1)]
    for got, expected in zip(run(done, "f", inputs), run(module, "f", inputs), strict=True):
        assert np.array_equal(got, expected)

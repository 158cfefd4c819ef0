"""Affine access maps and the contraction recogniser."""

from __future__ import annotations

import pytest

from tessera.shapes import parse_dim
from tesseracc.analysis.access import accesses, is_contraction
from tesseracc.analysis.indices import Indices
from tesseracc.frontend.trace import trace
from tesseracc.ir.parser import parse_module
from tesseracc.ir.types import TensorType
from tests.passes import programs

TEXT = """
schedule.func @f(%x: tensor<f32[A, B, C]>, %t: tensor<i64[A]>) -> (tensor<f32[A, B*C]>) {
  %y = schedule.group {domain = [<A>, <B*C>]} (%i: i64, %j: i64) {
    %c = schedule.dim {expr = <C>} : i64
    %two = arith.constant {value = 2} : i64
    %q = arith.floordiv %j, %c : i64
    %r = arith.mod %j, %c : i64
    %back = arith.mul %q, %c : i64
    %whole = arith.add %back, %r : i64
    %g = schedule.read %t, [%i] : i64
    %a = schedule.read %x, [%i, %q, %r] : f32
    %s = schedule.reduce {kind = "add", sizes = [<C>]} (%k: i64) {
      %k2 = arith.mul %k, %c : i64
      %k3 = arith.sub %k2, %two : i64
      %b = schedule.read %x, [%g, %i, %k3] : f32
      yield %b
    } : f32
    %v = arith.add %a, %s : f32
    schedule.write %v, [%i, %whole] {result = 0}
  } : tensor<f32[A, B*C]>
  yield %y
}
"""


def test_accesses_are_affine_where_they_can_be() -> None:
    group = parse_module(TEXT).funcs[0].body.ops[0]
    i, j = group.regions[0].args
    gather, split, inner, write = accesses(group)
    assert gather.indices[0] is not None and gather.indices[0].terms == {i: 1}
    assert split.indices[0] is not None and split.indices[1] is None and split.indices[2] is None
    assert inner.indices[0] is None  # read from a tensor
    k = inner.loops[-1]
    assert inner.indices[2] is not None
    assert inner.indices[2].terms == {k: parse_dim("C")} and inner.indices[2].offset == -2
    assert write.is_write and write.result == 0 and write.tensor is None
    assert write.indices[1] is not None and write.indices[1].terms == {j: 1}  # (j // C) * C + j % C = j
    assert write.stride(i) == parse_dim("B*C") and write.stride(j) == 1 and split.stride(i) is None


def test_ranges() -> None:
    group = parse_module(TEXT).funcs[0].body.ops[0]
    known = Indices(group)
    i, j = (known.of(arg) for arg in group.regions[0].args)
    c = parse_dim("C")
    assert known.within(j, parse_dim("B*C")) and not known.within(j, c)
    assert known.floordiv(i * c * parse_dim("B") + j, parse_dim("B*C")) == i
    remainder = known.mod(j, c)
    assert remainder is not None and known.within(remainder, c)
    assert known.upper(i * 3 + 1) == parse_dim("3*A - 2")


@pytest.mark.parametrize(
    ("name", "rank", "batch", "m", "n"),
    [
        ("linear_gelu", 2, (), (0,), (1,)),
        ("linear_relu_bf16", 2, (), (0,), (1,)),
        ("matmul_transposed", 2, (), (0,), (1,)),
        ("batched", 3, (0,), (1,), (2,)),
    ],
)
def test_contractions(name: str, rank: int, batch: tuple[int, ...], m: tuple[int, ...], n: tuple[int, ...]) -> None:
    (group,) = programs.groups(programs.fused(trace(programs.FUNCTIONS[name]).module))
    found = is_contraction(group)
    assert found is not None
    assert len(group.attrs["domain"]) == rank
    assert (found.batch, found.m, found.n) == (batch, m, n)
    k = found.k
    for value in (found.a, found.b):
        reads = [op for op in found.operand_ops(value) if op.name == "schedule.read"]
        assert len(reads) == 1 and any(index is k for index in reads[0].group("indices"))
        assert value is reads[0].result  # no cast is left around it
    x, w = (next(op["tensor"] for op in found.operand_ops(v) if op.name == "schedule.read") for v in (found.a, found.b))
    assert isinstance(x.type, TensorType) and isinstance(w.type, TensorType)
    assert str(x.type.dims[-1]) == str(found.k_size)


MATMUL = """
schedule.func @f(%x: tensor<f32[M, K]>, %w: tensor<f32[N, K]>, %v: tensor<f32[K]>) -> (tensor<f32[M, N]>) {
  %y = schedule.group {domain = [<M>, <N>]} (%i: i64, %j: i64) {
    %s = schedule.reduce {kind = "KIND", sizes = [<K>]} (%k: i64) {
      %a = schedule.read %x, [%i, %k] : f32
      %b = schedule.read %w, [%j, %k] : f32
      %c = schedule.read %v, [%k] : f32
      %d = arith.mul %b, %c : f32
      %p = arith.BODY : f32
      yield %p
    } : f32
    schedule.write %s, [%i, %j] {result = 0}
  } : tensor<f32[M, N]>
  yield %y
}
"""


def recognised(body: str, kind: str = "add"):
    return is_contraction(parse_module(MATMUL.replace("BODY", body).replace("KIND", kind)).funcs[0].body.ops[0])


def test_the_factor_with_the_last_axis_is_b() -> None:
    straight, turned = recognised("mul %a, %d"), recognised("mul %d, %a")
    assert straight is not None and turned is not None
    assert not straight.swapped and turned.swapped
    for found in (straight, turned):
        assert (found.m, found.n) == ((0,), (1,))
        assert [op.name for op in found.operand_ops(found.b)] == ["schedule.read", "schedule.read", "arith.mul"]


@pytest.mark.parametrize(
    ("body", "kind"), [("add %a, %b", "add"), ("mul %a, %b", "max"), ("mul %a, %c", "add"), ("mul %b, %b", "add")]
)
def test_what_is_no_contraction(body: str, kind: str) -> None:
    assert recognised(body, kind) is None

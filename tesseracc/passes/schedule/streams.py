"""What a group is made of that sums weights exp(x - max x): the form that `stream-weights` makes and that streams."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from tessera.shapes import Dim, known_equal, product
from tesseracc.analysis.access import dependence, unwidened
from tesseracc.ir.types import element
from tesseracc.ir.value import Op, Region, Value

__all__ = ["Numbers", "Stream", "stream_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """A group with M[i] = max_t x[i, t] and sums over t of exp(x[i, t] - c(M[i])) (see stream_weights).

    `maximum` is M's reduction with the term x, `sums` are the L, `total` is O, whose term is `factor` times `v`. The
    factor is the weight, `rounded` to a type, or made of it, `x` and numbers of the row: `twice`. `score` is the
    contraction inside each, by the reduction around it, `weight` the exponential there, `shift` is c(M). Axes of the
    domain: `batch`, those of i (`m`), those of v (`n`). `a`, `b` are the score's factors in the maximum."""

    group: Op
    maximum: Op
    sums: tuple[Op, ...]
    total: Op
    score: Mapping[Op, Op]
    weight: Mapping[Op, Op]
    shift: Value
    x: Value
    factor: Value
    twice: bool
    v: Value
    a: Value
    b: Value
    batch: tuple[int, ...]
    m: tuple[int, ...]
    n: tuple[int, ...]

    @property
    def rounded(self) -> str:
        """The factor's type."""
        return element(self.factor.type)

    @property
    def products(self) -> tuple[tuple[str, str, str], tuple[str, str, str], tuple[Dim, Dim, Dim, Dim], bool]:
        """What stream_tiles asks for: types of the products, extents, whether m and n are one axis each."""
        score = self.score[self.maximum]
        inner = {result: op for op in score.regions[0].ops for result in op.results}
        outer = {result: op for op in self.total.regions[0].ops for result in op.results}
        a, b, v = (
            element(unwidened(value, made).type)
            for value, made in ((self.a, inner), (self.b, inner), (self.v, outer))
        )
        domain = self.group.attrs["domain"]
        extents = (
            product(domain[axis] for axis in self.m), product(domain[axis] for axis in self.n),
            self.maximum.attrs["sizes"][0], score.attrs["sizes"][0],
        )  # fmt: skip
        return (a, b, "f32"), (self.rounded, v, "f32"), extents, len(self.m) == len(self.n) == 1


class Numbers:
    """Equal numbers for operations that compute equally, in whatever loop."""

    def __init__(self) -> None:
        self.table: dict[Hashable, int] = {}
        self.of: dict[Value, int] = {}

    def value(self, value: Value) -> int:
        return self.of.setdefault(value, -1 - len(self.of)) if value not in self.of else self.of[value]

    def bind(self, values: tuple[Value, ...], name: str) -> None:
        for at, value in enumerate(values):
            self.of[value] = self.table.setdefault((name, at), len(self.table))

    def op(self, op: Op, depth: int = 0) -> Hashable:
        """The key of an operation; its results are numbered."""
        inner: list[Hashable] = []
        for region in op.regions:
            self.bind(region.args, f"loop {depth}")
            inner.append(tuple(self.op(nested, depth + 1) for nested in region.ops if nested.results))
            inner.append(tuple(self.value(v) for v in region.yields))
        attrs = tuple((name, str(value)) for name, value in sorted(op.attrs.items()))
        operands = [self.value(v) for v in op.operands]
        if op.name in ("arith.add", "arith.mul") and element(op.result.type) == "i64":
            operands.sort()  # sums of indices are written in any order
        key = (op.name, attrs, tuple(operands), op.segments, tuple(inner))
        for at, result in enumerate(op.results):
            self.of[result] = self.table.setdefault((key, at, str(result.type)), len(self.table))
        return key


def stream_of(group: Op, *, one_axis: bool = False) -> Stream | None:
    """The parts of a group that streams, or None where it has another form; `one_axis`: of i the last axis is taken,
    the others are of the batch."""
    ops = group.regions[0].ops
    loops = [op for op in ops if op.regions]
    maxima = [op for op in loops if op.name == "schedule.reduce" and op.attrs["kind"] == "max"]
    adds = [op for op in loops if op.name == "schedule.reduce" and op.attrs["kind"] == "add"]
    if len(maxima) != 1 or not adds or len(loops) != 1 + len(adds):
        return None
    (maximum,) = maxima
    length = maximum.attrs["sizes"]
    score: dict[Op, Op] = {}
    weight: dict[Op, Op] = {}
    numbers = Numbers()
    for op in loops:
        nested = [inner for inner in op.regions[0].ops if inner.regions]
        if len(length) != 1 or len(op.attrs["sizes"]) != 1 or not known_equal(op.attrs["sizes"][0], length[0]):
            return None
        if len(nested) != 1 or nested[0].name != "schedule.reduce" or nested[0].attrs["kind"] != "add":
            return None
        if len(nested[0].attrs["sizes"]) != 1:
            return None
        score[op] = nested[0]
        numbers.bind(op.regions[0].args, "t")
        for inner in op.regions[0].ops:
            numbers.op(inner)
    depends = dependence(group)
    totals: list[Op] = []
    sums: list[Op] = []
    terms: list[Value] = []
    shifts: set[Value] = set()
    x = numbers.value(maximum.regions[0].yields[0])
    for op in adds:
        made = {result: inner for inner in op.regions[0].ops for result in inner.results}
        exps = [inner for inner in op.regions[0].ops if inner.name == "arith.exp"]
        sub = made.get(exps[0]["a"]) if len(exps) == 1 else None
        if sub is None or sub.name != "arith.sub" or numbers.value(sub.operands[0]) != x or sub.operands[1] in made:
            return None
        weight[op] = exps[0]
        shifts.add(sub.operands[1])
        if op.regions[0].yields[0] is exps[0].result:
            sums.append(op)
        else:
            totals.append(op)
            terms.append(sub.operands[0])
    if len(totals) != 1 or len(shifts) != 1 or not _only_of(shifts.copy().pop(), maximum, ops):
        return None
    (total,) = totals
    made = {result: inner for inner in total.regions[0].ops for result in inner.results}
    mixed = made.get(total.regions[0].yields[0])
    if mixed is None or mixed.name != "arith.mul":
        return None
    of_weight = _made_of(weight[total].result, total.regions[0].ops)
    factors = [unwidened(value, made) for value in mixed.operands if value in of_weight]
    v = next((value for value in mixed.operands if value not in of_weight), None)
    if len(factors) != 1:
        return None
    (factor,) = factors
    twice = _unrounded(factor, made) is not weight[total].result
    if twice and not _by_rows(factor, terms[0], total.regions[0]):
        return None
    body = score[maximum].regions[0]
    term = {result: op for op in body.ops for result in op.results}.get(body.yields[0])
    if v is None or term is None or term.name != "arith.mul":
        return None
    t, d = maximum.regions[0].args[0], body.args[0]
    a, b = term.operands if t in depends[term.operands[1]] else tuple(reversed(term.operands))
    args = group.regions[0].args
    uses = [{i for i, arg in enumerate(args) if arg in depends[value]} for value in (a, b, v)]
    of_x = {i for i, arg in enumerate(args) if arg in depends[maximum.regions[0].yields[0]]}
    n = tuple(sorted(uses[2] - of_x))
    m = tuple(sorted(of_x - uses[1] - uses[2]))[-1 if one_axis else 0 :]
    batch = tuple(i for i in range(len(args)) if i not in n and i not in m)
    factored = t not in depends[a] and d in depends[a] and d in depends[b] and t in depends[b]
    if not (factored and m and n and uses[1] <= set(batch) and uses[0] <= {*batch, *m}):
        return None
    if element(term.result.type) != "f32":
        return None
    return Stream(
        group, maximum, tuple(sums), total, score, weight, shifts.pop(), terms[0], factor, twice, v, a, b, batch, m, n
    )


def _made_of(value: Value, ops: tuple[Op, ...]) -> set[Value]:
    """A value, and those computed from it."""
    found = {value}
    for op in ops:
        if not found.isdisjoint(op.operands):
            found.update(op.results)
    return found


def _by_rows(factor: Value, x: Value, body: Region) -> bool:
    """Whether a factor is arithmetic on x and what is made outside of the sum."""
    made = {result: op for op in body.ops for result in op.results}
    todo = [factor]
    while todo:
        value = todo.pop()
        op = made.get(value)
        if value is x or (op is None and value not in body.args):
            continue
        if op is None or op.regions or op.defn.dialect != "arith":
            return False
        todo += op.operands
    return True


def _unrounded(value: Value, made: Mapping[Value, Op]) -> Value:
    """A value before it was rounded to a narrower float."""
    op = made.get(value)
    return op["a"] if op is not None and op.name == "arith.cast" else value


def _only_of(value: Value, maximum: Op, ops: tuple[Op, ...]) -> bool:
    """Whether a value is computed from the maximum alone."""
    made = {result: op for op in ops for result in op.results}
    todo = [value]
    while todo:
        op = made.get(todo.pop())
        if op is maximum:
            continue
        if op is None or op.regions or op.defn.dialect != "arith":
            return False
        todo += op.operands
    return True

"""`stream-weights`: sums weighted by exp(x - max x), as in attention, take their weights block by block.

    M[i] = max_t x[i, t],   L[i] = sum_t exp(x[i, t] - c(M[i])),   O[i, n] = sum_t exp(x[i, t] - c(M[i])) v[t, n]

where x comes from a contraction, x[i, t] = f(sum_d a[i, d] b[t, d]). Apart, these are groups that hand each other
tensors of every i and t. Where the target streams (`Tuning.stream`), they become one group, in which the values are
spelled out as nested reductions and whose plan `stream` says how it is meant to run (to_tile_stream): once over t in
blocks, with M, L and O as they are so far. When a block raises the maximum from M to M', sums so far are scaled, for

    exp(x - c(M')) = exp(x - c(M)) exp(c(M) - c(M')).

What O's weights have beside the exponential and without t, such as 1 / L, is taken out of the sum: both steps change
rounding, as any order of a sum does. A weight that is 0 because x is -inf counts as 0 whatever v is.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace

from tessera.shapes import known_equal
from tesseracc.analysis.access import dependence, is_contraction
from tesseracc.ir.builder import Builder, make
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import captured, map_funcs, remove_dead, substitute
from tesseracc.ir.types import I64, TensorType, element
from tesseracc.ir.value import Func, Module, Op, Region, Value
from tesseracc.numerics import allows
from tesseracc.passes.schedule.elements import delinearize
from tesseracc.passes.schedule.groups import tensors_read, writes_of
from tesseracc.passes.schedule.inline import inline, pulled_value
from tesseracc.passes.schedule.tidy import tidy
from tesseracc.passes.schedule.tuning import tuning_for

#: moves of groups that one chain may take: more are not looked for
LONGEST = 64


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """A group of the form above.

    `maximum` is M's reduction with the term x, `sums` are the L, `total` is O, whose term is the weight times `v`.
    `score` is the contraction inside each, by the reduction around it, `weight` the exponential there, `shift` is c(M).
    Axes of the domain: `batch`, those of i (`m`), those of v (`n`). `a`, `b` are the score's factors
    in the maximum."""

    group: Op
    maximum: Op
    sums: tuple[Op, ...]
    total: Op
    score: Mapping[Op, Op]
    weight: Mapping[Op, Op]
    shift: Value
    v: Value
    a: Value
    b: Value
    batch: tuple[int, ...]
    m: tuple[int, ...]
    n: tuple[int, ...]


# -- one group of several ----------------------------------------------------------------------------------------------


def _flat(op: Op) -> Op | None:
    """What makes a tensor, in pull form: a view reads its source; inner loops become axes of the domain."""
    if op.name == "schedule.view":
        source, target = op["tensor"].type, op.result.type
        assert isinstance(source, TensorType) and isinstance(target, TensorType)
        b = Builder(op.loc)
        args = [Value(I64) for _ in target.dims]
        place: Value = b.const(0)
        for arg, size in zip(args, target.dims, strict=True):
            place = b.op("arith.add", b.op("arith.mul", place, b.op("schedule.dim", expr=size)), arg)
        indices = delinearize(b, place, [b.op("schedule.dim", expr=size) for size in source.dims])
        b.emit("schedule.write", b.op("schedule.read", op["tensor"], indices), args, result=0)
        group = make("schedule.group", regions=[Region(tuple(args), tuple(b.ops))], domain=target.dims, types=[target])
        return replace(group, results=op.results, loc=op.loc)
    if op.name != "schedule.group" or len(op.results) != 1 or len(writes_of(op)) != 1:
        return None
    region = op.regions[0]
    if pulled_value(op) is not None:
        return op
    *before, each = region.ops
    if each.name != "schedule.each" or any(inner.name in ("schedule.write", "schedule.each") for inner in before):
        return None
    body = Region((*region.args, *each.regions[0].args), (*before, *each.regions[0].ops))
    attrs = {**op.attrs, "domain": (*op.attrs["domain"], *each.attrs["sizes"])}
    flat = replace(op, regions=(body,), attrs=attrs)
    return flat if pulled_value(flat) is not None else None


def _closed(op: Op) -> bool:
    """Whether a group is made of indices alone."""
    return (
        op.name == "schedule.group" and not tensors_read(op) and not any(inner.regions for inner in op.regions[0].ops)
    )


def _is_product(op: Op) -> bool:
    return op.name == "schedule.group" and is_contraction(op) is not None


class _Chain:
    """The groups of a function behind one contraction."""

    def __init__(self, func: Func, last: Op) -> None:
        self.makers = {result: op for op in func.body.ops for result in op.results}
        self.last = last
        self.inside: list[Op] = []
        self.scores: set[int] = set()

    def gathered(self) -> Op | None:
        """The contraction with the groups that make its weights inside, or None."""
        found = is_contraction(self.last)
        if found is None:
            return None
        reads = [op for op in found.operand_ops(found.a) if op.name == "schedule.read"]
        if len(reads) != 1:
            return None
        group, weights = self.last, {reads[0]["tensor"]}
        while len(self.inside) < LONGEST:
            tensor = next((t for t in tensors_read(group) if self._belongs(t, weights)), None)
            if tensor is None:
                return group if len(self.scores) == 1 else None
            maker = self.makers[tensor]
            flat = _flat(maker)
            if flat is None:
                return None
            if is_contraction(flat) is not None:
                self.scores.add(id(maker))
            else:
                weights |= set(tensors_read(flat))
            self.inside.append(maker)
            group = inline(flat, group)
        return None

    def _belongs(self, tensor: Value, weights: set[Value]) -> bool:
        """Whether a tensor is one of the weights' chain, computed from it, or made of indices alone."""
        maker = self.makers.get(tensor)
        if maker is None:
            return False
        if tensor in weights:
            source = maker
            while source.name == "schedule.view" and source["tensor"] in self.makers:
                source = self.makers[source["tensor"]]
            large = isinstance(tensor.type, TensorType) and len(tensor.type.dims) > 1
            if source.name == "schedule.group" and (large or _closed(source)):
                return True
        return self._depends(maker)

    def _depends(self, op: Op) -> bool:
        """Whether something is computed from what is inside already."""
        made = {result for inner in self.inside for result in inner.results}
        todo, seen = [op], set()
        while todo:
            current = todo.pop()
            if id(current) in seen:
                continue
            seen.add(id(current))
            if current.name not in ("schedule.view", "schedule.group"):
                continue
            for value in (current["tensor"],) if current.name == "schedule.view" else tensors_read(current):
                if value in made:
                    return True
                maker = self.makers.get(value)
                if maker is not None and (maker.name == "schedule.view" or not _is_product(maker)):
                    todo.append(maker)
        return False


# -- its form ----------------------------------------------------------------------------------------------------------


class _Numbers:
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
        key = (op.name, attrs, tuple(self.value(v) for v in op.operands), op.segments, tuple(inner))
        for at, result in enumerate(op.results):
            self.of[result] = self.table.setdefault((key, at, str(result.type)), len(self.table))
        return key


def _hoisted(ops: tuple[Op, ...], args: tuple[Value, ...]) -> tuple[list[Op], list[Op]]:
    """Operations that depend on the arguments, and those, before them, that do not; of nested reductions likewise."""
    varying = set(args)
    outside: list[Op] = []
    inside: list[Op] = []
    for op in ops:
        if op.regions:
            region = op.regions[0]
            free, bound = _hoisted(region.ops, region.args)
            op = replace(op, regions=(Region(region.args, tuple(bound), region.yields),))
            for inner in free:
                _place(inner, varying, outside, inside)
        _place(op, varying, outside, inside)
    return outside, inside


def _place(op: Op, varying: set[Value], outside: list[Op], inside: list[Op]) -> None:
    used = {*op.operands, *(v for region in op.regions for v in captured(region))}
    if op.results and varying.isdisjoint(used):
        outside.append(op)
    else:
        inside.append(op)
        varying |= set(op.results)


def _shared(group: Op) -> Op:
    """Everything as far out as it goes, and equal operations of the group's region once."""
    region = group.regions[0]
    ops: list[Op] = []
    for op in region.ops:
        if op.regions:
            body = op.regions[0]
            free, bound = _hoisted(body.ops, body.args)
            ops += [*free, replace(op, regions=(Region(body.args, tuple(bound), body.yields),))]
        else:
            ops.append(op)
    numbers = _Numbers()
    first: dict[Hashable, Op] = {}
    same: dict[Value, Value] = {}
    kept: list[Op] = []
    for op in ops:
        op = substitute(Region((), (op,)), same).ops[0]
        key = numbers.op(op)
        if op.results and key in first:
            same.update(zip(op.results, first[key].results, strict=True))
            continue
        first[key] = op
        kept.append(op)
    return replace(group, regions=(remove_dead(Region(region.args, tuple(kept), region.yields)),))


def _factors(value: Value, made: Mapping[Value, Op]) -> list[Value]:
    op = made.get(value)
    if op is None or op.name != "arith.mul":
        return [value]
    return [factor for operand in op.operands for factor in _factors(operand, made)]


def _factored(group: Op) -> Op:
    """Factors of a sum's terms that do not depend on its index go out of it."""
    region = group.regions[0]
    ops: list[Op] = []
    same: dict[Value, Value] = {}
    for op in region.ops:
        op = substitute(Region((), (op,)), same).ops[0]
        ops.append(op)
        if op.name != "schedule.reduce" or op.attrs["kind"] != "add":
            continue
        body = op.regions[0]
        made = {result: inner for inner in body.ops for result in inner.results}
        factors = _factors(body.yields[0], made)
        free = [factor for factor in factors if factor not in made]
        bound = [factor for factor in factors if factor in made]
        if not free or not bound:
            continue
        b = Builder(op.loc)
        term = bound[0]
        for factor in bound[1:]:
            term = b.op("arith.mul", term, factor)
        result = Value(op.result.type, op.result.name)
        ops[-1] = replace(op, results=(result,), regions=(Region(body.args, (*body.ops, *b.ops), (term,)),))
        b = Builder(op.loc)
        total = result
        for factor in free:
            total = b.op("arith.mul", total, factor)
        ops += b.ops
        same[op.result] = total
    return replace(group, regions=(remove_dead(Region(region.args, tuple(ops), region.yields)),))


def stream_of(group: Op) -> Stream | None:
    """The parts of a group that streams, or None where it has another form."""
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
    numbers = _Numbers()
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
        (sums if op.regions[0].yields[0] is exps[0].result else totals).append(op)
    if len(totals) != 1 or len(shifts) != 1 or not _only_of(shifts.copy().pop(), maximum, ops):
        return None
    (total,) = totals
    made = {result: inner for inner in total.regions[0].ops for result in inner.results}
    product = made.get(total.regions[0].yields[0])
    if product is None or product.name != "arith.mul" or weight[total].result not in product.operands:
        return None
    v = next((value for value in product.operands if value is not weight[total].result), None)
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
    m = tuple(sorted(of_x - uses[1] - uses[2]))
    batch = tuple(i for i in range(len(args)) if i not in n and i not in m)
    factors = t not in depends[a] and d in depends[a] and d in depends[b] and t in depends[b]
    if not (factors and m and n and uses[1] <= set(batch) and uses[0] <= {*batch, *m}):
        return None
    if element(term.result.type) != "f32":
        return None
    return Stream(group, maximum, tuple(sums), total, score, weight, shifts.pop(), v, a, b, batch, m, n)


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


# -- the pass ----------------------------------------------------------------------------------------------------------


def _fused(func: Func, last: Op) -> Op | None:
    chain = _Chain(func, last)
    group = chain.gathered()
    if group is None:
        return None
    gone = {id(op) for op in (*chain.inside, last)}
    used = set(func.body.yields)
    for op in func.body.ops:
        if id(op) not in gone:
            used |= {*op.operands, *(v for region in op.regions for v in captured(region))}
    closed = [op for op in chain.inside if not (op.name == "schedule.group" and _closed(op))]
    if any(result in used for op in closed for result in op.results):
        return None
    group = _factored(_shared(tidy(group)))
    if stream_of(group) is None:
        return None
    return replace(group, attrs={**group.attrs, "plan": "stream"})


@register("stream-weights", level="schedule")
def run(module: Module, context: Context) -> Module:
    """Makes one group of sums weighted by exp(x - max x), where the target streams."""
    if not tuning_for(context.need_arch(), "f32").stream or not allows(context.numerics, "stream-weights"):
        return module

    def change(func: Func) -> Func:
        for op in func.body.ops:
            found = _fused(func, op) if op.name == "schedule.group" else None
            if found is not None:
                context.permit("stream-weights", "blocks of weights in one pass", op.loc)
                ops = tuple(found if other is op else other for other in func.body.ops)
                func = func.with_(body=remove_dead(replace(func.body, ops=ops)))
        return func

    return module.with_(funcs=map_funcs(module.funcs, "schedule.func", change))


__all__ = ["Stream", "stream_of"]

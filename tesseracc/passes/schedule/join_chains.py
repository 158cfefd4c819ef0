"""`join-chains`: long chains of operators on the same elements become groups of bounded size, cut where least crosses.

    y = group i: f(x[i]);  z = group i: g(y[i]);  ..        =>        z = group i: g(f(x[i])), ..

`fuse` decides about one producer at a time and reads the whole group that it moves into: n^2 steps for a chain of n
operators, which it would make one kernel of. A group of MOST_WORK operations on each element is as good as a longer
one, for it computes for longer than its tensors take to come from memory. So where a chain has more, its operators are
joined here, each looked at once, in parts of half as many operations or more; a part ends where the fewest values are
needed behind it, since each of them is stored and read again.

What is joined makes one element at each point of the same domain and reads what it joins with at that point alone. No
path may lead out of a part and back into it. Let the stage of a tensor be the most edges, on a way to it, at which an
operator reads another one's tensor otherwise than point by point: operators of one stage have no such edge between
them, and a piece of them in the order of the program is closed under paths. What is small and repeats constants or
parameters moves into its readers, so that it stands between no two operators.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import replace
from heapq import heapify, heappop, heappush
from itertools import accumulate

from tessera.shapes import known_equal
from tesseracc.ir.builder import make
from tesseracc.ir.dialects.arith import TRANSCENDENTAL
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import captured, inline_region, map_funcs
from tesseracc.ir.types import I64
from tesseracc.ir.value import Func, Module, Op, Region, Value
from tesseracc.passes.schedule.groups import tensors_read
from tesseracc.passes.schedule.inline import inline_all, pulled_value
from tesseracc.passes.schedule.tidy import tidy

#: operations on one element, as `work_of` counts them, that one group is made of
MOST_WORK = 512
#: results of a group that was made of several: each has its values and addresses in registers
MOST_RESULTS = 8
#: operators that are followed one by one
SHORT = 64
#: what one of the functions counts that become polynomials
FUNCTION_WORK = 32
#: operations of a group that may be repeated in every reader
SMALL = 16


def work_of(group: Op) -> int:
    """Operations on one element of a group, those of inner loops once."""
    return sum(
        FUNCTION_WORK if op.name.removeprefix("arith.") in TRANSCENDENTAL else 1
        for op in group.walk()
        if op.defn.dialect == "arith" and op.name != "arith.constant"
    )


def _reads(op: Op) -> list[Value]:
    """What an operation of a function takes, in its regions too."""
    return [*op.operands, *(v for region in op.regions for v in captured(region))]


def _readers(ops: Sequence[Op]) -> dict[Value, list[Op]]:
    """The operations of a function that take each value, once each."""
    found: dict[Value, list[Op]] = {}
    for op in ops:
        for value in dict.fromkeys(_reads(op)):
            found.setdefault(value, []).append(op)
    return found


class _Chains:
    """The chains of a function; `kept` are the tensors that it returns."""

    def __init__(self, ops: tuple[Op, ...], kept: Set[Value]) -> None:
        self.ops = ops
        self.kept = kept
        self.made = {result for op in self.ops if op.name != "schedule.constant" for result in op.results}
        self.small: dict[Value, Op] = {}  # groups that move into their readers
        self.members: dict[Value, Op] = {}
        self.stages: dict[Value, int] = {}
        self.leader: dict[Value, Value] = {}  # of members that belong together: a forest
        for op in self.ops:
            self._enter(op)

    def _enter(self, op: Op) -> None:
        """Finds out what an operation is, and its stage."""
        is_group = op.name == "schedule.group"
        if is_group and all(v in self.small or v not in self.made for v in tensors_read(op)):
            self._enter_small(op)
        member = is_group and op.result not in self.small and _is_pointwise(op)
        joined = _point_reads(op, self.members) if member else set()
        stage = 0
        for value in _reads(op):
            if value not in self.small:
                crosses = value in self.members and value not in joined
                stage = max(stage, self.stages.get(value, 0) + crosses)
        self.stages.update(dict.fromkeys(op.results, stage))
        if not member:
            return
        self.members[op.result] = op
        self.leader[op.result] = op.result
        for value in joined:
            if self.stages[value] == stage:
                self.leader[self._leader(value)] = self._leader(op.result)

    def _enter_small(self, op: Op) -> None:
        """Notes a group that only repeats what no group makes."""
        if _is_small(op) and op.result not in self.kept:
            op = tidy(inline_all(self.small, op))
            if _is_small(op) and work_of(op) == 0:
                self.small[op.result] = op

    def _leader(self, value: Value) -> Value:
        while self.leader[value] is not value:
            self.leader[value] = self.leader[self.leader[value]]
            value = self.leader[value]
        return value

    def run(self) -> tuple[Op, ...]:
        chains: dict[Value, list[Op]] = {}
        for value, op in self.members.items():
            chains.setdefault(self._leader(value), []).append(op)
        readers = _readers(self.ops)
        part_of: dict[Op, Op] = {}
        for chain in chains.values():
            at = {op: number for number, op in enumerate(chain)}
            used = [[at.get(reader, len(chain)) for reader in readers.get(op.result, ())] for op in chain]
            outside = [op.result in self.kept or len(chain) in uses for op, uses in zip(chain, used, strict=True)]
            work = [work_of(op) for op in chain]
            if len(chain) <= SHORT and sum(work) <= MOST_WORK and sum(outside) <= MOST_RESULTS:
                continue
            last = [max((use for use in uses if use < len(chain)), default=i) for i, uses in enumerate(used)]
            for start, end in pieces(work, last, outside):
                results = [i for i in range(start, end) if outside[i] or last[i] >= end]
                part = self._part(chain[start:end], {chain[i].result for i in results})
                part_of.update(dict.fromkeys(chain[start:end], part))
        if not part_of:
            return self.ops
        return _in_order(list(dict.fromkeys(part_of.get(op, op) for op in self.ops)))

    def _part(self, chain: Sequence[Op], results: set[Value]) -> Op:
        """One group of several that follow each other, for those of their results that others read."""
        first = chain[0]
        args = tuple(Value(I64, arg.name) for arg in first.regions[0].args)
        elements: dict[Value, Value] = {}
        ops: list[Op] = []
        written: list[Value] = []
        for op in chain:
            op = inline_all(self.small, op)
            region = op.regions[0]
            value = pulled_value(op)
            assert value is not None
            at_point = {inner.result: elements[inner["tensor"]] for inner in region.ops
                        if inner.name == "schedule.read" and inner["tensor"] in elements}  # fmt: skip
            body = tuple(inner for inner in region.ops[:-1] if not at_point.keys() & set(inner.results))
            made, (element,) = inline_region(Region(region.args, body, (value,)), args, at_point)
            elements[op.result] = element
            ops += made
            if op.result in results:
                ops.append(make("schedule.write", element, list(args), result=len(written), loc=op.loc))
                written.append(op.result)
        region = Region(args, tuple(ops))
        return tidy(replace(chain[-1], results=tuple(written), regions=(region,), attrs=first.attrs))


def _is_small(group: Op) -> bool:
    """Whether a pointwise group may be repeated in every reader."""
    return sum(1 for _ in group.walk()) <= SMALL and _is_pointwise(group)


def _is_pointwise(group: Op) -> bool:
    """Whether a group makes one element at each point, without loops."""
    return not any(op.regions for op in group.regions[0].ops) and pulled_value(group) is not None


def _point_reads(group: Op, members: dict[Value, Op]) -> set[Value]:
    """The members of the same domain that a group reads at its own point alone."""
    args, domain = group.regions[0].args, group.attrs["domain"]
    found: set[Value] = set()
    others: set[Value] = set()
    for op in group.regions[0].ops:
        if op.name == "schedule.read" and op["tensor"] in members:
            theirs = members[op["tensor"]].attrs["domain"]
            same = len(theirs) == len(domain) and all(map(known_equal, theirs, domain))
            at_point = op.optional("where") is None and op.group("indices") == args
            (found if same and at_point else others).add(op["tensor"])
    return found - others


def pieces(work: Sequence[int], last: Sequence[int], outside: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """[start, end) of the parts of a chain: operator i takes work[i], last[i] is the last one that reads it (i if none
    does), and outside[i] tells whether something else does. A part has at most MOST_WORK and MOST_RESULTS, unless it is
    one operator; at least half of that work, if its results allow it; and then the fewest values cross its end."""
    changes = [0] * (len(work) + 1)
    for i, end in enumerate(last):
        changes[i] += 1
        changes[end] -= 1
    crossing = list(accumulate(changes))  # crossing[i]: values of operators up to i that later ones read
    over: dict[int, list[int]] = {}  # operator -> those it reads last, of which nothing else knows
    for i, end in enumerate(last):
        if not outside[i] and end > i:
            over.setdefault(end, []).append(i)
    start = 0
    while start < len(work):
        ends: list[int] = []  # operators that may be the part's last
        long: list[int] = []  # those that make it half as long as it may be
        total = results = 0
        for i in range(start, len(work)):
            total += work[i]
            if total > MOST_WORK and i > start:
                break
            results += (outside[i] or last[i] > i) - sum(read >= start for read in over.get(i, ()))
            if results <= MOST_RESULTS:
                ends.append(i)
                if 2 * total >= MOST_WORK:
                    long.append(i)
        end = ends[-1]
        if end < len(work) - 1 and long:
            end = min(reversed(long), key=crossing.__getitem__)
        yield start, end + 1
        start = end + 1


def _in_order(ops: Sequence[Op]) -> tuple[Op, ...]:
    """The operations with each behind those that it reads, else in the order given."""
    maker = {result: number for number, op in enumerate(ops) for result in op.results}
    needs = [{maker[value] for value in _reads(op) if value in maker} for op in ops]
    users: dict[int, list[int]] = {}
    for number, before in enumerate(needs):
        for other in before:
            users.setdefault(other, []).append(number)
    left = [len(before) for before in needs]
    ready = [number for number, count in enumerate(left) if count == 0]
    heapify(ready)
    done: list[Op] = []
    while ready:
        number = heappop(ready)
        done.append(ops[number])
        for user in users.get(number, ()):
            left[user] -= 1
            if left[user] == 0:
                heappush(ready, user)
    assert len(done) == len(ops)
    return tuple(done)


def _with_views(ops: tuple[Op, ...], kept: Set[Value]) -> tuple[Op, ...]:
    """The operations with what repeats tensors inside of its reader, where that alone reads it and reads many."""
    readers = _readers(ops)
    views: dict[Op, dict[Value, Op]] = {}
    for op in ops:
        if op.name == "schedule.group" and _is_small(op) and work_of(op) == 0 and op.result not in kept:
            users = readers.get(op.result, ())
            if len(users) == 1 and users[0].name == "schedule.group":
                views.setdefault(users[0], {})[op.result] = op
    many = {reader: found for reader, found in views.items() if len(found) > SHORT}
    if not many:
        return ops
    gone = {view for found in many.values() for view in found.values()}
    return tuple(tidy(inline_all(many[op], op)) if op in many else op for op in ops if op not in gone)


def _joined(func: Func) -> Func:
    ops, kept = func.body.ops, set(func.body.yields)
    if len(ops) <= MOST_RESULTS:
        return func
    return func.with_(body=replace(func.body, ops=_Chains(_with_views(ops, kept), kept).run()))


@register("join-chains", level="schedule")
def run(module: Module, context: Context) -> Module:
    """Makes groups of bounded size of long chains of operators on the same elements."""
    return module.with_(funcs=map_funcs(module.funcs, "schedule.func", _joined))

"""`fuse-siblings`: neighbours that read the same elements at the same points become one group (horizontal fusion).

    y = group i: f(x[i], ..)     z = group i: g(x[i], ..)     =>     y, z = group i: f(x[i], ..), g(x[i], ..)

Apart they move bytes(x) twice, together once: the time saved is bytes(x) / bandwidth and a launch, and nothing is
computed again. So they join where both read some tensor at every point of a domain that they share: neither depends on
the other, no other group stands between, and each would be mapped alone as both are together. Products, sums down
columns and long sums stay as they are, for later passes divide them (their launches join, `join-launches`). Nor does
the arena grow: what would be a new temporary does not join where another one, which it could have replaced, ends. And
what updates state stays apart from others that read the old value, so that it can come after them, in place.
"""

from __future__ import annotations

from dataclasses import replace

from tessera.shapes import known_equal
from tesseracc.analysis.access import dependence, is_contraction
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import map_funcs, substitute, uses
from tesseracc.ir.value import Func, Module, Op, Region, Value
from tesseracc.passes.schedule.choose_strategy import choose
from tesseracc.passes.schedule.groups import tensors_read
from tesseracc.passes.schedule.join_chains import MOST_RESULTS, MOST_WORK, work_of
from tesseracc.passes.schedule.split_reductions import long_reduction
from tesseracc.passes.schedule.tidy import tidy
from tesseracc.passes.schedule.to_tile_columns import column_reduction


def _whole_reads(group: Op) -> set[Value]:
    """The tensors that a group reads at indices that depend on every axis of its domain."""
    depends = dependence(group)
    axes = {arg for arg, size in zip(group.regions[0].args, group.attrs["domain"], strict=True) if size != 1}
    found = set()
    for op in group.walk():
        if op.name == "schedule.read":
            used: set[Value] = set().union(*(depends.get(v, frozenset()) for v in op.group("indices")))
            if axes <= used and op.group("indices"):
                found.add(op["tensor"])
    return found


def _stays(group: Op) -> bool:
    """Whether a group is to be the only one of its kernel: later passes know it by its only loop."""
    return any(of(group) is not None for of in (is_contraction, column_reduction, long_reduction))


def siblings(first: Op, second: Op) -> Op | None:
    """One group of two that go over the same points and read some tensor at each of them, if it is mapped as they
    are."""
    if len(first.results) + len(second.results) > MOST_RESULTS:
        return None
    if any(_stays(group) for group in (first, second)):
        return None
    domains = first.attrs["domain"], second.attrs["domain"]
    if len(domains[0]) != len(domains[1]) or not all(map(known_equal, *domains)):
        return None
    if set(first.results) & set(tensors_read(second)) or not _whole_reads(first) & _whole_reads(second):
        return None
    if work_of(first) + work_of(second) > MOST_WORK or choose(first) != choose(second):
        return None
    both = together(first, second)
    return both if choose(both) == choose(first) else None


def together(first: Op, second: Op) -> Op:
    """One group that does what two do."""
    a, b = first.regions[0], second.regions[0]
    base = len(first.results)
    moved = substitute(b, dict(zip(b.args, a.args, strict=True)))
    ops = (*a.ops, *(_renumbered(op, base) for op in moved.ops))
    results = (*first.results, *second.results)
    return tidy(replace(first, results=results, regions=(Region(a.args, ops, a.yields),)))


def _renumbered(op: Op, base: int) -> Op:
    """The operation with results of its group numbered from `base` on."""
    if op.name == "schedule.write":
        return replace(op, attrs={**op.attrs, "result": op.attrs["result"] + base})
    if not op.regions:
        return op
    regions = (Region(r.args, tuple(_renumbered(inner, base) for inner in r.ops), r.yields) for r in op.regions)
    return replace(op, regions=tuple(regions))


def _fused(func: Func) -> Func:
    ops: list[Op] = []
    names: list[Op] = []  # behind the last group
    counts = uses(func.body)
    made = {result for op in func.body.ops if op.name == "schedule.group" for result in op.results}
    returned = set(func.body.yields)
    params = {p.name: p for p in func.params}
    behind = {op.result: op["tensor"] for op in func.body.ops if op.name == "schedule.view"}

    def whole(value: Value) -> Value:
        return whole(behind[value]) if value in behind else value

    state = {whole(func.body.yields[number]): params[name] for name, number in func.attrs.get("state", ())}

    def updates(group: Op, other: Op) -> bool:
        """Whether a group makes the new value of state whose old one the other reads, wherever that is."""
        old = {state[v] for v in group.results if v in state}
        return not old.isdisjoint(map(whole, tensors_read(other)))

    for op in func.body.ops:
        if op.name in ("schedule.view", "schedule.constant"):
            names.append(op)
            continue
        last = ops[-1] if ops and ops[-1].name == "schedule.group" else None
        if op.name == "schedule.group" and last is not None and not {v for n in names for v in n.results} & set(
            tensors_read(op)
        ):
            own = set(tensors_read(last)) - set(tensors_read(op))
            ends = any(v in made and counts[v] == _reads(last, v) for v in own)
            grows = ends and any(v not in returned for v in op.results)
            alone = grows or updates(last, op) or updates(op, last)
            both = None if alone else siblings(last, op)
            if both is not None:
                ops[-1] = both
                continue
        ops += names
        names = []
        ops.append(op)
    return func.with_(body=replace(func.body, ops=(*ops, *names)))


def _reads(group: Op, tensor: Value) -> int:
    return sum(v is tensor for op in group.walk() for v in op.operands)


@register("fuse-siblings", level="schedule")
def run(module: Module, context: Context) -> Module:
    """Makes one group of neighbours that read the same elements at the same points."""
    return module.with_(funcs=map_funcs(module.funcs, "schedule.func", _fused))

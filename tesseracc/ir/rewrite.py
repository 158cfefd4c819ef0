"""Tools that passes share: cloning under a substitution, uses, dead code, and the pass manager's base."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from tesseracc.ir.value import Func, Op, Region, Value

Subst = dict[Value, Value]


def clone_op(op: Op, subst: Subst) -> Op:
    """A copy with operands replaced and fresh results, which are entered into `subst`."""
    regions = tuple(clone_region(region, subst) for region in op.regions)
    results = tuple(Value(r.type, r.name) for r in op.results)
    operands = tuple(subst.get(v, v) for v in op.operands)
    subst.update(zip(op.results, results, strict=True))
    return Op(op.defn, operands, op.segments, results, op.attrs, regions, op.loc)


def clone_region(region: Region, subst: Subst) -> Region:
    """A copy with fresh arguments; values of the outside follow `subst`."""
    args = tuple(Value(a.type, a.name) for a in region.args)
    subst.update(zip(region.args, args, strict=True))
    ops = tuple(clone_op(op, subst) for op in region.ops)
    return Region(args, ops, tuple(subst.get(v, v) for v in region.yields))


def inline_region(
    region: Region, args: Sequence[Value], subst: Subst | None = None
) -> tuple[list[Op], tuple[Value, ...]]:
    """The operations of a region with its arguments bound, and what it yields."""
    subst = dict(subst or {})
    subst.update(zip(region.args, args, strict=True))
    ops = [clone_op(op, subst) for op in region.ops]
    return ops, tuple(subst.get(v, v) for v in region.yields)


def with_operands(op: Op, subst: Mapping[Value, Value]) -> Op:
    """The same operation (same results) with operands replaced, inside its regions too."""
    if not subst:
        return op
    regions = tuple(substitute(region, subst) for region in op.regions)
    return op.rebound(tuple(subst.get(v, v) for v in op.operands), regions)


def substitute(region: Region, subst: Mapping[Value, Value]) -> Region:
    """The same region with uses replaced."""
    ops = tuple(with_operands(op, subst) for op in region.ops)
    return Region(region.args, ops, tuple(subst.get(v, v) for v in region.yields))


def uses(region: Region) -> Counter[Value]:
    """How often each value is used, inside nested regions too."""
    counts: Counter[Value] = Counter()

    def visit(inner: Region) -> None:
        for value in inner.yields:
            counts[value] += 1
        for op in inner.ops:
            for value in op.operands:
                counts[value] += 1
            for nested in op.regions:
                visit(nested)

    visit(region)
    return counts


def makers_of(func: Func) -> dict[Value, Op]:
    """The operation that gives each value, at any depth; arguments of regions have none."""
    return {result: op for op in func.walk() for result in op.results}


def users_of(func: Func) -> dict[Value, list[Op]]:
    """The operations that take each value, at any depth, once per use: as an operand, or as what their region yields.

    A value that only the function itself yields has none.
    """
    found: dict[Value, list[Op]] = {}
    for op in func.walk():
        for value in (*op.operands, *(v for region in op.regions for v in region.yields)):
            found.setdefault(value, []).append(op)
    return found


def made_in(regions: Iterable[Region]) -> set[Value]:
    """Arguments of regions, and the results of what is in them, at any depth."""
    return {
        value
        for region in regions
        for value in (*region.args, *(v for op in region.ops for v in (*op.results, *made_in(op.regions))))
    }


def captured(region: Region) -> list[Value]:
    """Values of the outside that a region uses, in order of first use."""
    defined: set[Value] = set(region.args)
    found: dict[Value, None] = {}

    def visit(inner: Region) -> None:
        defined.update(inner.args)
        for op in inner.ops:
            for value in op.operands:
                if value not in defined:
                    found.setdefault(value)
            for nested in op.regions:
                visit(nested)
            defined.update(op.results)
        for value in inner.yields:
            if value not in defined:
                found.setdefault(value)

    visit(region)
    return list(found)


def has_effect(op: Op) -> bool:
    """Whether an operation, or one inside it, does more than compute its results."""
    if op.defn.effect == "nest":
        return any(has_effect(inner) for region in op.regions for inner in region.ops)
    return op.defn.effect in ("write", "sync")


def remove_dead(region: Region) -> Region:
    """Drops operations without effect whose results nobody uses, inside of those that stay too."""
    used: set[Value] = set()  # by what stays, from the end on: uses come after definitions

    def live(inner: Region) -> Region:
        used.update(inner.yields)
        kept: list[Op] = []
        for op in reversed(inner.ops):
            if has_effect(op) or not used.isdisjoint(op.results):
                used.update(op.operands)
                kept.append(replace(op, regions=tuple(map(live, op.regions))) if op.regions else op)
        return Region(inner.args, tuple(reversed(kept)), inner.yields)

    return live(region)


def map_ops(region: Region, visit: Callable[[Op], Sequence[Op] | None]) -> Region:
    """Rewrites bottom up: `visit(op)` gives replacements that define the same results, or None to keep it."""
    ops: list[Op] = []
    for op in region.ops:
        if op.regions:
            op = replace(op, regions=tuple(map_ops(r, visit) for r in op.regions))
        found = visit(op)
        ops += [op] if found is None else found
    return Region(region.args, tuple(ops), region.yields)


def map_funcs(funcs: Sequence[Func], kind: str, change: Callable[[Func], Func]) -> tuple[Func, ...]:
    """Applies a change to the functions of one kind, and before to the closed regions in them, as to functions."""
    return tuple(map_func(func, change) if func.kind == kind else func for func in funcs)


def map_func(func: Func, change: Callable[[Func], Func]) -> Func:
    """A change of one function, closed regions first."""

    def inside(op: Op) -> Op:
        regions = (map_func(Func(func.kind, func.name, region, loc=op.loc), change).body for region in op.regions)
        return replace(op, regions=tuple(regions))

    if any(op.defn.closed for op in func.body.ops):
        ops = tuple(inside(op) if op.defn.closed else op for op in func.body.ops)
        func = func.with_(body=replace(func.body, ops=ops))
    return change(func)

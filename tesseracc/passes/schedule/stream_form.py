"""The form of a group of sums weighted by exp(x - max x) that `streams` knows.

Everything stands as far out as it goes and once, and what terms have in common is taken out of their sum:

    sum(w * c * v) = sum(w * v) * c
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace

from tesseracc.ir.builder import Builder
from tesseracc.ir.rewrite import captured, remove_dead, substitute
from tesseracc.ir.value import Op, Region, Value
from tesseracc.passes.schedule.streams import Numbers

__all__ = ["factored", "scaled_behind", "shared"]


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


def shared(group: Op) -> Op:
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
    numbers = Numbers()
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


def scaled_behind(group: Op) -> Op:
    """Factors that do not depend on a sum's index behind the rounding of the weights: round(w c) as round(w) c."""

    def change(region: Region) -> Region | None:
        made = {result: op for op in region.ops for result in op.results}
        b, same = Builder(), dict[Value, Value]()
        for op in region.ops:
            narrow = made.get(op["a"]) if op.name == "arith.cast" else None
            scaled = made.get(narrow["a"]) if narrow is not None and narrow.name == "arith.cast" else None
            sides = scaled.operands if scaled is not None and scaled.name == "arith.mul" else ()
            free = [v for v in sides if v not in made]
            weight = next((v for v in sides if v in made and made[v].name == "arith.exp"), None)
            if narrow is None or weight is None or not free or op.result.type != weight.type:
                b.append(op)
                continue
            b.loc = op.loc
            rounded = b.op("arith.cast", b.op("arith.cast", weight, to=narrow.attrs["to"]), to=op.attrs["to"])
            same[op.result] = b.op("arith.mul", rounded, free[0])
        return substitute(Region(region.args, tuple(b.ops), region.yields), same) if same else None

    region, ops = group.regions[0], []
    for op in region.ops:
        if op.name == "schedule.reduce" and op.attrs["kind"] == "add" and (inner := change(op.regions[0])) is not None:
            op = replace(op, regions=(inner,))
        ops.append(op)
    same = all(new is old for new, old in zip(ops, region.ops, strict=True))
    return group if same else replace(group, regions=(Region(region.args, tuple(ops), region.yields),))


def factored(group: Op) -> Op:
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

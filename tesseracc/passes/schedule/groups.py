"""What the passes on groups share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tesseracc.ir.rewrite import map_funcs
from tesseracc.ir.value import Func, Module, Op, Region, Value


def map_groups(module: Module, change: Callable[[Op], Op]) -> Module:
    """Applies a change to every group; the results keep their identity."""

    def func(func: Func) -> Func:
        ops = tuple(change(op) if op.name == "schedule.group" else op for op in func.body.ops)
        return func.with_(body=replace(func.body, ops=ops))

    return module.with_(funcs=map_funcs(module.funcs, "schedule.func", func))


def with_region(op: Op, ops: list[Op]) -> Op:
    """The same operation with other operations in its only region."""
    region = op.regions[0]
    return replace(op, regions=(Region(region.args, tuple(ops), region.yields),))


def reads_of(group: Op, tensor: Value) -> list[Op]:
    """Every read of a tensor inside a group, in order."""
    return [op for op in group.walk() if op.name == "schedule.read" and op["tensor"] is tensor]


def tensors_read(group: Op) -> list[Value]:
    """The tensors that a group reads, in order of first use."""
    return list(dict.fromkeys(op["tensor"] for op in group.walk() if op.name == "schedule.read"))


def writes_of(group: Op) -> list[Op]:
    return [op for op in group.walk() if op.name == "schedule.write"]

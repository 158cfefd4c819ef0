"""`order-results`: a result is laid out as it is read, where that lets its readers see several of its axes as one.

    t[i, h, j, d] written,  t[i, k // D, j, k % D] read     ->     t'[i, j, h, d] written,  t'[i, j, k // D, k % D] read

What follows then reads t' through merged axes, [i, j, k]: a block of it is a block of memory, which one of a transposed
tensor is not. The loops of the group that writes it take the same order. Only what groups alone read is changed.
"""

from __future__ import annotations

from dataclasses import replace

from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import map_funcs, users_of, with_operands
from tesseracc.ir.types import TensorType
from tesseracc.ir.value import Func, Module, Op, Region, Value
from tesseracc.passes.schedule.decide import dims_of
from tesseracc.passes.schedule.groups import reads_of, with_region
from tesseracc.passes.schedule.inline import pulled_value
from tesseracc.passes.schedule.merge_axes import Merger, Touch

Order = tuple[int, ...]


def _order(merger: Merger, touch: Touch) -> Order | None:
    """The axes in an order in which an access is affine when two neighbours are merged; None where there is no need, or
    no such order."""
    dims, at = merger.dims[touch.tensor], touch.indices
    odd = [axis for axis, index in enumerate(at) if merger.known.affine(index) is None]
    if len(odd) != 2 or odd[1] == odd[0] + 1:
        return None
    first, second = odd
    if merger.known.affine(at[first] * dims[second] + at[second]) is None:
        return None
    rest = [axis for axis in range(len(dims)) if axis != first]
    place = rest.index(second)
    return (*rest[:place], first, *rest[place:])


def wanted(tensor: Value, readers: list[Op]) -> Order | None:
    """The order that all readers which need one agree on."""
    found: set[Order] = set()
    for reader in readers:
        merger = Merger(reader)
        for touch in merger.touches:
            if touch.tensor is tensor and (order := _order(merger, touch)) is not None:
                found.add(order)
    return found.pop() if len(found) == 1 else None


def _reordered(op: Op, order: Order) -> Op:
    """A read or write of the tensor in its new order."""
    indices = op.group("indices")
    first = op.operands[0]
    return replace(op, operands=(first, *(indices[axis] for axis in order), *op.group("where")))


def _map_accesses(region: Region, chosen: dict[Op, Order]) -> Region:
    ops = tuple(
        _reordered(op, chosen[op]) if op in chosen
        else replace(op, regions=tuple(_map_accesses(inner, chosen) for inner in op.regions))
        for op in region.ops
    )  # fmt: skip
    return replace(region, ops=ops)


def _writer(group: Op, order: Order) -> tuple[Op, Value]:
    """A group in pull form with its loops and its result in another order."""
    (region,), (old,) = group.regions, group.results
    type_ = old.type
    assert isinstance(type_, TensorType)
    result = Value(TensorType(tuple(type_.dims[axis] for axis in order), type_.dtype), old.name)
    writes = {op: order for op in region.ops if op.name == "schedule.write"}
    body = _map_accesses(Region(tuple(region.args[axis] for axis in order), region.ops, region.yields), writes)
    domain = tuple(group.attrs["domain"][axis] for axis in order)
    made = replace(group, results=(result,), regions=(body,), attrs={**group.attrs, "domain": domain})
    return made, result


def order_results(func: Func) -> Func:
    """The function with such results in the order in which they are read."""
    users, returned = users_of(func), set(func.body.yields)
    orders: dict[Value, Order] = {}
    for op in func.body.ops:
        if op.name != "schedule.group" or pulled_value(op) is None or op.result in returned:
            continue
        if len(op.attrs["domain"]) != len(dims_of(op.result)):
            continue
        readers = [o for o in func.body.ops if o.name == "schedule.group" and reads_of(o, op.result)]
        if len(users.get(op.result, ())) == sum(len(reads_of(o, op.result)) for o in readers):
            order = wanted(op.result, readers)
            if order is not None:
                orders[op.result] = order
    if not orders:
        return func
    ops: list[Op] = []
    moved: dict[Value, Value] = {}
    for op in func.body.ops:
        if op.name == "schedule.group":
            reads = {r: orders[r["tensor"]] for r in op.walk() if r.name == "schedule.read" and r["tensor"] in orders}
            if reads:
                op = with_region(op, list(_map_accesses(op.regions[0], reads).ops))
                op = with_operands(op, moved)
            if op.results and op.results[0] in orders:
                old = op.result
                op, moved[old] = _writer(op, orders[old])
        ops.append(op)
    return func.with_(body=replace(func.body, ops=tuple(ops)))


@register("order-results", level="schedule")
def run(module: Module, context: Context) -> Module:
    """Lays results out in the order in which they are read."""
    return module.with_(funcs=map_funcs(module.funcs, "schedule.func", order_results))

"""`order-results`: a result is laid out as it is read, where that lets its readers see several of its axes as one.

    t[i, h, j, d] written,  t[i, k // D, j, k % D] read     ->     t'[i, j, h, d] written,  t'[i, j, k // D, k % D] read

What follows then reads t' through merged axes, [i, j, k]: a block of it is a block of memory, which one of a transposed
tensor is not. The loops of the group that writes it take the same order, and so do tensors that this group reads point
by point. Only what groups alone read is changed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import makers_of, map_funcs, users_of, with_operands
from tesseracc.ir.types import TensorType
from tesseracc.ir.value import Func, Module, Op, Region, Value
from tesseracc.passes.schedule.groups import writes_of
from tesseracc.passes.schedule.merge_axes import Merger, Touch

Order = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """A group of one result, of which it writes every element once: at its loops, the inner ones last. `indices` has
    None for an axis of extent 1 that no loop stands for."""

    group: Op
    write: Op
    indices: tuple[Value | None, ...]


def _indices(access: Op, makers: dict[Value, Op]) -> tuple[Value | None, ...]:
    def zero(value: Value) -> bool:
        made = makers.get(value)
        return made is not None and made.name == "arith.constant" and made.attrs["value"] == 0

    return tuple(None if zero(value) else value for value in access.group("indices"))


def _point(group: Op, makers: dict[Value, Op]) -> Point | None:
    writes = writes_of(group)
    if group.name != "schedule.group" or len(group.results) != 1 or len(writes) != 1:
        return None
    region = group.regions[0]
    last, args = region.ops[-1], region.args
    if last.name == "schedule.each":
        args, last = (*args, *last.regions[0].args), last.regions[0].ops[-1]
    indices = _indices(writes[0], makers)
    plain = last is writes[0] and not last.group("where") and [v for v in indices if v is not None] == list(args)
    return Point(group, last, indices) if plain else None


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


class _Orders:
    """The orders of the results of a function."""

    def __init__(self, func: Func) -> None:
        self.groups = [op for op in func.body.ops if op.name == "schedule.group"]
        self.makers = makers_of(func)
        self.users, self.returned = users_of(func), set(func.body.yields)
        self.readers: dict[Value, dict[Op, list[Op]]] = {}  # tensor -> the groups that read it, and where
        for group in self.groups:
            for op in group.walk():
                if op.name == "schedule.read":
                    self.readers.setdefault(op["tensor"], {}).setdefault(group, []).append(op)
        self.points: dict[Value, Point] = {}
        self.found: dict[Value, Order] = {}
        for group in reversed(self.groups):  # who reads comes before who writes
            point = _point(group, self.makers)
            if point is not None:
                self._decide(point)

    def _decide(self, point: Point) -> None:
        tensor = point.group.result
        readers = self.readers.get(tensor, {})
        reads = sum(map(len, readers.values()))
        if tensor in self.returned or len(self.users.get(tensor, ())) != reads:
            return
        orders = {order for group in readers for order in self._wanted(group, tensor)}
        if len(orders) != 1:
            return
        (order,) = orders
        args = [index for axis in order if (index := point.indices[axis]) is not None]
        loops = len(point.group.regions[0].args)
        if args[loops:] == [v for v in point.indices if v is not None][loops:]:  # inner loops stay
            self.points[tensor], self.found[tensor] = point, order

    def _wanted(self, reader: Op, tensor: Value) -> list[Order]:
        result = reader.results[0] if reader.results else None
        if result in self.found:
            same = all(_indices(op, self.makers) == self.points[result].indices for op in self.readers[tensor][reader])
            return [self.found[result]] if same else []
        merger = Merger(reader)
        orders = (_order(merger, touch) for touch in merger.touches if touch.tensor is tensor)
        return [order for order in orders if order is not None]


def _reordered(op: Op, orders: dict[Op, Order]) -> Op:
    """An operation with the accesses in it in their new orders."""
    if op in orders:
        indices = op.group("indices")
        return replace(op, operands=(op.operands[0], *(indices[axis] for axis in orders[op]), *op.group("where")))
    regions = (replace(r, ops=tuple(_reordered(inner, orders) for inner in r.ops)) for r in op.regions)
    return replace(op, regions=tuple(regions)) if op.regions else op


def _writer(group: Op, point: Point, order: Order) -> tuple[Op, Value]:
    """A group whose accesses are reordered with its loops and its result in the new order."""
    region, type_ = group.regions[0], group.result.type
    assert isinstance(type_, TensorType)
    result = Value(TensorType(tuple(type_.dims[axis] for axis in order), type_.dtype), group.result.name)
    sizes = dict(zip(region.args, group.attrs["domain"], strict=True))
    args = tuple(v for axis in order if (v := point.indices[axis]) is not None and v in sizes)
    attrs = {**group.attrs, "domain": tuple(sizes[arg] for arg in args)}
    return replace(group, results=(result,), regions=(replace(region, args=args),), attrs=attrs), result


def order_results(func: Func) -> Func:
    """The function with such results in the order in which they are read."""
    orders = _Orders(func)
    if not orders.found:
        return func
    accesses = {read: orders.found[read["tensor"]]
                for group in orders.groups for read in group.walk()
                if read.name == "schedule.read" and read["tensor"] in orders.found}  # fmt: skip
    accesses |= {point.write: orders.found[tensor] for tensor, point in orders.points.items()}
    ops: list[Op] = []
    moved: dict[Value, Value] = {}
    for op in func.body.ops:
        point = orders.points.get(op.results[0]) if op.results else None
        changed = with_operands(_reordered(op, accesses), moved)
        if point is not None:
            changed, moved[op.result] = _writer(changed, point, orders.found[op.result])
        ops.append(changed)
    return func.with_(body=Region(func.params, tuple(ops), func.body.yields))


@register("order-results", level="schedule")
def run(module: Module, context: Context) -> Module:
    """Lays results out in the order in which they are read."""
    return module.with_(funcs=map_funcs(module.funcs, "schedule.func", order_results))

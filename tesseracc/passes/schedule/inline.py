"""The moves that fusion is made of: putting a producer where it is read, cutting a domain into rows, one
result more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tesseracc.ir.builder import Builder, make
from tesseracc.ir.rewrite import inline_region
from tesseracc.ir.types import I64, TensorType, element, kind_of
from tesseracc.ir.value import Op, Region, Value
from tesseracc.passes.schedule.groups import with_region, writes_of


def pulled_value(group: Op) -> Value | None:
    """The element that a group in pull form computes: one write, of the point itself, at the end of its
    region; else None."""
    writes = writes_of(group)
    region = group.regions[0]
    if len(group.results) != 1 or len(writes) != 1 or not region.ops or region.ops[-1] is not writes[0]:
        return None
    write = writes[0]
    if write.optional("where") is not None or not _is_point(group, write):
        return None
    return write["value"]


def _is_point(group: Op, write: Op) -> bool:
    """Whether a write's indices are the domain's, in order; axes of extent 1 may be written at 0 instead."""
    made = {result: op for op in group.regions[0].ops for result in op.results}
    type_ = group.results[write.attrs["result"]].type
    assert isinstance(type_, TensorType)
    rest = []
    for index, size in zip(write.group("indices"), type_.dims, strict=True):
        zero = index in made and made[index].name == "arith.constant" and made[index].attrs["value"] == 0
        if not (zero and size == 1):
            rest.append(index)
    args = zip(group.regions[0].args, group.attrs["domain"], strict=True)
    return rest == [arg for arg, size in args if size != 1 or arg in rest]


def instantiate(producer: Op, read: Op) -> tuple[list[Op], Value]:
    """The producer's element at a read's indices. Under the read's `where`, no read touches memory where it is
    false."""
    value = pulled_value(producer)
    assert value is not None
    region = producer.regions[0]
    body = Region(region.args, region.ops[:-1], (value,))
    ops, (found,) = inline_region(body, read.group("indices"))
    where = read.optional("where")
    if where is None:
        return ops, found
    ops = guarded(ops, where)
    b = Builder(read.loc)
    zero = {"f": 0.0, "b": False}.get(kind_of(element(found.type)), 0)
    found = b.op("arith.select", where, found, b.const(zero, found.type))
    return [*ops, *b.ops], found


def guarded(ops: list[Op] | tuple[Op, ...], where: Value) -> list[Op]:
    """The operations with every read in them done only where the condition holds."""
    out: list[Op] = []
    for op in ops:
        if op.regions:
            out.append(with_region(op, guarded(op.regions[0].ops, where)))
        elif op.name == "schedule.read":
            own = op.optional("where")
            both = where
            if own is not None:
                joined = make("arith.and", own, where, loc=op.loc)
                out.append(joined)
                both = joined.result
            out.append(
                replace(op, operands=(op["tensor"], *op.group("indices"), both), segments=(*op.segments[:-1], 1))
            )
        else:
            out.append(op)
    return out


def inline(producer: Op, reader: Op) -> Op:
    """The reader with every read of the producer's result replaced by the producer's element."""
    return inline_all({producer.result: producer}, reader)


def inline_all(producers: Mapping[Value, Op], reader: Op) -> Op:
    """The reader with every read of the producers' results, of which none reads another, replaced by their elements."""
    same: dict[Value, Value] = {}

    def region(inside: Region) -> Region:
        ops: list[Op] = []
        for op in inside.ops:
            op = op.rebound(tuple(same.get(v, v) for v in op.operands), tuple(map(region, op.regions)))
            if op.name == "schedule.read" and op["tensor"] in producers:
                body, found = instantiate(producers[op["tensor"]], op)
                ops += body
                same[op.result] = found
            else:
                ops.append(op)
        return Region(inside.args, tuple(ops), tuple(same.get(v, v) for v in inside.yields))

    return replace(reader, regions=(region(reader.regions[0]),))


def nest(group: Op, axes: tuple[int, ...]) -> Op:
    """The group over `axes` of its domain only, with an inner loop over the others around the whole region."""
    region, domain = group.regions[0], group.attrs["domain"]
    rest = tuple(axis for axis in range(len(domain)) if axis not in axes)
    inner = Region(tuple(region.args[axis] for axis in rest), region.ops)
    each = make("schedule.each", regions=[inner], sizes=tuple(domain[axis] for axis in rest), loc=group.loc)
    outer = Region(tuple(region.args[axis] for axis in axes), (each,))
    return replace(group, regions=(outer,), attrs={**group.attrs, "domain": tuple(domain[axis] for axis in axes)})


def point_of(group: Op, read: Op, dims: tuple[object, ...]) -> list[Value] | None:
    """The loop indices that the axes of a read tensor follow one to one (axes of extent 1 left out), or None."""
    made = {result: op for op in group.walk() for result in op.results}
    args: list[Value] = []
    for index, size in zip(read.group("indices"), dims, strict=True):
        op = made.get(index)
        if op is not None and op.name == "arith.constant" and op.attrs["value"] == 0 and size == 1:
            continue
        if op is not None or index in args or index.type != I64:
            return None
        args.append(index)
    return args


def add_result(producer: Op, reader: Op, site: Op) -> Op:
    """The reader with the producer's tensor as one more result, written at one of the places where it is read."""
    tensor = producer.result
    number = len(reader.results)
    write = make("schedule.write", site.result, list(site.group("indices")), result=number, loc=site.loc)

    def region(inside: Region) -> Region:
        ops: list[Op] = []
        for op in inside.ops:
            ops.append(op.rebound(op.operands, tuple(map(region, op.regions))))
            if op is site:
                ops.append(write)
        return Region(inside.args, tuple(ops), inside.yields)

    return replace(reader, regions=(region(reader.regions[0]),), results=(*reader.results, tensor))


__all__ = ["add_result", "guarded", "inline", "inline_all", "instantiate", "nest", "point_of", "pulled_value"]

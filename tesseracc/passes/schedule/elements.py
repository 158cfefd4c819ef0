"""Element operations of Schedule IR as Tile IR: the part that every lowering strategy shares.

A schedule value becomes a uniform value or a lanes value; an operation with a lanes operand is done on lanes, and
its uniform operands are splat. `Emitter.reduce` and `Emitter.each` spread their innermost axis over the lanes when
the context is uniform (the group works on one point), and run serially per lane otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tessera.shapes import Dim
from tesseracc.ir.builder import Builder
from tesseracc.ir.types import LanesType, ScalarType, Type, element, kind_of
from tesseracc.ir.value import Loc, Op, Region, Value

Env = dict[Value, Value]
_MIN = {"i8": -(2**7), "i16": -(2**15), "i32": -(2**31), "i64": -(2**63), "u8": 0, "u16": 0, "u32": 0, "u64": 0}
_MAX = {
    "i8": 2**7 - 1, "i16": 2**15 - 1, "i32": 2**31 - 1, "i64": 2**63 - 1,
    "u8": 2**8 - 1, "u16": 2**16 - 1, "u32": 2**32 - 1, "u64": 2**64 - 1,
}  # fmt: skip


def identity(kind: str, dtype: str) -> int | float | bool:
    """The neutral element of a reduction."""
    numeric = kind_of(dtype)
    match kind:
        case "add" | "mul":
            value = 0 if kind == "add" else 1
            return float(value) if numeric == "f" else bool(value) if numeric == "b" else value
        case "or":
            return False if numeric == "b" else 0
        case "and":
            return True if numeric == "b" else (-1 if numeric == "i" else _MAX[dtype])
        case "max" | "argmax":
            return -math.inf if numeric == "f" else False if numeric == "b" else _MIN[dtype]
        case "min" | "argmin":
            return math.inf if numeric == "f" else True if numeric == "b" else _MAX[dtype]
    raise ValueError(kind)


def is_lanes(value: Value) -> bool:
    return isinstance(value.type, LanesType)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value is kept: in `buf` at a loop's index. The first loop that needs it stores it, the others load."""

    buf: Value
    index: Value
    first: bool


class Emitter:
    """Translates the operations of one group's region.

    `bufs` maps tensors to kernel buffers, `results[i]` is the buffer of the group's result i, `lanes` the group size,
    `kept` the values that loops leave to each other.
    """

    def __init__(self, b: Builder, bufs: Mapping[Value, Value], results: Sequence[Value], lanes: int) -> None:
        self.b = b
        self.bufs = bufs
        self.results = results
        self.lanes = lanes
        self.kept: Mapping[Value, Place] = {}
        self.varying = False  # whether the point that is worked on differs from lane to lane

    # -- helpers -------------------------------------------------------------------------------------------------

    def at(self, b: Builder) -> Emitter:
        """The same emitter, writing to another builder."""
        other = Emitter(b, self.bufs, self.results, self.lanes)
        other.varying = self.varying
        other.kept = self.kept
        b.loc = self.b.loc
        return other

    def in_lanes(self, b: Builder) -> Emitter:
        other = self.at(b)
        other.varying = True
        return other

    def dim(self, expr: Dim) -> Value:
        return self.b.const(expr) if isinstance(expr, int) else self.b.op("tile.dim", expr=expr)

    def splat(self, value: Value) -> Value:
        return value if is_lanes(value) else self.b.op("tile.splat", value)

    def same(self, values: Sequence[Value]) -> list[Value]:
        """The values, all as lanes when one of them is."""
        return [self.splat(v) for v in values] if any(map(is_lanes, values)) else list(values)

    def binary(self, kind: str, a: Value, b: Value) -> Value:
        return self.b.op(f"arith.{kind}", *self.same((a, b)))

    # -- operations ----------------------------------------------------------------------------------------------

    def region(self, region: Region, args: Sequence[Value], env: Env) -> list[Value]:
        """Emits a region's operations with its arguments bound; returns what it yields."""
        env.update(zip(region.args, args, strict=True))
        for op in region.ops:
            self.op(op, env)
        return [env[v] for v in region.yields]

    def op(self, op: Op, env: Env) -> None:
        saved: Loc | None = self.b.loc
        self.b.loc = op.loc or saved
        place = self.kept.get(op.result) if len(op.results) == 1 else None
        if place is not None and not place.first:
            env[op.result] = self.b.op("tile.load", place.buf, [env[place.index]], None)
            self.b.loc = saved
            return
        match op.name:
            case "schedule.read":
                env[op.result] = self.read(op, env)
            case "schedule.write":
                self.write(op, env)
            case "schedule.dim":
                env[op.result] = self.dim(op.attrs["expr"])
            case "schedule.reduce":
                env[op.result] = self.reduce(op, env)
            case "schedule.each":
                self.each(op, env)
            case "arith.constant":
                env[op.result] = self.b.op(op.name, types=op.result.type, **op.attrs)
            case _:
                operands = self.same([env[v] for v in op.operands])
                env[op.result] = self.b.op(op.name, *operands, **op.attrs)
        if place is not None:
            self.b.emit("tile.store", env[op.result], place.buf, [env[place.index]], None)
        self.b.loc = saved

    def read(self, op: Op, env: Env) -> Value:
        where = op.optional("where")
        indices = [env[v] for v in op.group("indices")]
        return self.b.op("tile.load", self.bufs[op["tensor"]], indices, env[where] if where else None)

    def write(self, op: Op, env: Env) -> None:
        where = op.optional("where")
        indices = [env[v] for v in op.group("indices")]
        value, buf = env[op["value"]], self.results[op.attrs["result"]]
        self.b.emit("tile.store", value, buf, indices, env[where] if where else None)

    # -- loops ---------------------------------------------------------------------------------------------------

    def _nest(
        self,
        sizes: Sequence[Dim],
        inits: Sequence[Value],
        body: Callable[[Emitter, list[Value], list[Value]], Sequence[Value]],
        indices: list[Value] | None = None,
    ) -> tuple[Value, ...]:
        """A loop nest over `sizes`; the innermost axis goes over the lanes where the point is uniform."""
        indices = indices or []
        if not sizes:
            return tuple(body(self, indices, list(inits)))
        zero, size = self.b.const(0), self.dim(sizes[0])
        spread = len(sizes) == 1 and not self.varying

        def inner(b: Builder, index: Value, carried: list[Value]) -> Sequence[Value]:
            emitter = self.in_lanes(b) if spread else self.at(b)
            return emitter._nest(sizes[1:], carried, body, [*indices, index])

        if spread:
            start = self.b.op("tile.local_id")
            return self.b.for_(start, size, self.b.const(self.lanes), inits, inner, name="tile.for")
        return self.b.for_(zero, size, self.b.const(1), inits, inner)

    def each(self, op: Op, env: Env) -> None:
        def body(emitter: Emitter, indices: list[Value], _: list[Value]) -> Sequence[Value]:
            emitter.region(op.regions[0], indices, dict(env))
            return ()

        self._nest(op.attrs["sizes"], (), body)

    def reduce(self, op: Op, env: Env) -> Value:
        kind, sizes = op.attrs["kind"], op.attrs["sizes"]
        if kind.startswith("arg"):
            return self._argreduce(op, env)
        dtype = element(op.result.type)
        init = self._carried(identity(kind, dtype), dtype, op, env)

        def body(emitter: Emitter, indices: list[Value], carried: list[Value]) -> Sequence[Value]:
            (value,) = emitter.region(op.regions[0], indices, dict(env))
            found = emitter.binary(kind, carried[0], value)
            return [emitter.splat(found) if is_lanes(carried[0]) else found]

        (total,) = self._nest(sizes, [init], body)
        if self.varying or not sizes:
            return total
        return self.b.op("tile.reduce", total, kind=kind)

    def _carried(self, value: int | float | bool, dtype: str, op: Op, env: Env) -> Value:
        """A start value: per lane if the loop is spread over lanes or works on a point per lane."""
        type_: Type = LanesType(dtype) if op.attrs["sizes"] or self.varying else ScalarType(dtype)
        return self.b.op("arith.constant", types=type_, value=value)

    def _argreduce(self, op: Op, env: Env) -> Value:
        """First index of the largest (smallest) element; a NaN beats every number.

        Each lane keeps the best element that it has seen and its index. Over lanes: the best element by the plain
        reduction, then the smallest index among the lanes that hold it.
        """
        kind = op.attrs["kind"].removeprefix("arg")
        dtype = element(op.regions[0].yields[0].type)
        best = self._carried(identity(kind, dtype), dtype, op, env)
        start = self.splat(self.b.const(0)) if self.varying else self.b.op("tile.local_id")

        def body(emitter: Emitter, indices: list[Value], carried: list[Value]) -> Sequence[Value]:
            (value,) = emitter.region(op.regions[0], indices, dict(env))
            value, old, at, index = (emitter.splat(v) for v in (value, carried[0], carried[1], indices[0]))
            better = emitter.b.op("arith.cmp", value, old, pred="gt" if kind == "max" else "lt")
            if kind_of(dtype) == "f":
                fresh = emitter.b.op("arith.isnan", value)
                known = emitter.b.op("arith.not", emitter.b.op("arith.isnan", old))
                better = emitter.b.op("arith.and", emitter.b.op("arith.or", better, fresh), known)
            return [emitter.b.op("arith.select", better, value, old), emitter.b.op("arith.select", better, index, at)]

        found, where = self._nest(op.attrs["sizes"], [best, start], body)
        if self.varying:
            return where
        winner = self.splat(self.b.op("tile.reduce", found, kind=kind))
        holds = self.b.op("arith.cmp", found, winner, pred="eq")
        if kind_of(dtype) == "f":
            holds = self.b.op("arith.or", holds, self.b.op("arith.isnan", found))
        last = self.b.op("arith.constant", types=LanesType("i64"), value=_MAX["i64"])
        return self.b.op("tile.reduce", self.b.op("arith.select", holds, where, last), kind="min")


def delinearize(b: Builder, index: Value, sizes: Sequence[Value]) -> list[Value]:
    """Row-major coordinates of a linear index; sizes and index uniform, or both lanes."""
    coordinates: list[Value] = []
    rest = index
    for size in reversed(sizes[1:]):
        coordinates.append(b.op("arith.mod", rest, size))
        rest = b.op("arith.floordiv", rest, size)
    return [rest, *reversed(coordinates)] if sizes else []



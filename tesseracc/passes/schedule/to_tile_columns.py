"""Reductions down the columns, in strips: part of the strategy `lanes`, for targets whose groups stream whole rows.

A reduction over k whose terms are contiguous along the domain's last axis, as in a column sum or in a vector times a
matrix, read column by column touches a few cache lines of a row and jumps to the next row. Here a group holds the
results of a strip of columns in its own memory and takes a few rows at a time:

    acc[j] = identity                                            for j in the strip
    for k0 in 0, R, ..:   acc[j] = (acc[j] + term(k0, j)) + .. + term(k0 + R - 1, j)
    rest of the group's region at j with acc[j]

so rows are read in order and in long pieces. Each column still takes its terms in order of k: the bits are those of the
serial loop in each lane.

A product with few rows is such a reduction for each of them; all take what was read while it is near (`few_rows`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tessera.shapes import Dim, ceildiv, product
from tesseracc.analysis.access import Contraction, accesses
from tesseracc.ir.builder import Builder
from tesseracc.ir.rewrite import captured
from tesseracc.ir.types import BufType, LanesType, element, kind_of
from tesseracc.ir.value import Op, Value
from tesseracc.passes.schedule.elements import Emitter, Env, delinearize, identity
from tesseracc.passes.schedule.tuning import Tuning

#: first column, columns, and rows
Strip = tuple[Value, Value, Value]


def column_reduction(group: Op) -> Op | None:
    """The only loop of a group, if it is a reduction of one axis with a term that is contiguous along the domain."""
    loops = [op for op in group.regions[0].ops if op.regions]
    if len(loops) != 1 or loops[0].name != "schedule.reduce" or not group.attrs["domain"]:
        return None
    (reduce,) = loops
    nested = any(op.regions for op in reduce.regions[0].ops)
    if nested or len(reduce.attrs["sizes"]) != 1 or reduce.attrs["kind"].startswith("arg"):
        return None
    last, k = group.regions[0].args[-1], reduce.regions[0].args[0]
    along = [a for a in accesses(group) if k in a.loops and a.stride(last) == 1 and a.stride(k) != 0]
    return reduce if along else None


class _Columns:
    """`first` and `count` are the strip; `buf` holds the results of one or more points (all axes but the last)."""

    def __init__(self, group: Op, reduce: Op, emitter: Emitter, buf: Value, first: Value, count: Value) -> None:
        self.group = group
        self.reduce = reduce
        self.emitter = emitter
        self.buf = buf
        self.first = first
        self.count = count
        needed = set(captured(reduce.regions[0]))
        self.before: list[Op] = []
        for op in reversed(group.regions[0].ops[: group.regions[0].ops.index(reduce)]):
            if needed & set(op.results):
                self.before.insert(0, op)
                needed |= set(op.operands)

    def over_strip(
        self, b: Builder, point: Sequence[Value], body: str, ks: Sequence[Value] = (), place: Value | None = None
    ) -> None:
        """A loop over the strip's columns with the lanes: `body` is the method that emits one step. Results of the
        point lie in `buf` from `place` on."""

        def step(inner: Builder, index: Value, _: list[Value]) -> Sequence[Value]:
            inner.loc = b.loc
            inside = self.emitter.in_lanes(inner)
            column = inner.op("arith.add", inside.splat(self.first), index)
            env: Env = dict(zip(self.group.regions[0].args, [*point, column], strict=True))
            at = index if place is None else inner.op("arith.add", inside.splat(place), index)
            getattr(self, body)(inside, env, at, ks)
            return ()

        lanes = b.const(self.emitter.lanes)
        b.for_(b.op("tile.local_id"), self.count, lanes, (), step, name="tile.for")

    def clear(self, inside: Emitter, env: Env, index: Value, ks: Sequence[Value]) -> None:
        dtype = element(self.reduce.result.type)
        zero = inside.b.op("arith.constant", types=LanesType(dtype), value=identity(self.reduce.attrs["kind"], dtype))
        inside.b.emit("tile.store", zero, self.buf, [index], None)

    def accumulate(self, inside: Emitter, env: Env, index: Value, ks: Sequence[Value]) -> None:
        for op in self.before:
            inside.op(op, env)
        total = inside.b.op("tile.load", self.buf, [index], None)
        for k in ks:
            (term,) = inside.region(self.reduce.regions[0], [k], dict(env))
            total = inside.binary(self.reduce.attrs["kind"], total, term)
        inside.b.emit("tile.store", total, self.buf, [index], None)

    def finish(self, inside: Emitter, env: Env, index: Value, ks: Sequence[Value]) -> None:
        env[self.reduce.result] = inside.b.op("tile.load", self.buf, [index], None)
        for op in self.group.regions[0].ops:
            if op is not self.reduce:
                inside.op(op, env)


def lower_columns(group: Op, reduce: Op, emitter: Emitter, tuning: Tuning) -> tuple[Dim, ...]:
    """Emits the body for one strip; the grid has one group per strip of every outer point."""
    b = emitter.b
    *outer, inner = group.attrs["domain"]
    strips = ceildiv(inner, tuning.strip)
    sizes = [emitter.dim(size) for size in (*outer, strips)]
    *point, strip = delinearize(b, b.op("tile.group_id"), sizes)
    first = b.op("arith.mul", strip, b.const(tuning.strip))
    count = b.op("arith.min", b.op("arith.sub", emitter.dim(inner), first), b.const(tuning.strip))
    buf = b.op("tile.alloc", types=BufType((tuning.strip,), element(reduce.result.type), "shared"))
    columns = _Columns(group, reduce, emitter, buf, first, count)
    columns.over_strip(b, point, "clear")
    _by_rows(columns, b, tuning.rows, lambda inner, ks: columns.over_strip(inner, point, "accumulate", ks))
    columns.over_strip(b, point, "finish")
    return (product(outer) * strips,)


def _by_rows(columns: _Columns, b: Builder, rows: int, take: Callable[[Builder, Sequence[Value]], None]) -> None:
    """Goes over k, `rows` at a time and then one by one."""
    size = columns.emitter.at(b).dim(columns.reduce.attrs["sizes"][0])

    def by(count: int) -> Callable[[Builder, Value, list[Value]], Sequence[Value]]:
        def body(inner: Builder, k0: Value, _: list[Value]) -> Sequence[Value]:
            inner.loc = b.loc
            take(inner, [inner.op("arith.add", k0, inner.const(at)) if at else k0 for at in range(count)])
            return ()

        return body

    whole = b.op("arith.mul", b.op("arith.floordiv", size, b.const(rows)), b.const(rows))
    b.for_(b.const(0), whole, b.const(rows), (), by(rows), hint="k0")
    b.for_(whole, size, b.const(1), (), by(1), hint="k0")


class _Product(_Columns):
    """The terms are products, which are added as the target's `tile.mma` does: by fma where it has the instruction."""

    found: Contraction
    fused: bool

    def accumulate(self, inside: Emitter, env: Env, index: Value, ks: Sequence[Value]) -> None:
        found, b = self.found, inside.b
        dtype = element(found.reduce.result.type)
        total = b.op("tile.load", self.buf, [index], None)
        for k in ks:
            factors = []
            for value in (found.a, found.b):
                here: Env = {**env, found.k: k}
                for op in found.operand_ops(value):
                    inside.op(op, here)
                factor = inside.splat(here[value])
                factors.append(factor if element(value.type) == dtype else b.op("arith.cast", factor, to=dtype))
            if kind_of(dtype) == "f" and self.fused:
                total = b.op("arith.fma", *factors, total)
            else:
                total = b.op("arith.add", total, b.op("arith.mul", *factors))
        b.emit("tile.store", total, self.buf, [index], None)


def few_rows(
    found: Contraction, emitter: Emitter, tuning: Tuning, batch: Mapping[int, Value], strip: Strip
) -> None:
    """A product at one point of its batch (by axis), at up to `tuning.few` rows, and at a strip of columns: terms of a
    few k are taken by one row after the other."""
    b, group = emitter.b, found.group
    (first, count, rows), width = strip, tuning.strip
    buf = b.op("tile.alloc", types=BufType((tuning.few * width,), element(found.reduce.result.type), "shared"))
    columns = _Product(group, found.reduce, emitter, buf, first, count)
    columns.found, columns.fused = found, tuning.arch.has("fma")

    def each(body: str) -> Callable[[Builder, Sequence[Value]], None]:
        def take(outside: Builder, ks: Sequence[Value]) -> None:
            def row(inner: Builder, i: Value, _: list[Value]) -> Sequence[Value]:
                inner.loc = b.loc
                point = [i if at in found.m else batch[at] for at in range(len(group.regions[0].args) - 1)]
                columns.over_strip(inner, point, body, ks, inner.op("arith.mul", i, inner.const(width)))
                return ()

            outside.for_(outside.const(0), rows, outside.const(1), (), row)

        return take

    each("clear")(b, ())
    _by_rows(columns, b, tuning.rows, each("accumulate"))
    each("finish")(b, ())

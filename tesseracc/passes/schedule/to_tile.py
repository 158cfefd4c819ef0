"""`schedule-to-tile`: every group becomes a kernel, every function a program that launches them in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tessera.shapes import Dim, symbols_of
from tesseracc.analysis.flops import counted, of_group
from tesseracc.ir.builder import Builder, make
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import captured
from tesseracc.ir.types import BufType, TensorType, Type, element, size_of
from tesseracc.ir.value import Attr, Func, Module, Op, Region, Value
from tesseracc.passes.schedule.elements import Emitter
from tesseracc.passes.schedule.stream_tiles import StreamTile
from tesseracc.passes.schedule.to_tile_lanes import lower_lanes
from tesseracc.passes.schedule.to_tile_mma import lower_mma
from tesseracc.passes.schedule.to_tile_rows import lower_rows
from tesseracc.passes.schedule.to_tile_stream import lower_stream, tiles_of
from tesseracc.passes.schedule.to_tile_turn import lower_turn
from tesseracc.passes.schedule.tuning import Tuning, tuning_for

#: a strategy emits the kernel's body and returns the grid
Strategy = Callable[[Op, Emitter, Tuning], tuple[Dim, ...]]
STRATEGIES: dict[str, Strategy] = {"lanes": lower_lanes, "rows": lower_rows, "mma": lower_mma, "turn": lower_turn}


def _buf(type_: Type) -> BufType:
    assert isinstance(type_, TensorType), type_
    return BufType(type_.dims, type_.dtype)


def _symbols(kernel_types: list[Type], body: Region, grid: tuple[Dim, ...]) -> tuple[str, ...]:
    """All symbols that a kernel needs, in order of their names."""
    names: set[str] = set()
    for type_ in kernel_types:
        if isinstance(type_, BufType):
            for dim in type_.dims:
                names |= symbols_of(dim)

    def attrs(value: Attr) -> None:
        if isinstance(value, tuple):
            for item in value:
                attrs(item)
        elif not isinstance(value, (bool, float, str)) and value is not None:
            names.update(symbols_of(value))

    for op in body.ops:
        for inner in op.walk():
            for value in inner.attrs.values():
                attrs(value)
    for dim in grid:
        names |= symbols_of(dim)
    return tuple(sorted(names))


def _widest(group: Op) -> str:
    """The element type that most decides the register need: the widest float or integer that is computed with."""
    sizes: dict[int, str] = {4: "f32"}
    for op in group.walk():
        for dtype in (element(r.type) for r in op.results if op.defn.dialect == "arith"):
            if dtype not in ("i64", "bool"):
                sizes.setdefault(size_of(dtype), dtype)
    return sizes[max(sizes)]


def strategies(group: Op, tuning: Tuning) -> list[tuple[Dim, Strategy]]:
    """The versions of a group's kernel, each with a size that is 0 where it may run; the last may always."""
    plan = group.attrs["plan"] or "lanes"
    if plan != "stream":
        return [(0, STRATEGIES[plan])]

    def by(tile: StreamTile) -> Strategy:
        return lambda group, emitter, tuning: lower_stream(group, emitter, tuning, tile)

    return [(tile.unless, by(tile)) for tile in tiles_of(group, tuning)]


def lower_group(
    group: Op, strategy: Strategy, name: str, tuning: Tuning, context: Context
) -> tuple[Func, list[Value]]:
    """The kernel of one group, and the tensors that it reads, in parameter order (results follow)."""
    reads = [v for v in captured(group.regions[0]) if isinstance(v.type, TensorType)]
    params = [Value(_buf(v.type), v.name) for v in reads]
    outs = [Value(_buf(r.type), r.name or "out") for r in group.results]
    b = Builder(group.loc)
    emitter = Emitter(b, dict(zip(reads, params, strict=True)), outs, tuning.lanes)
    grid = strategy(group, emitter, tuning)
    body = b.region([*params, *outs])
    attrs = {
        "access": ("read",) * len(params) + ("write",) * len(outs),
        "grid": grid,
        "group": emitter.lanes,
        "symbols": _symbols([p.type for p in (*params, *outs)], body, grid),
    }
    kernel = Func("tile.kernel", name, body, attrs, group.loc)
    return counted(kernel, of_group(group, kernel), context.need_arch()), reads


def _returned_views(body: Region) -> dict[Value, Value]:
    """Results of groups that a region yields under another shape: the group's result -> the yielded view."""
    made = {result for op in body.ops if op.name == "schedule.group" for result in op.results}
    found: dict[Value, Value] = {}
    for op in body.ops:
        returned = op.name == "schedule.view" and body.yields.count(op.result) == 1
        if returned and op["tensor"] in made and op["tensor"] not in body.yields:
            found.setdefault(op["tensor"], op.result)
    return found


class _Program:
    """One function on its way to a program: its kernels, and the buffer of every tensor."""

    def __init__(self, func: Func, context: Context) -> None:
        self.func, self.context = func, context
        self.kernels: list[Func] = []
        self.bufs: dict[Value, Value] = {}
        self.own: set[Value] = set()  # buffers that one region has allocated and written as a whole

    def run(self) -> Func:
        func, b = self.func, Builder(self.func.loc)
        params = [Value(_buf(p.type), p.name) for p in func.params]
        self.bufs.update(zip(func.params, params, strict=True))
        self.steps(b, func.body)
        yields = self.memory(b, func.body)
        return Func("tile.program", func.name, b.region(params, yields), func.attrs, func.loc)

    def memory(self, b: Builder, body: Region) -> list[Value]:
        """A buffer of its own for each value that a region yields: not an argument, a constant, a view, or another."""
        yields: list[Value] = []
        for value in body.yields:
            buf = self.bufs[value]
            if buf in yields or buf not in self.own:
                copy = b.op("tile.temp", types=buf.type)
                b.emit("tile.copy", buf, copy)
                buf = copy
            yields.append(buf)
        return yields

    def steps(self, b: Builder, body: Region) -> None:
        """The steps of a region whose arguments have buffers."""
        returned = _returned_views(body)
        for op in body.ops:
            match op.name:
                case "schedule.constant":
                    self.bufs[op.result] = b.op("tile.constant", types=_buf(op.result.type), name=op.attrs["name"])
                case "schedule.view":
                    if op.result not in self.bufs:
                        self.bufs[op.result] = b.op("tile.view", self.bufs[op["tensor"]], types=_buf(op.result.type))
                case "schedule.group":
                    self.group(b, op, returned)
                case "schedule.cond":
                    self.cond(b, op)
                case "schedule.while":
                    self.loop(b, op)
                case _:
                    self.scan(b, op)

    def temp(self, b: Builder, value: Value) -> Value:
        """New memory for a value."""
        buf = self.bufs[value] = b.op("tile.temp", types=_buf(value.type))
        self.own.add(buf)
        return buf

    def group(self, b: Builder, op: Op, returned: Mapping[Value, Value]) -> None:
        outs = []
        for result in op.results:
            whole = returned.get(result, result)
            buf = self.temp(b, whole)
            if whole is not result:  # the memory has the returned shape; the kernel sees it under its own
                buf = self.bufs[result] = b.op("tile.view", buf, types=_buf(result.type))
            outs.append(buf)
        tuning = tuning_for(self.context.need_arch(), _widest(op))
        versions = [(unless, self.launch(op, by, tuning, outs)) for unless, by in strategies(op, tuning)]
        _, step = versions.pop()
        for unless, first in reversed(versions):
            regions = Region((), (first,)), Region((), (step,))
            step = make("tile.when", regions=regions, bind=(), unless=unless, loc=op.loc)
        b.ops.append(step)

    def launch(self, op: Op, strategy: Strategy, tuning: Tuning, outs: Sequence[Value]) -> Op:
        """A group by one strategy, as a launch of a kernel of its own."""
        name = f"{self.func.name}__{len(self.kernels)}"
        kernel, reads = lower_group(op, strategy, name, tuning, self.context)
        self.kernels.append(kernel)
        return make("tile.launch", *(self.bufs[v] for v in reads), *outs, kernel=name, loc=op.loc)

    # -- control flow: a region's arguments are bound to buffers, its steps stand in a region of the program ---------

    def nested(self, b: Builder, region: Region, args: Sequence[Value], end: Callable[[Builder], None]) -> Region:
        """The steps of a region with its arguments in `args`; `end` adds what is done with what it yields."""
        self.bufs.update(zip(region.args, args, strict=True))
        inner = Builder(b.loc)
        self.steps(inner, region)
        end(inner)
        return inner.region()

    def cond(self, b: Builder, op: Op) -> None:
        args = [self.bufs[v] for v in op.group("inputs")]
        outs = [self.temp(b, result) for result in op.results]

        def arm(region: Region) -> Region:
            return self.nested(b, region, args, lambda inner: self.copy(inner, region.yields, outs))

        b.emit("tile.branch", self.bufs[op["pred"]], regions=[arm(region) for region in op.regions])

    def copy(self, b: Builder, values: Sequence[Value], targets: Sequence[Value]) -> None:
        for value, target in zip(values, targets, strict=True):
            b.emit("tile.copy", self.bufs[value], target)

    def state(self, b: Builder, op: Op, results: Sequence[Value]) -> list[Value]:
        """Memory for what a loop carries, which at the end holds the results, with the initial values in it."""
        state = [self.temp(b, result) for result in results]
        self.copy(b, op.group("carried"), state)
        return state

    def step(self, b: Builder, region: Region, state: Sequence[Value]) -> None:
        """The new state; what is carried may be another part of the old state, so that all is computed first."""
        new = region.yields[: len(state)]
        moved = [(value, buf) for value, buf in zip(new, state, strict=True) if self.bufs[value] is not buf]
        sources = []
        for value, _ in moved:
            source = self.bufs[value]
            if source in state or source not in self.own:
                copy = b.op("tile.temp", types=source.type)
                b.emit("tile.copy", source, copy)
                source = copy
            sources.append(source)
        for source, (_, buf) in zip(sources, moved, strict=True):
            b.emit("tile.copy", source, buf)

    def loop(self, b: Builder, op: Op) -> None:
        consts = [self.bufs[v] for v in op.group("consts")]
        on = b.op("tile.temp", types=BufType((), "bool"))
        state = self.state(b, op, op.results)
        test, body = op.regions
        head = self.nested(b, test, [*consts, *state], lambda inner: self.copy(inner, test.yields, [on]))
        steps = self.nested(b, body, [*consts, *state], lambda inner: self.step(inner, body, state))
        b.emit("tile.loop", on, regions=[head, steps])

    def scan(self, b: Builder, op: Op) -> None:
        consts = [self.bufs[v] for v in op.group("consts")]
        rows = [self.bufs[v] for v in op.group("rows")]
        body, reverse = op.regions[0], op.attrs["reverse"]
        carried = len(op.group("carried"))
        state = self.state(b, op, op.results[:carried])
        stacked = [self.temp(b, result) for result in op.results[carried:]]
        inner = Builder(b.loc)
        args = [*consts, *state]
        for whole, arg in zip(rows, body.args[len(args) :], strict=True):
            args.append(inner.op("tile.temp", types=_buf(arg.type)))
            inner.emit("tile.take", whole, args[-1], reverse=reverse)

        def end(b: Builder) -> None:
            for value, whole in zip(body.yields[carried:], stacked, strict=True):
                b.emit("tile.put", self.bufs[value], whole, reverse=reverse)
            self.step(b, body, state)

        inner.ops += self.nested(b, body, args, end).ops
        b.emit("tile.repeat", regions=[inner.region()], count=op.attrs["length"])


def _lower_func(func: Func, context: Context) -> list[Func]:
    program = _Program(func, context)
    made = program.run()
    return [*program.kernels, made]


@register("schedule-to-tile", level="schedule")
def run(module: Module, context: Context) -> Module:
    """Turns groups into kernels and functions into programs."""
    funcs: list[Func] = []
    for func in module.funcs:
        funcs += _lower_func(func, context) if func.kind == "schedule.func" else [func]
    return module.with_(funcs=tuple(funcs))

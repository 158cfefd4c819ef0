"""`schedule-to-tile`: every group becomes a kernel, every function a program that launches them in order."""

from __future__ import annotations

from collections.abc import Callable

from tessera.shapes import Dim, symbols_of
from tesseracc.ir.builder import Builder
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import captured
from tesseracc.ir.types import BufType, TensorType, Type, element, size_of
from tesseracc.ir.value import Attr, Func, Module, Op, Region, Value
from tesseracc.passes.schedule.elements import Emitter
from tesseracc.passes.schedule.to_tile_lanes import lower_lanes
from tesseracc.passes.schedule.to_tile_mma import lower_mma
from tesseracc.passes.schedule.to_tile_rows import lower_rows
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


def lower_group(group: Op, name: str, context: Context) -> tuple[Func, list[Value]]:
    """The kernel of one group, and the tensors that it reads, in parameter order (results follow)."""
    tuning = tuning_for(context.need_arch(), _widest(group))
    reads = [v for v in captured(group.regions[0]) if isinstance(v.type, TensorType)]
    params = [Value(_buf(v.type), v.name) for v in reads]
    outs = [Value(_buf(r.type), r.name or "out") for r in group.results]
    b = Builder(group.loc)
    emitter = Emitter(b, dict(zip(reads, params, strict=True)), outs, tuning.lanes)
    strategy = group.attrs["plan"] or "lanes"
    grid = STRATEGIES[strategy](group, emitter, tuning)
    body = b.region([*params, *outs])
    attrs = {
        "access": ("read",) * len(params) + ("write",) * len(outs),
        "grid": grid,
        "group": emitter.lanes,
        "symbols": _symbols([p.type for p in (*params, *outs)], body, grid),
    }
    return Func("tile.kernel", name, body, attrs, group.loc), reads


def _returned_views(func: Func) -> dict[Value, Value]:
    """Results of groups that the function returns under another shape: the group's result -> the returned view."""
    made = {result for op in func.body.ops if op.name == "schedule.group" for result in op.results}
    found: dict[Value, Value] = {}
    for op in func.body.ops:
        returned = op.name == "schedule.view" and func.body.yields.count(op.result) == 1
        if returned and op["tensor"] in made and op["tensor"] not in func.body.yields:
            found.setdefault(op["tensor"], op.result)
    return found


def _lower_func(func: Func, context: Context) -> list[Func]:
    kernels: list[Func] = []
    temporaries: set[Value] = set()
    b = Builder(func.loc)
    params = [Value(_buf(p.type), p.name) for p in func.params]
    bufs: dict[Value, Value] = dict(zip(func.params, params, strict=True))
    returned = _returned_views(func)
    for op in func.body.ops:
        if op.name == "schedule.constant":
            bufs[op.result] = b.op("tile.constant", types=_buf(op.result.type), name=op.attrs["name"])
            continue
        if op.name == "schedule.view" and op.result in bufs:
            continue
        if op.name == "schedule.view":
            bufs[op.result] = b.op("tile.view", bufs[op["tensor"]], types=_buf(op.result.type))
            continue
        kernel, reads = lower_group(op, f"{func.name}__{len(kernels)}", context)
        kernels.append(kernel)
        outs = []
        for result in op.results:
            whole = returned.get(result, result)
            bufs[whole] = b.op("tile.temp", types=_buf(whole.type))
            temporaries.add(bufs[whole])
            if whole is not result:  # the memory has the returned shape; the kernel sees it under its own
                bufs[result] = b.op("tile.view", bufs[whole], types=_buf(result.type))
            outs.append(bufs[result])
        b.loc = op.loc
        b.emit("tile.launch", *(bufs[v] for v in reads), *outs, kernel=kernel.name)
        b.loc = func.loc
    yields: list[Value] = []
    for value in func.body.yields:
        buf = bufs[value]
        # an output is memory of its own: not an input, a constant, a view, or another output
        if buf in yields or buf not in temporaries:
            copy = b.op("tile.temp", types=buf.type)
            b.emit("tile.copy", buf, copy)
            buf = copy
        yields.append(buf)
    return [*kernels, Func("tile.program", func.name, b.region(params, yields), func.attrs, func.loc)]


@register("schedule-to-tile", level="schedule")
def run(module: Module, context: Context) -> Module:
    """Turns groups into kernels and functions into programs."""
    funcs: list[Func] = []
    for func in module.funcs:
        funcs += _lower_func(func, context) if func.kind == "schedule.func" else [func]
    return module.with_(funcs=tuple(funcs))

"""`split-reductions`: a long reduction with few results becomes partial reductions over chunks, and one over
the partials.

    r = reduce k in E: f(k)    ->    p[c] = reduce j in CHUNK: f(c * CHUNK + j) where c * CHUNK + j < E,
                                     r = reduce c in ceildiv(E, CHUNK): p[c]

Chunks run in parallel. Sums and products of floats are cut where the numeric profile allows it. CHUNK is a constant, so
the order of a sum depends on the shape alone. Behind the end a chunk takes the identity of its kind and touches no
memory. Index reductions (argmax) are left as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tessera.shapes import Dim, ceildiv, product
from tesseracc.interpret import scalar
from tesseracc.ir.builder import Builder, make
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import inline_region, map_funcs, remove_dead
from tesseracc.ir.types import I64, TensorType, element, kind_of
from tesseracc.ir.value import Func, Module, Op, Region, Value
from tesseracc.numerics import allows
from tesseracc.passes.schedule.fold_elements import number_of
from tesseracc.passes.schedule.inline import guarded
from tesseracc.passes.schedule.tidy import tidy

#: elements of one partial reduction
CHUNK = 16384
#: a domain of more points than this runs in parallel enough as it is
FEW_POINTS = 32


def long_reduction(group: Op) -> Op | None:
    """The reduction of a group that is worth splitting."""
    loops = [op for op in group.regions[0].ops if op.regions]
    if len(loops) != 1 or loops[0].name != "schedule.reduce" or loops[0].attrs["kind"].startswith("arg"):
        return None
    points, extent = product(group.attrs["domain"]), product(loops[0].attrs["sizes"])
    if isinstance(extent, int):
        long = extent >= 2 * CHUNK and isinstance(points, int) and points <= FEW_POINTS
    else:
        long = points == 1
    return loops[0] if long and not any(op.regions for op in loops[0].regions[0].ops) else None


def _coordinates(b: Builder, linear: Value, sizes: Sequence[Dim]) -> list[Value]:
    """Row-major coordinates of a position in a box."""
    found: list[Value] = []
    for size in reversed(sizes[1:]):
        extent = b.op("schedule.dim", expr=size)
        found.append(b.op("arith.mod", linear, extent))
        linear = b.op("arith.floordiv", linear, extent)
    return [linear, *reversed(found)]


def partials(group: Op, reduce: Op) -> Op:
    """The group of partial reductions: over the group's domain and the chunks."""
    sizes, kind = reduce.attrs["sizes"], reduce.attrs["kind"]
    dtype = element(reduce.result.type)
    extent, chunks = product(sizes), ceildiv(product(sizes), CHUNK)
    args = tuple(Value(I64, arg.name) for arg in group.regions[0].args)
    chunk = Value(I64, "c")
    # what the group writes besides is left to the group with the reduction over the partials
    earlier = group.regions[0].ops[: group.regions[0].ops.index(reduce)]
    before = Region(group.regions[0].args, tuple(op for op in earlier if op.name != "schedule.write"))
    same: dict[Value, Value] = dict(zip(group.regions[0].args, args, strict=True))
    ops, _ = inline_region(before, args)
    for old, new in zip(before.ops, ops, strict=True):
        same.update(zip(old.results, new.results, strict=True))
    b = Builder(reduce.loc)
    for op in ops:
        b.append(op)

    def term(inner: Builder, given: list[Value]) -> list[Value]:
        place = inner.op("arith.add", inner.op("arith.mul", chunk, inner.const(CHUNK)), given[0])
        inside = inner.op("arith.cmp", place, inner.op("schedule.dim", expr=extent), pred="lt")
        body, (value,) = inline_region(reduce.regions[0], _coordinates(inner, place, sizes), same)
        for op in guarded(body, inside):
            inner.append(op)
        neutral = inner.const(number_of(scalar.identity(kind, dtype), dtype), value.type)
        return [inner.op("arith.select", inside, value, neutral)]

    region = b.nested([I64], term, ("k",))
    total = b.op("schedule.reduce", types=reduce.result.type, regions=[region], kind=kind, sizes=(CHUNK,))
    b.emit("schedule.write", total, [*args, chunk], result=0)
    domain = (*group.attrs["domain"], chunks)
    return make(
        "schedule.group",
        types=[TensorType(domain, dtype)],
        regions=[Region((*args, chunk), tuple(b.ops))],
        domain=domain,
        loc=reduce.loc,
    )


def split(group: Op, reduce: Op) -> list[Op]:
    """The group of partials, and the group with its reduction over them."""
    first = partials(group, reduce)
    chunks = first.attrs["domain"][-1]
    b = Builder(reduce.loc)
    region = b.nested(
        [I64], lambda inner, given: [inner.op("schedule.read", first.result, [*group.regions[0].args, *given])], ("c",)
    )
    final = make(
        "schedule.reduce",
        types=[reduce.result.type],
        regions=[region],
        kind=reduce.attrs["kind"],
        sizes=(chunks,),
        loc=reduce.loc,
    )
    final = replace(final, results=reduce.results)
    ops = tuple(final if op is reduce else op for op in group.regions[0].ops)
    second = replace(group, regions=(remove_dead(Region(group.regions[0].args, ops)),))
    return [tidy(replace(first, regions=(remove_dead(first.regions[0]),))), second]


def _rounds(reduce: Op) -> bool:
    """Whether the order of the reduction shows."""
    return kind_of(element(reduce.result.type)) == "f" and reduce.attrs["kind"] in ("add", "mul")


def _change(func: Func, context: Context) -> Func:
    ops: list[Op] = []
    for op in func.body.ops:
        reduce = long_reduction(op) if op.name == "schedule.group" else None
        if reduce is not None and _rounds(reduce):
            if allows(context.numerics, "split-sum"):
                context.permit("split-sum", f"chunks of {CHUNK}", reduce.loc)
            else:
                reduce = None
        ops += [op] if reduce is None else split(op, reduce)
    return func.with_(body=replace(func.body, ops=tuple(ops)))


@register("split-reductions", level="schedule")
def run(module: Module, context: Context) -> Module:
    """Cuts long reductions with few results into chunks."""
    return module.with_(funcs=map_funcs(module.funcs, "schedule.func", lambda func: _change(func, context)))

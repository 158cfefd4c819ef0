"""`split-products`: a product with few tiles and a long sum becomes products of parts of the sum, and their sum.

    C[m, n] = sum_k A[m, k] B[k, n]   ->   P[s, m, n] = sum_j A[m, s K/S + j] B[s K/S + j, n]
                                           C[m, n] = sum_s P[s, m, n]

where that is faster by the cost model of products: with S times the tiles all multiprocessors have work. S divides K
and follows from the sizes and the target, so all sizes are numbers here; where K's rows are whole vectors, so are those
of the parts. The parts are added in the order of s. Needs the rule `split-sum` of the numeric profile.
"""

from __future__ import annotations

from dataclasses import replace

from tessera.shapes import Dim, product
from tesseracc.analysis.access import Contraction, is_contraction
from tesseracc.arch.arch import Arch
from tesseracc.ir.builder import Builder, make
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import inline_region, map_funcs, remove_dead
from tesseracc.ir.types import I64, TensorType, element, kind_of, size_of
from tesseracc.ir.value import Func, Module, Op, Region, Value
from tesseracc.numerics import allows
from tesseracc.passes.schedule.tidy import tidy
from tesseracc.tuning.products import LATENCY, product_seconds

#: products of a part at least, and parts at most
SHORTEST, MOST = 512, 64
#: elements along k of a piece that copies take whole
VECTOR = 8
#: the part of the time that a split product must not exceed
GAIN = 0.8


def parts_of(found: Contraction, arch: Arch) -> int:
    """Into how many parts the sum is cut; 1: it stays whole."""
    domain, sums = found.group.attrs["domain"], found.reduce
    axes = (found.batch, found.m, found.n)
    sizes: list[Dim] = [*(product(domain[axis] for axis in part) for part in axes), sums.attrs["sizes"][0]]
    if not all(isinstance(size, int) and size for size in sizes):
        return 1
    batch, m, n, k = (int(size) for size in sizes)
    a, b, acc = (element(v.type) for v in (found.a, found.b, sums.result))
    bandwidth = arch.throughput.dram_gbytes_per_s * 1e9

    def seconds(parts: int) -> float:
        one = product_seconds(arch, (a, b, acc), (size_of(a), size_of(b)), (m, n, k // parts), batch * parts)
        if one is None:
            return float("inf")  # no matrix unit
        # the parts are written and read once, by a launch of its own
        moved = 2 * parts * batch * m * n * size_of(acc)
        return one if parts == 1 else one + moved / bandwidth + LATENCY

    vector = VECTOR if k % VECTOR == 0 else 1
    tried = [parts for parts in range(2, MOST + 1) if k % (parts * vector) == 0 and k // parts >= SHORTEST]
    best = min(tried, key=seconds, default=1)
    return best if seconds(best) < GAIN * seconds(1) else 1


def split(found: Contraction, parts: int) -> list[Op]:
    """The group of partial products, and the group that adds them up, which has the epilogue."""
    group, reduce = found.group, found.reduce
    outer, k = group.regions[0], reduce.attrs["sizes"][0]
    args = tuple(Value(I64, arg.name) for arg in outer.args)
    part, size = Value(I64, "s"), k // parts
    b = Builder(reduce.loc)
    earlier = tuple(op for op in outer.ops[: outer.ops.index(reduce)] if op.name != "schedule.write")
    ops, _ = inline_region(Region(outer.args, earlier), args)
    same = dict(zip(outer.args, args, strict=True))
    for old, new in zip(earlier, ops, strict=True):
        b.append(new)
        same.update(zip(old.results, new.results, strict=True))

    def term(inner: Builder, given: list[Value]) -> list[Value]:
        place = inner.op("arith.add", inner.op("arith.mul", part, inner.const(size)), given[0])
        body, values = inline_region(reduce.regions[0], [place], same)
        for op in body:
            inner.append(op)
        return list(values)

    region = b.nested([I64], term, ("k",))
    total = b.op("schedule.reduce", types=reduce.result.type, regions=[region], kind="add", sizes=(size,))
    b.emit("schedule.write", total, [part, *args], result=0)
    domain = (parts, *group.attrs["domain"])
    body = remove_dead(Region((part, *args), tuple(b.ops)))
    types = [TensorType(domain, element(reduce.result.type))]
    first = make("schedule.group", types=types, regions=[body], domain=domain, loc=reduce.loc)
    added = Builder(reduce.loc)
    sums = added.nested(
        [I64], lambda inner, given: [inner.op("schedule.read", first.result, [*given, *outer.args])], ("s",)
    )
    final = make("schedule.reduce", types=[reduce.result.type], regions=[sums], kind="add", sizes=(parts,),
                 loc=reduce.loc)  # fmt: skip
    final = replace(final, results=reduce.results)
    second = remove_dead(Region(outer.args, tuple(final if op is reduce else op for op in outer.ops)))
    return [tidy(first), replace(group, regions=(second,))]


def _change(func: Func, context: Context) -> Func:
    ops: list[Op] = []
    for op in func.body.ops:
        found = is_contraction(op) if op.name == "schedule.group" and not op.attrs.get("plan") else None
        parts = parts_of(found, context.need_arch()) if found is not None else 1
        if found is None or parts == 1:
            ops.append(op)
            continue
        if kind_of(element(found.reduce.result.type)) == "f":
            if not allows(context.numerics, "split-sum"):
                ops.append(op)
                continue
            context.permit("split-sum", f"a product in {parts} parts", op.loc)
        ops += split(found, parts)
    return func.with_(body=replace(func.body, ops=tuple(ops)))


@register("split-products", level="schedule")
def run(module: Module, context: Context) -> Module:
    """Cuts long sums of products with few tiles into parts."""
    if context.need_arch().kind != "cuda":
        return module
    return module.with_(funcs=map_funcs(module.funcs, "schedule.func", lambda func: _change(func, context)))

"""`stream-weights`: sums weighted by exp(x - max x), as in attention, take their weights block by block.

    M[i] = max_t x[i, t],   L[i] = sum_t exp(x[i, t] - c(M[i])),   O[i, n] = sum_t exp(x[i, t] - c(M[i])) v[t, n]

where x comes from a contraction, x[i, t] = f(sum_d a[i, d] b[t, d]). Apart, these are groups that hand each other
tensors of every i and t. Where the target streams (`Tuning.stream`), they become one group, in which the values are
spelled out as nested reductions and whose plan `stream` says how it is meant to run (to_tile_stream): once over t in
blocks, with M, L and O as they are so far. When a block raises the maximum from M to M', sums so far are scaled, for

    exp(x - c(M')) = exp(x - c(M)) exp(c(M) - c(M')).

What O's weights have beside the exponential and without t, such as 1 / L, is taken out of the sum: both steps change
rounding, as any order of a sum does. Where the weights are rounded with 1 / L in them, O is a second pass over t, which
keeps their rounding, if the profile does not allow `scale-behind-rounding`. A weight that is 0 because x is -inf counts
as 0 whatever v is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from tessera.shapes import Dim, equal_if_divisible, known_equal
from tessera.shapes import product as product_of
from tesseracc.analysis.access import is_contraction
from tesseracc.analysis.indices import Indices
from tesseracc.ir.builder import Builder, make
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import captured, map_funcs, remove_dead, substitute
from tesseracc.ir.types import I64, TensorType, element
from tesseracc.ir.value import Func, Module, Op, Region, Value
from tesseracc.numerics import allows
from tesseracc.passes.schedule.elements import delinearize
from tesseracc.passes.schedule.groups import tensors_read, writes_of
from tesseracc.passes.schedule.inline import inline, pulled_value
from tesseracc.passes.schedule.mark_updates import mark
from tesseracc.passes.schedule.simplify_indices import simplify_indices
from tesseracc.passes.schedule.split_axes import split_axes, split_loops
from tesseracc.passes.schedule.stream_form import factored, scaled_behind, shared
from tesseracc.passes.schedule.stream_tiles import stream_tiles
from tesseracc.passes.schedule.streams import Stream, stream_of
from tesseracc.passes.schedule.tidy import tidy
from tesseracc.passes.schedule.tuning import tuning_for

#: the rule by which O's weights may be rounded before they are scaled
SCALE = "scale-behind-rounding"
#: moves of groups that one chain may take: more are not looked for
LONGEST = 64


# -- one group of several ----------------------------------------------------------------------------------------------


def _linear(b: Builder, indices: Sequence[Value], sizes: Sequence[Dim]) -> Value:
    """The row-major place of a point."""
    place: Value = b.const(0)
    for index, size in zip(indices, sizes, strict=True):
        place = b.op("arith.add", b.op("arith.mul", place, b.op("schedule.dim", expr=size)), index)
    return place


def _flat(op: Op) -> Op | None:
    """What makes a tensor, in pull form: a view reads its source; inner loops become axes of the domain."""
    if op.name == "schedule.view":
        source, target = op["tensor"].type, op.result.type
        assert isinstance(source, TensorType) and isinstance(target, TensorType)
        b = Builder(op.loc)
        args = [Value(I64) for _ in target.dims]
        place = _linear(b, args, target.dims)
        indices = delinearize(b, place, [b.op("schedule.dim", expr=size) for size in source.dims])
        b.emit("schedule.write", b.op("schedule.read", op["tensor"], indices), args, result=0)
        group = make("schedule.group", regions=[Region(tuple(args), tuple(b.ops))], domain=target.dims, types=[target])
        return replace(group, results=op.results, loc=op.loc)
    if op.name != "schedule.group" or len(op.results) != 1 or len(writes_of(op)) != 1:
        return None
    region = op.regions[0]
    if pulled_value(op) is not None:
        return op
    *before, each = region.ops
    if each.name != "schedule.each" or any(inner.name in ("schedule.write", "schedule.each") for inner in before):
        return None
    body = Region((*region.args, *each.regions[0].args), (*before, *each.regions[0].ops))
    attrs = {**op.attrs, "domain": (*op.attrs["domain"], *each.attrs["sizes"])}
    flat = replace(op, regions=(body,), attrs=attrs)
    return flat if pulled_value(flat) is not None else None


def _closed(op: Op) -> bool:
    """Whether a group is made of indices alone."""
    return (
        op.name == "schedule.group" and not tensors_read(op) and not any(inner.regions for inner in op.regions[0].ops)
    )


def _is_product(op: Op) -> bool:
    return op.name == "schedule.group" and is_contraction(op) is not None


def _alone(op: Op, number: int) -> Op:
    """A group that makes one of a group's results, and no other."""

    def only(region: Region) -> Region:
        ops: list[Op] = []
        for inner in region.ops:
            if inner.name == "schedule.each":
                inner = replace(inner, regions=(only(inner.regions[0]),))
                if not any(nested.name in ("schedule.write", "schedule.each") for nested in inner.regions[0].ops):
                    continue
            if inner.name == "schedule.write":
                if inner.attrs["result"] != number:
                    continue
                inner = replace(inner, attrs={**inner.attrs, "result": 0})
            ops.append(inner)
        return Region(region.args, tuple(ops), region.yields)

    return replace(op, results=(op.results[number],), regions=(remove_dead(only(op.regions[0])),))


class _Chain:
    """The groups of a function behind one product. A group of several results stands for one group for each."""

    def __init__(self, func: Func, product: Op, last: Op) -> None:
        self.makers = {
            result: _alone(op, number) if op.name == "schedule.group" and len(op.results) > 1 else op
            for op in func.body.ops
            for number, result in enumerate(op.results)
        }
        self.product = product
        self.last = last  # the product, maybe in its only reader
        self.inside: list[Op] = []
        self.scores: set[int] = set()
        self.points: Dim = 0  # of the weights

    def gathered(self) -> Op | None:
        """The last group with those that make the product's weights inside, or None."""
        found = is_contraction(self.product)
        if found is None:
            return None
        reads = [op for op in found.operand_ops(found.a) if op.name == "schedule.read"]
        if len(reads) != 1:
            return None
        group, weights = self.last, {reads[0]["tensor"]}
        type_ = reads[0]["tensor"].type
        self.points = product_of(type_.dims) if isinstance(type_, TensorType) else 0
        while len(self.inside) < LONGEST:
            tensor = next((t for t in tensors_read(group) if self._belongs(t, weights)), None)
            if tensor is None:
                return group if len(self.scores) == 1 else None
            maker = self.makers[tensor]
            flat = _flat(maker)
            if flat is None or flat.attrs.get("plan"):  # what streams itself is not made again for every element
                return None
            if is_contraction(flat) is not None:
                self.scores.add(id(maker))
                weights |= {t for t in tensors_read(flat) if t in self.makers and _closed(self.makers[t])}
            else:
                weights |= set(tensors_read(flat))
            self.inside.append(maker)
            group = simplify_indices(inline(flat, group))  # before what is read there hides them in conditions
        return None

    def _belongs(self, tensor: Value, weights: set[Value]) -> bool:
        """Whether a tensor is one of the weights' chain, computed from it, or made of indices alone."""
        maker = self.makers.get(tensor)
        if maker is None:
            return False
        if tensor in weights:
            source = maker
            while source.name == "schedule.view" and source["tensor"] in self.makers:
                source = self.makers[source["tensor"]]
            large = isinstance(tensor.type, TensorType) and self._is_large(tensor.type.dims)
            if source.name == "schedule.group" and (large or _closed(source)):
                return True
        return self._depends(maker)

    def _is_large(self, dims: Sequence[Dim]) -> bool:
        """Whether a tensor has elements for every t, and not numbers of the rows: axes may be taken together."""
        return len(dims) > 1 or known_equal(product_of(dims), self.points)

    def _depends(self, op: Op) -> bool:
        """Whether something is computed from what is inside already."""
        made = {result for inner in self.inside for result in inner.results}
        todo, seen = [op], set()
        while todo:
            current = todo.pop()
            if id(current) in seen:
                continue
            seen.add(id(current))
            if current.name not in ("schedule.view", "schedule.group"):
                continue
            for value in (current["tensor"],) if current.name == "schedule.view" else tensors_read(current):
                if value in made:
                    return True
                maker = self.makers.get(value)
                if maker is not None and (maker.name == "schedule.view" or not _is_product(maker)):
                    todo.append(maker)
        return False


# -- the pass ----------------------------------------------------------------------------------------------------------


def _in_reader(func: Func, product: Op) -> tuple[Op, Op] | None:
    """A product inside of the one group that reads its result, element by element, maybe in another shape or order: a
    group over the product's points; and that reader. None where it is read otherwise."""
    if pulled_value(product) is None:
        return None
    value = product.result
    while True:
        users = [op for op in func.body.ops
                 if value in op.operands or any(value in captured(region) for region in op.regions)]  # fmt: skip
        if len(users) != 1 or value in func.body.yields:
            return None
        (reader,) = users
        if reader.name != "schedule.view":
            break
        value = reader.result
    flat = _flat(reader) if reader.name == "schedule.group" else None
    if flat is None:
        return None
    region, domain = flat.regions[0], flat.attrs["domain"]
    reads = [op for op in flat.walk() if op.name == "schedule.read" and op["tensor"] is value]
    target, shape = product.result.type, value.type
    assert isinstance(target, TensorType) and isinstance(shape, TensorType)
    if not reads or any(op not in region.ops or op.optional("where") for op in reads):
        return None
    if len({op.group("indices") for op in reads}) > 1:
        return None
    indices = reads[0].group("indices")
    plain = indices == region.args and all(map(known_equal, domain, shape.dims))
    b = Builder(flat.loc)
    args = [Value(I64) for _ in target.dims]
    at = args
    if len(target.dims) != len(shape.dims) or not all(map(known_equal, target.dims, shape.dims)):
        at = delinearize(b, _linear(b, args, target.dims), [b.op("schedule.dim", expr=size) for size in shape.dims])
    same = dict(zip(region.args, at, strict=True)) if plain else _inverse(b, flat, indices, shape.dims, at)
    if same is None:
        return None
    element_ = b.op("schedule.read", product.result, args)
    same.update((op.result, element_) for op in reads)
    *before, write = (op for op in region.ops if op not in reads)
    b.ops += substitute(Region((), tuple(before)), same).ops
    to = args if plain else [same.get(index, index) for index in write.group("indices")]
    b.emit("schedule.write", same.get(write["value"], write["value"]), to, result=0)
    type_ = TensorType(target.dims, element(flat.result.type)) if plain else flat.result.type
    group = make(
        "schedule.group", regions=[Region(tuple(args), tuple(b.ops))], domain=target.dims, types=[type_], loc=flat.loc
    )
    return inline(product, group), reader


def _inverse(
    b: Builder, group: Op, indices: Sequence[Value], dims: Sequence[Dim], at: Sequence[Value]
) -> dict[Value, Value] | None:
    """The point of a group's domain at which it reads a place `at` of a tensor, where each index of the domain is put
    together from axes of its own: an axis, or its digits in the order of the axes. None where it is not so."""
    known = Indices(group)
    found: dict[Value, Value] = {}
    left = set(range(len(dims)))
    for arg, size in zip(group.regions[0].args, group.attrs["domain"], strict=True):
        axes = [axis for axis, index in enumerate(indices) if arg in known.depends(known.of(index))]
        place: Dim = 0
        for axis in axes:
            if known.depends(known.of(indices[axis])) != {arg}:
                return None
            place = place * dims[axis] + known.of(indices[axis])
        lengths = [dims[axis] for axis in axes]
        if place != known.values[arg] or equal_if_divisible(product_of(lengths), size) is None:
            return None
        found[arg] = _linear(b, [at[axis] for axis in axes], lengths)
        left -= set(axes)
    return None if any(dims[axis] != 1 for axis in left) else found


@dataclass(frozen=True, slots=True)
class _Streamed:
    """A function in which a product and what makes its weights are one group; its `stream` says what of it a target
    decides by; `scaled`: weights are scaled behind their rounding."""

    func: Func
    stream: Stream
    scaled: bool


@lru_cache(maxsize=64)  # of what targets do not differ in: a build has many, and asks for each
def _streamed(func: Func, product: Op, with_reader: bool, cuda: bool, scale: bool) -> _Streamed | None:
    """The function with a product and what makes its weights as one group, alone or in what reads it; or None."""
    if not with_reader:
        return _fused(func, product, product, product, cuda, scale)
    whole = _in_reader(func, product)
    return _fused(func, product, *whole, cuda, scale) if whole is not None else None


def _of_source(op: Op, view: Op) -> Op:
    """A view of a view as one of what that shows."""
    if view.name != "schedule.view" or op.name != "schedule.view" or op["tensor"] is not view.result:
        return op
    return replace(op, operands=view.operands)


def _fused(func: Func, product: Op, last: Op, replaced: Op, cuda: bool, scale: bool) -> _Streamed | None:
    """One group of what makes a product's weights and of `last`: the product, or it inside of its reader. It stands
    for `replaced`, behind the views that it reads."""
    chain = _Chain(func, product, last)
    group = chain.gathered()
    if group is None:
        return None
    taken = {result for op in (*chain.inside, product, replaced) for result in op.results}
    used = set(func.body.yields)
    for op in func.body.ops:
        if not taken.issuperset(op.results):
            used |= {*op.operands, *(v for region in op.regions for v in captured(region))}
    closed = [op for op in chain.inside if not (op.name == "schedule.group" and _closed(op))]
    if any(result in used for op in closed for result in op.results):
        return None
    group = shared(tidy(split_loops(group) if cuda else group))
    behind = scaled_behind(group) if scale else group
    found = stream_of(factored(behind), one_axis=cuda)
    if found is None:
        return None
    before, whole = split_axes(found.group, func.attrs.get("assume", ()))
    new = [*before, replace(whole, attrs={**whole.attrs, "plan": "stream"})]
    if replaced is not product:
        view = make("schedule.view", new[-1].result, types=[replaced.result.type], loc=replaced.loc)
        new.append(replace(view, results=replaced.results))
    ops = [op for other in func.body.ops for op in (new if other is replaced else [_of_source(other, new[-1])])]
    changed = func.with_(body=remove_dead(replace(func.body, ops=tuple(ops))))
    # what the group now reads elsewhere it must not overwrite
    return _Streamed(mark(changed), found, behind is not group)


@register("stream-weights", level="schedule")
def run(module: Module, context: Context) -> Module:
    """Makes one group of sums weighted by exp(x - max x), where the target streams."""
    arch = context.need_arch()
    tuning = tuning_for(arch, "f32")
    if not tuning.stream or not allows(context.numerics, "stream-weights"):
        return module

    ways = arch.kind == "cuda", allows(context.numerics, SCALE)

    def change(func: Func) -> Func:
        for op in func.body.ops:
            if not _is_product(op):
                continue
            for with_reader in (False, True):
                found = _streamed(func, op, with_reader, *ways)
                if found is None or not stream_tiles(tuning, *found.stream.products):
                    continue
                if found.scaled:
                    context.permit(SCALE, "weights are divided by their sum at the end", op.loc)
                context.permit("stream-weights", "blocks of weights in one pass", op.loc)
                func = found.func
                break
        return func

    return module.with_(funcs=map_funcs(module.funcs, "schedule.func", change))

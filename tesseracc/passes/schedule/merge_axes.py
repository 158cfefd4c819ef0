"""Accesses of a group as data, with adjacent axes of tensors and loops merged: what collapsing and flattening share.

Reads and writes are held as polynomials; tensors are seen with merged axes through `schedule.view` before the group,
and results through one behind it. Two loops (a, b) of extents (A, B) become one loop c = a * B + b; the value of b
stands for c, so every polynomial that depends on them as `f * (a * B + b)` is rewritten by a -> 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tessera.shapes import Dim, known_equal, substitute
from tesseracc.analysis.indices import Indices
from tesseracc.ir.builder import Builder, make
from tesseracc.ir.rewrite import map_funcs, remove_dead
from tesseracc.ir.types import TensorType
from tesseracc.ir.value import Func, Module, Op, Region, Value
from tesseracc.passes.schedule.simplify_indices import Emitter


@dataclass(slots=True)
class Touch:
    """One read or write: the operation, its tensor (a group's result for a write) and its index polynomials."""

    op: Op
    tensor: Value
    indices: list[Dim]


class Merger:
    """The accesses of one group, being rewritten."""

    def __init__(self, group: Op) -> None:
        self.group = group
        self.known = Indices(group)
        self.dims: dict[Value, list[Dim]] = {}
        self.touches: list[Touch] = []
        self.dropped: set[Value] = set()
        self.sizes: dict[Value, Dim] = {arg: self.known.extents[name] for name, arg in self.known.args.items()}
        for op in group.walk():
            if op.name in ("schedule.read", "schedule.write"):
                tensor = op["tensor"] if op.name == "schedule.read" else group.results[op.attrs["result"]]
                assert isinstance(tensor.type, TensorType)
                self.dims.setdefault(tensor, list(tensor.type.dims))
                self.touches.append(Touch(op, tensor, [self.known.of(v) for v in op.group("indices")]))

    # -- tensors -------------------------------------------------------------------------------------------------

    def merge_tensor_axes(self, tensor: Value, axis: int) -> None:
        """Sees axes `axis` and `axis + 1` as one, in every access."""
        dims = self.dims[tensor]
        inner = dims[axis + 1]
        for touch in self.touches:
            if touch.tensor is tensor:
                touch.indices[axis : axis + 2] = [touch.indices[axis] * inner + touch.indices[axis + 1]]
        dims[axis : axis + 2] = [dims[axis] * inner]

    def split_tensor_axis(self, tensor: Value, axis: int, dims: Sequence[Dim], places: Sequence[Sequence[Dim]]) -> None:
        """Sees an axis as several, of extents `dims`. `places` has the indices along these, access by access."""
        self.dims[tensor][axis : axis + 1] = dims
        for touch, place in zip([touch for touch in self.touches if touch.tensor is tensor], places, strict=True):
            touch.indices[axis : axis + 1] = place

    def merge_unit_axes(self) -> None:
        """Axes of extent 1 join a neighbour."""
        for tensor, dims in self.dims.items():
            while len(dims) > 1 and any(size == 1 for size in dims):
                at = next(i for i, size in enumerate(dims) if size == 1)
                self.merge_tensor_axes(tensor, max(0, at - 1))

    # -- loops ---------------------------------------------------------------------------------------------------

    def try_merge_loops(self, outer: Value, inner: Value) -> bool:
        """Makes two neighbouring loops of one nest into one where every access allows it."""
        planned: dict[Value, int] = {}
        for touch in self.touches:
            plan = self._plan(touch, outer, inner)
            if plan is None:
                return False
            if plan >= 0 and planned.setdefault(touch.tensor, plan) != plan:
                return False
        for touch in self.touches:  # a planned merge must not be at odds with another access of that tensor
            at = planned.get(touch.tensor)
            if at is not None and self._plan(touch, outer, inner) not in (at, -1):
                return False
        for tensor, at in planned.items():
            self.merge_tensor_axes(tensor, at)
        self.sizes[inner] = self.sizes[outer] * self.sizes[inner]
        self.known.extents[self.known.name_of(inner)] = self.sizes[inner]
        self.dropped.add(outer)
        gone: dict[str, Dim] = {self.known.name_of(outer): 0}
        for touch in self.touches:
            touch.indices = [substitute(index, gone) for index in touch.indices]
        return True

    def _plan(self, touch: Touch, outer: Value, inner: Value) -> int | None:
        """None: not possible. -1: nothing to do. Else the first of the two tensor axes to merge."""
        a, b = self.known.name_of(outer), self.known.name_of(inner)
        extent = self.sizes[inner]
        pairs: list[tuple[int, Dim, Dim]] = []
        for axis, index in enumerate(touch.indices):
            depends = self.known.depends(index)
            if outer not in depends and inner not in depends:
                continue
            fa, fb = self.known.coefficient(index, a), self.known.coefficient(index, b)
            if fa is None or fb is None or not self.known.is_dim(fa) or not self.known.is_dim(fb):
                return None
            if {outer, inner} & self.known.depends(substitute(index, {a: 0, b: 0})):
                return None
            pairs.append((axis, fa, fb))
        if not pairs:
            return -1
        if len(pairs) == 1:
            ((_, fa, fb),) = pairs
            return -1 if known_equal(fa, fb * extent) else None
        if len(pairs) != 2 or pairs[1][0] != pairs[0][0] + 1 or pairs[0][2] != 0 or pairs[1][1] != 0:
            return None
        size = self.dims[touch.tensor][pairs[1][0]]
        return pairs[0][0] if known_equal(pairs[0][1] * size, pairs[1][2] * extent) else None

    def used_as_values(self) -> set[Value]:
        """Loop indices that reach a stored element or a condition other than through an access's indices."""
        made = {result: op for op in self.group.walk() for result in op.results}
        pending: list[Value] = []
        for op in self.group.walk():
            if op.name == "schedule.write":
                pending += [op["value"], *op.group("where")]
            elif op.name == "schedule.read":
                pending += op.group("where")
            for region in op.regions:
                pending += region.yields
        seen: set[Value] = set()
        while pending:
            value = pending.pop()
            if value in seen:
                continue
            seen.add(value)
            source = made.get(value)
            if source is not None and source.name != "schedule.read":
                pending += source.operands
        return seen

    # -- the result ----------------------------------------------------------------------------------------------

    def build(self) -> tuple[list[Op], Op, list[Op]]:
        """Views of what the group reads, the group, and views that give its results their own shapes back."""
        group = self.group
        before: list[Op] = []
        behind: list[Op] = []
        seen_as: dict[Value, Value] = {}
        results = []
        for result in group.results:
            type_ = self._type(result)
            if type_ == result.type:
                results.append(result)
                continue
            inner = Value(type_, result.name)
            results.append(inner)
            view = make("schedule.view", inner, types=[result.type], loc=group.loc)
            behind.append(replace(view, results=(result,)))
        for tensor in self.dims:
            type_ = self._type(tensor)
            if tensor not in group.results and type_ != tensor.type:
                view = make("schedule.view", tensor, types=[type_], loc=group.loc, hints=(tensor.name,))
                before.append(view)
                seen_as[tensor] = view.result
        touches = {id(touch.op): touch for touch in self.touches}

        def region(inside: Region) -> Region:
            ops: list[Op] = []
            for op in inside.ops:
                if op.regions:
                    ops.append(self._loop(op, "sizes", region(op.regions[0])))
                    continue
                touch = touches.get(id(op))
                if touch is None:
                    ops.append(op)
                    continue
                b = Builder(op.loc)
                emitter = Emitter(self.known, b)
                found = [emitter.emit(index) for index in touch.indices]
                where = op.group("where")
                ops += b.ops
                operands = (seen_as.get(op.operands[0], op.operands[0]), *found, *where)
                ops.append(replace(op, operands=operands, segments=(1, len(found), len(where))))
            return Region(inside.args, tuple(ops), inside.yields)

        done = self._loop(group, "domain", region(group.regions[0]))
        done = replace(done, results=tuple(results), regions=(remove_dead(done.regions[0]),))
        return before, done, behind

    def _type(self, tensor: Value) -> TensorType:
        assert isinstance(tensor.type, TensorType)
        dims = self.dims.get(tensor)
        return tensor.type if dims is None else TensorType(tuple(dims), tensor.type.dtype)

    def _loop(self, op: Op, attr: str, region: Region) -> Op:
        args = tuple(arg for arg in region.args if arg not in self.dropped)
        attrs = {**op.attrs, attr: tuple(self.sizes[arg] for arg in args)}
        return replace(op, attrs=attrs, regions=(Region(args, region.ops, region.yields),))


def map_merged(module: Module, change: Callable[[Merger], None]) -> Module:
    """Rewrites every group through a Merger; views stand before and behind the groups that need them."""

    def func(func: Func) -> Func:
        ops: list[Op] = []
        for op in func.body.ops:
            if op.name != "schedule.group":
                ops.append(op)
                continue
            merger = Merger(op)
            change(merger)
            before, group, behind = merger.build()
            ops += [*before, group, *behind]
        return func.with_(body=replace(func.body, ops=tuple(ops)))

    return module.with_(funcs=map_funcs(module.funcs, "schedule.func", func))

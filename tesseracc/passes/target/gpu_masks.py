"""Masks by coordinates: comparisons of indices that are sums of coordinates and of numbers all threads agree on.

    sum of c[axis] * coordinate[axis] < bound

A tile that is whole needs no masks, and most are: a mask that holds everywhere is skipped by a uniform branch. A mask
is never kept in registers; it is compared anew where it is used, against a bound of 32 bits (beyond the range of the
sum a bound decides nothing).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tesseracc.ir.types import TileType, Type, element
from tesseracc.ir.value import Op, Value
from tesseracc.layout.linear import LinearLayout
from tesseracc.passes.target.gpu_spread import Free, Places, Spread, registers

if TYPE_CHECKING:
    from tesseracc.ir.builder import Builder
    from tesseracc.passes.target.lower_gpu import Lowering


@dataclass(frozen=True, slots=True)
class Form:
    """sum of coefficients[axis] * coordinate[axis] + sum of sign * scalar + constant."""

    coefficients: Mapping[int, int]
    scalars: tuple[tuple[int, Value], ...] = ()
    constant: int = 0

    def plus(self, other: Form, sign: int) -> Form:
        axes = {*self.coefficients, *other.coefficients}
        total = {a: self.coefficients.get(a, 0) + sign * other.coefficients.get(a, 0) for a in axes}
        scalars = (*self.scalars, *((sign * s, v) for s, v in other.scalars))
        return Form({a: c for a, c in total.items() if c}, scalars, self.constant + sign * other.constant)


@dataclass(frozen=True, slots=True)
class Bound:
    """A mask: the sum of coefficients[axis] * coordinate[axis] is below `bound` (i64)."""

    coefficients: Mapping[int, int]
    bound: Value

    def reach(self, shape: Sequence[int]) -> tuple[int, int]:
        """The least and the greatest value of the sum in a tile."""
        ends = [sorted((0, c * (shape[axis] - 1))) for axis, c in self.coefficients.items()]
        return sum(least for least, _ in ends), sum(greatest for _, greatest in ends)


#: a tile of bools as bounds that all must hold
Mask = tuple[Bound, ...]
MOST = 1 << 30  # numbers of 32 bits up to this wrap nowhere in a form


def form_of(low: Lowering, value: Value) -> Form | None:
    """A tile of integers as a form; None where it is none, or where 32 bits might not hold it."""
    op = low.layouts.makers.get(value)
    if op is None or element(value.type) not in ("i32", "i64"):
        return None
    if op.name == "tile.coordinate":
        return Form({op.attrs["axis"]: 1})
    if op.name == "tile.full":
        return Form({}, ((1, op["a"]),)) if element(value.type) == "i64" or _is_small(low, op["a"]) else None
    if op.name == "arith.constant" and abs(op.attrs["value"]) <= MOST:
        return Form({}, (), op.attrs["value"])
    if op.name == "tile.broadcast":
        inner, source = form_of(low, op["a"]), op["a"].type
        assert isinstance(source, TileType)
        if inner is None or any(source.shape[axis] == 1 for axis in inner.coefficients):
            return None
        return Form({op.attrs["axes"][a]: c for a, c in inner.coefficients.items()}, inner.scalars, inner.constant)
    if op.name in ("arith.add", "arith.sub"):
        a, b = (form_of(low, v) for v in op.operands)
        return a.plus(b, 1 if op.name == "arith.add" else -1) if a and b else None
    return None


def _is_small(low: Lowering, value: Value) -> bool:
    """Whether a number is clamped: min(max(x, -n), n), cast."""
    makers = low.layouts.makers
    op = makers.get(value)
    for name in ("arith.cast", "arith.min", "arith.max"):
        if op is None or op.name != name:
            return False
        limits = (makers.get(v) for v in op.operands[1:])
        if any(made is None or abs(made.attrs.get("value", MOST + 1)) > MOST for made in limits):
            return False
        op = makers.get(op.operands[0])
    return True


def mask_of(low: Lowering, op: Op) -> Mask | None:
    """A comparison of forms, or several that all must hold."""
    if op.name == "arith.and":
        sides = [low.masks.get(v) if isinstance(low.env[v], Free) else None for v in op.operands]
        return (*sides[0], *sides[1]) if sides[0] and sides[1] else None
    if op.name != "arith.cmp" or op.attrs["pred"] not in ("lt", "le", "gt", "ge"):
        return None
    left, right = (form_of(low, v) for v in op.operands)
    if left is None or right is None:
        return None
    if op.attrs["pred"] in ("gt", "ge"):
        left, right = right, left
    sums, b = left.plus(right, -1), low.b
    bound = b.const((1 if op.attrs["pred"] in ("le", "ge") else 0) - sums.constant)
    for sign, scalar in sums.scalars:
        wide = low.get(scalar)
        wide = wide if element(wide.type) == "i64" else b.op("arith.cast", wide, to="i64")
        bound = b.op("arith.sub" if sign > 0 else "arith.add", bound, wide)
    return (Bound(sums.coefficients, bound),) if sums.coefficients else None


def mask_tile(low: Lowering, op: Op, mask: Mask) -> Free:
    """The mask's elements, wherever they are asked for."""
    type_ = op.result.type
    assert isinstance(type_, TileType)

    def make(layout: LinearLayout) -> Spread:
        parts = [_compared(low, part, layout) for part in mask]
        found = parts[0]
        for part in parts[1:]:
            found = [low.b.op("arith.and", x, y) for x, y in zip(found, part, strict=True)]
        return Spread(layout, type_.shape, type_.dtype, elements=found)

    return Free(make)


def _compared(low: Lowering, part: Bound, layout: LinearLayout) -> list[Value]:
    b = low.b
    least, greatest = part.reach(layout.shape)
    limit = b.op("arith.max", b.op("arith.min", part.bound, b.const(greatest + 1)), b.const(least))
    limit = b.op("arith.cast", limit, to="i32")
    places = Places(b, low.thread(), layout)
    constants = [layout.at(register=register) for register in range(registers(layout))]
    if any(at[axis] & places.reach(axis) for at in constants for axis in part.coefficients):
        places_of = [[places.at(axis, r) for axis in part.coefficients] for r in range(len(constants))]
        sums = [_sum(b, zip(part.coefficients.values(), found, strict=True)) for found in places_of]
        return [b.op("arith.cmp", total, limit, pred="lt") for total in sums]
    own = _sum(b, ((c, places.base[axis]) for axis, c in part.coefficients.items()))
    left = b.op("arith.sub", limit, own)
    known: dict[int, Value] = {}
    for number in {sum(c * at[axis] for axis, c in part.coefficients.items()) for at in constants}:
        known[number] = b.op("arith.cmp", b.const(number, "i32"), left, pred="lt")
    return [known[sum(c * at[axis] for axis, c in part.coefficients.items())] for at in constants]


def _sum(b: Builder, parts: Iterable[tuple[int, Value]]) -> Value:
    """The sum of numbers of a thread, times what each counts, in 32 bits."""
    total = b.const(0, "i32")
    for factor, value in parts:
        narrow = b.op("arith.cast", value, to="i32")
        total = b.op("arith.add", total, b.op("arith.mul", narrow, b.const(factor, "i32")))
    return total


FEWEST = 4  # elements of a thread that are worth a branch


def masked(low: Lowering, op: Op, mask: Mask) -> Spread | None:
    """`select mask, tile, number`: the tile itself where the mask holds everywhere. None where that is no gain."""
    _, kept, other = op.operands
    layout = low.layouts.of(op.result)
    if not isinstance(low.env[other], Free) or isinstance(low.env[kept], Free) or registers(layout) < FEWEST:
        return None
    elements = low.tile(kept, layout).as_elements(low.b)
    whole: Value | None = None
    for part in mask:
        holds = low.b.op("arith.cmp", low.b.const(part.reach(layout.shape)[1]), part.bound, pred="lt")
        whole = holds if whole is None else low.b.op("arith.and", whole, holds)
    assert whole is not None

    def chosen(inner: Lowering) -> list[Value]:
        columns = [inner.tile(v, layout).as_elements(inner.b) for v in (op.operands[0], other)]
        rows = zip(columns[0], elements, columns[1], strict=True)
        return [inner.b.op(op.name, *row) for row in rows]

    types: list[Type] = [v.type for v in elements]
    found = low.branch(whole, lambda _: elements, chosen, types)
    type_ = op.result.type
    assert isinstance(type_, TileType)
    return Spread(layout, type_.shape, type_.dtype, elements=list(found))

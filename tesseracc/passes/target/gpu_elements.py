"""What threads do with the elements of spread tiles one by one: arithmetic, constants, coordinates, `tile.map`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tesseracc.ir.types import ScalarType, TileType, Type, bits_of, element
from tesseracc.ir.value import Op, Value
from tesseracc.layout.build import coalesced
from tesseracc.layout.linear import LinearLayout
from tesseracc.passes.target.gpu_masks import mask_of, mask_tile, masked
from tesseracc.passes.target.gpu_spread import Free, Places, Spread, padded, registers

if TYPE_CHECKING:
    from tesseracc.passes.target.lower_gpu import Lowering


def tile_arith(low: Lowering, op: Op) -> Spread | Free:
    """An `arith` operation on tiles: register by register."""
    if op.name == "arith.constant":
        scalar = ScalarType(element(op.result.type))
        return constant_tile(low, op.result, low.b.op(op.name, types=scalar, **op.attrs))
    mask = mask_of(low, op) if element(op.result.type) == "bool" else None
    if mask is not None:
        low.masks[op.result] = mask
        return mask_tile(low, op, mask)
    if op.name == "arith.select" and op.operands[0] in low.masks and isinstance(low.env[op.operands[0]], Free):
        found = masked(low, op, low.masks[op.operands[0]])
        if found is not None:
            return found
    layout = low.layouts.of(op.result)
    operands = [low.tile(v, layout).as_elements(low.b) for v in op.operands]
    if _rounds_pairs(low, op) and registers(layout) > 1:
        (given,), to, type_ = operands, str(op.attrs["to"]), op.result.type
        assert isinstance(type_, TileType)
        pairs = zip(given[::2], given[1::2], strict=True)
        words = [low.b.op("target.round_pair", first, second, to=to) for first, second in pairs]
        return Spread(layout, type_.shape, type_.dtype, words=words)
    values = [low.b.op(op.name, *row, **op.attrs) for row in zip(*operands, strict=True)]
    type_ = op.result.type
    assert isinstance(type_, TileType)
    return Spread(layout, type_.shape, type_.dtype, elements=values)


def _rounds_pairs(low: Lowering, op: Op) -> bool:
    """Whether the target has an instruction that casts two elements at once."""
    narrow = op.name == "arith.cast" and op.attrs["to"] in ("f16", "bf16")
    return narrow and element(op["a"].type) == "f32" and low.arch.has("bf16_convert")


def constant_tile(low: Lowering, result: Value, value: Value) -> Free:
    """One value in every element."""
    type_ = result.type
    assert isinstance(type_, TileType)
    return Free(lambda layout: Spread(layout, type_.shape, type_.dtype, elements=[value] * registers(layout)))


def coordinate_tile(low: Lowering, op: Op) -> Free:
    """Every element's index along an axis."""
    type_, axis = op.result.type, op.attrs["axis"]
    assert isinstance(type_, TileType)

    def make(layout: LinearLayout) -> Spread:
        places = Places(low.b, low.thread(), layout)
        found = [places.at(axis, register) for register in range(registers(layout))]
        if type_.dtype != "i64":
            found = [low.b.op("arith.cast", value, to=type_.dtype) for value in found]
        return Spread(layout, type_.shape, type_.dtype, elements=found)

    return Free(make)


def lower_map(low: Lowering, op: Op) -> None:
    """Element by element; 0 outside of the extents, and nothing is accessed there."""
    shape = tuple(op.attrs["shape"])
    tiles = [*op.results, *op.group("tiles")]
    layout = low.layouts.of(tiles[0]) if tiles else coalesced(padded(shape), bits_of("f32"), low.warps, lanes=low.lanes)
    inputs = [low.tile(v, layout).as_elements(low.b) for v in op.group("tiles")]
    b = low.b
    places = Places(b, low.thread(), layout)
    extents = [b.op("arith.min", low.get(v), b.const(n)) for v, n in zip(op.group("extents"), shape, strict=True)]
    types: list[Type] = [ScalarType(element(r.type)) for r in op.results]
    found: list[list[Value]] = [[] for _ in op.results]
    first = None if op.results else places.first_copy()
    saved, low.in_map = low.in_map, True
    for register in range(registers(layout)):
        at = [places.at(axis, register) for axis in range(len(shape))]
        inside = first
        for coordinate, extent in zip(at, extents, strict=True):
            part = b.op("arith.cmp", coordinate, extent, pred="lt")
            inside = part if inside is None else b.op("arith.and", inside, part)

        def body(inner: Lowering, at: list[Value] = at, register: int = register) -> list[Value]:
            region = op.regions[0]
            inner.env.update(zip(region.args, [*at, *(pieces[register] for pieces in inputs)], strict=True))
            inner.ops(region)
            return [inner.get(v) for v in region.yields]

        assert inside is not None
        values = low.branch(inside, body, lambda inner: [inner.zero(element(r.type)) for r in op.results], types)
        for pieces, value in zip(found, values, strict=True):
            pieces.append(value)
    low.in_map = saved
    for result, pieces in zip(op.results, found, strict=True):
        type_ = result.type
        assert isinstance(type_, TileType)
        low.env[result] = Spread(layout, type_.shape, type_.dtype, elements=pieces)

"""Two products in one iteration, the second of what was made of the first: how a loop may overlap them.

    for j:  s = a b_j;  p, t = f(s, t);  o = g(o, t) + p c_j

The iteration is cut in two stages, so that the second stage of an iteration runs beside the first of the next one, and
the vector work of f under the product of the second stage:

    first(0);   for j from 1:  first(j), second(j - 1);   second(last)

Dependences decide. Every product of what another product gave belongs to the second stage; so does what depends on such
a product, and what uses a carried value that the second stage makes. What only serves the second stage, and makes an
operand for it (conversions, reads), goes with it: a product under way holds its operands. All else is the first stage.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass

from tesseracc.ir.rewrite import captured
from tesseracc.ir.types import TileType
from tesseracc.ir.value import Op, Region, Value

#: what makes an operand of another form, or spreads a smaller one, and goes where that is used
_ON_THE_WAY = frozenset({"tile.read", "tile.transpose", "tile.broadcast", "arith.cast"})


@dataclass(frozen=True)
class Stages:
    """The operations of a region in two stages; what neither a product nor a tile enters may be in both.

    `crossing`: what the first stage, or the region's arguments, hand to the second. `late`: the carried values, by
    number, that the second stage makes.
    """

    first: tuple[Op, ...]
    second: tuple[Op, ...]
    crossing: tuple[Value, ...]
    late: frozenset[int]


def stages(
    region: Region, carried: int, starts: Callable[[Op], bool], placed: Container[Value] = ()
) -> Stages | None:
    """The cut of a region whose last `carried` arguments are carried; `starts` tells products that run beside other
    work, `placed` holds blocks that nobody loads, which both stages may name. None where no product needs what another
    gave, or an order of effects would change."""
    ops = region.ops
    if any(op.defn.effect not in ("pure", "read") and not starts(op) for op in ops):
        return None
    args = region.args[len(region.args) - carried :]
    products = [op for op in ops if starts(op)]
    second = {op for op in products if _reached(ops, [p.result for p in products if p is not op]) & {op}}
    while True:
        made = {r for op in second for r in op.results}
        late = {i for i, value in enumerate(region.yields) if value in made}
        grown = second | _reached(ops, [*made, *(args[i] for i in late)])
        if grown == second:
            break
        second = grown
    if not second or not any(op not in second for op in products):
        return None
    again = _light(ops, set(args), placed)
    second |= _serving(region, second, again)
    first = [op for op in ops if op not in second or op in again]
    rest = [op for op in ops if op in second or op in again]
    first = _needed(first, [*_ends(region, late, keep=False), *_into(second - again, set(ops) - second - again)])
    rest = _needed(rest, [*_ends(region, late, keep=True), *(r for op in second - again for r in op.results)])
    own = {r for op in rest for r in op.results}
    known = {r for op in ops for r in op.results} | set(region.args)
    wanted = dict.fromkeys(v for op in rest for v in _used(op) if v in known and v not in own)
    for value in _ends(region, late, keep=True):
        if value in known and value not in own:
            wanted.setdefault(value)
    crossing = tuple(v for v in wanted if not (v in args and args.index(v) in late))
    return Stages(tuple(first), tuple(rest), crossing, frozenset(late))


def _used(op: Op) -> list[Value]:
    return [*op.operands, *(v for r in op.regions for v in captured(r))]


def _reached(ops: Iterable[Op], sources: Iterable[Value]) -> set[Op]:
    """What depends on values."""
    known, found = set(sources), set()
    for op in ops:
        if not known.isdisjoint(_used(op)):
            found.add(op)
            known.update(op.results)
    return found


def _light(ops: Iterable[Op], carried: set[Value], placed: Container[Value]) -> set[Op]:
    """What is cheap to have twice, from the index and the outside: numbers, tiles of one number, placed blocks."""
    heavy = set(carried)
    found = set()
    for op in ops:
        free = op.name in ("tile.full", "tile.zeros", "tile.coordinate", "arith.constant")
        tile = any(isinstance(v.type, TileType) for v in (*op.operands, *op.results))
        if op.results[0] in placed:
            found.add(op)
        elif op.regions or op.defn.effect != "pure" or (tile and not free) or not heavy.isdisjoint(op.operands):
            heavy.update(op.results)
        else:
            found.add(op)
    return found


def _serving(region: Region, second: set[Op], again: set[Op]) -> set[Op]:
    """Conversions and reads that only the second stage uses, all the way to where its operands begin."""
    found: set[Op] = set()
    users: dict[Value, set[Op]] = {}
    for op in region.ops:
        for value in _used(op):
            users.setdefault(value, set()).add(op)
    for op in reversed(region.ops):
        if op in second or op in again or op.name not in _ON_THE_WAY:
            continue
        after = {user for r in op.results for user in users.get(r, ())}
        if after and after <= second | found and not any(r in region.yields for r in op.results):
            found.add(op)
    return found


def _ends(region: Region, late: Iterable[int], *, keep: bool) -> list[Value]:
    chosen = set(late)
    return [value for i, value in enumerate(region.yields) if (i in chosen) == keep]


def _into(second: Iterable[Op], first: set[Op]) -> list[Value]:
    """What the second stage uses of the first."""
    made = {r for op in first for r in op.results}
    return [v for op in second for v in _used(op) if v in made]


def _needed(ops: list[Op], wanted: Iterable[Value]) -> list[Op]:
    """Those of the operations that lead to the wanted values."""
    live = set(wanted)
    kept = []
    for op in reversed(ops):
        if not live.isdisjoint(op.results):
            kept.append(op)
            live.update(_used(op))
    return kept[::-1]

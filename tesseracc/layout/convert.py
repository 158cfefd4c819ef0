"""Moving a tile from one register layout to another with as little as possible.

The element that belongs to place y of the target lies at place X(y) of the source, where source(X(y)) = target(y). X is
linear; of its possible columns those are taken that stay in the same thread, else in the same warp:

    none       X is the identity
    registers  X changes registers only: a permutation or copy inside of each thread
    shuffle    X changes lanes, or which register it is depends on the lane: rounds of shfl.sync
    turn       8x8 matrices of 16-bit elements are transposed: movmatrix, where the target has it
    shared     X changes warps, or shuffles would cost more: through shared memory
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from tesseracc.layout.build import unique_registers
from tesseracc.layout.exchange import Side, least_slots, room
from tesseracc.layout.gf2 import Span, combine
from tesseracc.layout.linear import LinearLayout
from tesseracc.layout.matrix_turn import Turns, plan_turns
from tesseracc.layout.shuffle import Shuffles, plan_shuffles

__all__ = ["Conversion", "Means", "Staging", "convert", "least_cost", "locate"]

Kind = Literal["none", "registers", "shuffle", "turn", "shared"]


@dataclass(frozen=True, slots=True)
class Means:
    """What a target has for conversions, and the cost of a block barrier in issue slots."""

    movmatrix: bool = False
    stmatrix: bool = False
    ldmatrix: bool = False
    barrier: int = 30


@dataclass(frozen=True, slots=True)
class Staging:
    """A way through shared memory: `store` all, a barrier of the block, `load` all."""

    memory: LinearLayout
    store: Side
    load: Side
    cost: int  # issue slots of a warp, the barrier's included


@dataclass(frozen=True, slots=True)
class Conversion:
    """How to convert. `copies[r]` is the register of the (intermediate) result from which target register r is taken.

    none, registers: the intermediate result is the source. shuffle, turn, shared: it is the target without registers
    that hold the same as a lower one. `sources` likewise lists the source's registers that take part.
    """

    kind: Kind
    copies: tuple[int, ...]
    sources: tuple[int, ...]
    shuffles: Shuffles | None = None
    staging: Staging | None = None
    turns: Turns | None = None

    @property
    def cost(self) -> int:
        """Issue slots of a warp, for choosing among layouts: renumbered registers cost nothing."""
        return sum(plan.cost for plan in (self.shuffles, self.staging, self.turns) if plan is not None)


def locate(source: LinearLayout, target: LinearLayout) -> LinearLayout:
    """X with source(X(y)) = target(y), local where it can be. ValueError where the source lacks an element."""
    order = [name for name, _ in source.outs]
    target = target.transpose_outs(order)
    size = dict(source.ins)
    shift = {name: source.in_shift(name) for name, _ in source.ins}
    near = Span(source.bases("register"))
    low = size.get("register", 0)
    assert shift.get("register", 0) == 0, "the register comes first"
    names = [name for name, _ in source.ins]
    warp = Span(source.columns[: low + size.get("lane", 0)]) if names[:2] == ["register", "lane"] else near
    whole = Span(source.columns)
    columns = []
    for name, _ in target.ins:
        for bit, column in enumerate(target.bases(name)):
            same = 1 << shift[name] + bit if bit < size.get(name, 0) else 0
            home = source.flat(same)
            if column == home:
                columns.append(same)
                continue
            kept = 0 if name == "register" else same
            found = near.solve(column ^ source.flat(kept))
            if found is None:
                kept = kept if name not in ("register", "lane") else 0
                found = warp.solve(column ^ source.flat(kept))
            if found is None:
                kept, found = 0, whole.solve(column)
            if found is None:
                raise ValueError(f"the source does not hold coordinate {source.coordinate(column)}")
            columns.append(found ^ kept)
    return LinearLayout(target.ins, source.ins[::-1], columns)


def _scope(where: LinearLayout) -> Kind:
    """The farthest that X goes."""
    identity = True
    lanes = warps = False
    for name, _ in where.ins:
        for bit, column in enumerate(where.bases(name)):
            moved = dict(zip((n for n, _ in where.outs), where.coordinate(column)))
            moved[name] = moved.get(name, 0) ^ 1 << bit
            far = {place for place, distance in moved.items() if distance}
            if far - {"register", "lane", "warp"} or (name == "block" and far):
                raise ValueError("elements lie in other blocks, which share no memory that a conversion could use")
            warps |= "warp" in far
            lanes |= "lane" in far or (name != "register" and bool(far))  # or which register depends on the lane
            identity &= not far
    return "none" if identity else "shared" if warps else "shuffle" if lanes else "registers"


def least_cost(source: LinearLayout, target: LinearLayout, bits: int, means: Means = Means()) -> int:
    """What a conversion costs at least, found without planning it."""
    if _scope(locate(source, target)) != "shared":
        return 0
    return least_slots(source, bits) + least_slots(target, bits) + means.barrier


@lru_cache(maxsize=1024)
def convert(source: LinearLayout, target: LinearLayout, bits: int, means: Means = Means()) -> Conversion:
    """The conversion of a tile with elements of `bits` bits. Of shuffles and shared memory the cheaper one is taken."""
    where = locate(source, target)
    kind = _scope(where)
    registers = where.sublayout(["register"], ["register"]).columns
    copies = tuple(combine(registers, r) for r in range(target.in_size("register")))
    everything = tuple(range(source.in_size("register")))
    if kind in ("none", "registers"):
        same = target.in_size("register") == source.in_size("register")
        return Conversion(kind if same else "registers", copies, everything)
    lean_source, sources = unique_registers(source)
    lean_target, _ = unique_registers(target)
    back = locate(lean_target.sublayout(["register"]), target.sublayout(["register"]))
    copies = tuple(back.flat(r) for r in range(target.in_size("register")))
    memory, store, load = room(lean_source, lean_target, bits, means.stmatrix, means.ldmatrix)
    through = Staging(memory, store, load, store.slots + load.slots + means.barrier)
    if kind == "shuffle":
        shuffles = plan_shuffles(lean_source, lean_target, locate(lean_source, lean_target), bits)
        turns = plan_turns(lean_source, lean_target, bits) if means.movmatrix else None
        if turns is not None and turns.cost <= min(shuffles.cost, through.cost):
            return Conversion("turn", copies, sources, turns=turns)
        if shuffles.cost <= through.cost:
            return Conversion("shuffle", copies, sources, shuffles=shuffles)
    return Conversion("shared", copies, sources, staging=through)

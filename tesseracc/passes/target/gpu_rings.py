"""Rings of shared memory between roles: their mbarriers, and the way from slot to slot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tesseracc.analysis.overlap import Stages
from tesseracc.ir.value import Op, Value

if TYPE_CHECKING:
    from tesseracc.ir.builder import Builder
    from tesseracc.passes.target.lower_gpu import Lowering

FIRST, SECOND = 0, 1  # stages of an iteration


@dataclass(frozen=True, eq=False)
class Part:
    """Rings of a pipeline that are waited for and handed back together: at the start of the stage `begins`, behind what
    reads them in the stage `ends`. `full` and `empty` are the first mbarriers of each kind, 8 bytes apart; `blocks`
    share the copies: each waits until all have read a slot."""

    rings: tuple[Value, ...]
    begins: int
    ends: int
    full: Value
    empty: Value
    blocks: int = 1


def ring_parts(op: Op, cut: Stages | None) -> dict[tuple[int, int], list[Value]]:
    """The rings of a pipeline by the first and the last stage that reads them."""
    sides = (op.regions[1].ops,) if cut is None else (cut.first, cut.second)
    found: dict[tuple[int, int], list[Value]] = {}
    for ring in op.group("rings"):
        reading = [stage for stage, ops in enumerate(sides) if any(ring in o.operands for o in ops)] or [FIRST]
        found.setdefault((reading[0], reading[-1]), []).append(ring)
    return found


def mbarrier(low: Lowering, first: Value, slot: Value) -> Value:
    return low.b.op("target.offset", first, slot, dtype="i64")


def wide(b: Builder, number: Value) -> Value:
    """A number that is not negative as i64."""
    return b.op("arith.cast", b.op("arith.bitcast", number, to="u32"), to="i64")


def advance(b: Builder, slot: Value, phase: Value, stages: int) -> list[Value]:
    """The next slot, and its phase."""
    one = b.const(1, "i32")
    last = b.op("arith.cmp", slot, b.const(stages - 1, "i32"), pred="eq")
    following = b.op("arith.select", last, b.const(0, "i32"), b.op("arith.add", slot, one))
    return [following, b.op("arith.select", last, b.op("arith.xor", phase, one), phase)]


def arrive_warps(low: Lowering, barrier: Value, blocks: int = 1, when: Value | None = None) -> None:
    """Every warp of the consumers arrives when all its lanes have read: at the barriers of so many blocks."""
    low.b.emit("target.warp_barrier")
    arrive_once(low, barrier, blocks, when)


def speakers(low: Lowering, blocks: int) -> tuple[Value, Value]:
    """The lane, and whether it speaks for its warp to one of so many blocks: the same all along, so a loop around
    arrivals asks for it before."""
    lane = low.b.op("target.sreg", name="laneid")
    return lane, low.b.op("arith.cmp", lane, low.b.const(blocks, "i32"), pred="lt")


def arrive_once(low: Lowering, barrier: Value, blocks: int = 1, when: Value | None = None) -> None:
    """One lane of every warp arrives, for each block; `when`: only if that holds."""
    b = low.b
    lane, speaks = speakers(low, blocks)
    if when is not None:
        speaks = b.op("arith.and", speaks, when)

    def arrive(inner: Lowering) -> list[Value]:
        inner.b.emit("target.mbarrier_arrive", barrier, lane if blocks > 1 else None)
        return []

    low.branch(speaks, arrive, lambda _: [], [])

"""movmatrix: 8x8 matrices of 16-bit elements transposed among the lanes of a warp.

Lane t holds elements 2 (t mod 4) and 2 (t mod 4) + 1 of row t / 4 before and after. So a pair bit u0 of the register
and lane bits 0, 1 (u1, u2) number the columns, lane bits 2, 3, 4 (v0, v1, v2) the rows, and the conversion fits when
the target has v0 in a bit of the register, v1 and v2 in lane bits 0 and 1, and u0, u1, u2 in lane bits 2, 3 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass

from tesseracc.layout.gf2 import Span, combine
from tesseracc.layout.linear import LinearLayout

__all__ = ["Turns", "plan_turns"]

SLOTS = 4  # issue slots of one movmatrix, for comparisons with shuffles


@dataclass(frozen=True, slots=True)
class Turns:
    """One movmatrix for each pair of words: source registers (low, high half) to target registers."""

    words: tuple[tuple[tuple[int, int], tuple[int, int]], ...]

    @property
    def cost(self) -> int:
        """Issue slots of a warp."""
        return SLOTS * len(self.words)


def plan_turns(source: LinearLayout, target: LinearLayout, bits: int) -> Turns | None:
    """The transposes that make `target` of `source`; None where the conversion is none. Both hold nothing twice."""
    if bits != 16 or source.ins != target.ins or source.in_size("lane") != 32:
        return None
    if any(source.bases(n) != target.bases(n) for n, _ in source.ins if n not in ("register", "lane")):
        return None
    a, b = source.bases("register"), target.bases("register")
    la, lb = source.bases("lane"), target.bases("lane")
    in_source, in_target = Span(a), Span(b)
    u0, v0 = lb[2], la[2]
    pair, turned = in_source.solve(u0), in_target.solve(v0)
    if pair is None or turned is None or la[:2] != lb[3:] or la[3:] != lb[:2]:
        return None
    steps = []
    fresh = Span([u0])
    for bit, vector in enumerate(a):
        if fresh.add(vector):
            there = in_target.solve(vector)
            if there is None:
                return None
            steps.append((1 << bit, there))
    words = []
    for index in range(1 << len(steps)):
        here, there = (combine([step[side] for step in steps], index) for side in range(2))
        words.append(((here, here ^ pair), (there, there ^ turned)))
    return Turns(tuple(words))

"""Addresses of linear layouts in few instructions.

A linear map of a number x is a sum over the diagonals of its matrix: the bits of x that move by the same distance d
move together,

    L(x) = xor over d of  shift(x & mask_d, d)

A register r adds the constant L(r) by xor. Bits of it that no thread touches may as well be added, as an immediate
offset of the instruction, so few different bases remain:

    address = (L(thread) xor base_r) + immediate_r
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tesseracc.layout.gf2 import combine
from tesseracc.layout.linear import LinearLayout

__all__ = ["Addressing", "addressing", "diagonals"]


def diagonals(columns: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """(mask, shift) of each diagonal of a map whose bit i goes to columns[i]; shifts to the left are positive."""
    masks: dict[int, int] = {}
    for bit, column in enumerate(columns):
        for place in range(column.bit_length()):
            if column >> place & 1:
                masks[place - bit] = masks.get(place - bit, 0) | 1 << bit
    return tuple((mask, shift) for shift, mask in sorted(masks.items()))


@dataclass(frozen=True, slots=True)
class Addressing:
    """Byte offsets of a thread's registers. The thread's number is lane | warp * lanes.

    `terms`: the thread's part, as diagonals. `registers[r]` is (base, immediate).
    """

    terms: tuple[tuple[int, int], ...]
    registers: tuple[tuple[int, int], ...]

    @property
    def bases(self) -> tuple[int, ...]:
        """The different constants that are xored to the thread's part, in order of first use."""
        return tuple(dict.fromkeys(base for base, _ in self.registers))

    def at(self, thread: int, register: int) -> int:
        """The byte offset: what the instructions compute."""
        offset = 0
        for mask, shift in self.terms:
            offset ^= (thread & mask) << shift if shift >= 0 else (thread & mask) >> -shift
        base, immediate = self.registers[register]
        return (offset ^ base) + immediate


def addressing(places: LinearLayout, bits: int, register: str = "register") -> Addressing:
    """How threads compute the offsets of `places` (lane, warp and `register` to one output) in memory of `bits` bits.

    `register` names the input that is known when code is generated: the register, or the step of a `MatrixMove`.
    """
    thread = [_bytes(c, bits) for name in ("lane", "warp") for c in places.bases(name)]
    touched = 0
    for column in thread:
        touched |= column
    own = [_bytes(column, bits) for column in places.bases(register)]
    constants = [combine(own, r) for r in range(1 << len(own))]
    return Addressing(diagonals(thread), tuple((c & touched, c & ~touched) for c in constants))


def _bytes(offset: int, bits: int) -> int:
    return offset * bits // 8

"""The metadata operands of sparse products, read from the registers of whole warps."""

from __future__ import annotations

import numpy as np

from tesseracc.emulator import sparsity
from tesseracc.emulator.decode import Decoder
from tesseracc.emulator.findings import BAD_STATE
from tesseracc.emulator.ptx import Imm, Operand
from tesseracc.emulator.types import Array
from tesseracc.emulator.wave import Wave

__all__ = ["Metadata"]


class Metadata:
    """Which columns the stored half of A belongs to, sixteen rows of k columns a warp.

    `kind`, `bits`: type of A's elements and the size of what holds them; `ordered`: indices must ascend.
    """

    def __init__(
        self, d: Decoder, kind: str, bits: int, k: int, register: Operand, selector: Operand, ordered: bool
    ) -> None:
        if not isinstance(selector, Imm) or not isinstance(selector.value, int):
            raise ValueError("the sparsity selector must be an integer constant")
        self._grain = sparsity.granularity(kind, bits)
        self._lane, bit = sparsity.metadata_places(k // self._grain.chunk, bits, selector.value)
        self._bit = bit.astype(np.uint32)
        self._legal = self._grain.legal(ordered)
        self._fetch = d.source(register, "b32")

    def columns(self, w: Wave) -> Array:
        """[warps, 16, k / 2]; entries without meaning are reported."""
        held = np.ascontiguousarray(w.spread(self._fetch(w))).view(np.uint32).reshape(-1, 32)
        entries = held[:, self._lane] >> self._bit & np.uint32(15)
        wrong = ~self._legal[entries]
        if wrong.any():
            _, row, number = (int(place[0]) for place in np.nonzero(wrong))
            first, last = number * self._grain.chunk, (number + 1) * self._grain.chunk - 1
            words = f"sparsity metadata 0b{int(entries[wrong][0]):04b} of row {row}, columns {first} to {last}"
            w.log.add(BAD_STATE, f"{words}, has no meaning", w.code[w.pc], count=int(wrong.sum()))
        return self._grain.places(entries)

"""Scales of blocks along k: which forms exist, and where a warp's registers hold them (PTX ISA, Block Scaling)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tesseracc.emulator import numeric as nm
from tesseracc.emulator.types import Array

__all__ = ["Scaling", "scale_vectors", "scaling_of", "wrong_selector"]

#: by kind: type of the scales and their number along k; the first is the default
_FORMS: dict[str, tuple[tuple[str, int], ...]] = {
    "mxf8f6f4": (("ue8m0", 1),),
    "mxf4": (("ue8m0", 2),),
    "mxf4nvf4": (("ue8m0", 2), ("ue4m3", 4)),
}


@dataclass(frozen=True, slots=True)
class Scaling:
    """`count` scales of type `kind` for each row of A and column of B."""

    kind: str
    count: int


def scaling_of(kind: str, words: tuple[str, ...]) -> Scaling:
    """From the modifiers of an instruction of `kind`; ValueError for a combination that the table does not have."""
    types = [word for word in words if word in ("ue8m0", "ue4m3")]
    sizes = [int(word[-2]) for word in words if word.startswith("scale_vec::")]
    if kind not in _FORMS or "block_scale" not in words or len(types) != 1:
        raise ValueError(f".kind::{kind} and .block_scale do not go together so")
    if not sizes and kind == "mxf4nvf4":
        raise ValueError(".kind::mxf4nvf4 needs a .scale_vec")
    form = (types[0], sizes[0] if sizes else _FORMS[kind][0][1])
    if form not in _FORMS[kind]:
        raise ValueError(f".scale_vec::{form[1]}X of .{form[0]} with .kind::{kind}")
    return Scaling(*form)


def scale_vectors(words: Array, byte: Array, thread: Array, rows: int, s: Scaling) -> Array:
    """The scales [warps, rows, count] as f64, from the registers `words` [warps, 32] and the selectors [warps].

    Of A (16 rows) a pair of every four threads holds the scales, row g in the even one, row g + 8 in the odd one; of B
    (8 columns) the one thread of four that the selector names. Scale j of a row is byte `byte` + j of the register.
    """
    row = np.arange(rows)
    lane = row % 8 * 4 + (thread[:, None] * 2 + row // 8 if rows == 16 else thread[:, None])
    held = np.take_along_axis(words, lane, 1)
    shift = (byte[:, None, None] + np.arange(s.count)) * 8
    return nm.decode((held[..., None] >> shift.astype(np.uint32) & np.uint32(255)).astype(np.uint8), s.kind)


def wrong_selector(byte: Array, thread: Array, rows: int, s: Scaling) -> bool:
    """Whether a selector has a value that PTX ISA, Valid values for various selector components, does not list."""
    threads = 2 if rows == 16 else 4
    return bool(((byte % s.count != 0) | (byte + s.count > 4) | (thread >= threads)).any())

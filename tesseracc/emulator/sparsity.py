"""Structured sparsity of A: which columns the stored half of a row belongs to (PTX ISA, Sparse matrix storage).

A row is divided into chunks, and a chunk has a 4-bit entry of metadata: two 2-bit indices, that of the first stored
element in the lower bits. An index counts elements (2:4), pairs of elements where they have 4 bits (pair-wise 4:8), or
halves of an element of tf32 (1:2), where only the entries that name one whole element mean something.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tesseracc.emulator.types import Array

__all__ = ["Granularity", "dot", "granularity", "metadata_places"]

_LOW, _HIGH = np.arange(16) & 3, np.arange(16) >> 2


@dataclass(frozen=True)
class Granularity:
    """`chunk` columns for an entry, of which half are stored. `halves`: an index counts in halves of a column."""

    chunk: int

    @property
    def halves(self) -> bool:
        return self.chunk == 2

    @cached_property
    def columns(self) -> Array:
        """[16 entries, stored elements of a chunk]: the column within the chunk."""
        if self.halves:
            return (_LOW >> 1)[:, None]
        pair = self.chunk // 4
        first = np.stack([_LOW, _HIGH], axis=1) * pair
        return (first[:, :, None] + np.arange(pair)).reshape(16, -1)

    def legal(self, ordered: bool) -> Array:
        """[16 entries]: whether the entry has a meaning, for mma.sp or mma.sp::ordered_metadata."""
        if self.halves:
            return (_LOW + 1 == _HIGH) & (_LOW % 2 == 0)
        return _LOW < _HIGH if ordered else _LOW != _HIGH

    def places(self, entries: Array) -> Array:
        """Entries [..., rows, chunks] to the column of every stored element [..., rows, k / 2]."""
        base = np.arange(entries.shape[-1])[:, None] * self.chunk
        return (self.columns[entries] + base).reshape(*entries.shape[:-1], -1)


def granularity(kind: str, bits: int) -> Granularity:
    """That of an element type stored in `bits` bits."""
    return Granularity(2 if kind == "tf32" else 8 if bits == 4 else 4)


def metadata_places(chunks: int, bits: int, selector: int) -> tuple[Array, Array]:
    """(lane, lowest bit) of the entries [16 rows, chunks] of a warp; ValueError for a selector that names no threads.

    PTX ISA, Matrix fragments for sparse mma, the figures of metadata: with elements of 16 and 32 bits a thread holds
    four entries of row g in its lower half and of row g + 8 in its upper; one thread of four, or a pair of them, the
    second for the upper half of the columns. With 8 and 4 bits a thread holds eight entries of one row: the even one
    of a pair row g, the odd one row g + 8; the second pair holds the upper half of the columns.
    """
    row, chunk = np.arange(16)[:, None], np.arange(chunks)[None, :]
    group, upper = row % 8, row // 8
    if bits >= 16:
        threads, thread, bit = chunks // 4, chunk // 4, upper * 16 + chunk % 4 * 4
    else:
        threads, thread, bit = chunks // 4, chunk // 8 * 2 + upper, chunk % 8 * 4
    if not 0 <= selector < 4 // threads:
        raise ValueError(f"sparsity selector {selector}, where 0 to {4 // threads - 1} are allowed")
    lane = group * 4 + selector * threads + thread
    return np.broadcast_to(lane, (16, chunks)), np.broadcast_to(bit, (16, chunks))


def dot(stored: Array, places: Array, b: Array) -> Array:
    """Stored A [..., m, k / 2], the column of each of its elements, times b [..., k, n], in f64.

    The product takes only those elements of b that an index names: what others hold, NaN too, has no effect.
    """
    if np.isfinite(b).all():
        dense = np.zeros((*stored.shape[:-1], b.shape[-2]))
        np.put_along_axis(dense, places, stored, -1)
        return dense @ b
    named = np.take_along_axis(b[..., None, :, :], places[..., None], -2)  # [..., m, k / 2, n]
    return (stored[..., None, :] @ named)[..., 0, :]

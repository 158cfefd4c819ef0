"""Atomic updates in a kernel's typed tree.

They change integers, and give no old value: so the result does not depend on the order of agents. Updates of one `op`
(add, min, max, and, or, xor) on one element do not race with each other; with all else they do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tessera.errors import Span

if TYPE_CHECKING:
    from tessera.kernel.tile_tree import Window
    from tessera.kernel.tree import Buffer, Expr

__all__ = ["Atomic", "AtomicTile"]


@dataclass(frozen=True)
class Atomic:
    """`buffer[indices] = op(buffer[indices], value)`, with nothing in between. `varying` as in `Store`."""

    op: str
    buffer: Buffer
    indices: tuple[Expr, ...]
    value: Expr
    varying: bool
    span: Span


@dataclass(frozen=True)
class AtomicTile:
    """The same for every element of a window; what lies outside of the buffer, or behind a count, is left alone."""

    op: str
    window: Window
    value: Expr
    counts: tuple[Expr | None, ...]
    span: Span

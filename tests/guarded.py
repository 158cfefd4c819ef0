"""Arrays whose memory ends at a page without access, or begins behind one: an access outside of them is a fault."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]
Side = Literal["below", "above"]
PAGE = mmap.PAGESIZE
PROT_NONE = 0

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def guarded(arrays: Sequence[Array], side: Side) -> list[Array]:
    """Contiguous copies of `arrays` next to a page without access, `below` or `above` them."""
    return [_copy(x, side) for x in arrays]


def _copy(x: Array, side: Side) -> Array:
    pages = -(-x.nbytes // PAGE)
    block = np.frombuffer(mmap.mmap(-1, (pages + 2) * PAGE), np.uint8)
    for at in (0, (pages + 1) * PAGE):
        if _libc.mprotect(block.ctypes.data + at, PAGE, PROT_NONE):
            raise OSError(ctypes.get_errno(), "mprotect")
    start = PAGE if side == "below" else (pages + 1) * PAGE - x.nbytes
    copy = block[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    copy[...] = x
    return copy

"""What matrix instructions of CPUs compute, bit for bit (Intel SDM volume 2: VDPBF16PS, TDPBF16PS, TDPBSSD)."""

from __future__ import annotations

from typing import Any

import numpy as np

from tesseracc.interpret import scalar

Array = np.ndarray[Any, Any]
ROWS, ROW_BYTES = 16, 64
_WIDTH = {"i8": np.int8, "u8": np.uint8}


def flush(x: Array) -> Array:
    """f32 with subnormals as zeros of their sign: what these instructions make of operands and results."""
    tiny = np.abs(x) < np.finfo(np.float32).tiny
    return np.asarray(np.where(tiny, np.copysign(np.float32(0), x), x), np.float32)


def _step(a: Array, b: Array, acc: Array) -> Array:
    return flush(scalar.fma(a, b, acc, "f32"))


def pairs(words: Array) -> Array:
    """The two bf16 of every word as f32 on a new last axis, low half first, subnormals as zeros."""
    raw = np.ascontiguousarray(words).view(np.uint32)
    return flush(np.stack([raw << 16, raw & 0xFFFF0000], axis=-1).astype(np.uint32).view(np.float32))


def dot_pairs(a: Array, b: Array, acc: Array) -> Array:
    """`target.dot_pairs`: two steps, the high halves first."""
    left, right = pairs(a), pairs(b)
    found = flush(acc)
    for half in (1, 0):
        found = _step(left[..., half], right[..., half], found)
    return found


def amx_dot(acc: Array, a: Array, b: Array, dtypes: tuple[str, str]) -> Array:
    """`target.amx_dot` on registers, bytes of the shape (ROWS, ROW_BYTES)."""
    if dtypes == ("bf16", "bf16"):
        left, right = (pairs(x.view(np.uint32)) for x in (a, b))
        found = np.zeros((ROWS, ROW_BYTES // 4, 2), np.float32)
        for group in range(ROWS):
            found = _step(left[:, group, None, :], right[None, group, :, :], found)
        with np.errstate(all="ignore"):
            total = flush(found[..., 0] + found[..., 1])
            return flush(flush(acc.view(np.float32)) + total).view(np.uint8)
    left, right = (
        x.view(_WIDTH[dtype]).astype(np.int32).reshape(ROWS, -1, 4) for x, dtype in zip((a, b), dtypes, strict=True)
    )
    return np.asarray(acc.view(np.int32) + np.einsum("mgi,gni->mn", left, right), np.int32).view(np.uint8)

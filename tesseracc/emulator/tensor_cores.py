"""Fragments of matrix instructions and the arithmetic of tensor cores.

The numeric model: every product is exact, the products of one instruction are summed in f64 together with the
accumulator, and the sum is rounded once to the accumulator's type. Hardware keeps fewer bits below the largest term
(and truncates them); the difference is below one unit in the last place of the largest term for f32 accumulators.
"""

from __future__ import annotations

import numpy as np

from tesseracc.emulator import numeric as nm
from tesseracc.emulator.types import Array

__all__ = ["BITS", "PADDED", "a_places", "b_places", "c_places", "element_values", "integer_matmul", "matmul",
           "quad_places", "round_integers", "round_sums", "unpack_registers"]  # fmt: skip

#: e2m1 in the middle of a byte, as .kind::f8f6f4 and .kind::mxf8f6f4 take it from registers
PADDED = "padded e2m1"
#: bits of the container that holds an element; e3m2 and e2m3 lie in the lower six of a byte
BITS = {"f64": 64, "f32": 32, "tf32": 32, "s32": 32, "f16": 16, "bf16": 16, "s8": 8, "u8": 8, "e4m3": 8, "e5m2": 8,
        "e3m2": 8, "e2m3": 8, PADDED: 8, "e2m1": 4, "s4": 4, "u4": 4, "b1": 1}  # fmt: skip

_LANE = np.arange(32)
_GROUP, _THREAD = _LANE >> 2, _LANE & 3


def a_places(rows: int, columns: int, bits: int) -> tuple[Array, Array]:
    """(row, column) of A's elements as [32 lanes, registers, elements per register] for mma.sync and wgmma.

    PTX ISA, Matrix fragments for mma: register r holds row group + 8 * (r & 1); pairs of registers step through
    columns in blocks of four threads. With 8 rows there is one register per block.
    """
    per = max(1, 32 // bits)
    blocks = columns // (4 * per)
    tall = rows // 8
    r = np.arange(blocks * tall)
    row = _GROUP[:, None, None] + 8 * (r % tall)[None, :, None] + np.zeros(per, np.int64)
    column = (r // tall)[None, :, None] * 4 * per + _THREAD[:, None, None] * per + np.arange(per)
    return row, column


def b_places(k: int, columns: int, bits: int) -> tuple[Array, Array]:
    """(k, column) of B's elements: the column is the lane's group."""
    column, row = a_places(8, k, bits)
    return row, np.broadcast_to(column, row.shape)


def c_places(rows: int, columns: int) -> tuple[Array, Array]:
    """(row, column) of C and D as [32 lanes, elements]: pairs of columns, then rows 8 apart, then 8 columns."""
    e = np.arange(rows // 8 * 2 * (columns // 8))
    tall = rows // 8
    row = _GROUP[:, None] + 8 * (e >> 1) % (8 * tall)
    column = (e // (2 * tall)) * 8 + _THREAD[:, None] * 2 + (e & 1)
    return row, column


def quad_places(operand: str, bits: int, row_major: bool) -> tuple[Array, Array, Array]:
    """(quad pair, row, column) of the elements of m8n8k4 (f16) as [32 lanes, elements]; C and D when `operand` is c.

    PTX ISA, Matrix Fragments for mma.m8n8k4 with .f16: lanes l with equal l / 4 mod 4 are a quad pair, and each
    quad pair multiplies matrices of its own.
    """
    e = np.arange(8 if operand == "c" else 4)[None, :]
    half, thread = (_LANE >> 4)[:, None] * 4, (_LANE & 3)[:, None]
    if operand == "c" and bits == 32:
        row, column = half + (thread & 1) + (e & 2), (e & 4) + (thread & 2) + (e & 1)
    elif operand == "c":
        row, column = half + thread + 0 * e, e + 0 * half
    elif operand == "a":
        row, column = (half + thread + 0 * e, e + 0 * half) if row_major else (half + e, thread + 0 * e)
    else:
        row, column = (thread + 0 * e, half + e) if row_major else (e + 0 * half, half + thread + 0 * e)
    return np.broadcast_to((_LANE >> 2 & 3)[:, None], row.shape), row, column


def unpack_registers(registers: Array, bits: int) -> Array:
    """[..., registers] of 32 bits to [..., registers, elements] patterns, lowest element first."""
    if bits >= 32:
        return registers[..., None]
    per = 32 // bits
    if bits >= 8:
        raw = np.ascontiguousarray(registers).view(np.uint16 if bits == 16 else np.uint8)
        return raw.reshape(*registers.shape, per)
    shifts = np.arange(per, dtype=np.uint32) * np.uint32(bits)
    out = registers[..., None] >> shifts & np.uint32((1 << bits) - 1)
    return out.astype(np.uint8)


def element_values(patterns: Array, kind: str) -> Array:
    """Element patterns as f64."""
    if kind in ("s8", "u8"):
        return patterns.astype(np.uint8).view(np.int8 if kind == "s8" else np.uint8).astype(np.float64)
    if kind in ("s4", "u4"):
        x = patterns.astype(np.float64)
        return np.where(x >= 8, x - 16, x) if kind == "s4" else x
    if kind == "b1":
        return patterns.astype(np.float64)
    if kind == PADDED:
        return nm.decode(patterns >> 2 & 15, "e2m1")
    if kind == "tf32":  # the low 13 bits are not used
        return nm.decode(np.ascontiguousarray(patterns & np.uint32(0xFFFFE000)), "f32")
    return nm.decode(np.ascontiguousarray(patterns), kind)


def matmul(a: Array, b: Array, c: Array, kind: str) -> Array:
    """a @ b + c of f64 values [..., m, k] [..., k, n] [..., m, n], rounded to `kind`; the result's bit patterns."""
    return round_sums(a @ b + c, kind)


def round_sums(total: Array, kind: str) -> Array:
    """Sums in f64 rounded to `kind`: bit patterns."""
    if kind == "f32":
        return nm.canonical(total.astype(np.float32)).view(np.uint32)
    if kind == "f64":
        return np.ascontiguousarray(total).view(np.uint64)
    return nm.narrow(total, kind)


def integer_matmul(a: Array, b: Array, c: Array, saturate: bool) -> Array:
    """a @ b + c of integers (exact in f64), wrapping or clamped to s32."""
    return round_integers(a @ b, c, saturate)


def round_integers(products: Array, c: Array, saturate: bool) -> Array:
    """products + c of integers, wrapping or clamped to s32: bit patterns."""
    total = products.astype(np.int64) + c.astype(np.int64)
    if saturate:
        total = np.clip(total, -(2**31), 2**31 - 1)
    return total.astype(np.int32).view(np.uint32)

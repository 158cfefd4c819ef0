"""Tensor maps: what a TMA descriptor says, its 128 bytes, and the boxes that it addresses.

The layout of a real CUtensorMap is opaque, so a launch on the emulator encodes its own, from the same fields that
cuTensorMapEncodeTiled takes: type, rank, address, dims and strides (innermost first), box, element strides, swizzle,
fill. Runtime code that encodes real maps for a GPU encodes these for the emulator.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from tesseracc.emulator import numeric as nm
from tesseracc.emulator.memory import GlobalMemory
from tesseracc.emulator.types import TYPES, Array

__all__ = ["CHUNK", "TensorMap", "reduce_bytes"]

CHUNK = np.complex128  # 16 bytes, which NumPy moves as one

_MAGIC = b"TsMap\x001\x00"
_TYPES = ("u8", "u16", "u32", "s32", "u64", "s64", "f16", "f32", "f64", "bf16", "tf32", "b4x16", "b4x16_p64",
          "b6x16_p32")  # fmt: skip
#: types narrower than a byte: elements that move together, their bytes in global and in shared memory
_GROUPS = {"b4x16": (2, 1, 1), "b4x16_p64": (16, 8, 16), "b6x16_p32": (16, 12, 16)}
_PADDED_BOX = 128  # elements along the first axis, and what its extent and coordinates are multiples of (with padding)
_SWIZZLES = (0, 32, 64, 128)


def _five(values: Sequence[int]) -> list[int]:
    """One field per axis of the largest rank, zeros behind the axes that there are."""
    return [*values, *([0] * (5 - len(values)))]


@dataclass(frozen=True, slots=True)
class TensorMap:
    """`dims`, `box`, `element_strides` per axis, innermost first; `strides` in bytes of the axes after the first.

    `swizzle` is 0, 32, 64 or 128; `fill_nan` fills outside elements of float types with NaN instead of zeros.
    """

    dtype: str
    address: int
    dims: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    element_strides: tuple[int, ...] = ()
    swizzle: int = 0
    fill_nan: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "element_strides", self.element_strides or (1,) * len(self.dims))
        rank = len(self.dims)
        if (
            not 1 <= rank <= 5
            or not len(self.strides) == rank - 1
            or not len(self.box) == len(self.element_strides) == rank
        ):
            raise ValueError("rank must be 1 to 5, with rank - 1 strides and rank box sizes")
        if self.dtype not in _TYPES:
            raise ValueError(f"element type {self.dtype}")
        if self.swizzle not in _SWIZZLES:
            raise ValueError(f"swizzle {self.swizzle}")
        padded = self.held != self.item
        unit = 32 if padded else 16
        if self.address % unit or any(s % unit for s in self.strides):
            raise ValueError(f"address and strides must be multiples of {unit} bytes")
        if padded and (self.dims[0] % _PADDED_BOX or self.box[0] != _PADDED_BOX):
            raise ValueError(f"{self.dtype} needs a first extent of multiples of {_PADDED_BOX} and such a box")
        if self.dims[0] % self.group or self.box[0] % self.group or (self.group > 1 and self.element_strides[0] != 1):
            raise ValueError(f"{self.dtype} needs first extents of multiples of {self.group} and no element stride")
        if any(not 1 <= b <= 256 for b in self.box) or any(d < 1 for d in self.dims):
            raise ValueError("box sizes must be 1 to 256 and dims positive")
        inner = self.box[0] // self.group * self.held
        if inner % 16 or (self.swizzle and inner > self.swizzle):
            raise ValueError("the inner box must be a multiple of 16 bytes and not longer than the swizzle")

    @property
    def rank(self) -> int:
        return len(self.dims)

    @property
    def group(self) -> int:
        """Elements that move together: several where they are narrower than a byte."""
        return _GROUPS[self.dtype][0] if self.dtype in _GROUPS else 1

    @property
    def item(self) -> int:
        """Bytes of a group in global memory."""
        return _GROUPS[self.dtype][1] if self.dtype in _GROUPS else TYPES[self.dtype].bytes

    @property
    def held(self) -> int:
        """Bytes of a group in shared memory, padding at its end included."""
        return _GROUPS[self.dtype][2] if self.dtype in _GROUPS else self.item

    @property
    def _groups(self) -> tuple[int, ...]:
        """Groups of a box per axis, outermost first."""
        return (*reversed(self.box[1:]), self.box[0] // self.group)

    @property
    def box_bytes(self) -> int:
        """Bytes of a box, outside elements and padding included: what completes on the mbarrier."""
        return int(np.prod(self._groups)) * self.held

    def encode(self) -> bytes:
        """The 128 bytes that a kernel parameter carries."""
        rank = self.rank
        kind, swizzle = _TYPES.index(self.dtype), _SWIZZLES.index(self.swizzle)
        raw = _MAGIC + struct.pack("<QBBBB4x", self.address, kind, rank, swizzle, self.fill_nan)
        raw += struct.pack("<5I", *_five(self.dims)) + struct.pack("<5Q", *_five(self.strides))
        raw += struct.pack("<5H", *_five(self.box)) + struct.pack("<5H", *_five(self.element_strides))
        return raw + bytes(128 - len(raw))

    @staticmethod
    def decode(raw: bytes) -> TensorMap:
        """From 128 bytes; ValueError if they are no tensor map of the emulator."""
        return _decode(raw)

    def chunks(self, base: int) -> Array | None:
        """Where the 16-byte chunks of a box go, counted from `base` (a shared address); None: one after the other.

        The swizzle exchanges chunks: address bits 4.. are xored with bits 7.. (1, 2 or 3 of them). Rows have the
        pitch of the box's inner extent.
        """
        return _swizzle(base % 1024, self.box_bytes, self.swizzle) if self.swizzle else None

    def _inside(self, at: list[int]) -> tuple[int, list[int], list[int], list[slice]] | None:
        """The part of the box at `at` that is inside the tensor, or None: byte offset of its first element, then
        extents, byte strides and ranges within the box per axis, outermost first."""
        start, extents, strides, ranges = 0, [], [], []
        for axis in reversed(range(self.rank)):
            step, pitch = self.element_strides[axis], self.item if axis == 0 else self.strides[axis - 1]
            per = self.group if axis == 0 else 1
            first, extent, box = at[axis] // per, self.dims[axis] // per, self.box[axis] // per
            low = max(0, -(first // step))
            high = min(box, -((first - extent) // step))
            if low >= high:
                return None
            start += (first + low * step) * pitch
            extents.append(high - low)
            strides.append(step * pitch)
            ranges.append(slice(low, high))
        return start, extents, strides, ranges

    def inside_bytes(self, at: list[int]) -> int:
        """Bytes of the box at `at` that are inside the tensor: what moves to or from global memory."""
        found = self._inside(at)
        return int(np.prod(found[1])) * self.item if found is not None else 0

    def _view(self, memory: GlobalMemory, at: list[int], report: Callable[[str], None]) -> tuple[Array, Any] | None:
        """(bytes of the inside elements in global memory [.., item], their place in the box)."""
        multiple = _PADDED_BOX if self.held != self.item else self.group
        if at[0] % multiple:
            report(f"the first coordinate of a tensor map of {self.dtype} is {at[0]}, no multiple of {multiple}")
            return None
        inside = self._inside(at)
        if inside is None:
            return None
        start, extents, strides, ranges = inside
        start += self.address
        stop = start + sum((n - 1) * s for n, s in zip(extents, strides)) + self.item
        segment = memory.find(start)
        if segment is None or stop > segment.base + segment.size:
            report(f"a tensor map covers global memory outside every allocation ({start:#x})")
            return None
        data = segment.data[start - segment.base :]
        view = np.lib.stride_tricks.as_strided(data, (*extents, self.item), (*strides, 1))
        return view, tuple(ranges)

    def read_box(self, memory: GlobalMemory, at: list[int], report: Callable[[str], None]) -> Array:
        """The bytes of the box at coordinates `at` (innermost first); elements outside are filled, padding is zeros."""
        out = np.zeros((*self._groups, self.held), np.uint8)
        if self.fill_nan and self.dtype in nm.FORMATS:
            nan = nm.FORMATS[self.dtype].nan or 0
            out[:] = np.frombuffer(nan.to_bytes(self.item, "little"), np.uint8)
        found = self._view(memory, at, report)
        if found is not None:
            view, place = found
            out[..., : self.item][place] = view
        return out.reshape(-1)

    def write_box(self, memory: GlobalMemory, at: list[int], data: Array, reduce: str | None,
                  report: Callable[[str], None]) -> None:  # fmt: skip
        """Store (or reduce into) the box; elements outside are dropped."""
        if self.held != self.item or (reduce and self.dtype in _GROUPS):
            report(f"elements of {self.dtype} cannot be {'reduced' if self.held == self.item else 'stored'}")
            return
        found = self._view(memory, at, report)
        if found is None:
            return
        view, place = found
        values = data.reshape(*self._groups, self.held)[place]
        if reduce:
            old, new = (np.ascontiguousarray(x).reshape(-1) for x in (view, values))
            values = reduce_bytes(old, new, reduce, self.dtype).reshape(values.shape)
        view[...] = values


@lru_cache(maxsize=256)
def _swizzle(base: int, size: int, swizzle: int) -> Array:
    address = base + 16 * np.arange(size // 16)
    bits = {32: 1, 64: 2, 128: 3}[swizzle]
    return ((address ^ (address >> 7 & ((1 << bits) - 1)) << 4) - base) >> 4


@lru_cache(maxsize=256)
def _decode(raw: bytes) -> TensorMap:
    if raw[:8] != _MAGIC:
        raise ValueError("the memory holds no tensor map of the emulator")
    address, dtype, rank, swizzle, fill = struct.unpack_from("<QBBBB", raw, 8)
    dims = struct.unpack_from("<5I", raw, 24)
    strides = struct.unpack_from("<5Q", raw, 44)
    box, steps = struct.unpack_from("<5H", raw, 84), struct.unpack_from("<5H", raw, 94)
    return TensorMap(_TYPES[dtype], address, dims[:rank], strides[: rank - 1], box[:rank], steps[:rank],
                     _SWIZZLES[swizzle], bool(fill))  # fmt: skip


def reduce_bytes(old: Array, new: Array, op: str, kind: str) -> Array:
    """`old op new` element by element on byte arrays."""
    t = TYPES[kind]
    raw = t.container
    a, b = np.ascontiguousarray(old).view(raw), np.ascontiguousarray(new).view(raw)
    if kind in nm.FORMATS:
        x, y = nm.decode(a, kind), nm.decode(b, kind)
        if op == "add":
            r = nm.narrow(nm.sum_odd(x, y), kind) if kind != "f64" else (x + y).view(np.uint64)
        else:
            r = np.where((x < y) == (op == "min"), a, b)
        return np.ascontiguousarray(r.astype(raw)).view(np.uint8)
    x, y = a.view(t.dtype), b.view(t.dtype)
    table: dict[str, Callable[[], Array]] = {
        "add": lambda: x + y, "min": lambda: np.minimum(x, y), "max": lambda: np.maximum(x, y), "and": lambda: x & y,
        "or": lambda: x | y, "xor": lambda: x ^ y, "inc": lambda: np.where(x >= y, 0, x + 1),
        "dec": lambda: np.where((x == 0) | (x > y), y, x - 1),
    }  # fmt: skip
    return np.ascontiguousarray(table[op]().astype(t.dtype)).view(np.uint8)

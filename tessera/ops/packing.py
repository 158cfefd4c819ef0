"""Elements of 4 and 6 bits side by side in bytes, and back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tessera.arrays import Array, dtype_of
from tessera.dtypes import DType, as_dtype, u8
from tessera.elements import Element, Elements, Index, Read
from tessera.errors import SourceError
from tessera.families import check_arity
from tessera.interpreters import apply
from tessera.operator import Case, Operator, register
from tessera.shapes import Dim, Expr, ceildiv, known_equal, symbol
from tessera.tensor import Tensor, TensorLike, as_tensor
from tessera.types import TensorType

__all__ = ["pack", "unpack"]

T = TensorType.parse
PACKED = ("fp4_e2m1", "i4", "u4", "fp6_e2m3", "fp6_e3m2")


def _packable(name: str, dtype: DType) -> int:
    """The width of an element. E303 for types that fill their bytes."""
    if dtype.name not in PACKED:
        raise SourceError("E303", f"{name} is for types of 4 and 6 bits, not {dtype.base}",
                          help=f"these are {', '.join(PACKED)}")
    return dtype.bits


def _rows(name: str, x: TensorType) -> None:
    check_arity(name, (x,), 1)
    if not x.rank:
        raise SourceError("E304", f"{name} works along the last axis; a tensor of rank 0 has none")


class _AlongRows(Operator):
    """Works along the last axis, whatever axes stand before it."""

    differentiable = False

    def batch(self, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Any:
        return apply(self, *xs)


@register
@dataclass(frozen=True)
class Pack(_AlongRows):
    """The elements of each row as one string of bits, the first in the lowest: element i of width b takes the bits
    b i .. b i + b - 1, bit k is bit k % 8 of byte k // 8. A row starts at a byte, and is filled up with 0."""

    name = "pack"

    def infer(self, *ins: TensorType) -> TensorType:
        _rows(self.name, *ins)
        (x,) = ins
        return TensorType((*x.dims[:-1], ceildiv(x.dims[-1] * _packable(self.name, x.dtype), 8)), u8)

    def ref(self, *ins: Array) -> Array:
        width = dtype_of(ins[0]).bits
        raw: Array = np.ascontiguousarray(ins[0]).view(np.uint8).reshape(ins[0].shape)
        places = np.arange(width, dtype=np.uint8)
        bits: Array = (np.expand_dims(raw, -1) >> places & 1).reshape(*raw.shape[:-1], raw.shape[-1] * width)
        return np.asarray(np.packbits(bits, axis=-1, bitorder="little"))

    def element(
        self, e: Elements, ins: tuple[TensorType, ...], idx: tuple[Index, ...], *reads: Read, out: int = 0,
    ) -> Element:
        *row, byte = idx
        width = ins[0].dtype.bits
        # a byte meets two elements: the one that its first bit is of, and the next
        first = byte * 8 // width
        offset = e.cast(byte * 8 - first * width, "u32")

        def bits(i: Index) -> Element:
            raw = e.bitcast(reads[0](*row, i, where=i < e.index(ins[0].dims[-1])), "u8")
            return e.cast(raw, "u32") & (1 << width) - 1

        low, high = bits(first) >> offset, bits(first + 1) << e.const(width, "u32") - offset
        return e.cast(low | high, "u8")

    @classmethod
    def cases(cls) -> Iterable[Case]:
        for dtype in PACKED:
            yield Case(cls(), (T(f"{dtype}[A, B]"),))
        yield Case(cls(), (T("fp6_e2m3[N]"),))


@register
@dataclass(frozen=True)
class Unpack(_AlongRows):
    """The `size` elements of type `dtype` in each row of bytes; see Pack."""

    dtype: str
    size: Dim
    name = "unpack"

    def infer(self, *ins: TensorType) -> TensorType:
        _rows(self.name, *ins)
        (x,) = ins
        dtype = as_dtype(self.dtype).base
        if x.dtype.base != u8:
            raise SourceError("E303", f"unpack needs bytes (u8), got {x}")
        _packable(self.name, dtype)
        needed = ceildiv(self.size * dtype.bits, 8)
        if isinstance(needed, int) and isinstance(x.dims[-1], int) and needed != x.dims[-1]:
            raise SourceError("E302", f"unpack to {self.size} elements of {dtype}: got {x}",
                              help=f"rows of that many have {needed} bytes")
        return TensorType((*x.dims[:-1], self.size), dtype)

    def ref(self, *ins: Array) -> Array:
        dtype, size = as_dtype(self.dtype), int(self.size)
        bits = np.unpackbits(ins[0], axis=-1, bitorder="little")[..., :size * dtype.bits]
        places = bits.reshape(*ins[0].shape[:-1], size, dtype.bits) << np.arange(dtype.bits, dtype=np.uint8)
        return np.ascontiguousarray(places.sum(-1, dtype=np.uint8)).view(dtype.numpy)

    def element(
        self, e: Elements, ins: tuple[TensorType, ...], idx: tuple[Index, ...], *reads: Read, out: int = 0,
    ) -> Element:
        *row, i = idx
        width = as_dtype(self.dtype).bits
        byte = i * width // 8
        stored = ins[0].dims[-1]
        # where it is not known that the rows have as many bytes as elements need, what is missing is 0
        there = None if known_equal(ceildiv(self.size * width, 8), stored) else byte < e.index(stored)
        word = e.cast(reads[0](*row, byte, where=there), "u32")
        if 8 % width:  # it may reach into the next byte
            inside = byte + 1 < e.index(stored)
            word = word | e.cast(reads[0](*row, byte + 1, where=inside), "u32") << 8
        bits = (word >> e.cast(i * width & 7, "u32")) & (1 << width) - 1
        return e.bitcast(e.cast(bits, "u8"), as_dtype(self.dtype).name)

    @classmethod
    def cases(cls) -> Iterable[Case]:
        n = symbol("N")
        for dtype in PACKED:
            count = n * 2 if as_dtype(dtype).bits == 4 else n * 4
            yield Case(cls(dtype, count), (T("u8[A, N]" if as_dtype(dtype).bits == 4 else "u8[A, 3*N]"),),
                       ((0.0, 255.0),))
        yield Case(cls("fp6_e3m2", 5), (T("u8[A, 4]"),), ((0.0, 255.0),))
        yield Case(cls("i4", 3), (T("u8[2]"),), ((0.0, 255.0),))


# The functions --------------------------------------------------------------------------------------------------------


def pack(x: TensorLike) -> Tensor:
    """Elements of 4 or 6 bits side by side: [.., N] to bytes u8[.., ceil(N * width / 8)]."""
    return apply(Pack(), as_tensor(x))


def unpack(x: TensorLike, dtype: Any, size: int | Expr | None = None) -> Tensor:
    """Rows of bytes as elements of 4 or 6 bits: u8[.., B] to [.., size], by default all that the bytes hold."""
    value, target = as_tensor(x), as_dtype(dtype).base
    if not value.ndim:
        raise SourceError("E304", "unpack works along the last axis; a tensor of rank 0 has none")
    width = _packable("unpack", target)
    count = value.shape[-1] * 8 // width if size is None else size
    return apply(Unpack(target.name, count), value)

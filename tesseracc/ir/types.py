"""Types of every IR level: immutable, compared by value, spelled the same in text, messages and the command line.

f32                      scalar held once by the whole group ("uniform")
lanes<f32>               one element per lane of a group ("varying")
vec<16xf32>              a machine vector (Target IR)
tensor<f32[B, 64]>       a value of the Graph and Schedule levels; dims may be symbolic
buf<f32[N, D], global>   memory; `global`, `shared` (per group) or `local` (per lane)
tile<f32[64, 64]>        a matrix held by a group, static shape
ptr<global>              an address (Target IR)
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TypeAlias

from tessera.shapes import Dim

SPACES = ("global", "shared", "local", "generic", "map")

#: numeric class of every element type: f(loat), i(nteger), u(nsigned), b(ool)
_KINDS = {"f": "f", "b": "f", "i": "i", "u": "u"}


def kind_of(dtype: str) -> str:
    """`f`, `i`, `u` or `b` for an element type's name."""
    return "b" if dtype == "bool" else _KINDS[dtype[0]]


def bits_of(dtype: str) -> int:
    """Storage bits of an element type; a bool, and types of 4 and 6 bits, are stored in one byte."""
    if dtype == "bool" or dtype.startswith("fp") or dtype in ("i4", "u4"):
        return 8
    return int(dtype.removeprefix("bf")) if dtype.startswith("bf") else int(dtype[1:])


def size_of(dtype: str) -> int:
    """Storage bytes of an element type."""
    return bits_of(dtype) // 8


@dataclass(frozen=True, slots=True)
class ScalarType:
    dtype: str

    def __str__(self) -> str:
        return self.dtype


@dataclass(frozen=True, slots=True)
class LanesType:
    dtype: str

    def __str__(self) -> str:
        return f"lanes<{self.dtype}>"


@dataclass(frozen=True, slots=True)
class VecType:
    count: int
    dtype: str

    def __str__(self) -> str:
        return f"vec<{self.count}x{self.dtype}>"


@dataclass(frozen=True, slots=True)
class TensorType:
    dims: tuple[Dim, ...]
    dtype: str

    def __str__(self) -> str:
        return f"tensor<{self.dtype}[{', '.join(map(str, self.dims))}]>"


@dataclass(frozen=True, slots=True)
class BufType:
    dims: tuple[Dim, ...]
    dtype: str
    space: str = "global"

    def __str__(self) -> str:
        return f"buf<{self.dtype}[{', '.join(map(str, self.dims))}], {self.space}>"


@dataclass(frozen=True, slots=True)
class TileType:
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"tile<{self.dtype}[{', '.join(map(str, self.shape))}]>"

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * size_of(self.dtype)


@dataclass(frozen=True, slots=True)
class PtrType:
    space: str

    def __str__(self) -> str:
        return f"ptr<{self.space}>"


Type: TypeAlias = ScalarType | LanesType | VecType | TensorType | BufType | TileType | PtrType

F32 = ScalarType("f32")
I32 = ScalarType("i32")
I64 = ScalarType("i64")
BOOL = ScalarType("bool")


def element(type_: Type) -> str:
    """The element type's name of any type but a pointer."""
    assert not isinstance(type_, PtrType), "a pointer has no element type"
    return type_.dtype


def with_element(type_: Type, dtype: str) -> Type:
    """The type of the same form with another element type."""
    match type_:
        case ScalarType():
            return ScalarType(dtype)
        case LanesType():
            return LanesType(dtype)
        case VecType(count):
            return VecType(count, dtype)
        case TensorType(dims):
            return TensorType(dims, dtype)
        case BufType(dims, _, space):
            return BufType(dims, dtype, space)
        case TileType(shape):
            return TileType(shape, dtype)
        case PtrType():
            raise TypeError("a pointer has no element type")


def shared_bytes(type_: Type) -> int:
    """Bytes of shared memory that a value of the type takes; extents that are no numbers count as one."""
    if not isinstance(type_, BufType) or type_.space != "shared":
        return 0
    return prod(d for d in type_.dims if isinstance(d, int)) * size_of(type_.dtype)

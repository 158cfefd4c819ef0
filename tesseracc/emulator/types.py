"""PTX scalar types and how values of them are held: every register is an unsigned NumPy array of its width."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["TYPES", "Array", "PtxType", "container", "type_of", "where"]

Array = Any  # a NumPy array over the active lanes, or a NumPy scalar for a value that all lanes share


@dataclass(frozen=True, slots=True)
class PtxType:
    """`kind`: u s b f p (pred), or x for packed and narrow formats that only cvt and friends interpret.

    `container` is the unsigned NumPy type of the register that holds it.
    """

    name: str
    kind: str
    bits: int
    dtype: Any
    container: Any = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "container", container(self.bits) if self.kind != "p" else np.bool_)

    @property
    def bytes(self) -> int:
        return max(1, self.bits // 8)


_UNSIGNED = {1: np.bool_, 8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}


def container(bits: int) -> Any:
    """The unsigned NumPy type of `bits` bits (128-bit values are pairs of uint64)."""
    return _UNSIGNED.get(bits, np.uint64)


def where(condition: Array, a: Array, b: Array) -> Array:
    """`np.where` that keeps scalars scalar."""
    out: Array = np.where(condition, a, b)
    return out[()]


def _table() -> dict[str, PtxType]:
    out: dict[str, PtxType] = {"pred": PtxType("pred", "p", 1, np.bool_)}
    for bits in (8, 16, 32, 64):
        out[f"u{bits}"] = PtxType(f"u{bits}", "u", bits, _UNSIGNED[bits])
        out[f"b{bits}"] = PtxType(f"b{bits}", "b", bits, _UNSIGNED[bits])
        out[f"s{bits}"] = PtxType(f"s{bits}", "s", bits, np.dtype(f"int{bits}").type)
    out["b128"] = PtxType("b128", "b", 128, np.uint64)
    out["f16"] = PtxType("f16", "f", 16, np.float16)
    out["f32"] = PtxType("f32", "f", 32, np.float32)
    out["f64"] = PtxType("f64", "f", 64, np.float64)
    for name, bits in (
        ("bf16", 16), ("tf32", 32), ("f16x2", 32), ("bf16x2", 32), ("f32x2", 64), ("u16x2", 32), ("s16x2", 32),
        ("e4m3", 8), ("e5m2", 8), ("e4m3x2", 16), ("e5m2x2", 16), ("ue8m0x2", 16), ("e2m1x2", 8), ("e2m3x2", 16),
        ("e3m2x2", 16), ("e4m3x4", 32), ("e5m2x4", 32), ("e2m3x4", 32), ("e3m2x4", 32), ("e2m1x4", 16),
        ("texref", 64), ("samplerref", 64), ("surfref", 64),
    ):  # fmt: skip
        out[name] = PtxType(name, "x", bits, _UNSIGNED[bits])
    return out


TYPES: dict[str, PtxType] = _table()


def type_of(name: str) -> PtxType:
    """The type called `name`; KeyError if it is not a PTX type."""
    return TYPES[name]

"""Element types. One DType per type and policy chain; how elements are stored and converted is tessera_runtime.core's.

Promotion is decided here, never by NumPy: bool < int < float; a float wins over any int; the wider float wins; two
different floats of the same width give f32, and so does fp8_e8m0 with fewer bits; mixed signed and unsigned ints give
the signed type that holds both (i64 at most).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from tessera.errors import SourceError, TesseraError, did_you_mean
from tessera.numerics import Policy, Scale, bad_text, combine, parse_policy
from tessera_runtime.core import dtypes as core

__all__ = [
    "DTYPES", "DType", "as_dtype", "bf16", "bfloat16", "bool_", "dtype", "f16", "f32", "f64", "float16", "float32",
    "float64", "fp16", "fp32", "fp4", "fp4_e2m1", "fp6", "fp64", "fp6_e2m3", "fp6_e3m2", "fp8_e4m3", "fp8_e5m2",
    "fp8_e8m0", "i16", "i32", "i4", "i64", "i8", "int16", "int32", "int4", "int64", "int8", "parse_dtype", "promote",
    "u16", "u32", "u4", "u64", "u8", "uint16", "uint32", "uint4", "uint64", "uint8",
]

_KINDS = {"f": "float", "b": "float", "i": "int", "u": "uint"}


@dataclass(frozen=True)
class DType:
    """An element type with its numeric policies. `name` is the canonical short name, such as "bf16"."""

    name: str
    policies: tuple[Policy, ...] = ()

    def __matmul__(self, policy: object) -> DType:
        if callable(policy):
            raise SourceError("E301", "a policy needs its argument", help="write `bf16 @ accum(f32)`")
        if not hasattr(policy, "kind"):
            raise SourceError("E301", f"{policy!r} is not a numeric policy",
                              help="policies are accum, compute, loss_scale, scale and stochastic_round")
        if policy.kind == "accum" and as_dtype(policy.dtype).is_float != self.is_float:  # type: ignore[attr-defined]
            raise SourceError("E301", f"{self.name} cannot be accumulated in {policy.dtype}",  # type: ignore[attr-defined]
                              help="floats are accumulated in f32 or f64, ints in i32 or i64")
        return DType(self.name, combine(self.policies, policy))  # type: ignore[arg-type]

    def __str__(self) -> str:
        return " ".join([self.name, *(str(p) for p in self.policies)])

    def __repr__(self) -> str:
        return f"ts.{self}"

    @property
    def base(self) -> DType:
        """The type without its policies."""
        return DType(self.name) if self.policies else self

    @property
    def scaling(self) -> Scale | None:
        """How elements are scaled, if they are: a value of such a type is a pair (elements, scales)."""
        return next((policy for policy in self.policies if isinstance(policy, Scale)), None)

    def unscaled(self) -> DType:
        """The type itself. E303 if it has scales: what makes one tensor makes no pair."""
        if self.scaling is not None:
            raise SourceError("E303", f"one tensor is no value of {self}, which has scales", help="use ts.quantize")
        return self

    @property
    def kind(self) -> str:
        """'float', 'int', 'uint' or 'bool'."""
        return "bool" if self.name == "bool" else _KINDS[self.name[0]]

    @property
    def bits(self) -> int:
        """The width of a value; types of 4 and 6 bits take a byte of storage."""
        return core.DTYPES[self.name].bits

    @property
    def itemsize(self) -> int:
        """Bytes of one element in storage."""
        return core.DTYPES[self.name].itemsize

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_int(self) -> bool:
        """True for signed and unsigned ints (not for bool)."""
        return self.kind in ("int", "uint")

    @property
    def is_narrow(self) -> bool:
        """True for the floats that are widened to f32 for computing: f16, bf16, fp8, fp6, fp4."""
        return self.is_float and self.bits < 32

    @property
    def wide(self) -> DType:
        """The type in which this one is computed: f32 for narrow floats, i32 for ints of 4 bits, else itself."""
        return f32 if self.is_narrow else i32 if self.is_int and self.bits < 8 else self.base

    @property
    def accum(self) -> DType:
        """Sums are accumulated in it: the policy's, else f64 for f64, f32 for floats, i32 / i64 for ints."""
        for policy in self.policies:
            if policy.kind == "accum":
                return DType(policy.dtype)  # type: ignore[union-attr]
        if self.is_float:
            return f64 if self.name == "f64" else f32
        return i32 if self.bits <= 16 else i64

    @property
    def numpy(self) -> np.dtype[Any]:
        """The NumPy dtype that stores the elements."""
        return core.np_dtype(self.name)

    @property
    def min_value(self) -> int | float:
        """The least value: -inf for floats, else the smallest int (0 for bool)."""
        if self.is_float:
            return -float("inf")
        return -(1 << (self.bits - 1)) if self.kind == "int" else 0

    @property
    def max_value(self) -> int | float:
        """The greatest value: inf for floats, else the largest int (1 for bool)."""
        if self.is_float:
            return float("inf")
        if self.kind == "bool":
            return 1
        return (1 << (self.bits - (self.kind == "int"))) - 1


f64, f32, f16, bf16 = DType("f64"), DType("f32"), DType("f16"), DType("bf16")
fp8_e4m3, fp8_e5m2, fp8_e8m0 = DType("fp8_e4m3"), DType("fp8_e5m2"), DType("fp8_e8m0")
fp6_e2m3, fp6_e3m2, fp4_e2m1 = DType("fp6_e2m3"), DType("fp6_e3m2"), DType("fp4_e2m1")
i4, u4 = DType("i4"), DType("u4")
i8, i16, i32, i64 = DType("i8"), DType("i16"), DType("i32"), DType("i64")
u8, u16, u32, u64 = DType("u8"), DType("u16"), DType("u32"), DType("u64")
bool_ = DType("bool")

DTYPES: dict[str, DType] = {name: DType(name) for name in core.DTYPES}

_ALIASES = {
    **core.ALIASES, "float8_e4m3": "fp8_e4m3", "float8_e4m3fn": "fp8_e4m3", "float8_e5m2": "fp8_e5m2", "bool_": "bool",
    "fp6": "fp6_e3m2", "fp4": "fp4_e2m1",
}

float64, float32, float16, bfloat16 = f64, f32, f16, bf16
fp64, fp32, fp16 = f64, f32, f16
fp6, fp4 = fp6_e3m2, fp4_e2m1
int4, uint4 = i4, u4
int8, int16, int32, int64 = i8, i16, i32, i64
uint8, uint16, uint32, uint64 = u8, u16, u32, u64

_PYTHON = {float: f32, int: i64, bool: bool_}


@lru_cache(maxsize=1024)
def parse_dtype(text: str) -> DType:
    """Read "bf16" or "bf16 @accum(f32) @loss_scale(128.0)". Raises SourceError E301 that shows the column."""
    name, *chain = text.split("@")
    bare = name.strip()
    column = len(name) - len(name.lstrip())
    canonical = _ALIASES.get(bare, bare)
    if canonical not in core.DTYPES:
        hint = did_you_mean(bare, [*core.DTYPES, *_ALIASES]) or "element types are " + ", ".join(core.DTYPES)
        raise bad_text(text, column, f"no element type {bare!r}" if bare else "an element type is missing", hint)
    dtype = DType(canonical)
    position = len(name)
    for piece in chain:
        start = position + 1 + len(piece) - len(piece.lstrip())
        dtype = dtype @ parse_policy(piece.strip(), start, text)
        position += 1 + len(piece)
    return dtype


def as_dtype(value: object) -> DType:
    """The DType meant by a DType, its text, a NumPy dtype, or Python's float (f32), int (i64), bool."""
    if isinstance(value, DType):
        return value
    if isinstance(value, str):
        return parse_dtype(value)
    if isinstance(value, type) and value in _PYTHON:
        return _PYTHON[value]
    try:
        return DType(core.dtype_of(np.dtype(value)))  # type: ignore[call-overload]
    except (TypeError, ValueError, TesseraError):
        raise SourceError("E301", f"{value!r} is not an element type",
                          help="element types are " + ", ".join(core.DTYPES)) from None


dtype = as_dtype
"""Another name of `as_dtype`: ts.dtype("bf16 @accum(f32)")."""


def promote(*dtypes: DType) -> DType:
    """The type that an operator gives for operands of these types (policies are dropped). At least one is needed."""
    result = dtypes[0].base
    for dtype in dtypes[1:]:
        result = _promote(result, dtype.base)
    return result


def _promote(a: DType, b: DType) -> DType:
    if a == b or b.kind == "bool":
        return a
    if a.kind == "bool":
        return b
    if a.is_float != b.is_float:
        return a if a.is_float else b
    if a.is_float:
        wide, other = (a, b) if a.bits > b.bits else (b, a)
        # a power of two has neither sign nor fraction: it holds no other float
        return f32 if wide.bits == other.bits or wide == fp8_e8m0 else wide
    if a.kind == b.kind:
        return a if a.bits >= b.bits else b
    signed, unsigned = (a, b) if a.kind == "int" else (b, a)
    if signed.bits > unsigned.bits:
        return signed
    return DType(f"i{min(64, unsigned.bits * 2)}")

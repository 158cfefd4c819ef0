"""The exact meaning of every `arith` operation, on NumPy arrays of any shape: the one thing that interpreters share.

Element types are passed by name; arrays have the storage dtype of `tessera_runtime.core.dtypes.np_dtype`. f32 is
computed in f32 for + - * / sqrt (each rounds once); its transcendentals are computed in f64 and rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from tessera_runtime.core import codecs
from tessera_runtime.core.dtypes import info, np_dtype
from tesseracc.ir.types import bits_of, element, kind_of
from tesseracc.ir.value import Op

Array = np.ndarray[Any, Any]
_NIBBLES = ("i4", "u4")
_NARROW = (*codecs.FORMATS, "fp8_e8m0")
_erf: Callable[[Array], Array] = np.vectorize(math.erf, otypes=[np.float64])


def constant(value: Any, dtype: str) -> Array:
    """A rank-0 array; a float is rounded once to a narrow type, an integer wraps."""
    kind = kind_of(dtype)
    if kind == "f":
        return cast(np.asarray(value, np.float64), "f64", dtype)
    if kind == "b":
        return np.asarray(bool(value))
    if dtype in _NIBBLES:
        return _nibble(np.asarray(int(value)), dtype)
    return np.asarray(int(value) & ((1 << bits_of(dtype)) - 1), np.uint64).astype(np_dtype(dtype))


# -- floats -----------------------------------------------------------------------------------------------------------


def _wide(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """An f64 function for f32 too: one rounding at the end."""

    def run(x: Array) -> Array:
        return np.asarray(function(x.astype(np.float64))).astype(x.dtype)

    return run


def _round_half_even(x: Array) -> Array:
    return np.asarray(np.rint(x))


_FLOAT_UNARY: dict[str, Callable[[Array], Array]] = {
    "neg": np.negative,
    "abs": np.abs,
    "sqrt": np.sqrt,
    # one rounding of 1/sqrt(x), not two
    "rsqrt": _wide(lambda x: 1.0 / np.sqrt(x)),
    "floor": np.floor,
    "ceil": np.ceil,
    "round": _round_half_even,
    "trunc": np.trunc,
    "exp": _wide(np.exp),
    "exp2": _wide(np.exp2),
    "expm1": _wide(np.expm1),
    "log": _wide(np.log),
    "log2": _wide(np.log2),
    "log1p": _wide(np.log1p),
    "tanh": _wide(np.tanh),
    "erf": _wide(_erf),
    "sin": _wide(np.sin),
    "cos": _wide(np.cos),
}
_INT_UNARY: dict[str, Callable[[Array], Array]] = {"neg": np.negative, "abs": np.abs, "not": np.invert}


def unary(kind: str, x: Array, dtype: str) -> Array:
    """`arith.<kind>` of one operand."""
    if kind == "isnan":
        return np.isnan(x) if kind_of(dtype) == "f" else np.zeros(np.shape(x), bool)
    if kind_of(dtype) == "f":
        assert dtype not in _NARROW, f"{kind} on {dtype}: narrow floats are only loaded, stored and cast"
        table = _FLOAT_UNARY
    else:
        table = _INT_UNARY
        if dtype == "bool" and kind in ("neg", "abs"):
            return np.asarray(x)
    with np.errstate(all="ignore"):
        return np.asarray(table[kind](np.asarray(x)))


def _floordiv(a: Array, b: Array) -> Array:
    """Floor of the quotient; 0 where an integer divisor is 0. The least integer by -1 wraps to itself."""
    if np.issubdtype(a.dtype, np.floating):
        return np.asarray(np.floor(a / b))
    zero = b == 0
    minus = (b == -1) if np.issubdtype(b.dtype, np.signedinteger) else np.zeros_like(zero)
    found = np.floor_divide(a, np.where(zero | minus, np.ones_like(b), b))
    return np.asarray(np.where(zero, np.zeros_like(found), np.where(minus, np.negative(a), found)))


def _mod(a: Array, b: Array) -> Array:
    """a - floordiv(a, b) * b, with the divisor's sign; 0 where an integer divisor is 0 or -1."""
    if np.issubdtype(a.dtype, np.floating):
        return np.asarray(np.remainder(a, b))
    zero = b == 0
    if np.issubdtype(b.dtype, np.signedinteger):
        zero = zero | (b == -1)
    found = np.remainder(a, np.where(zero, np.ones_like(b), b))
    return np.asarray(np.where(zero, np.zeros_like(found), found))


def _shift(a: Array, b: Array, left: bool) -> Array:
    """Shifts by at least the width (or by a negative count) give 0, or the sign for a signed shift to the right."""
    bits = a.dtype.itemsize * 8
    over = (b < 0) | (b >= bits)
    count = np.where(over, np.zeros_like(b), b)
    if left:
        return np.asarray(np.where(over, np.zeros_like(a), np.left_shift(a, count)))
    signed = np.issubdtype(a.dtype, np.signedinteger)
    rest = np.where(a < 0, -np.ones_like(a), np.zeros_like(a)) if signed else np.zeros_like(a)
    return np.asarray(np.where(over, rest, np.right_shift(a, count)))


def _int_pow(a: Array, b: Array) -> Array:
    """Wrapping power by squaring; a negative exponent gives the truncated quotient 1 / a**-b (0, 1 or -1)."""
    negative = b < 0
    exponent = np.where(negative, np.negative(b), b)
    result, base = np.ones_like(a + exponent), np.broadcast_to(a, np.shape(a + exponent)).copy()
    for bit in range(bits_of_array(b)):
        result = np.where(
            (exponent >> np.asarray(bit, exponent.dtype)) & np.asarray(1, exponent.dtype) != 0, result * base, result
        )
        base = base * base
    unit = (a == 1) | ((a == -1) if np.issubdtype(a.dtype, np.signedinteger) else np.zeros_like(a, bool))
    return np.asarray(np.where(negative, np.where(unit, result, np.zeros_like(result)), result))


def bits_of_array(x: Array) -> int:
    return int(x.dtype.itemsize) * 8


_FLOAT_BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "floordiv": _floordiv,
    "mod": _mod,
    "max": np.maximum,
    "min": np.minimum,
    "pow": lambda a, b: np.power(a.astype(np.float64), b.astype(np.float64)).astype(a.dtype),
}
_INT_BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "floordiv": _floordiv,
    "mod": _mod,
    "max": np.maximum,
    "min": np.minimum,
    "pow": _int_pow,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "shl": lambda a, b: _shift(a, b, True),
    "shr": lambda a, b: _shift(a, b, False),
}
#: on bools: + and max are `or`, * and min are `and`, - is `xor`
_BOOL_BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.logical_or,
    "max": np.logical_or,
    "or": np.logical_or,
    "mul": np.logical_and,
    "min": np.logical_and,
    "and": np.logical_and,
    "sub": np.logical_xor,
    "xor": np.logical_xor,
}


def binary(kind: str, a: Array, b: Array, dtype: str) -> Array:
    """`arith.<kind>` of two operands of one element type."""
    assert dtype not in _NARROW, f"{kind} on {dtype}: narrow floats are only loaded, stored and cast"
    numeric = kind_of(dtype)
    table = _FLOAT_BINARY if numeric == "f" else _BOOL_BINARY if numeric == "b" else _INT_BINARY
    with np.errstate(all="ignore"):
        return np.asarray(table[kind](np.asarray(a), np.asarray(b)))


_COMPARE: dict[str, Callable[[Array, Array], Array]] = {
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal,
}  # fmt: skip


def compare(pred: str, a: Array, b: Array) -> Array:
    """`arith.cmp`: false with NaN, but `ne` is true."""
    with np.errstate(all="ignore"):
        return np.asarray(_COMPARE[pred](np.asarray(a), np.asarray(b)))


def select(cond: Array, a: Array, b: Array) -> Array:
    return np.asarray(np.where(cond, a, b))


# -- fma --------------------------------------------------------------------------------------------------------------


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """a + b = s + t exactly, s = fl(a + b). (Knuth)"""
    s = a + b
    bb = s - a
    return s, (a - (s - bb)) + (b - bb)


def _two_prod(a: Array, b: Array) -> tuple[Array, Array]:
    """a * b = p + e exactly, while nothing over- or underflows. (Dekker, Veltkamp)"""
    p = a * b

    def split(x: Array) -> tuple[Array, Array]:
        c = 134217729.0 * x
        high = c - (c - x)
        return high, x - high

    ah, al = split(a)
    bh, bl = split(b)
    return p, ((ah * bh - p) + ah * bl + al * bh) + al * bl


def _odd_sum(a: Array, b: Array) -> Array:
    """a + b rounded to odd: truncated, with the last bit set where inexact, so that a second rounding is harmless."""
    s, t = _two_sum(a, b)
    even = (s.view(np.int64) & 1) == 0
    toward = np.where(t > 0, np.inf, -np.inf)
    return np.asarray(np.where((t != 0) & np.isfinite(s) & even, np.nextafter(s, toward), s))


def _exact_fma(a: float, b: float, c: float) -> float:
    """One f64 fma by rational arithmetic, for the range where the fast form could over- or underflow."""
    if not (math.isfinite(a) and math.isfinite(b) and math.isfinite(c)):
        return (
            a * b + c if math.isfinite(a) and math.isfinite(b) else float(np.float64(a) * np.float64(b) + np.float64(c))
        )
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        return a * b + c if a * b == 0 else 0.0
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


def fma(a: Array, b: Array, c: Array, dtype: str) -> Array:
    """a * b + c with one rounding, for f32 and f64. (Boldo and Melquiond, Emulation of FMA, 2008)"""
    with np.errstate(all="ignore"):
        x, y, z = (np.asarray(v, np.float64) for v in np.broadcast_arrays(a, b, c))
        if dtype == "f32":  # the product of two f32 is exact in f64
            return np.asarray(_odd_sum(x * y, z)).astype(np.float32)
        assert dtype == "f64", f"fma on {dtype}"
        high, low = _two_prod(x, y)
        th, tl = _two_sum(z, low)
        vh, vl = _two_sum(high, th)
        found = np.asarray(vh + _odd_sum(tl, vl))
        size = [np.abs(v) for v in (x, y, z, x * y)]
        safe = np.ones(found.shape, bool)
        for v in size:
            safe &= (v < 1e150) & ((v > 1e-120) | (v == 0))
        exact = (x == 0) | (y == 0)  # a product without rounding
        found = np.where(exact, x * y + z, found)
        safe |= exact
        if not safe.all():
            for at in zip(*np.nonzero(~safe), strict=True) if found.ndim else [()]:
                found[at] = _exact_fma(float(x[at]), float(y[at]), float(z[at]))
        return found


# -- conversions ------------------------------------------------------------------------------------------------------


def _nibble(x: Array, dtype: str) -> Array:
    """Ints wrapped to 4 bits, in the low half of a byte."""
    low = np.ascontiguousarray(x.astype(np.int64) & 15).astype(np.uint8)
    return np.asarray(low.view(np_dtype(dtype)).reshape(np.shape(x)))


def widen(x: Array, dtype: str) -> Array:
    """The f32 values of a narrow float array, the i32 values of ints of 4 bits; any other array as it is."""
    if dtype in _NIBBLES:
        low = np.ascontiguousarray(x).view(np.uint8).reshape(np.shape(x)).astype(np.int32) & 15
        return low if dtype == "u4" else (low ^ 8) - 8
    if dtype not in _NARROW:
        return np.asarray(x)
    raw = np.ascontiguousarray(x).view(np.uint16 if bits_of(dtype) == 16 else np.uint8).reshape(np.shape(x))
    return np.asarray(codecs.decode(dtype, raw))


def cast(x: Array, source: str, dtype: str) -> Array:
    """`arith.cast`: float to int truncates, saturates, NaN gives 0; to a narrow float rounds once; to bool != 0."""
    x = widen(np.asarray(x), source)
    shape = np.shape(x)
    if source in _NARROW:
        source = "f32"
    if source in _NIBBLES:
        source = "i32"
    if dtype == source:
        return x
    with np.errstate(all="ignore"):
        if dtype in _NARROW:
            if kind_of(source) != "f":
                x = x.astype(np.float32)  # as every target converts: through f32
            raw = np.asarray(codecs.encode(dtype, np.ascontiguousarray(x).reshape(shape)))
            return raw.reshape(shape).view(np_dtype(dtype))
        if dtype == "bool":
            return np.asarray(x != 0)
        if kind_of(dtype) == "f":
            return np.asarray(x.astype(np_dtype(dtype)))
        if kind_of(source) == "f":
            return _float_to_int(x, dtype)
        if dtype in _NIBBLES:
            return _nibble(x, dtype)
        return np.asarray(x.astype(np_dtype(dtype)))


def _float_to_int(x: Array, dtype: str) -> Array:
    bits, signed = info(dtype).bits, kind_of(dtype) == "i"
    low = -(2.0 ** (bits - 1)) if signed else 0.0
    high = 2.0 ** (bits - signed)
    target = np_dtype(dtype)
    whole = np.trunc(x.astype(np.float64))
    if bits < 8:
        return _nibble(np.nan_to_num(np.clip(whole, low, high - 1)), dtype)
    inside = (whole >= low) & (whole < high)
    found = np.where(inside, whole, 0.0).astype(target)
    limits = np.iinfo(target)
    found = np.where(whole < low, np.asarray(limits.min, target), found)
    return np.asarray(np.where(whole >= high, np.asarray(limits.max, target), found))


def bitcast(x: Array, dtype: str) -> Array:
    """`arith.bitcast`: the same bits as another type of equal width."""
    x = np.asarray(x)
    return np.ascontiguousarray(x).view(np_dtype(dtype)).reshape(x.shape)


# -- by operation -----------------------------------------------------------------------------------------------------


def evaluate(op: Op, operands: Sequence[Array]) -> Array:
    """Any `arith` operation but `constant`, on the operands' arrays (which broadcast)."""
    short = op.name.removeprefix("arith.")
    dtype = element(op.operands[-1].type)
    match short:
        case "select":
            return select(*operands)
        case "cmp":
            return compare(op.attrs["pred"], widen(operands[0], dtype), widen(operands[1], dtype))
        case "fma":
            a, b, c = operands
            return fma(a, b, c, dtype)
        case "cast":
            return cast(operands[0], dtype, op.attrs["to"])
        case "bitcast":
            return bitcast(operands[0], op.attrs["to"])
        case _:
            if len(operands) == 1:
                return unary(short, operands[0], dtype)
            first, second = operands
            return binary(short, first, second, dtype)


def identity(kind: str, dtype: str) -> Array:
    """The value that a reduction starts from."""
    numeric = kind_of(dtype)
    if kind in ("add", "or"):
        return constant(0, dtype)
    if kind == "mul":
        return constant(1, dtype)
    if kind == "and":
        return constant(True if numeric == "b" else -1, dtype)
    largest = kind == "min"
    if numeric == "f":
        return constant(math.inf if largest else -math.inf, dtype)
    if numeric == "b":
        return constant(largest, dtype)
    limits = np.iinfo(np_dtype(dtype))
    return np.asarray(limits.max if largest else limits.min, np_dtype(dtype))

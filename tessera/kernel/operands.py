"""What an expression of a kernel stands for while the kernel is read, and the typing rules of arithmetic.

Compile-time things (`Static`: Python numbers, element types, functions, dims; `Items`: tuples) never reach the tree.
A Python number is *weak*: beside an element it takes the element's type. Rules, for operands of types a and b:

- both have a type: `promote(a, b)` (bool < int < float, the wider wins, mixed signs give the signed
  type that holds both);
- an int literal beside an int type takes it if it fits, else i64; beside a float it takes the float;
- a float literal beside a float type takes it; beside an int it is f32; bool beside anything takes the other's type;
- arithmetic is never narrow: f16, bf16 and fp8 operands are widened to f32 and so is the result; bools count as i64;
- a weak value that must be held at run time (a variable changed by a loop or a branch) becomes i64, f32 or bool.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from tessera.dtypes import DType, bool_, f32, i64, promote
from tessera.errors import Span
from tessera.kernel.report import fail
from tessera.kernel.tile_operands import Register, TileOp, WindowRef
from tessera.kernel.tree import Binary, Buffer, Cast, Compare, Const, DimValue, Elem, Expr, Id, Read, Unary
from tessera.shapes import Dim, dim_max, dim_min
from tessera.shapes import Expr as DimExpr

__all__ = [
    "NOT_ELEMENTS", "Args", "BufferRef", "Items", "Kwargs", "Operand", "Static", "arithmetic", "bitwise", "common",
    "compare",
    "constant_dim", "convert", "describe", "held_type", "is_expr", "is_number", "join_types",
    "negate", "number", "pure", "static_dim", "to_expr",
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Static:
    """A value known while compiling. Equal only to a value of the same Python type."""

    value: object

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Static) and type(self.value) is type(other.value) and bool(self.value == other.value)

    def __hash__(self) -> int:
        return hash(type(self.value))


@dataclass(frozen=True)
class BufferRef:
    buffer: Buffer


@dataclass(frozen=True)
class Items:
    """A tuple or list; its items are operands."""

    items: tuple[Operand, ...]


Operand: TypeAlias = Static | BufferRef | Items | TileOp | WindowRef | Register | Expr
#: of a call, as its word takes them
Args: TypeAlias = list[Operand]
Kwargs: TypeAlias = dict[str, Operand]
NOT_ELEMENTS = (Static, BufferRef, Items, TileOp, WindowRef, Register)


def is_number(operand: object) -> bool:
    """A compile-time int, float or bool."""
    return isinstance(operand, Static) and isinstance(operand.value, (bool, int, float))


def number(operand: object) -> int | float | None:
    """The value of a compile-time int, float or bool."""
    value = operand.value if isinstance(operand, Static) else None
    return value if isinstance(value, (bool, int, float)) else None


def _number(operand: Operand) -> int | float:
    value = number(operand)
    assert value is not None
    return value


def static_dim(operand: object) -> Dim | None:
    """A compile-time size: an int or a dim expression."""
    if (
        isinstance(operand, Static)
        and isinstance(operand.value, (int, DimExpr))
        and not isinstance(operand.value, bool)
    ):
        return operand.value
    return None


def is_expr(operand: object) -> bool:
    """Whether the operand is, or can be held as, one element."""
    return is_number(operand) or static_dim(operand) is not None or not isinstance(operand, NOT_ELEMENTS)


def describe(operand: Operand) -> str:
    """The operand in a message."""
    match operand:
        case BufferRef(buffer):
            return f"the {'shared buffer' if buffer.space == 'shared' else 'tensor'} `{buffer.name}`"
        case Items():
            return "a tuple"
        case TileOp():
            return f"a tile of {operand.type}"
        case WindowRef(window):
            return f"a slice of `{window.buffer.name}`"
        case Register():
            return "registers without a value (ts.tile.fill gives them one)"
        case Static(None):
            return "None"
        case Static(value) if callable(value) and not isinstance(value, DType):
            return f"the function `{getattr(value, '__name__', value)}`"
        case Static(value):
            return (
                f"{type(value).__name__} {value!r}"
                if isinstance(value, (str, int, float))
                else f"a Python {type(value).__name__}"
            )
        case _:
            return f"an element of type {operand.type.dtype}"


# To run-time expressions ----------------------------------------------------------------------------------------------


def held_type(operand: Operand) -> Elem:
    """The type that an operand has when it is held at run time."""
    if isinstance(operand, Static):
        if isinstance(operand.value, bool):
            return Elem(bool_)
        return Elem(f32 if isinstance(operand.value, float) else i64)
    assert not isinstance(operand, NOT_ELEMENTS) and isinstance(operand.type, Elem)
    return operand.type


def to_expr(operand: Operand, span: Span, dtype: DType | None = None) -> Expr:
    """The operand as a run-time expression, of element type `dtype` if given. Raises SourceError E206, E220."""
    if isinstance(operand, NOT_ELEMENTS) and not is_expr(operand):
        raise fail("E206", f"one element is needed here, not {describe(operand)}", span)
    if isinstance(operand, Static):
        if isinstance(operand.value, DimExpr):
            return convert(DimValue(operand.value, Elem(i64), span), dtype or i64)
        assert isinstance(operand.value, (bool, int, float))
        return _const(operand.value, dtype or held_type(operand).dtype, span)
    assert not isinstance(operand, NOT_ELEMENTS)
    return operand if dtype is None else convert(operand, dtype)


def _const(value: int | float | bool, dtype: DType, span: Span) -> Const:
    if dtype.kind == "bool":
        return Const(bool(value), Elem(bool_), span)
    if dtype.is_float:
        try:
            return Const(float(value), Elem(dtype.base), span)
        except OverflowError:
            raise fail("E220", f"{value} does not fit {dtype.base}", span) from None
    if isinstance(value, float):
        value = 0 if math.isnan(value) else int(min(max(value, -(2.0**70)), 2.0**70))
        value = min(max(value, int(dtype.min_value)), int(dtype.max_value))
    if not dtype.min_value <= value <= dtype.max_value:
        raise fail("E220", f"{value} does not fit {dtype.base}", span, "the largest int type is i64 (or u64)")
    return Const(int(value), Elem(dtype.base), span)


def convert(expr: Expr, dtype: DType) -> Expr:
    """The expression as another element type (policies play no part)."""
    dtype = dtype.base
    if expr.type.dtype == dtype:
        return expr
    if isinstance(expr, Const) and not dtype.is_narrow:
        wide = isinstance(expr.value, float) and expr.type.dtype.name == "f32" and dtype.name == "f64"
        if (
            not wide
            and (dtype.is_float or not isinstance(expr.value, float))
            and (dtype.is_float or dtype.min_value <= expr.value <= dtype.max_value)
        ):
            return _const(expr.value, dtype, expr.span)
    return Cast(expr, Elem(dtype, expr.type.varying), expr.span)


# Types of pairs -------------------------------------------------------------------------------------------------------


def common(a: Operand, b: Operand) -> DType:
    """The element type in which two operands meet (see the module's rules; not widened)."""
    if is_number(a) and is_number(b):
        return promote(held_type(a).dtype, held_type(b).dtype)
    if is_number(a):
        return common(b, a)
    typed = held_type(a).dtype
    if not is_number(b):
        return promote(typed, held_type(b).dtype)
    assert isinstance(b, Static)
    if isinstance(b.value, bool):
        return typed.base
    if isinstance(b.value, float):
        return typed.base if typed.is_float else f32
    assert isinstance(b.value, int)
    if typed.is_float:
        return typed.base
    if typed.kind == "bool" or not typed.min_value <= b.value <= typed.max_value:
        return i64
    return typed.base


def join_types(a: Operand, b: Operand, varying: bool) -> Elem:
    """The type of a variable that is `a` on one path and `b` on another;
    `varying` when lanes may take different paths."""
    return Elem(common(a, b), varying or held_type(a).varying or held_type(b).varying)


def constant_dim(operand: Operand) -> int | None:
    """A compile-time int."""
    dim = static_dim(operand)
    return dim if isinstance(dim, int) else None


# Arithmetic -----------------------------------------------------------------------------------------------------------

_FOLD: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "pow": lambda a, b: a**b,
    "max": lambda a, b: a if a >= b or a != a else b,
    "min": lambda a, b: a if a <= b or a != a else b,
}
_SYMBOL = {"add": "+", "sub": "-", "mul": "*", "div": "/", "floordiv": "//", "mod": "%", "pow": "**"}
_DIM_FOLD: dict[str, Callable[[Dim, Dim], Dim]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "max": dim_max,
    "min": dim_min,
}


def arithmetic(op: str, a: Operand, b: Operand, span: Span) -> Operand:
    """`a op b` for add sub mul div floordiv mod pow max min. Raises SourceError E206, E220."""
    for side in (a, b):
        if not is_expr(side):
            raise fail("E206", f"`{_SYMBOL.get(op, op)}` needs numbers, not {describe(side)}", span)
    if is_number(a) and is_number(b):
        return Static(_fold(op, _number(a), _number(b), span))
    left, right = static_dim(a), static_dim(b)
    if left is not None and right is not None:
        if op in _DIM_FOLD:
            return Static(_DIM_FOLD[op](left, right))
        if op in ("floordiv", "mod") and isinstance(right, int) and right > 0:
            return Static(left // right if op == "floordiv" else left % right)
    if op == "pow":
        return _power(a, b, span)
    for side, other in ((a, b), (b, a)):
        # of integers: x + 0 = x, x * 1 = x, x - 0 = x
        neutral = {"add": 0, "mul": 1, "sub": 0 if side is b else None}.get(op)
        if neutral is not None and constant_dim(side) == neutral and held_type(other).dtype.is_int:
            return other
    dtype = common(a, b)
    if op == "div" and not dtype.is_float:
        dtype = f32
    dtype = i64 if dtype.kind == "bool" else dtype.wide
    x, y = to_expr(a, span, dtype), to_expr(b, span, dtype)
    type_ = Elem(dtype, x.type.varying or y.type.varying)
    if dtype.is_float and op in ("floordiv", "mod"):
        # floor(a / b), and a - floor(a / b) * b: defined by operations that round once each
        quotient = Unary("floor", Binary("div", x, y, type_, span), type_, span)
        return quotient if op == "floordiv" else Binary("sub", x, Binary("mul", quotient, y, type_, span), type_, span)
    return Binary(op, x, y, type_, span)


def _fold(op: str, a: float, b: float, span: Span) -> int | float | bool:
    try:
        value: int | float | bool = _FOLD[op](a, b)
    except (ZeroDivisionError, OverflowError) as err:
        raise fail("E220", f"{a} {_SYMBOL.get(op, op)} {b}: {err}", span) from None
    if isinstance(value, complex):
        raise fail("E220", f"{a} ** {b} is a complex number", span)
    if isinstance(value, int) and value.bit_length() > 4096:
        raise fail("E220", "a compile-time integer of more than 4096 bits", span)
    return value


def _power(a: Operand, b: Operand, span: Span) -> Operand:
    """A small compile-time int exponent is repeated multiplication, squaring first; else `pow` of floats."""
    exponent = b.value if isinstance(b, Static) else None
    if isinstance(exponent, int) and not isinstance(exponent, bool) and 0 <= exponent <= 16:
        if exponent == 0:
            return (
                arithmetic("add", arithmetic("mul", a, Static(0), span), Static(1), span)
                if not common(a, b).is_float
                else Static(1.0)
            )
        result: Operand | None = None
        square = a
        while exponent:
            if exponent & 1:
                result = square if result is None else arithmetic("mul", result, square, span)
            exponent >>= 1
            if exponent:
                square = arithmetic("mul", square, square, span)
        assert result is not None
        return result if not common(a, a).is_narrow else to_expr(result, span, f32)
    dtype = common(a, b).wide
    if not dtype.is_float:
        raise fail(
            "E206",
            "`**` of integers needs a compile-time exponent from 0 to 16",
            span,
            "convert one side with ts.cast(..., ts.f32)",
        )
    x, y = to_expr(a, span, dtype), to_expr(b, span, dtype)
    return Binary("pow", x, y, Elem(dtype, x.type.varying or y.type.varying), span)


def negate(a: Operand, span: Span) -> Operand:
    """`-a`."""
    if is_number(a):
        return Static(-_number(a))
    dim = static_dim(a)
    if dim is not None:
        return Static(0 - dim)
    if not is_expr(a):
        raise fail("E206", f"`-` needs a number, not {describe(a)}", span)
    dtype = held_type(a).dtype
    x = to_expr(a, span, i64 if dtype.kind == "bool" else dtype.wide)
    return Unary("neg", x, x.type, span)


_BITS: dict[str, Callable[[int, int], int]] = {
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "shl": lambda a, b: a << b,
    "shr": lambda a, b: a >> b,
}


def bitwise(op: str, a: Operand, b: Operand, span: Span) -> Operand:
    """`& | ^ << >>` of ints; the first three also of bools."""
    for side in (a, b):
        if not is_expr(side) or held_type(side).dtype.is_float:
            raise fail("E206", f"bit operations need integers, not {describe(side)}", span)
    if is_number(a) and is_number(b):
        if op in ("shl", "shr") and not 0 <= _number(b) <= 4096:
            raise fail("E220", f"a shift by {_number(b)}", span)
        result = _BITS[op](int(_number(a)), int(_number(b)))
        return Static(bool(result) if common(a, b).kind == "bool" and op in ("and", "or", "xor") else result)
    dtype = common(a, b)
    if dtype.kind == "bool" and op in ("shl", "shr"):
        dtype = i64
    x, y = to_expr(a, span, dtype), to_expr(b, span, dtype)
    return Binary(op, x, y, Elem(dtype, x.type.varying or y.type.varying), span)


_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
}


def compare(pred: str, a: Operand, b: Operand, span: Span) -> Operand:
    """`a pred b`. Compile-time things other than elements compare as in Python (eq and ne only)."""
    if is_number(a) and is_number(b):
        return Static(_COMPARE[pred](_number(a), _number(b)))
    if isinstance(a, Static) and isinstance(b, Static) and not (is_expr(a) and is_expr(b)) and pred in ("eq", "ne"):
        return Static((a.value == b.value) == (pred == "eq"))
    for side in (a, b):
        if not is_expr(side):
            raise fail("E206", f"cannot compare {describe(side)}", span)
    dtype = common(a, b).wide
    x, y = to_expr(a, span, dtype), to_expr(b, span, dtype)
    return Compare(pred, x, y, Elem(bool_, x.type.varying or y.type.varying), span)


def pure(expr: Expr, depth: int = 6) -> Expr | None:
    """The expression over ids, dims and constants alone, known variables replaced; None where that cannot be."""
    match expr:
        case Const() | DimValue() | Id():
            return expr
        case Read(known=known):
            return known
        case Binary(op, a, b, type_, span) if depth:
            x, y = pure(a, depth - 1), pure(b, depth - 1)
            return None if x is None or y is None else Binary(op, x, y, type_, span)
        case _:
            return None

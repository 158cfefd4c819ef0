"""`arith`: elementwise arithmetic, the same for scalars, `lanes`, `vec` (and `tile`): shared by three levels.

Meaning: IEEE 754 with round to nearest even; integers wrap; `floordiv` and `mod` floor as in Python, and a zero
divisor gives 0; shifts by at least the width give 0 (or the sign, for `shr` of signed); `max` and `min` return NaN
when an operand is NaN; comparisons with NaN are false, but `ne` is true. `cast` of a float to an integer truncates,
saturates, and takes NaN to 0; to fp8 it saturates to the largest finite value and keeps NaN; to bool it tests for
non-zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tesseracc.ir.define import define
from tesseracc.ir.types import Type, element, kind_of, with_element
from tesseracc.ir.value import Attr, Op, Value

BINARY = ("add", "sub", "mul", "div", "floordiv", "mod", "max", "min", "pow", "and", "or", "xor", "shl", "shr")
UNARY = (
    "neg", "abs", "exp", "exp2", "expm1", "log", "log2", "log1p", "sqrt", "rsqrt", "tanh", "erf",
    "sin", "cos", "floor", "ceil", "round", "trunc", "not",
)  # fmt: skip
PREDICATES = ("lt", "le", "gt", "ge", "eq", "ne")
#: unary functions of floats that have no machine instruction: expanded to polynomials by a Target pass
TRANSCENDENTAL = frozenset({"exp", "exp2", "expm1", "log", "log2", "log1p", "tanh", "erf", "sin", "cos", "pow"})
FLOAT_ONLY = TRANSCENDENTAL | {"sqrt", "rsqrt", "floor", "ceil", "round", "trunc", "div"}
INT_ONLY = frozenset({"and", "or", "xor", "not", "shl", "shr"})


def _same(operands: Sequence[Value], attrs: Mapping[str, Attr]) -> tuple[Type, ...]:
    return (operands[0].type,)


def _bool(operands: Sequence[Value], attrs: Mapping[str, Attr]) -> tuple[Type, ...]:
    return (with_element(operands[0].type, "bool"),)


def _check(op: Op) -> str | None:
    types = {v.type for v in op.operands}
    if len(types) > 1:
        return f"operands differ in type: {', '.join(str(v.type) for v in op.operands)}"
    kind = kind_of(element(op.operands[0].type))
    short = op.name.removeprefix("arith.")
    if short in FLOAT_ONLY and kind != "f":
        return f"needs a float type, got {op.operands[0].type}"
    if short in INT_ONLY and kind == "f":
        return f"needs an integer or bool type, got {op.operands[0].type}"
    return None


def _check_select(op: Op) -> str | None:
    cond, a, b = op.operands
    if a.type != b.type or cond.type != with_element(a.type, "bool"):
        return f"needs (bool, T, T), got {', '.join(str(v.type) for v in op.operands)}"
    return None


define("arith.constant", attrs="value:int|float|bool", doc="The value in every element.")
for _name in BINARY:
    define(f"arith.{_name}", "a b", infer=_same, verify=_check, doc=f"Elementwise {_name}.")
for _name in UNARY:
    define(f"arith.{_name}", "a", infer=_same, verify=_check, doc=f"Elementwise {_name}.")
define("arith.isnan", "a", infer=_bool, doc="Whether each element is NaN.")
define("arith.cmp", "a b", "pred:str", infer=_bool, verify=_check, doc="Comparison: lt le gt ge eq ne.")
define(
    "arith.select",
    "cond a b",
    infer=lambda operands, attrs: (operands[1].type,),
    verify=_check_select,
    doc="a where cond, else b.",
)
define("arith.fma", "a b c", infer=_same, verify=_check, doc="a * b + c with one rounding.")
define("arith.cast", "a", "to:str", infer=lambda v, at: (with_element(v[0].type, at["to"]),), doc="Numeric conversion.")
define(
    "arith.bitcast",
    "a",
    "to:str",
    infer=lambda v, at: (with_element(v[0].type, at["to"]),),
    doc="The same bits as another element type of equal width.",
)

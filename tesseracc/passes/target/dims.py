"""Dim expressions as Target IR: a size such as `3*D + 1` computed from the kernel's symbols."""

from __future__ import annotations

from collections.abc import Mapping

from tessera.shapes import Dim
from tesseracc.ir.builder import Builder
from tesseracc.ir.value import Value

_INFIX = {"add": "arith.add", "sub": "arith.sub", "mul": "arith.mul", "floordiv": "arith.floordiv", "mod": "arith.mod",
          "min": "arith.min", "max": "arith.max"}  # fmt: skip


def emit_dim(b: Builder, expr: Dim, symbols: Mapping[str, Value]) -> Value:
    """The i64 value of a dim expression."""
    if isinstance(expr, int):
        return b.const(expr)
    stack: list[Value] = []
    for item in expr.to_postfix():
        if isinstance(item, int):
            stack.append(b.const(item))
        elif item == "ceildiv":
            divisor, value = stack.pop(), stack.pop()
            # ceil(a / b) = -floor(-a / b)
            negative = b.op("arith.floordiv", b.op("arith.neg", value), divisor)
            stack.append(b.op("arith.neg", negative))
        elif item in _INFIX and item not in symbols:
            right, left = stack.pop(), stack.pop()
            stack.append(b.op(_INFIX[item], left, right))
        else:
            stack.append(symbols[item])
    (result,) = stack
    return result


def flat_index(b: Builder, indices: list[Value], dims: tuple[Dim, ...], symbols: Mapping[str, Value]) -> Value:
    """Row-major element number: ((i0 * d1 + i1) * d2 + i2) .."""
    if not indices:
        return b.const(0)
    flat = indices[0]
    for index, dim in zip(indices[1:], dims[1:], strict=True):
        flat = b.op("arith.add", b.op("arith.mul", flat, emit_dim(b, dim, symbols)), index)
    return flat

"""`expand-fma`: fused multiply-add from other operations, bit for bit, for targets that lack the instruction.

f32: the product is exact in f64; the sum is rounded to odd there, so that the final rounding to f32 is the only one
that shows. f64: the product and the sums as unevaluated pairs, the low parts added with rounding to odd (Boldo and
Melquiond, "Emulation of FMA and correctly rounded sums", 2008); exact unless an intermediate over- or underflows.
"""

from __future__ import annotations

from dataclasses import replace

from tesseracc.ir.builder import Builder
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import map_ops
from tesseracc.ir.types import element
from tesseracc.ir.value import Func, Module, Op, Value
from tesseracc.passes.target.math_ops import Ops

#: splits a 53-bit significand into halves whose products are exact
SPLITTER = float(2**27 + 1)


def _sum(m: Ops, a: Value, b: Value) -> tuple[Value, Value]:
    """a + b rounded, and exactly what that lost (Knuth's two-sum)."""
    s = m.add(a, b)
    b_part = m.sub(s, a)
    a_part = m.sub(s, b_part)
    return s, m.add(m.sub(a, a_part), m.sub(b, b_part))


def _odd_sum(m: Ops, a: Value, b: Value) -> Value:
    """a + b rounded to odd: where it is inexact, the neighbour with an odd last bit."""
    s, lost = _sum(m, a, b)
    bits = m.bits(s, "i64")
    # the magnitude grows when the loss has the sign of the sum
    grows = m.cmp("eq", m.cmp("gt", lost, 0.0), m.cmp("gt", s, 0.0))
    moved = m.add(bits, m.select(grows, m.const(1, "i64"), m.const(-1, "i64")))
    even = m.cmp("eq", m.two("and", bits, 1), 0)
    inexact = m.either(m.cmp("lt", lost, 0.0), m.cmp("gt", lost, 0.0))
    return m.bits(m.select(m.both(even, inexact), moved, bits), "f64")


def _fma_f32(m: Ops, a: Value, b: Value, c: Value) -> Value:
    product = m.mul(m.cast(a, "f64"), m.cast(b, "f64"))
    return m.cast(_odd_sum(m, product, m.cast(c, "f64")), "f32")


def _halves(m: Ops, a: Value) -> tuple[Value, Value]:
    wide = m.mul(a, SPLITTER)
    high = m.sub(wide, m.sub(wide, a))
    return high, m.sub(a, high)


def _product(m: Ops, a: Value, b: Value) -> tuple[Value, Value]:
    """a * b rounded, and what that lost (Dekker)."""
    p = m.mul(a, b)
    (a1, a2), (b1, b2) = _halves(m, a), _halves(m, b)
    lost = m.sub(m.mul(a1, b1), p)
    for x, y in ((a1, b2), (a2, b1), (a2, b2)):
        lost = m.add(lost, m.mul(x, y))
    return p, lost


def _fma_f64(m: Ops, a: Value, b: Value, c: Value) -> Value:
    high, low = _product(m, a, b)
    t, t_low = _sum(m, c, low)
    v, v_low = _sum(m, high, t)
    exact = m.add(v, _odd_sum(m, t_low, v_low))
    # infinities and NaN pass through the plain formula
    plain = m.add(high, c)
    usable = m.cmp("lt", m.abs(m.sub(exact, exact)), 1.0)
    return m.select(usable, exact, plain)


def _expand(op: Op) -> list[Op] | None:
    if op.name != "arith.fma" or element(op.operands[0].type) not in ("f32", "f64"):
        return None
    b = Builder(op.loc)
    m = Ops(b, op.operands[0].type)
    (_fma_f32 if element(op.operands[0].type) == "f32" else _fma_f64)(m, *op.operands)
    return [*b.ops[:-1], replace(b.ops[-1], results=op.results)]


@register("expand-fma", level="target")
def run(module: Module, context: Context) -> Module:
    """Replaces fused multiply-add where the target has none."""
    if context.need_arch().has("fma"):
        return module

    def change(func: Func) -> Func:
        return func.with_(body=map_ops(func.body, _expand)) if func.kind == "target.func" else func

    return module.with_(funcs=tuple(change(f) for f in module.funcs))

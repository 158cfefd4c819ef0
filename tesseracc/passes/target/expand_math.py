"""`expand-math`: elementary functions as polynomials of primitive operations, the same on every target.

Only add, sub, mul, div, fma, round, comparisons, selects and integer operations on bit patterns are left, all exactly
rounded, so the bits of exp, tanh and the others agree between CPU levels and GPUs. Bounds, in units in the last
place, as measured by the tests:

                 f32    f64                     f32    f64
    exp exp2     1      1        tanh           2.5    3
    expm1        2      2        erf            2      3
    log          1      1        sin cos        1.5    2     (|x| < 2^20)
    log2 log1p   1.5    2        pow            1      4
    rsqrt        1.5    1.5

Methods: exp by x = n ln2 + r and a polynomial in r; log by x = 2^e (1 + f) with f in [-1/3, 1/3]; tanh from expm1;
erf by an odd polynomial near 0 and by 1 - exp(..) beyond; sin and cos by reduction with a three-piece pi/2 in f64.
Where the target has no fused multiply-add, `expand-fma` computes it exactly from other operations.

Where the numeric profile allows it (`approximate-exponential`) and the target has an instruction for 2^x of f32, exp2
is that, within 2 ulp, and exp(x) is that of x log2 e, within 2 + 1.173 |x| ulp; results below 2^-126 are 0. What is
made of exp inside of other functions keeps its bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from tesseracc.ir.builder import Builder
from tesseracc.ir.dialects.arith import TRANSCENDENTAL
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import map_ops
from tesseracc.ir.types import ScalarType, element
from tesseracc.ir.value import Func, Module, Op, Value
from tesseracc.numerics import allows
from tesseracc.passes.target import math_f32, math_f64
from tesseracc.passes.target.math_ops import Ops

#: the rule by which f32 exponentials may be an instruction
RULE = "approximate-exponential"
F32 = ScalarType("f32")

_MODULES: dict[str, dict[str, Callable[..., Value]]] = {"f32": math_f32.FUNCTIONS, "f64": math_f64.FUNCTIONS}


def _approximate(op: Op) -> list[Op] | None:
    """exp and exp2 of f32 by the instruction for 2^x."""
    if op.name not in ("arith.exp", "arith.exp2") or op.result.type != F32:
        return None
    b = Builder(op.loc)
    x = op.operands[0]
    if op.name == "arith.exp":
        x = Ops(b, x.type).mul(x, 1 / math.log(2))
    return [*b.ops, replace(b.emit("target.exp2", x), results=op.results)]


def _expand(op: Op) -> list[Op] | None:
    short = op.name.removeprefix("arith.")
    if op.defn.dialect != "arith" or short not in TRANSCENDENTAL | {"rsqrt"}:
        return None
    b = Builder(op.loc)
    ops = Ops(b, op.operands[0].type)
    found = _MODULES[element(op.operands[0].type)][short](ops, *op.operands)
    # the last operation defines the value that the function's users already refer to
    last = b.ops[-1]
    assert last.results == (found,), f"{short} must end with the operation that computes it"
    return [*b.ops[:-1], replace(last, results=op.results)]


@register("expand-math", level="target")
def run(module: Module, context: Context) -> Module:
    """Replaces elementary functions by polynomials."""

    approximate = allows(context.numerics, RULE) and context.need_arch().has("exp2_approx")

    def change(func: Func) -> Func:
        if func.kind != "target.func":
            return func
        body = func.body
        if approximate:
            body = map_ops(body, _approximate)
            count = sum(op.name == "target.exp2" for op in replace(func, body=body).walk())
            if count:
                context.permit(RULE, f"{count} times in {func.name}", func.loc)
        return func.with_(body=map_ops(body, _expand))

    return module.with_(funcs=tuple(change(f) for f in module.funcs))

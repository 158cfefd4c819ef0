"""`arith` on the representations of a CPU kernel's values: symbolic where the result has a cheap form, else vectors."""

from __future__ import annotations

from collections.abc import Sequence

from tesseracc.ir.types import ScalarType, element
from tesseracc.ir.value import Op
from tesseracc.passes.target.lower_cpu_values import SMALL, Affine, Int, Kernel, Range, Rep, Splat, Vec, wrap


def lower_arith(k: Kernel, op: Op) -> Rep:
    """One `arith` operation on representations."""
    dtype = element(op.result.type)
    if op.name == "arith.constant":
        value = op.attrs["value"]
        if dtype == "i64":
            return Affine(wrap(int(value)))
        return Splat(k.b.const(value, ScalarType(dtype)))
    reps = [k.env[v] for v in op.operands]
    found = _symbolic(k, op, reps)
    if found is not None:
        return found
    if all(isinstance(rep, Splat) or (isinstance(rep, Affine) and rep.stride == 0) for rep in reps):
        return k.wrap_scalar(k.b.op(op.name, *(k.scalar(rep) for rep in reps), **op.attrs))
    vectors = [k.vector(rep, element(v.type)) for rep, v in zip(reps, op.operands, strict=True)]
    return Vec(k.b.op(op.name, *vectors, **op.attrs))


def _symbolic(k: Kernel, op: Op, reps: Sequence[Rep]) -> Rep | None:
    """The result without vectors, where there is one."""
    match op.name, list(reps):
        case "arith.add", [Affine(a, s), Affine(b, t)]:
            return Affine(k.add(a, b), k.add(s, t))
        case "arith.sub", [Affine(a, s), Affine(b, t)]:
            return Affine(k.sub(a, b), k.sub(s, t))
        case "arith.neg", [Affine(a, s)]:
            return Affine(k.sub(0, a), k.sub(0, s))
        case "arith.mul", [Affine(a, s), Affine(b, 0)]:
            return Affine(k.mul(a, b), k.mul(s, b))
        case "arith.mul", [Affine(a, 0), Affine(b, t)]:
            return Affine(k.mul(a, b), k.mul(a, t))
        case ("arith.min" | "arith.max") as name, [Affine(a, 0), Affine(b, 0)]:
            return Affine(k.min(a, b) if name == "arith.min" else k.max(a, b))
        case "arith.floordiv", [Affine(a, 0), Affine(int() as b, 0)] if b:
            return Affine(k.floordiv(a, b))
        case ("arith.floordiv" | "arith.mod") as name, [Affine(a, 1), Affine(int() as b, 0)] if 0 < b < SMALL:
            return _divide_lanes(k, name, a, b)
        case "arith.cmp", [Affine() as a, Affine() as b]:
            return _compare(k, a, b, op.attrs["pred"])
        case "arith.and", [(Range() | Splat() | Vec()) as a, (Range() | Splat() | Vec()) as b] if Range in (
            type(a),
            type(b),
        ):
            return k.meet(a, b)
        case "arith.not", [Range(lo, hi) as mask] if lo is None or hi is None:
            return k.invert(mask)
        case "arith.select", [Splat(cond), Affine(a, s), Affine(b, t)] if s == t:
            return Affine(k.b.op("arith.select", cond, k.value(a), k.value(b)), s)
    return None


def _divide_lanes(k: Kernel, name: str, base: Int, by: int) -> Rep:
    """(base + l) // by and mod, by the quotient and rest of the base: base = q by + r, so r + l < by + width is small
    and is divided in 32 bits."""
    known = isinstance(base, int)
    quotient = k.floordiv(base, by)
    rest = wrap(base % by) if isinstance(base, int) else k.b.op("arith.mod", base, k.value(by))
    if known and isinstance(rest, int) and rest + k.width <= by:
        return Affine(quotient) if name == "arith.floordiv" else Affine(rest, 1)
    small = k.constant(rest, "u32") if isinstance(rest, int) else k.splat(k.b.op("arith.cast", rest, to="u32"))
    lanes = k.b.op("arith.add", small, k.b.op("target.iota", count=k.width, dtype="u32"))
    found = k.b.op(name, lanes, k.constant(by, "u32"))
    wide = k.b.op("arith.cast", found, to="i64")
    return Vec(wide if name == "arith.mod" else k.b.op("arith.add", wide, k.vector(Affine(quotient), "i64")))


_MIRROR = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le", "eq": "eq", "ne": "ne"}


def _compare(k: Kernel, a: Affine, b: Affine, pred: str) -> Rep | None:
    """a + s l (pred) b + t l, as (s - t) l (pred) b - a."""
    slope = 0 if a.stride is b.stride else k.sub(a.stride, b.stride)
    if slope == 0:
        return Splat(k.b.op("arith.cmp", k.value(a.base), k.value(b.base), pred=pred))
    if not isinstance(slope, int) or abs(slope) > SMALL:
        return None
    limit = k.sub(b.base, a.base)
    if slope < 0:
        slope, limit, pred = -slope, k.sub(0, limit), _MIRROR[pred]
    match pred:
        case "lt":
            return Range(None, k.ceildiv(limit, slope))
        case "ge":
            return Range(k.ceildiv(limit, slope), None)
        case "le":
            return Range(None, k.add(k.floordiv(limit, slope), 1))
        case "gt":
            return Range(k.add(k.floordiv(limit, slope), 1), None)
        case "eq" if slope == 1:
            return Range(limit, k.add(limit, 1))
    return None

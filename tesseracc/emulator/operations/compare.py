"""Comparison and selection: setp set selp slct."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tesseracc.emulator import numeric as nm
from tesseracc.emulator.decode import Decoder, Source
from tesseracc.emulator.operations.floating import is_float
from tesseracc.emulator.ptx import Instruction, Pair
from tesseracc.emulator.table import Step, instruction
from tesseracc.emulator.types import TYPES, Array, where
from tesseracc.emulator.wave import Wave

_SECTION = "9.7.6 Comparison and Selection"
_ORDERED: dict[str, Callable[[Array, Array], Array]] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
}  # fmt: skip
_BOOL: dict[str, Callable[[Array, Array], Array]] = {
    "and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor,
}  # fmt: skip


def compare_integers(op: str) -> Callable[[Array, Array], Array]:
    """The comparison of integers called `op`; KeyError if there is none."""
    return _ORDERED[op]


def _compare(op: str, floating: bool) -> Callable[[Array, Array], Array]:
    if not floating:
        return _ORDERED[op]
    if op == "num":
        return lambda a, b: ~(np.isnan(a) | np.isnan(b))
    if op == "nan":
        return lambda a, b: np.isnan(a) | np.isnan(b)
    if op == "ne":  # ordered: false if either is NaN
        return lambda a, b: (a < b) | (a > b)
    if op in _ORDERED:
        return _ORDERED[op]
    plain = _ORDERED[op[:-1]]
    return lambda a, b: plain(a, b) | np.isnan(a) | np.isnan(b)


def _values(d: Decoder, i: Instruction, k: int, kind: str) -> Source:
    """An operand as comparable numbers; f16 and bf16 become f64."""
    if kind in ("f16", "bf16"):
        raw = d.source(i.operands[k], "f16" if kind == "f16" else "b16")
        return lambda w: nm.decode(raw(w).view(np.uint16), kind)
    source = d.source(i.operands[k], kind)
    if "ftz" in i.mods and kind == "f32":
        return lambda w: nm.flush(source(w))
    return source


def _split(i: Instruction, kinds: int) -> tuple[str, str | None]:
    """(comparison, boolean operation) among the modifiers before the last `kinds` types."""
    words = [m for m in i.mods[: len(i.mods) - kinds] if m != "ftz"]
    return words[0], words[1] if len(words) > 1 else None


@instruction("setp", _SECTION, "b u s 16..64, f16 bf16 f32 f64, f16x2 bf16x2; eq .. nan, .and .or .xor")
def setp(i: Instruction, d: Decoder) -> Step:
    """p = (a op b) bool c; a second destination gets (not (a op b)) bool c. Packed types set one predicate each."""
    kind = i.mods[-1]
    op, combine = _split(i, 1)
    targets = i.operands[0]
    first, second = (targets.first, targets.second) if isinstance(targets, Pair) else (targets, None)
    put, put_other = d.sink(first, "pred"), d.sink(second, "pred")
    extra = d.source(i.operands[3], "pred") if combine else None
    join = _BOOL[combine] if combine else None
    if kind.endswith("x2"):
        return _setp_packed(i, d, kind, op)
    test = _compare(op, is_float(kind))
    a, b = _values(d, i, 1, kind), _values(d, i, 2, kind)

    def run(w: Wave) -> None:
        r = test(a(w), b(w))
        other = ~r
        if extra is not None and join is not None:
            c = extra(w)
            r, other = join(r, c), join(other, c)
        put(w, r)
        if second is not None:
            put_other(w, other)

    return run


def _setp_packed(i: Instruction, d: Decoder, kind: str, op: str) -> Step:
    element = kind[:-2]
    test = _compare(op, True)
    targets = i.operands[0]
    if not isinstance(targets, Pair):
        raise ValueError("packed setp needs two destinations")
    low, high = d.sink(targets.first, "pred"), d.sink(targets.second, "pred")
    a, b = d.source(i.operands[1], "b32"), d.source(i.operands[2], "b32")

    def run(w: Wave) -> None:
        x, y = a(w), b(w)
        for shift, put in ((0, low), (16, high)):
            p, q = ((v >> np.uint32(shift)).astype(np.uint16) for v in (x, y))
            put(w, test(nm.decode(p, element), nm.decode(q, element)))

    return run


@instruction("set", _SECTION, ".dtype u32 s32 f32 f16 bf16, source types as setp")
def set_(i: Instruction, d: Decoder) -> Step:
    """d = all ones (or 1.0) if the comparison holds, else 0."""
    result, kind = i.mods[-2], i.mods[-1]
    op, combine = _split(i, 2)
    extra = d.source(i.operands[3], "pred") if combine else None
    bits = TYPES[result].bits
    put = d.sink(i.operands[0], f"b{bits}")
    raw = TYPES[f"b{bits}"].dtype
    one = nm.encode(np.float64(1), result.removesuffix("x2")) if is_float(result) else None
    if kind.endswith("x2"):
        return _set_packed(i, d, result, kind, op)
    test = _compare(op, is_float(kind))
    a, b = _values(d, i, 1, kind), _values(d, i, 2, kind)
    true = raw(one) if one is not None else ~raw(0)

    def run(w: Wave) -> None:
        r = test(a(w), b(w))
        if extra is not None and combine is not None:
            r = _BOOL[combine](r, extra(w))
        put(w, where(r, true, raw(0))[()])

    return run


def _set_packed(i: Instruction, d: Decoder, result: str, kind: str, op: str) -> Step:
    element = kind[:-2]
    test = _compare(op, True)
    true = np.uint16(nm.encode(np.float64(1), element)) if is_float(result) else np.uint16(0xFFFF)
    put, a, b = d.sink(i.operands[0], "b32"), d.source(i.operands[1], "b32"), d.source(i.operands[2], "b32")

    def run(w: Wave) -> None:
        x, y = a(w), b(w)
        out = np.uint32(0)
        for shift in (0, 16):
            p, q = ((v >> np.uint32(shift)).astype(np.uint16) for v in (x, y))
            r = test(nm.decode(p, element), nm.decode(q, element))
            out = out | where(r, true, np.uint16(0))[()].astype(np.uint32) << np.uint32(shift)
        put(w, out)

    return run


@instruction("selp", _SECTION, "b u s f 16..64")
def selp(i: Instruction, d: Decoder) -> Step:
    """d = p ? a : b."""
    kind = f"b{TYPES[i.mods[-1]].bits}"
    put = d.sink(i.operands[0], kind)
    literal = i.mods[-1] if TYPES[i.mods[-1]].kind == "f" else kind
    a, b = d.source(i.operands[1], literal), d.source(i.operands[2], literal)
    p = d.source(i.operands[3], "pred")
    return lambda w: put(w, where(p(w), a(w), b(w))[()])


@instruction("slct", _SECTION, ".dtype.s32 or .dtype.f32")
def slct(i: Instruction, d: Decoder) -> Step:
    """d = c >= 0 ? a : b; NaN picks b."""
    kind = i.mods[-2]
    put = d.sink(i.operands[0], kind)
    a, b, c = d.source(i.operands[1], kind), d.source(i.operands[2], kind), _values(d, i, 3, i.mods[-1])
    return lambda w: put(w, where(c(w) >= 0, a(w), b(w))[()])

"""`expand-narrow`: narrow types become integers of their storage, and their casts become integer arithmetic.

After this pass no value has a float type narrower than f32, or an int type of 4 bits: memory holds the bit patterns as
u16 or u8, and `arith.cast` from or to such a type is spelled out, exactly, with one rounding to nearest even, or is the
instruction for it that a GPU has. f16 and bf16 overflow to infinity, floats of 8 bits and fewer saturate to the largest
finite value; NaN stays NaN, and is the largest value of types without one. Ints of 4 bits saturate for floats and wrap
for ints, as wider ones do.

With E, M the widths of exponent and mantissa and bias = 2^(E-1) - 1:
    widen:  |x| = bits_as_f32(magnitude << (23 - M)) * 2^(127 - bias)     exact, subnormals included
    narrow: normal     (bits(|x|) - ((127 - bias) << 23) + half - 1 + lsb) >> (23 - M)
            subnormal  bits(|x| + magic) - bits(magic), magic = 2^(23 - M + 1 - bias): the addition rounds
fp8_e8m0 is an exponent alone: its pattern is f32's field.
"""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np

from tessera_runtime.core.codecs import FORMATS
from tessera_runtime.core.dtypes import encode, info
from tesseracc.ir.builder import Builder
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.types import PtrType, Type, element, kind_of, with_element
from tesseracc.ir.value import Attr, Func, Module, Op, Region, Value

FLOATS = {name: "u16" if form[0] == 16 else "u8" for name, form in FORMATS.items()} | {"fp8_e8m0": "u8"}
INTS = {"i4": "u8", "u4": "u8"}
NARROW = {**FLOATS, **INTS}


def _f32_bits(value: float) -> int:
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


class _Math:
    """Integer and float operations on values of one form (scalar or vec)."""

    def __init__(self, b: Builder, form: Type) -> None:
        self.b = b
        self.form = form

    def const(self, value: int | float, dtype: str) -> Value:
        return self.b.op("arith.constant", types=with_element(self.form, dtype), value=value)

    def op(self, name: str, a: Value, b: Value | int) -> Value:
        other = b if isinstance(b, Value) else self.const(b, element(a.type))
        return self.b.op(f"arith.{name}", a, other)

    def cast(self, a: Value, to: str) -> Value:
        return a if element(a.type) == to else self.b.op("arith.cast", a, to=to)

    def bits(self, a: Value, to: str) -> Value:
        return self.b.op("arith.bitcast", a, to=to)

    def cmp(self, pred: str, a: Value, b: Value | int) -> Value:
        other = b if isinstance(b, Value) else self.const(b, element(a.type))
        return self.b.op("arith.cmp", a, other, pred=pred)

    def select(self, cond: Value, a: Value, b: Value) -> Value:
        return self.b.op("arith.select", cond, a, b)


def widen(m: _Math, raw: Value, name: str) -> Value:
    """The f32 value of bit patterns of a float."""
    bits = m.cast(raw, "u32")
    if name == "fp8_e8m0":
        power = m.select(m.cmp("eq", bits, 0), m.const(1 << 22, "u32"), m.op("shl", bits, 23))
        return m.bits(m.select(m.cmp("eq", bits, 255), m.const(0x7FC00000, "u32"), power), "f32")
    if name == "bf16":
        return m.bits(m.op("shl", bits, 16), "f32")
    row = info(name)
    mantissa, width = row.mantissa, row.bits
    bias = (1 << (row.exponent - 1)) - 1
    magnitude = m.op("and", bits, (1 << (width - 1)) - 1)
    sign = m.op("shl", m.op("shr", bits, width - 1), 31)
    aligned = m.bits(m.op("shl", magnitude, 23 - mantissa), "f32")
    found = m.bits(m.b.op("arith.mul", aligned, m.const(2.0 ** (127 - bias), "f32")), "u32")
    _, _, _, _, nan, infinity = FORMATS[name]
    if infinity is not None:
        # exponent all ones: infinity, or NaN with its payload
        special = m.cmp("ge", magnitude, ((1 << row.exponent) - 1) << mantissa)
        found = m.select(special, m.op("or", m.op("shl", magnitude, 23 - mantissa), 0x7F800000), found)
    elif nan is not None:
        found = m.select(m.cmp("eq", magnitude, nan), m.const(0x7FC00000, "u32"), found)
    return m.bits(m.op("or", found, sign), "f32")


def narrow(m: _Math, value: Value, name: str) -> Value:
    """The bit patterns of f32 values rounded once to a float."""
    bits = m.bits(value, "u32")
    magnitude = m.op("and", bits, 0x7FFFFFFF)
    is_nan = m.cmp("gt", magnitude, 0x7F800000)
    if name == "fp8_e8m0":
        return _power(m, bits, magnitude, is_nan)
    row = info(name)
    _, mantissa, emin, largest, nan, infinity = FORMATS[name]
    width, bias, raw = row.bits, 1 - emin, NARROW[name]
    shift = 23 - mantissa
    lsb = m.op("and", m.op("shr", bits, shift), 1)
    rounded = m.op("add", m.op("add", magnitude, (1 << (shift - 1)) - 1), lsb)
    sign = m.op("shl", m.op("shr", bits, 31), width - 1)
    if name == "bf16":
        found = m.op("shr", rounded, shift)
        quiet = m.op("or", m.op("shr", magnitude, shift), 0x40)
    else:
        normal = m.op("shr", m.op("sub", rounded, (127 - bias) << 23), shift)
        magic = 2.0 ** (shift + 1 - bias)
        lifted = m.bits(m.b.op("arith.add", m.bits(magnitude, "f32"), m.const(magic, "f32")), "u32")
        small = m.op("sub", lifted, _f32_bits(magic))
        found = m.select(m.cmp("lt", magnitude, (128 - bias) << 23), small, normal)
        # beyond the range: infinity for f16, the largest finite value for fewer bits; infinity is a huge magnitude
        end = infinity if name == "f16" and infinity is not None else largest
        found = m.op("min", found, end)
        found = m.select(m.cmp("ge", magnitude, 0x7F800000), m.const(end, "u32"), found)
        quiet = (
            m.op("or", m.op("shr", m.op("and", magnitude, 0x7FFFFF), shift), 0x7E00)
            if name == "f16"
            else m.const(largest if nan is None else nan, "u32")
        )
    if nan is None:  # what NaN becomes is positive
        return m.cast(m.select(is_nan, quiet, m.op("or", found, sign)), raw)
    return m.cast(m.op("or", m.select(is_nan, quiet, found), sign), raw)


def _power(m: _Math, bits: Value, magnitude: Value, is_nan: Value) -> Value:
    """f32 to the nearest power of two, ties to the even pattern: the field, with the carry of the rounding."""
    carry = m.op("add", m.op("and", m.op("shr", bits, 23), 1), 0x3FFFFF)
    found = m.op("min", m.op("shr", m.op("add", magnitude, carry), 23), 254)
    found = m.select(m.cmp("eq", magnitude, 0), m.const(0, "u32"), found)
    below = m.b.op("arith.and", m.cmp("ne", magnitude, 0), m.cmp("ge", bits, 1 << 31))
    found = m.select(m.b.op("arith.or", is_nan, below), m.const(255, "u32"), found)
    return m.cast(found, "u8")


def _widen_int(m: _Math, raw: Value, name: str) -> Value:
    """The i32 value of 4 bits, whatever stands above them."""
    value = m.cast(raw, "i32")
    return m.op("and", value, 15) if name == "u4" else m.op("shr", m.op("shl", value, 28), 28)


def _narrow_int(m: _Math, value: Value, name: str) -> Value:
    """The 4 bits of a value: floats truncate and saturate, ints wrap."""
    is_float = kind_of(element(value.type)) == "f"
    value = m.cast(value, "i32")
    if is_float:
        low, high = (0, 15) if name == "u4" else (-8, 7)
        value = m.op("min", m.op("max", value, low), high)
    return m.cast(m.op("and", value, 15), "u8")


def to_odd(m: _Math, value: Value) -> Value:
    """f64 to f32 rounded to odd: a following rounding to a narrower type is then the only one that shows."""
    near = m.cast(value, "f32")
    back = m.cast(near, "f64")
    away = m.cmp("gt", m.b.op("arith.abs", back), m.b.op("arith.abs", value))
    bits = m.bits(near, "u32")
    truncated = m.op("sub", bits, m.select(away, m.const(1, "u32"), m.const(0, "u32")))
    inexact = m.b.op("arith.and", m.cmp("ne", back, value), m.b.op("arith.not", m.b.op("arith.isnan", value)))
    return m.bits(m.select(inexact, m.op("or", truncated, 1), bits), "f32")


def _cast(b: Builder, op: Op, operand: Value, source: str, target: str) -> Value:
    """One cast that has a narrow type on either side; `operand` already has its new type."""
    m = _Math(b, operand.type)
    if source == target:
        return operand
    value = operand
    if source in NARROW:
        value = widen(m, operand, source) if source in FLOATS else _widen_int(m, operand, source)
    if target not in NARROW:
        return m.cast(value, target)
    if target in INTS:
        return _narrow_int(m, value, target)
    if kind_of(element(value.type)) != "f":
        value = m.cast(value, "f32")
    if element(value.type) == "f64":
        value = to_odd(m, value)
    return narrow(m, value, target)


class _Rewriter:
    """`units`: casts (source, target) that the target has an instruction for."""

    def __init__(self, units: frozenset[tuple[str, str]]) -> None:
        self.units = units
        self.subst: dict[Value, Value] = {}

    def value(self, value: Value) -> Value:
        """The value, or one of the type that stands for its narrow one."""
        type_ = _storage(value.type)
        found = value if type_ is value.type else Value(type_, value.name)
        self.subst[value] = found
        return found

    def region(self, region: Region) -> Region:
        args = tuple(self.value(a) for a in region.args)
        b = Builder()
        for op in region.ops:
            self.op(b, op)
        return Region(args, tuple(b.ops), tuple(self.subst[v] for v in region.yields))

    def op(self, b: Builder, op: Op) -> None:
        b.loc = op.loc
        operands = [self.subst[v] for v in op.operands]
        if op.name in ("arith.cast", "arith.bitcast"):
            source, target = element(op["a"].type), str(op.attrs["to"])
            if source in NARROW or target in NARROW:
                if (source, target) in self.units and op.name == "arith.cast":
                    self.subst[op.result] = (
                        b.op("target.widen", operands[0]) if target == "f32" else
                        b.op("target.round", operands[0], to=target)
                    )  # fmt: skip
                elif op.name == "arith.cast":
                    self.subst[op.result] = _cast(b, op, operands[0], source, target)
                else:
                    source, target = NARROW.get(source, source), NARROW.get(target, target)
                    self.subst[op.result] = (
                        operands[0] if source == target else b.op("arith.bitcast", operands[0], to=target)
                    )
                return
        attrs = dict(op.attrs)
        if op.name == "arith.constant" and element(op.result.type) in NARROW:
            attrs["value"] = _pattern(attrs["value"], element(op.result.type))
        if attrs.get("dtype") in NARROW:
            attrs["dtype"] = NARROW[attrs["dtype"]]
        regions = tuple(self.region(r) for r in op.regions)
        results = tuple(self.value(r) for r in op.results)
        if regions or results != op.results or operands != list(op.operands) or attrs != op.attrs:
            op = replace(op, operands=tuple(operands), results=results, attrs=attrs, regions=regions)
        b.append(op)


def _pattern(value: Attr, dtype: str) -> int:
    """The bits of a constant."""
    assert isinstance(value, (int, float))
    return int(value) & 15 if dtype in INTS else int(encode(dtype, np.asarray([value], np.float64))[0])


def _storage(type_: Type) -> Type:
    if isinstance(type_, PtrType) or element(type_) not in NARROW:
        return type_
    return with_element(type_, NARROW[element(type_)])


def _uses_narrow(func: Func) -> bool:
    if any(not isinstance(p.type, PtrType) and element(p.type) in NARROW for p in func.params):
        return True
    return any(attr in NARROW for op in func.walk() for attr in (op.attrs.get("dtype"), op.attrs.get("to"))) or any(
        not isinstance(r.type, PtrType) and element(r.type) in NARROW for op in func.walk() for r in op.results
    )


@register("expand-narrow", level="target")
def run(module: Module, context: Context) -> Module:
    """Spells out narrow types as integers and their casts as integer arithmetic, or as the target's instructions."""
    arch = context.arch
    units: set[tuple[str, str]] = set()
    if arch is not None and arch.kind == "cuda":
        units |= {("f32", "f16"), ("f16", "f32")} if arch.has("f16_convert") else set()
        units |= {("f32", "bf16")} if arch.has("bf16_convert") else set()

    def change(func: Func) -> Func:
        if func.kind != "target.func" or not _uses_narrow(func):
            return func
        return func.with_(body=_Rewriter(frozenset(units)).region(func.body))

    return module.with_(funcs=tuple(change(f) for f in module.funcs))

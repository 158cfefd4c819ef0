"""The `arith` dialect in LLVM IR: one row per operation, with the exact meaning of the dialect's docstring.

LLVM's own operators leave overflow of shifts, division by zero and out-of-range conversions undefined (poison); a
`select` that does not choose the undefined operand makes them defined, element by element.
"""

from __future__ import annotations

from tessera_runtime.core.errors import TesseraError
from tesseracc.codegen.llvm_text import Handler, Writer, is_float, is_signed, scalar_text
from tesseracc.ir.types import ScalarType, Type, VecType, bits_of, element, kind_of, with_element
from tesseracc.ir.value import Op

#: (float, integer, bool) instructions of operations that need nothing around them
_PLAIN: dict[str, tuple[str | None, str | None, str | None]] = {
    "add": ("fadd", "add", "or"),
    "sub": ("fsub", "sub", "xor"),
    "mul": ("fmul", "mul", "and"),
    "div": ("fdiv", None, None),
    "and": (None, "and", "and"),
    "or": (None, "or", "or"),
    "xor": (None, "xor", "xor"),
}
_FLOAT_CALLS = {
    "abs": "fabs", "sqrt": "sqrt", "fma": "fma",
    "floor": "floor", "ceil": "ceil", "round": "roundeven", "trunc": "trunc",
}  # fmt: skip
_FCMP = {"lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge", "eq": "oeq", "ne": "une"}


def _pure(w: Writer, name: str, type_: Type, *args: str) -> str:
    text = w.type(type_)
    return w.value_call(f"llvm.{name}.{w.mangled(type_)}", text, *(f"{text} {a}" if " " not in a else a for a in args))


def _unsupported(op: Op) -> TesseraError:
    return TesseraError(
        "E502",
        f"`{op.name}` of {op.operands[0].type} has no machine instruction",
        help="run expand-math and expand-narrow first",
    )


def _plain(w: Writer, op: Op) -> str:
    type_ = op.result.type
    at = 0 if is_float(type_) else 2 if element(type_) == "bool" else 1
    found = _PLAIN[op.name.removeprefix("arith.")][at]
    if found is None or (kind_of(element(type_)) == "f" and at != 0):
        raise _unsupported(op)
    return w.let(f"{found} {w.type(type_)} {w[op['a']]}, {w[op['b']]}")


def _float_call(w: Writer, op: Op) -> str:
    type_ = op.result.type
    short = op.name.removeprefix("arith.")
    if is_float(type_):
        name = f"llvm.{_FLOAT_CALLS[short]}.{w.mangled(type_)}"
        return w.value_call(name, w.type(type_), *(w.typed(v) for v in op.operands))
    if kind_of(element(type_)) == "f":
        raise _unsupported(op)
    if short == "fma":
        product = w.let(f"mul {w.type(type_)} {w[op['a']]}, {w[op['b']]}")
        return w.let(f"add {w.type(type_)} {product}, {w[op['c']]}")
    if short == "abs":
        if not is_signed(type_):
            return w[op["a"]]
        return w.value_call(f"llvm.abs.{w.mangled(type_)}", w.type(type_), w.typed(op["a"]), "i1 false", tail="")
    raise _unsupported(op)


def _neg(w: Writer, op: Op) -> str:
    type_ = op.result.type
    if is_float(type_):
        return w.let(f"fneg {w.typed(op['a'])}")
    if kind_of(element(type_)) == "f":
        raise _unsupported(op)
    return w.let(f"sub {w.type(type_)} {w.splat(0, type_)}, {w[op['a']]}")


def _rsqrt(w: Writer, op: Op) -> str:
    type_ = op.result.type
    if not is_float(type_):
        raise _unsupported(op)
    root = w.value_call(f"llvm.sqrt.{w.mangled(type_)}", w.type(type_), w.typed(op["a"]))
    return w.let(f"fdiv {w.type(type_)} {w.splat(1.0, type_)}, {root}")


def _not(w: Writer, op: Op) -> str:
    type_ = op.result.type
    ones = w.splat(True, type_) if element(type_) == "bool" else w.splat(-1, type_)
    return w.let(f"xor {w.typed(op['a'])}, {ones}")


# -- comparison, choice ------------------------------------------------------------------------------------------------


def _cmp(w: Writer, op: Op) -> str:
    type_, pred = op["a"].type, op.attrs["pred"]
    if is_float(type_):
        return w.let(f"fcmp {_FCMP[pred]} {w.typed(op['a'])}, {w[op['b']]}")
    if kind_of(element(type_)) == "f":
        raise _unsupported(op)
    return w.let(f"icmp {_icmp(pred, is_signed(type_))} {w.typed(op['a'])}, {w[op['b']]}")


def _icmp(pred: str, signed: bool) -> str:
    return pred if pred in ("eq", "ne") else ("s" if signed else "u") + pred


def _isnan(w: Writer, op: Op) -> str:
    if not is_float(op["a"].type):
        if kind_of(element(op["a"].type)) == "f":
            raise _unsupported(op)
        return w.splat(False, op.result.type)
    return w.let(f"fcmp uno {w.typed(op['a'])}, {w[op['a']]}")


def _select(w: Writer, op: Op) -> str:
    return w.let(f"select {w.typed(op['cond'])}, {w.typed(op['a'])}, {w.typed(op['b'])}")


def _extremum(w: Writer, op: Op) -> str:
    """`max` and `min`. For floats a where a > b, else b; and a where a is NaN (a NaN in b fails the comparison)."""
    type_, short = op.result.type, op.name.removeprefix("arith.")
    text, a, b = w.type(type_), w[op["a"]], w[op["b"]]
    if element(type_) == "bool":
        return w.let(f"{'or' if short == 'max' else 'and'} {text} {a}, {b}")
    if not is_float(type_):
        if kind_of(element(type_)) == "f":
            raise _unsupported(op)
        sign = "s" if is_signed(type_) else "u"
        return w.value_call(f"llvm.{sign}{short}.{w.mangled(type_)}", text, f"{text} {a}", f"{text} {b}")
    if w.nvptx:
        name = "maximum" if short == "max" else "minimum"
        return w.value_call(f"llvm.{name}.{w.mangled(type_)}", text, f"{text} {a}", f"{text} {b}")
    bools = w.type(with_element(type_, "bool"))
    better = w.let(f"fcmp {'ogt' if short == 'max' else 'olt'} {text} {a}, {b}")
    chosen = w.let(f"select {bools} {better}, {text} {a}, {text} {b}")
    nan = w.let(f"fcmp uno {text} {a}, {a}")
    return w.let(f"select {bools} {nan}, {text} {a}, {text} {chosen}")


# -- integers --------------------------------------------------------------------------------------------------------


def _divide(w: Writer, op: Op) -> str:
    """`floordiv` and `mod` of integers, flooring; a zero divisor gives 0 and MIN // -1 wraps to MIN.

    With q, r of the truncating division, floor(a / b) = q - [r != 0 and sign(r) != sign(b)], a mod b = r + b * [same].
    """
    type_ = op.result.type
    if kind_of(element(type_)) in "fb":
        return _divide_float(w, op)
    signed, floor = is_signed(type_), op.name == "arith.floordiv"
    text, bools = w.type(type_), w.type(with_element(type_, "bool"))
    a, b = w[op["a"]], w[op["b"]]
    known = w.constants.get(op["b"])
    if isinstance(known, int) and known > 0 and known & (known - 1) == 0:
        if floor:
            return w.let(f"{'ashr' if signed else 'lshr'} {text} {a}, {w.splat(known.bit_length() - 1, type_)}")
        return w.let(f"and {text} {a}, {w.splat(known - 1, type_)}")
    zero, one = w.splat(0, type_), w.splat(1, type_)
    if isinstance(known, int) and known not in (0, -1):
        safe, is_zero = b, None
    else:
        is_zero = w.let(f"icmp eq {text} {b}, {zero}")
        unsafe = is_zero
        if signed:
            lowest = w.let(f"icmp eq {text} {a}, {w.splat(-(1 << (bits_of(element(type_)) - 1)), type_)}")
            minus = w.let(f"icmp eq {text} {b}, {w.splat(-1, type_)}")
            both = w.let(f"and {bools} {lowest}, {minus}")
            unsafe = w.let(f"or {bools} {is_zero}, {both}")
        safe = w.let(f"select {bools} {unsafe}, {text} {one}, {text} {b}")
    quotient = w.let(f"{'sdiv' if signed else 'udiv'} {text} {a}, {safe}")
    if signed or not floor:
        product = w.let(f"mul {text} {quotient}, {safe}")
        rest = w.let(f"sub {text} {a}, {product}")
    result = quotient if floor else rest
    if signed:
        crossed = w.let(f"xor {text} {rest}, {safe}")
        differ = w.let(f"icmp slt {text} {crossed}, {zero}")
        some = w.let(f"icmp ne {text} {rest}, {zero}")
        wrong = w.let(f"and {bools} {differ}, {some}")
        if floor:
            extended = w.let(f"sext {bools} {wrong} to {text}")
            result = w.let(f"add {text} {quotient}, {extended}")
        else:
            moved = w.let(f"add {text} {rest}, {safe}")
            result = w.let(f"select {bools} {wrong}, {text} {moved}, {text} {rest}")
    if is_zero is not None:
        result = w.let(f"select {bools} {is_zero}, {text} {zero}, {text} {result}")
    return result


def _divide_float(w: Writer, op: Op) -> str:
    """floor(a / b); and r = a - floor(a / b) b, moved by b where rounding has left it with the other sign."""
    type_ = op.result.type
    if not is_float(type_):
        raise _unsupported(op)
    text, bools, zero = w.type(type_), w.type(with_element(type_, "bool")), w.splat(0.0, type_)
    a, b = w[op["a"]], w[op["b"]]
    quotient = w.let(f"fdiv {text} {a}, {b}")
    whole = w.value_call(f"llvm.floor.{w.mangled(type_)}", text, f"{text} {quotient}")
    if op.name == "arith.floordiv":
        return whole
    product = w.let(f"fmul {text} {whole}, {b}")
    rest = w.let(f"fsub {text} {a}, {product}")
    below, negative = (w.let(f"fcmp olt {text} {value}, {zero}") for value in (rest, b))
    some = w.let(f"fcmp une {text} {rest}, {zero}")
    differ = w.let(f"xor {bools} {below}, {negative}")
    wrong = w.let(f"and {bools} {some}, {differ}")
    moved = w.let(f"fadd {text} {rest}, {b}")
    return w.let(f"select {bools} {wrong}, {text} {moved}, {text} {rest}")


def _shift(w: Writer, op: Op) -> str:
    type_ = op.result.type
    short = op.name.removeprefix("arith.")
    if kind_of(element(type_)) in "fb":
        raise _unsupported(op)
    text, bools = w.type(type_), w.type(with_element(type_, "bool"))
    width, count = bits_of(element(type_)), w[op["b"]]
    known = w.constants.get(op["b"])
    inside = isinstance(known, int) and 0 <= known < width
    if short == "shr" and is_signed(type_):
        if not inside:
            last = f"{text} {w.splat(width - 1, type_)}"
            count = w.value_call(f"llvm.umin.{w.mangled(type_)}", text, f"{text} {count}", last)
        return w.let(f"ashr {text} {w[op['a']]}, {count}")
    shifted = w.let(f"{'shl' if short == 'shl' else 'lshr'} {text} {w[op['a']]}, {count}")
    if inside:
        return shifted
    fits = w.let(f"icmp ult {text} {count}, {w.splat(width, type_)}")
    return w.let(f"select {bools} {fits}, {text} {shifted}, {text} {w.splat(0, type_)}")


# -- conversions -----------------------------------------------------------------------------------------------------


def _cast(w: Writer, op: Op) -> str:
    source, target = op["a"].type, op.result.type
    a, from_, to = w[op["a"]], element(source), element(target)
    if from_ == to:
        return a
    old, new = w.type(source), w.type(target)
    if to == "bool":
        if is_float(source):
            return w.let(f"fcmp une {old} {a}, {w.splat(0.0, source)}")
        if kind_of(from_) != "f":
            return w.let(f"icmp ne {old} {a}, {w.splat(0, source)}")
    kinds = (kind_of(from_), kind_of(to))
    if kinds == ("f", "f"):
        return _cast_float(w, op)
    if kinds[0] == "f":
        if not is_float(source):
            raise _unsupported(op)
        return _to_integer(w, a, source, target)
    if kinds[1] == "f":
        if not is_float(target):
            raise _unsupported(op)
        return w.let(f"{'sitofp' if kinds[0] == 'i' else 'uitofp'} {old} {a} to {new}")
    width, wanted = (1 if from_ == "bool" else bits_of(from_)), bits_of(to)
    if width == wanted:
        return a
    how = "trunc" if wanted < width else "sext" if kinds[0] == "i" else "zext"
    return w.let(f"{how} {old} {a} to {new}")


def _cast_float(w: Writer, op: Op) -> str:
    """Between f64 and f32; between those and f16 or bf16 where the machine can (else it was expanded)."""
    source, target = op["a"].type, op.result.type
    names = {"f16": "half", "bf16": "bfloat"}
    value, from_, to = w[op["a"]], element(source), element(target)
    if from_.startswith("fp8") or to.startswith("fp8"):
        raise _unsupported(op)

    def real(type_: Type) -> str:
        name = names.get(element(type_)) or scalar_text(element(type_))
        return f"<{type_.count} x {name}>" if isinstance(type_, VecType) else name

    if from_ in names:
        value = w.let(f"bitcast {w.type(source)} {value} to {real(source)}")
    how = "fpext" if bits_of(to) > bits_of(from_) else "fptrunc"
    if bits_of(to) == bits_of(from_):
        raise _unsupported(op)
    value = w.let(f"{how} {real(source)} {value} to {real(target)}")
    if to in names:
        value = w.let(f"bitcast {real(target)} {value} to {w.type(target)}")
    return value


def _to_integer(w: Writer, a: str, source: Type, target: Type) -> str:
    """Truncate, saturate, NaN to 0. The saturating intrinsic becomes scalars on x86: spelled out for vectors."""
    old, new, signed = w.type(source), w.type(target), is_signed(target)
    if w.nvptx or isinstance(target, ScalarType):
        how = "fptosi" if signed else "fptoui"
        return w.value_call(f"llvm.{how}.sat.{w.mangled(target)}.{w.mangled(source)}", new, f"{old} {a}")
    bits = bits_of(element(target))
    bools = w.type(with_element(source, "bool"))
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    plain = w.let(f"{'fptosi' if signed else 'fptoui'} {old} {a} to {new}")
    # high + 1 is a power of two and exact; every value of at least it saturates, every smaller one truncates into range
    above = w.let(f"fcmp oge {old} {a}, {w.splat(float(high + 1), source)}")
    below = w.let(f"fcmp olt {old} {a}, {w.splat(float(low), source)}")
    nan = w.let(f"fcmp uno {old} {a}, {a}")
    result = w.let(f"select {bools} {above}, {new} {w.splat(high, target)}, {new} {plain}")
    result = w.let(f"select {bools} {below}, {new} {w.splat(low, target)}, {new} {result}")
    return w.let(f"select {bools} {nan}, {new} {w.splat(0, target)}, {new} {result}")


def _bitcast(w: Writer, op: Op) -> str:
    old, new = w.type(op["a"].type), w.type(op.result.type)
    return w[op["a"]] if old == new else w.let(f"bitcast {old} {w[op['a']]} to {new}")


def _constant(w: Writer, op: Op) -> str:
    w.constants[op.result] = op.attrs["value"]
    return w.splat(op.attrs["value"], op.result.type)


ARITH: dict[str, Handler] = {
    **{f"arith.{name}": _plain for name in _PLAIN},
    **{f"arith.{name}": _float_call for name in _FLOAT_CALLS},
    "arith.neg": _neg,
    "arith.rsqrt": _rsqrt,
    "arith.not": _not,
    "arith.max": _extremum,
    "arith.min": _extremum,
    "arith.floordiv": _divide,
    "arith.mod": _divide,
    "arith.shl": _shift,
    "arith.shr": _shift,
    "arith.cmp": _cmp,
    "arith.isnan": _isnan,
    "arith.select": _select,
    "arith.cast": _cast,
    "arith.bitcast": _bitcast,
    "arith.constant": _constant,
}

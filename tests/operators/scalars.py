"""An evaluator of the scalar language, one element at a time, independent of every `ref`.

Values are Python numbers: ints wrapped by hand, f32 as NumPy float32, everything else as f64. Narrow floats are rounded
by arithmetic (scale, round half to even, scale back), not by a codec.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tessera.arrays import convert, widen
from tessera.dtypes import DTYPES
from tessera.elements import Element, Elements, Index
from tessera.interpreters import Interpreter
from tessera.operator import Operator
from tessera.shapes import Dim, substitute
from tessera.tensor import EagerTensor, Tensor
from tessera.types import TensorType

# name -> (mantissa bits, least normal exponent, largest finite value)
FLOATS = {
    "f16": (10, -14, 65504.0), "bf16": (7, -126, float(2**127 * (2 - 2**-7))),
    "fp8_e4m3": (3, -6, 448.0), "fp8_e5m2": (2, -14, 57344.0), "fp6_e2m3": (3, 0, 7.5), "fp6_e3m2": (2, -2, 28.0),
    "fp4_e2m1": (1, 0, 6.0),
}
WITHOUT_NAN = ("fp6_e2m3", "fp6_e3m2", "fp4_e2m1")


def round_to(value: float, dtype: str) -> float:
    """The value of a narrow type nearest to `value`; f16 and bf16 overflow to infinity, the others saturate."""
    if dtype == "fp8_e8m0":
        return power_of_two(value)
    mantissa, emin, largest = FLOATS[dtype]
    saturates = dtype.startswith("fp")
    if math.isnan(value) and dtype in WITHOUT_NAN:
        return largest
    if math.isnan(value) or value == 0:
        return value
    if math.isinf(value):
        return math.copysign(largest, value) if saturates else value
    exponent = max(math.frexp(value)[1] - 1, emin)
    unit = math.ldexp(1.0, exponent - mantissa)
    rounded = round(value / unit) * unit
    if abs(rounded) > largest:
        return math.copysign(largest if saturates else math.inf, value)
    return math.copysign(rounded, value)


def power_of_two(value: float) -> float:
    """The nearest power of two, in halves of the way between two; 2^-127 for 0, NaN for less."""
    if not value >= 0:
        return math.nan
    powers = [math.ldexp(1.0, n) for n in range(-127, 128)]
    value = min(value, powers[-1])
    return min(powers, key=lambda p: (abs(value - p), (round(math.log2(p)) + 127) % 2))


def wrap(value: int, dtype: str) -> int:
    bits, signed = DTYPES[dtype].bits, DTYPES[dtype].kind == "int"
    value &= (1 << bits) - 1
    return value - (1 << bits) if signed and value >> (bits - 1) else value


def canonical(value: Any, dtype: str) -> Any:
    """`value` as an element of `dtype`, converted by the language's rules."""
    kind = DTYPES[dtype].kind
    if kind == "bool":
        return bool(value != 0)
    if kind == "float":
        if isinstance(value, (bool, int, np.integer)) and DTYPES[dtype].is_narrow:
            value = np.float32(value)
        if dtype == "f32":
            return np.float32(value)
        return float(value) if dtype == "f64" else round_to(float(value), dtype)
    if isinstance(value, (float, np.floating)):
        if math.isnan(value):
            return 0
        low, high = int(DTYPES[dtype].min_value), int(DTYPES[dtype].max_value)
        return low if value <= low else high if value >= high else math.trunc(float(value))
    return wrap(int(value), dtype)


UNARY: dict[str, Callable[[float], float]] = {
    "exp": np.exp, "exp2": lambda x: 2.0**x, "log": np.log, "log2": np.log2, "log1p": np.log1p, "expm1": np.expm1,
    "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x), "tanh": np.tanh, "erf": math.erf, "sin": math.sin,
    "cos": math.cos, "floor": math.floor, "ceil": math.ceil, "round": lambda x: round(x), "trunc": math.trunc,
}
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "lt": lambda a, b: a < b, "le": lambda a, b: a <= b, "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b,
}


class ScalarElements(Elements):
    """Computes at once. `env` gives the sizes of symbols."""

    def __init__(self, env: Mapping[str, Dim] | None = None) -> None:
        self.env = env or {}

    def _make(self, value: Any, dtype: str) -> Element:
        return Element(self, dtype, canonical(value, dtype))

    def const(self, value: Any, dtype: str) -> Element:
        return self._make(value, dtype)

    def index(self, dim: Dim) -> Index:
        return self._make(int(substitute(dim, self.env)), "i64")

    def unary(self, kind: str, x: Element) -> Element:
        value = x.value
        if kind == "isnan":
            return self._make(value != value, "bool")
        if kind == "neg":
            return self._make(-value, x.dtype)
        if kind == "abs":
            return self._make(abs(value), x.dtype)
        if kind == "not":
            return self._make(not value if x.dtype == "bool" else ~value, x.dtype)
        assert x.dtype in ("f32", "f64"), f"{kind} of {x.dtype}"
        if kind in ("floor", "ceil", "round", "trunc") and not math.isfinite(value):
            return x
        return self._make(UNARY[kind](float(value)), x.dtype)

    def binary(self, kind: str, a: Element, b: Element) -> Element:
        assert a.dtype == b.dtype, f"{kind} of {a.dtype} and {b.dtype}"
        x, y, dtype = a.value, b.value, a.dtype
        if dtype == "bool":
            return self._make({"and": x and y, "or": x or y, "xor": x != y}[kind], dtype)
        is_float = DTYPES[dtype].is_float
        assert not is_float or dtype in ("f32", "f64"), f"{kind} of {dtype}"
        assert (kind in ("floordiv", "mod", "and", "or", "xor", "shl", "shr")) <= (not is_float), f"{kind} of {dtype}"
        assert (kind in ("div", "pow")) <= is_float, f"{kind} of {dtype}"
        if kind in ("max", "min"):
            if x != x or y != y:
                return self._make(math.nan, dtype)
            return self._make((max if kind == "max" else min)(x, y), dtype)
        if kind in ("floordiv", "mod"):
            return self._make(0 if y == 0 else x // y if kind == "floordiv" else x % y, dtype)
        if kind in ("shl", "shr"):
            count = y % DTYPES[dtype].bits
            return self._make(x << count if kind == "shl" else x >> count, dtype)
        if kind == "pow":
            return self._make(np.power(np.float64(x), np.float64(y)), dtype)
        operation = {
            "add": lambda: x + y, "sub": lambda: x - y, "mul": lambda: x * y, "and": lambda: x & y, "or": lambda: x | y,
            "xor": lambda: x ^ y, "div": lambda: np.float64(x) / np.float64(y) if dtype == "f64" else x / y,
        }[kind]
        return self._make(operation(), dtype)

    def compare(self, predicate: str, a: Element, b: Element) -> Element:
        assert a.dtype == b.dtype, f"{predicate} of {a.dtype} and {b.dtype}"
        assert a.dtype != "bool" or predicate in ("eq", "ne")
        return self._make(COMPARE[predicate](a.value, b.value), "bool")

    def select(self, condition: Element, a: Element, b: Element) -> Element:
        assert condition.dtype == "bool" and a.dtype == b.dtype
        return a if condition.value else b

    def fma(self, a: Element, b: Element, c: Element) -> Element:
        return self._make(float(a.value) * float(b.value) + float(c.value), a.dtype)

    def cast(self, x: Element, dtype: str) -> Element:
        return self._make(x.value, dtype)

    def bitcast(self, x: Element, dtype: str) -> Element:
        stored = np.ascontiguousarray(convert(np.asarray(x.value), DTYPES[x.dtype]))
        return Element(self, dtype, canonical(widen(stored.view(DTYPES[dtype].numpy).reshape(())).item(), dtype))

    def reduce(self, kind: str, sizes: Sequence[Dim], body: Callable[..., Element]) -> Element:
        total: Element | None = None
        for place in itertools.product(*(range(int(substitute(s, self.env))) for s in sizes)):
            term = body(*(self._make(i, "i64") for i in place))
            total = term if total is None else self.binary(kind, total, term)
        if total is not None:
            return total
        # The dtype of nothing is known from a term that is never computed: read it from a probe at index 0.
        dtype = body(*(self._make(0, "i64") for _ in sizes)).dtype
        identity: dict[str, Any] = {"add": 0, "mul": 1, "and": True, "or": False}
        if kind in ("max", "min"):
            bound = DTYPES[dtype].min_value if kind == "max" else DTYPES[dtype].max_value
            return Element(self, dtype, bound)
        return self._make(identity[kind], dtype)

    def argreduce(self, kind: str, size: Dim, body: Callable[[Index], Element]) -> Index:
        best, winner = None, 0
        for i in range(int(substitute(size, self.env))):
            value = body(self._make(i, "i64")).value
            if best is not None and best != best:
                break
            if best is None or value != value or (value > best if kind == "argmax" else value < best):
                best, winner = value, i
        return self._make(winner, "i64")


class _Reader:
    """Reads an array; outside of it only where `where` is false, or as a probe of the dtype of an empty reduction."""

    def __init__(self, e: ScalarElements, array: np.ndarray[Any, Any], dtype: str) -> None:
        self.e, self.array, self.dtype = e, array, dtype

    def __call__(self, *indices: Index, where: Element | None = None) -> Element:
        assert len(indices) == self.array.ndim
        assert all(i.dtype == "i64" for i in indices)
        if (where is not None and not where.value) or self.array.size == 0:
            return self.e.const(0, self.dtype)
        place = tuple(int(i.value) for i in indices)
        assert all(0 <= i < n for i, n in zip(place, self.array.shape, strict=True)), f"{place} of {self.array.shape}"
        return Element(self.e, self.dtype, canonical(self.array[place].item(), self.dtype))


Array = np.ndarray[Any, Any]


def evaluate(op: Operator, arrays: Sequence[Array], types: Sequence[TensorType]) -> list[Array]:
    """The results of `op` from its `element` rule."""
    e = ScalarElements()
    results = op.infer(*types)
    outs = []
    with np.errstate(all="ignore"):
        for which, out_type in enumerate(results if isinstance(results, tuple) else (results,)):
            shape = tuple(int(d) for d in out_type.dims)
            out = np.empty(shape, out_type.dtype.numpy)
            reads = [_Reader(e, a, t.dtype.name) for a, t in zip(arrays, types, strict=True)]
            for place in np.ndindex(*shape):
                idx = tuple(e.const(i, "i64") for i in place)
                value = op.element(e, tuple(types), idx, *reads, out=which)
                assert value.dtype == out_type.dtype.name, f"{op} gives {value.dtype}, not {out_type.dtype}"
                out[place] = value.value
            outs.append(out)
    return outs


class ScalarInterpreter(Interpreter):
    """Executes operators by their `element` rules, and composed ones by their compositions."""

    dynamic = True

    def process(self, op: Operator, args: tuple[Tensor, ...], loc: Any) -> Any:
        if op.has("compose"):
            return op.compose(*args)
        outs = evaluate(op, [a._data for a in args], [a.type for a in args])  # type: ignore[attr-defined]
        made = tuple(EagerTensor(o) for o in outs)
        return made if isinstance(op.infer(*(a.type for a in args)), tuple) else made[0]


class SymbolicTensor(Tensor):
    """A value of which only the type is known."""

    __slots__ = ("_interpreter", "_type")

    def __init__(self, type_: TensorType, interpreter: Interpreter) -> None:
        self._type, self._interpreter = type_, interpreter

    @property
    def type(self) -> TensorType:
        return self._type

    @property
    def interpreter(self) -> Interpreter | None:
        return self._interpreter


class SymbolicInterpreter(Interpreter):
    """Infers types and computes nothing: what a tracer sees."""

    dynamic = True
    located = True

    def process(self, op: Operator, args: tuple[Tensor, ...], loc: Any) -> Any:
        types = op.infer(*(a.type for a in args))
        if isinstance(types, tuple):
            return tuple(SymbolicTensor(t, self) for t in types)
        return SymbolicTensor(types, self)

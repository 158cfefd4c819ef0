"""Runs Graph IR with NumPy, from the operators' `element` and `compose` rules; `ref` is never called.

An element of every output is computed at all points at once: an index is an array with its extent on its own axis.
Reductions go over their box one step after the other, in row-major order, for all points together.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tessera import types as lang
from tessera.control import Control
from tessera.dtypes import as_dtype
from tessera.elements import Element, Elements, Index, Number, Read
from tessera.errors import Span
from tessera.interpreters import Interpreter, interpret
from tessera.operator import Operator
from tessera.shapes import Dim, Expr, substitute
from tessera_runtime.core.dtypes import dtype_of
from tessera_runtime.core.errors import TesseraError
from tesseracc.interpret import control, scalar
from tesseracc.interpret.binding import solve_dims
from tesseracc.ir.builder import Builder
from tesseracc.ir.control import emit_operator
from tesseracc.ir.dialects.graph import from_lang, operator_from
from tesseracc.ir.tensor import Held
from tesseracc.ir.types import TensorType, bits_of, element, kind_of
from tesseracc.ir.value import Attr, Func, Module, Region, Value

Array = np.ndarray[Any, Any]


class NumpyElements(Elements):
    """Elements as arrays over the output's points; `rank` is the output's. `kinds` collects the arithmetic
    that is used."""

    def __init__(self, rank: int, kinds: set[str]) -> None:
        self.rank = rank
        self.kinds = kinds

    def _wrap(self, array: Array, dtype: str) -> Element:
        return Element(self, dtype, array)

    def const(self, value: Number, dtype: str) -> Element:
        return self._wrap(scalar.constant(value, dtype), dtype)

    def index(self, dim: Dim) -> Index:
        assert isinstance(dim, int), f"{dim} is symbolic"
        return self.const(dim, "i64")

    def unary(self, kind: str, x: Element) -> Element:
        self.kinds.add(kind)
        return self._wrap(scalar.unary(kind, x.value, x.dtype), "bool" if kind == "isnan" else x.dtype)

    def binary(self, kind: str, a: Element, b: Element) -> Element:
        self.kinds.add(kind)
        right = b.value
        if kind in ("shl", "shr"):  # the count is taken modulo the width
            right = scalar.binary("and", right, scalar.constant(bits_of(b.dtype) - 1, b.dtype), b.dtype)
        return self._wrap(scalar.binary(kind, a.value, right, a.dtype), a.dtype)

    def compare(self, predicate: str, a: Element, b: Element) -> Element:
        return self._wrap(
            scalar.compare(predicate, scalar.widen(a.value, a.dtype), scalar.widen(b.value, b.dtype)), "bool"
        )

    def select(self, condition: Element, a: Element, b: Element) -> Element:
        return self._wrap(scalar.select(condition.value, a.value, b.value), a.dtype)

    def fma(self, a: Element, b: Element, c: Element) -> Element:
        return self._wrap(scalar.fma(a.value, b.value, c.value, a.dtype), a.dtype)

    def cast(self, x: Element, dtype: str) -> Element:
        return self._wrap(scalar.cast(x.value, x.dtype, dtype), dtype)

    def bitcast(self, x: Element, dtype: str) -> Element:
        return self._wrap(scalar.bitcast(x.value, dtype), dtype)

    def _steps(self, sizes: Sequence[Dim]) -> Any:
        for point in itertools.product(*(range(self.index(size).value.item()) for size in sizes)):
            yield [self.const(i, "i64") for i in point]

    def reduce(self, kind: str, sizes: Sequence[Dim], body: Callable[..., Element]) -> Element:
        dtype: str | None = None
        total: Array | None = None
        for point in self._steps(sizes):
            term = body(*point)
            dtype = term.dtype
            start = scalar.identity(kind, dtype) if total is None else total
            total = scalar.binary(kind, start, term.value, dtype)
        if total is None or dtype is None:
            dtype = self._dtype_of(body, len(sizes))
            total = scalar.identity(kind, dtype)
        return self._wrap(total, dtype)

    def _dtype_of(self, body: Callable[..., Element], rank: int) -> str:
        """The element type of the terms of an empty box: the body at no point at all."""
        nowhere = np.zeros((0, *(1,) * self.rank), np.int64)
        return body(*(self._wrap(nowhere, "i64") for _ in range(rank))).dtype

    def argreduce(self, kind: str, size: Dim, body: Callable[[Index], Element]) -> Index:
        best: Array | None = None
        at: Array = np.zeros((), np.int64)
        for (index,) in self._steps([size]):
            term = body(index)
            value = scalar.widen(term.value, term.dtype)
            if best is None:
                best = value
                continue
            better = scalar.compare("gt" if kind == "argmax" else "lt", value, best)
            if kind_of(term.dtype) == "f":
                better = (better | np.isnan(value)) & ~np.isnan(best)
            best = np.where(better, value, best)
            at = np.where(better, index.value, at)
        return self._wrap(np.asarray(at), "i64")

    def reader(self, source: Array, dtype: str) -> Read:
        """The `Read` of one array; E412 for an access out of bounds."""

        def read(*indices: Index, where: Element | None = None) -> Element:
            places = [i.value for i in indices]
            taken = None if where is None else where.value
            for axis, (place, size) in enumerate(zip(places, source.shape, strict=True)):
                wrong = (place < 0) | (place >= size)
                if np.any(wrong if taken is None else wrong & taken):
                    raise TesseraError("E412", f"an operator reads outside axis {axis} of extent {size}")
            if taken is not None:
                places = [np.where(taken, place, 0) for place in places]
            if source.size == 0 or (taken is not None and not np.any(taken)):
                shape = np.broadcast_shapes(*(p.shape for p in places), () if taken is None else taken.shape)
                return self._wrap(np.zeros(shape, source.dtype), dtype)
            found = np.asarray(source[tuple(places)])
            if taken is not None:
                found = np.where(taken, found, np.zeros((), source.dtype))
            return self._wrap(found, dtype)

        return read


def evaluate(op: Operator, inputs: Sequence[Array], kinds: set[str] | None = None) -> tuple[Array, ...]:
    """The results of an operator on arrays, by its `element` or `compose` rule; `kinds` collects the
    arithmetic used."""
    kinds = set() if kinds is None else kinds
    types = tuple(lang.TensorType(np.shape(x), as_dtype(dtype_of(x.dtype))) for x in inputs)
    found = op.infer(*types)
    outs = found if isinstance(found, tuple) else (found,)
    if isinstance(op, Control):
        b = Builder()
        made = emit_operator(b, op, [Value(from_lang(t)) for t in types])
        return tuple(control.run(made, inputs, lambda r, xs: run_region(r, {}, {}, xs), {}))
    if not op.has("element"):
        with interpret(_Evaluator(kinds)) as evaluator:
            result = op.compose(*(_hold(evaluator, x) for x in inputs))
        return tuple(_data(x) for x in (result if isinstance(result, tuple) else (result,)))
    return tuple(_element(op, types, inputs, type_, out, kinds) for out, type_ in enumerate(outs))


def _element(
    op: Operator,
    types: tuple[lang.TensorType, ...],
    inputs: Sequence[Array],
    type_: lang.TensorType,
    out: int,
    kinds: set[str],
) -> Array:
    shape = tuple(int(dim) for dim in type_.dims)
    if 0 in shape:
        return np.zeros(shape, type_.dtype.numpy)  # no point at which the rule could be evaluated
    e = NumpyElements(len(shape), kinds)
    points = []
    for axis, size in enumerate(shape):
        form = [1] * len(shape)
        form[axis] = size
        points.append(Element(e, "i64", np.arange(size, dtype=np.int64).reshape(form)))
    reads = [e.reader(x, t.dtype.name) for x, t in zip(inputs, types, strict=True)]
    value = op.element(e, types, tuple(points), *reads, out=out)
    assert value.dtype == type_.dtype.name, f"{op}: element gives {value.dtype}, infer says {type_}"
    return np.array(np.broadcast_to(value.value, shape))


def _hold(evaluator: _Evaluator, x: Array) -> Held[Array]:
    return Held(evaluator, lang.TensorType(x.shape, as_dtype(dtype_of(x.dtype))), x)


def _data(x: Any) -> Array:
    found: Array = x.held if isinstance(x, Held) else x.numpy()
    return found


class _Evaluator(Interpreter):
    """Executes the operators of a composition by their own rules."""

    dynamic = True

    def __init__(self, kinds: set[str]) -> None:
        self.kinds = kinds

    def process(self, op: Operator, args: tuple[Any, ...], loc: Span | None) -> Any:
        results = tuple(_hold(self, x) for x in evaluate(op, [_data(a) for a in args], self.kinds))
        return results if isinstance(op.infer(*(a.type for a in args)), tuple) else results[0]


def concrete(attrs: Mapping[str, Attr], symbols: Mapping[str, int]) -> dict[str, Attr]:
    """An operator's attributes with its symbolic sizes evaluated."""

    def value(attr: Attr) -> Attr:
        if isinstance(attr, Expr):
            return substitute(attr, symbols)
        return tuple(map(value, attr)) if isinstance(attr, tuple) else attr

    return {key: value(attr) for key, attr in attrs.items()}


def run_func(func: Func, constants: Mapping[str, Array], inputs: Sequence[Array]) -> list[Array]:
    """Runs one `graph.func` on arrays of the parameters' types (rank 0 for scalars)."""
    declared = [p.type.dims for p in func.params if isinstance(p.type, TensorType)]
    return run_region(func.body, constants, solve_dims(declared, [np.shape(x) for x in inputs]), inputs)


def run_region(
    region: Region, constants: Mapping[str, Array], symbols: Mapping[str, int], inputs: Sequence[Array]
) -> list[Array]:
    """Runs a function's body, or a closed region, on its arguments."""
    values: dict[Value, Array] = dict(zip(region.args, inputs, strict=True))
    for op in region.ops:
        operands = [values[v] for v in op.operands]
        if op.name == "graph.constant":
            values[op.result] = np.asarray(constants[op.attrs["name"]])
            continue
        if op.defn.closed:
            found = control.run(op, operands, lambda r, xs: run_region(r, constants, symbols, xs), symbols)
        else:
            operator = operator_from(op.name.removeprefix("graph."), concrete(op.attrs, symbols))
            found = list(evaluate(operator, operands))
        values.update(zip(op.results, found, strict=True))
    return [values[v] for v in region.yields]


def run(module: Module, func_name: str, inputs: Sequence[Any]) -> list[Array]:
    """Runs a function of a module; a Python number becomes a rank-0 array."""
    func = module.func(func_name)
    arrays = [
        x if isinstance(x, np.ndarray) else scalar.constant(x, element(p.type))
        for x, p in zip(inputs, func.params, strict=True)
    ]
    return run_func(func, module.constants, arrays)

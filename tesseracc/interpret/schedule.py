"""Runs Schedule IR with NumPy: each operation of a group's region once, on arrays over all points of the domain.

The grid of the current nest is a tuple of extents; an index is an array that has its extent on its own axis and 1
elsewhere. Inner loops put their (linearised) axis in front, so values of the outside broadcast into them by
themselves. A reduction takes its terms one after the other, in row-major order; its terms are computed in blocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tessera.shapes import Dim
from tessera_runtime.core.dtypes import np_dtype
from tessera_runtime.core.errors import TesseraError
from tesseracc.interpret import control, scalar
from tesseracc.interpret.binding import evaluate_dim, solve_dims
from tesseracc.ir.types import TensorType, element
from tesseracc.ir.value import Func, Module, Op, Region, Value

Array = np.ndarray[Any, Any]
Grid = tuple[int, ...]
#: elements that one value of an inner loop may have at a time
BLOCK = 1 << 20


def _where(op: Op) -> str:
    return f" ({op.loc.file}:{op.loc.line})" if op.loc else ""


class _Group:
    """One execution of one group."""

    def __init__(self, op: Op, tensors: Mapping[Value, Array], symbols: Mapping[str, int]) -> None:
        self.op = op
        self.tensors = tensors
        self.symbols = symbols
        self.values: dict[Value, Array] = {}
        self.results: list[Array] = []
        self.written: list[Array] = []
        for result in op.results:
            shape = shape_of(result.type, symbols)
            self.results.append(np.zeros(shape, np_dtype(element(result.type))))
            self.written.append(np.zeros(shape, np.int64))

    def run(self) -> list[Array]:
        sizes = self.sizes(self.op.attrs["domain"])
        region = self.op.regions[0]
        for axis, (arg, size) in enumerate(zip(region.args, sizes, strict=True)):
            shape = [1] * len(sizes)
            shape[axis] = size
            self.values[arg] = np.arange(size, dtype=np.int64).reshape(shape)
        self.region(region, sizes)
        for i, count in enumerate(self.written):
            if not np.all(count == 1):
                at = tuple(int(v) for v in np.argwhere(count != 1)[0])
                raise TesseraError(
                    "E411", f"element {list(at)} of result {i} is written {int(count[at])} times{_where(self.op)}"
                )
        return self.results

    def sizes(self, dims: Sequence[Dim]) -> Grid:
        return tuple(evaluate_dim(dim, self.symbols) for dim in dims)

    def region(self, region: Region, grid: Grid) -> list[Array]:
        for op in region.ops:
            found = self.step(op, grid)
            if op.results:
                assert found is not None
                self.values[op.result] = found
        return [self.values[v] for v in region.yields]

    def step(self, op: Op, grid: Grid) -> Array | None:
        match op.name:
            case "arith.constant":
                return scalar.constant(op.attrs["value"], element(op.result.type))
            case "schedule.dim":
                return np.asarray(evaluate_dim(op.attrs["expr"], self.symbols), np.int64)
            case "schedule.read":
                return self.read(op)
            case "schedule.write":
                self.write(op, grid)
                return None
            case "schedule.reduce":
                return self.reduce(op, grid)
            case "schedule.each":
                for _ in self.blocks(op, grid):
                    pass
                return None
            case _:
                return scalar.evaluate(op, [self.values[v] for v in op.operands])

    # -- memory --------------------------------------------------------------------------------------------------

    def access(self, op: Op, shape: Grid) -> tuple[tuple[Array, ...], Array | None]:
        """Index arrays, clipped to 0 where `where` is false, and the condition."""
        indices = [self.values[v] for v in op.group("indices")]
        where = op.optional("where")
        taken = self.values[where] if where is not None else None
        for axis, (index, size) in enumerate(zip(indices, shape, strict=True)):
            wrong = (index < 0) | (index >= size)
            if taken is not None:
                wrong = wrong & taken
            if np.any(wrong):
                found = int(np.broadcast_to(index, wrong.shape)[wrong][0])
                raise TesseraError("E412", f"index {found} on axis {axis} of extent {size}{_where(op)}")
        if taken is not None:
            indices = [np.where(taken, index, 0) for index in indices]
        return tuple(indices), taken

    def read(self, op: Op) -> Array:
        source = self.tensors[op["tensor"]]
        indices, taken = self.access(op, source.shape)
        if source.size == 0 or (taken is not None and not taken.any()):
            shape = np.broadcast_shapes(*(i.shape for i in indices), () if taken is None else taken.shape)
            return np.zeros(shape, source.dtype)
        found = np.asarray(source[indices])
        return found if taken is None else np.where(taken, found, np.zeros((), source.dtype))

    def write(self, op: Op, grid: Grid) -> None:
        target, count = self.results[op.attrs["result"]], self.written[op.attrs["result"]]
        indices, taken = self.access(op, target.shape)
        full = [np.broadcast_to(i, grid) for i in indices]
        value = np.broadcast_to(self.values[op["value"]], grid)
        if taken is not None:
            keep = np.broadcast_to(taken, grid)
            full, value = [i[keep] for i in full], value[keep]
        if value.size == 0:
            return
        target[tuple(full)] = value
        if full:
            np.add.at(count, tuple(full), 1)
        else:
            count[()] += value.size

    # -- loops ---------------------------------------------------------------------------------------------------

    def blocks(self, op: Op, grid: Grid) -> Any:
        """Runs a loop's region block after block, along one linearised axis in front; gives the block's length
        and yields."""
        sizes = self.sizes(op.attrs["sizes"])
        total, points = math.prod(sizes), max(1, math.prod(grid))
        step = max(1, BLOCK // points)
        for start in range(0, total, step):
            linear = np.arange(start, min(start + step, total), dtype=np.int64)
            coordinates = np.unravel_index(linear, sizes) if sizes else ()
            for arg, index in zip(op.regions[0].args, coordinates, strict=True):
                self.values[arg] = np.asarray(index, np.int64).reshape(len(linear), *(1,) * len(grid))
            yield len(linear), self.region(op.regions[0], (len(linear), *grid))

    def reduce(self, op: Op, grid: Grid) -> Array:
        kind = op.attrs["kind"]
        if kind.startswith("arg"):
            return self.argreduce(op, grid)
        dtype = element(op.result.type)
        total: Array = np.broadcast_to(scalar.identity(kind, dtype), grid)
        for length, (term,) in self.blocks(op, grid):
            terms = np.broadcast_to(term, (length, *grid))
            for i in range(length):
                total = scalar.binary(kind, total, terms[i], dtype)
        return total

    def argreduce(self, op: Op, grid: Grid) -> Array:
        """The first winner by strict comparison; the first NaN wins and stays."""
        pred = "gt" if op.attrs["kind"] == "argmax" else "lt"
        dtype = element(op.regions[0].yields[0].type)
        best: Array | None = None
        at = np.zeros(grid, np.int64)
        position = 0
        for length, (term,) in self.blocks(op, grid):
            terms = scalar.widen(np.broadcast_to(term, (length, *grid)), dtype)
            for i in range(length):
                if best is None:
                    best = terms[i]
                else:
                    better = scalar.compare(pred, terms[i], best)
                    if terms.dtype.kind == "f":
                        better = (better | np.isnan(terms[i])) & ~np.isnan(best)
                    best = np.where(better, terms[i], best)
                    at = np.where(better, position, at)
                position += 1
        return at


def shape_of(type_: Any, symbols: Mapping[str, int]) -> Grid:
    """The extents of a tensor type under the symbols' values."""
    return tuple(evaluate_dim(dim, symbols) for dim in type_.dims)


def run_func(func: Func, constants: Mapping[str, Array], inputs: Sequence[Array]) -> list[Array]:
    """Runs one `schedule.func` on arrays of exactly the parameters' types (rank 0 for scalars)."""
    declared = [p.type.dims for p in func.params if isinstance(p.type, TensorType)]
    return run_region(func.body, constants, solve_dims(declared, [np.shape(x) for x in inputs]), inputs)


def run_region(
    region: Region, constants: Mapping[str, Array], symbols: Mapping[str, int], inputs: Sequence[Array]
) -> list[Array]:
    """Runs a function's body, or a closed region, on its arguments."""
    tensors: dict[Value, Array] = dict(zip(region.args, inputs, strict=True))
    for op in region.ops:
        match op.name:
            case "schedule.constant":
                found = [np.asarray(constants[op.attrs["name"]])]
            case "schedule.view":
                found = [tensors[op["tensor"]].reshape(shape_of(op.result.type, symbols))]
            case "schedule.group":
                found = _Group(op, tensors, symbols).run()
            case _:
                operands = [tensors[v] for v in op.operands]
                found = control.run(op, operands, lambda r, xs: run_region(r, constants, symbols, xs), symbols)
        tensors.update(zip(op.results, found, strict=True))
    return [tensors[v] for v in region.yields]


def run(module: Module, func_name: str, inputs: Sequence[Any]) -> list[Array]:
    """Runs a function of a module. Raises E411 for elements not written once, E412 for accesses out of bounds."""
    func = module.func(func_name)
    return run_func(func, module.constants, [as_input(x, p) for x, p in zip(inputs, func.params, strict=True)])


def as_input(x: Any, param: Value) -> Array:
    """An array for a parameter: a Python number becomes a rank-0 array of its type."""
    return x if isinstance(x, np.ndarray) else scalar.constant(x, element(param.type))

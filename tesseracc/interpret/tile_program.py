"""Runs the steps of a `tile.program` with NumPy: launches, copies, branches and loops."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tessera_runtime.core.dtypes import np_dtype
from tessera_runtime.core.errors import TesseraError
from tesseracc.interpret.binding import evaluate_dim
from tesseracc.interpret.tile_memory import Memory
from tesseracc.ir.types import BufType, Type
from tesseracc.ir.value import Op, Region, Value

Array = np.ndarray[Any, Any]


class Steps:
    """Runs steps on the buffers in `values`; `launch(op, args)` runs a kernel."""

    def __init__(
        self,
        constants: Mapping[str, Array],
        values: dict[Value, Any],
        symbols: dict[str, int],
        launch: Callable[[Op, Sequence[Any]], None],
    ) -> None:
        self.constants, self.values, self.symbols, self.launch = constants, values, symbols, launch

    def run(self, region: Region, row: tuple[int, int] | None = None) -> None:
        """Runs steps; `row` is (i, count) of the innermost tile.repeat."""
        values = self.values
        for op in region.ops:
            match op.name:
                case "tile.temp":
                    values[op.result] = Memory(_undefined(op.result.type, self.symbols), None)
                case "tile.constant":
                    values[op.result] = Memory(self.constants[op.attrs["name"]], None)
                case "tile.view":
                    type_ = op.result.type
                    assert isinstance(type_, BufType)
                    shape = tuple(evaluate_dim(d, self.symbols) for d in type_.dims)
                    values[op.result] = Memory(values[op["buf"]].array.reshape(shape), None)
                case "tile.copy":
                    values[op["dst"]].array[...] = values[op["src"]].array
                case "tile.launch":
                    self.launch(op, [values[v] for v in op.operands])
                case "tile.branch":
                    self.run(op.regions[0 if self.holds(op) else 1], row)
                case "tile.when":
                    self.when(op, row)
                case "tile.repeat":
                    count = evaluate_dim(op.attrs["count"], self.symbols)
                    for i in range(count):
                        self.run(op.regions[0], (i, count))
                case "tile.loop":
                    self.run(op.regions[0], row)
                    while self.holds(op):
                        self.run(op.regions[1], row)
                        self.run(op.regions[0], row)
                case "tile.take" | "tile.put" if row is not None:
                    i = row[1] - 1 - row[0] if op.attrs["reverse"] else row[0]
                    src, dst = values[op["src"]].array, values[op["dst"]].array
                    if op.name == "tile.take":
                        dst[...] = src[i]
                    else:
                        dst[i] = src
                case _:
                    raise TesseraError("E404", f"{op.name} does not belong in a program")

    def when(self, op: Op, row: tuple[int, int] | None) -> None:
        if evaluate_dim(op.attrs["unless"], self.symbols) != 0:
            self.run(op.regions[1], row)
            return
        outer = dict(self.symbols)
        self.symbols.update({name: evaluate_dim(value, outer) for name, value in op.attrs["bind"]})
        self.run(op.regions[0], row)

    def holds(self, op: Op) -> bool:
        return bool(self.values[op["on"]].array)


def _undefined(type_: Type, symbols: Mapping[str, int]) -> Array:
    """Temporary memory, filled with a pattern that shows when it is read before it is written."""
    assert isinstance(type_, BufType)
    shape = tuple(evaluate_dim(d, symbols) for d in type_.dims)
    array = np.empty(shape, np_dtype(type_.dtype))
    array.reshape(-1).view(np.uint8)[...] = 0xA5
    return array

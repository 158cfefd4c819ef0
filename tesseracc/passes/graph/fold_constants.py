"""`fold-constants`: small subgraphs of constants are computed now, by the graph interpreter (ordered, without BLAS).

Transcendental functions are left to the target: their last bit would depend on this machine's library. A fold must
not make the bundle larger than LIMIT elements per result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tesseracc.interpret.graph import evaluate
from tesseracc.ir.builder import Builder
from tesseracc.ir.dialects.arith import TRANSCENDENTAL
from tesseracc.ir.dialects.graph import operator_of
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import map_funcs
from tesseracc.ir.types import TensorType
from tesseracc.ir.value import Func, Module, Op, Value

Array = np.ndarray[Any, Any]
#: elements of the largest result that is folded
LIMIT = 4096


def _small(op: Op) -> bool:
    for result in op.results:
        assert isinstance(result.type, TensorType)
        count = 1
        for dim in result.type.dims:
            if not isinstance(dim, int):
                return False
            count *= dim
        if count > LIMIT:
            return False
    return True


class _Folder:
    def __init__(self, constants: Mapping[str, Array]) -> None:
        self.constants = dict(constants)
        self.known: dict[Value, Array] = {}
        self.stored: set[Value] = set()  # known values that are, or come from, arrays of the module

    def func(self, func: Func) -> Func:
        b = Builder(func.loc)
        same: dict[Value, Value] = {}
        for op in func.body.ops:
            if op.name == "graph.constant" and op.attrs["name"] in self.constants:  # else: a text without its arrays
                self.known[op.result] = self.constants[op.attrs["name"]]
                self.stored.add(op.result)
            elif op.name == "graph.full" and _small(op) and isinstance(op.attrs["value"], (int, float)):
                (self.known[op.result],) = evaluate(operator_of(op), [])
            elif self._foldable(op):
                arrays = self.evaluate(op)
                if arrays is not None:
                    b.loc = op.loc
                    for result, array in zip(op.results, arrays, strict=True):
                        name = self._name(func.name)
                        self.constants[name] = array
                        same[result] = b.op("graph.constant", types=result.type, name=name)
                        self.known[same[result]] = self.known[result] = array
                        self.stored |= {same[result], result}
                    continue
            b.append(
                Op(
                    op.defn,
                    tuple(same.get(v, v) for v in op.operands),
                    op.segments,
                    op.results,
                    op.attrs,
                    op.regions,
                    op.loc,
                )
            )
        return func.with_(body=b.region(func.params, [same.get(v, v) for v in func.body.yields]))

    def _foldable(self, op: Op) -> bool:
        known = all(v in self.known for v in op.operands)
        return known and not op.regions and bool(self.stored & set(op.operands)) and _small(op)

    def evaluate(self, op: Op) -> tuple[Array, ...] | None:
        kinds: set[str] = set()
        found = evaluate(operator_of(op), [self.known[v] for v in op.operands], kinds)
        return None if kinds & TRANSCENDENTAL else found

    def _name(self, prefix: str) -> str:
        number = 0
        while f"{prefix}.folded{number}" in self.constants:
            number += 1
        return f"{prefix}.folded{number}"


@register("fold-constants", level="graph")
def run(module: Module, context: Context) -> Module:
    """Evaluates small subgraphs of constants."""
    folder = _Folder(module.constants)
    funcs = map_funcs(module.funcs, "graph.func", folder.func)
    return module.with_(funcs=funcs, constants=folder.constants)

"""Test vectors for a bundle: inputs drawn from a counter, results by the interpreters of the front end's IR.

Functions run on the graph interpreter, kernels on the tile interpreter, both as the front end left them: before any
pass, so that a vector tests all of them. Bits do not depend on threads or libraries of linear algebra: sums are
ordered, elementary functions are computed wider and rounded once.

Kernels are run once more, at sizes that give them several groups, to see whether these race with each other.

All sizes are legal ones, so what the tile interpreter finds there is a fault of the kernel, an error of the build. Only
where an input holds integers that are no sizes (indices, offsets, counts) may the numbers drawn be to blame.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera.errors import SourceError, Span
from tessera.shapes import UnifyError, symbols_of
from tessera_runtime.core import manifest as M
from tessera_runtime.core.dtypes import DTYPES, np_dtype
from tessera_runtime.core.errors import TesseraError
from tessera_runtime.core.inputspec import load_array, parse
from tessera_runtime.core.randn import philox
from tessera_runtime.guards import solve
from tessera_runtime.plan import extents
from tesseracc.bundle.write import TestCase
from tesseracc.interpret import graph, tile
from tesseracc.interpret.binding import evaluate_dim
from tesseracc.interpret.tile_races import Finding
from tesseracc.ir.types import element
from tesseracc.ir.value import Module

__all__ = ["test_cases"]

_SIZES = ((5, 3, 7, 2, 11, 4), (19, 33, 21, 34, 23, 35))  # of the symbols, in order, small and ragged
_GRAINS = (1, 8, 16, 64, 128)  # what extents are multiples of, where guards or kernels want it
_EPSILON = {
    "f64": 2.0**-52, "f32": 2.0**-23, "f16": 2.0**-10, "bf16": 2.0**-7, "fp8_e4m3": 2.0**-3, "fp8_e5m2": 2.0**-2,
}  # fmt: skip
_FACTORS = (3, 7, 15, 31, 63, 127)  # odd, so that what is ragged stays so
_LARGEST = 1 << 20  # elements of all inputs together
_ERRORS = {  # what the evaluator calls what the interpreter finds
    "E921": ("E216", "the signature allows this size: guard the access, or say in the signature what sizes there are"),
    "E922": ("E217", "store to it first, on every path"),
    "E923": ("E215", "put ts.tile.barrier() between them, or wait for the copy"),
}


def test_cases(
    module: Module, functions: Sequence[M.Function], root: str = ""
) -> tuple[tuple[TestCase, ...], tuple[tuple[str, str], ...]]:
    """Two cases for each function of a module at the front end's level, where its guards allow small sizes; and
    by name why one is not tested, or not at some size.

    Raises SourceError E215, E216 or E217 for a kernel that races, leaves its arrays or reads what nobody wrote at sizes
    that its guards allow; its files lie in the folder `root`.
    """
    cases: list[TestCase] = []
    untested: dict[tuple[str, str], None] = {}

    def found(function: M.Function, fault: _Fault) -> None:
        if not _takes_integers(function):
            raise fault.error(root)
        untested[function.name, f"not tested at {fault.sizes} with random integers: {fault}"] = None

    for index, function in enumerate(functions):
        tested: list[dict[str, int]] = []
        why = ""  # of the first size tried, which is the one wanted
        for number, sizes in enumerate(_SIZES):
            for grain in _GRAINS:
                numbers = [(sizes[i % len(sizes)] + i // len(sizes)) * grain for i in range(len(function.symbols))]
                env = {s.name: n for s, n in zip(function.symbols, numbers, strict=True)}
                case = _case(module, function, number, index, env, tested)
                if isinstance(case, TestCase):
                    cases.append(case)
                    tested.append(env)
                    break
                if isinstance(case, _Fault):
                    found(function, case)
                why = why or str(case)
        if not tested:
            untested[function.name, f"no tests: {why}"] = None
        elif (wider := _several_groups(module, function, tested[0])) is not None:
            case = _case(module, function, len(_SIZES), index, wider, tested)
            if isinstance(case, _Fault):
                found(function, case)
    return tuple(cases), tuple(untested)


def _several_groups(module: Module, function: M.Function, sizes: Mapping[str, int]) -> dict[str, int] | None:
    """Sizes like these at which kernels have several groups along each axis of their grid that depends on sizes.

    None where they have them already.
    """
    program = module.func(function.name)
    kernels = [module.func(op.attrs["kernel"]) for op in program.walk() if op.name == "tile.launch"]
    grids = [dim for kernel in kernels for dim in kernel.attrs["grid"]]
    axes = [dim for dim in grids if symbols_of(dim) and symbols_of(dim) <= sizes.keys()]
    found = dict(sizes)
    for factor in _FACTORS:
        narrow = {name for dim in axes if evaluate_dim(dim, found) <= 1 for name in symbols_of(dim)}
        found |= {name: sizes[name] * factor for name in narrow}
    return None if found == sizes else found


@dataclass(frozen=True)
class _Fault:
    """What the interpreter found, at which sizes."""

    function: str
    sizes: str
    found: Finding

    def __str__(self) -> str:
        loc = self.found.op.loc
        return self.found.what + (f" ({loc.file}:{loc.line})" if loc else "")

    def error(self, root: str) -> SourceError:
        loc = self.found.op.loc
        span = None
        if loc is not None:
            end = loc.line if loc.end_col else 0
            span = Span(os.path.join(root, loc.file), loc.line, loc.col, end, loc.end_col)
        code, help = _ERRORS[self.found.code]
        what = f"`{self.function}` at {self.sizes}: {self.found.what}"
        return SourceError(code, what, span=span, help=self.found.help or help)


def _takes_integers(function: M.Function) -> bool:
    """Whether numbers that are drawn may decide which elements the function touches."""
    sizes = {symbol.input for symbol in function.symbols if symbol.axis < 0}
    return any(DTYPES[item.dtype].kind in "iu" and item.name not in sizes for item in function.inputs)


def _case(
    module: Module, function: M.Function, number: int, index: int, env: Mapping[str, int],
    tested: Sequence[Mapping[str, int]],
) -> TestCase | _Fault | str:  # fmt: skip
    """A test, or why there is none at these sizes."""
    if env in tested:  # a function without symbols has one case
        return "it is tested at these sizes"
    try:
        shapes = {i.name: extents(i.shape, env, i.name) for i in function.inputs if i.kind == "tensor"}
        if sum(math.prod(shape) for shape in shapes.values()) > _LARGEST:
            return f"its inputs at {_sizes(env)} are too large for a test"
        numbers = {s.input: env[s.name] * s.scale + s.offset for s in function.symbols if s.axis < 0}
        solve(function, shapes, numbers)
        inputs = {
            item.name: _value(item, shapes.get(item.name, ()), numbers, (index << 8 | number) << 40 | i << 32)
            for i, item in enumerate(function.inputs)
        }
        with np.errstate(all="ignore"):
            expected = _run(module, function, inputs)
    except Finding as found:
        return _Fault(function.name, _sizes(env), found)
    except (TesseraError, UnifyError) as error:  # a guard does not hold, or the kernel does not take such sizes
        return f"at {_sizes(env)} {getattr(error, 'message', error)}"
    bound = _bound(module, function.name, shapes)
    return TestCase(
        f"{function.name}/{number}",
        function.name,
        inputs,
        expected,
        _decimal(bound * _largest(expected)),
        _decimal(bound),
    )


def _sizes(env: Mapping[str, int]) -> str:
    return ", ".join(f"{name} = {size}" for name, size in env.items()) or "its only sizes"


def _value(item: M.Input, shape: tuple[int, ...], numbers: Mapping[str, int], seed: int) -> NDArray[Any]:
    kind = DTYPES[item.dtype].kind
    if item.name in numbers:
        return np.array(numbers[item.name], np_dtype(item.dtype))
    if kind == "f":
        spec = f"randn:{'x'.join([*map(str, shape), item.dtype])}"
        found = load_array(parse(spec)._replace(name=item.name), seed=seed)
        return np.asarray(found, dtype=np_dtype(item.dtype)).reshape(shape)
    bits = philox(np.arange(max(1, math.prod(shape)), dtype=np.uint64), seed)
    small = np.asarray(bits).reshape(-1)[: math.prod(shape)] % (2 if kind == "b" else 3)
    return small.astype(np_dtype(item.dtype)).reshape(shape)


def _run(module: Module, function: M.Function, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    arrays = [
        inputs[item.name].copy() if item.kind == "tensor" else inputs[item.name].item() for item in function.inputs
    ]
    level = graph if module.func(function.name).kind == "graph.func" else tile
    found = level.run(module, function.name, arrays)
    return {o.name: np.asarray(array) for o, array in zip(function.outputs, found, strict=True)}


def _bound(module: Module, name: str, shapes: Mapping[str, tuple[int, ...]]) -> float:
    """4 sqrt(n) units of the narrowest float in use, n being the longest axis: how rounding errors of sums grow."""
    kinds = set()
    longest = max((extent for shape in shapes.values() for extent in shape), default=1)
    for array in module.constants.values():
        longest = max(longest, *array.shape, 1)
    for func in module.funcs:
        if func.name != name and func.kind == "graph.func":
            continue
        for value in (*func.params, *(result for op in func.body.ops for result in op.results)):
            kinds.add(_element(value.type))
    narrowest = max((_EPSILON[kind] for kind in kinds if kind in _EPSILON), default=0.0)
    return 4 * math.ceil(math.sqrt(longest)) * narrowest


def _element(type_: Any) -> str:
    try:
        return str(element(type_))
    except (AssertionError, AttributeError, TesseraError, TypeError):
        return ""


def _largest(expected: Mapping[str, NDArray[Any]]) -> float:
    sizes = [np.abs(a.astype(np.float64)) for a in expected.values() if a.size and _is_float(a)]
    finite = [float(s[np.isfinite(s)].max()) for s in sizes if np.isfinite(s).any()]
    return max(finite, default=0.0)


def _is_float(array: NDArray[Any]) -> bool:
    return array.dtype.kind not in "iub"


def _decimal(value: float) -> str:
    return "0" if value == 0 else f"{min(max(value, 1e-30), 1e30):.1e}".replace("+", "")

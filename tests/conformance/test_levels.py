"""Every operator at every level: eager = Graph = Schedule = Tile interpreters = native code = emulated PTX.

Cases of the registry, on random ragged sizes, become functions of one module, which is lowered and compiled once; the
meaning that all levels are held against is the operator's `ref`. Comparators are those of tests/operators. By default
run the first case of every operator and a quarter of the others, which takes element types and attributes in turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import pytest

from tessera.dtypes import u8
from tessera.operator import Case
from tessera.shapes import symbol
from tessera.types import TensorType
from tessera_runtime import load as load_bundle
from tesseracc.arch.arch import load
from tesseracc.driver import Build, host_level
from tesseracc.emulator_device import EmulatorDevice
from tesseracc.interpret import graph, schedule, tile
from tesseracc.ir.builder import Builder
from tesseracc.ir.dialects.graph import attrs_of, from_lang
from tesseracc.ir.value import Func, Loc, Module, Value
from tesseracc.ir.verify import verify
from tests.guarded import guarded
from tests.operators.test_registry import (
    CASES,
    IDS,
    assert_close,
    attribute_symbols,
    concrete,
    each,
    inputs,
    rng_of,
    sizes,
)

Array = np.ndarray[Any, Any]
FIRST = [i for i, case in enumerate(CASES) if i == 0 or CASES[i - 1].op.name != case.op.name]
SAMPLE = tuple(i for i in range(len(CASES)) if i in FIRST or i % 4 == 0)
REST = tuple(i for i in range(len(CASES)) if i not in SAMPLE)


def function_name(index: int) -> str:
    return f"case{index}"


def free_symbols(case: Case) -> list[str]:
    """Symbols that the inputs do not determine: an extra input of that shape does."""
    known = {s for t in case.inputs for d in t.dims for s in ({str(d)} if symbol_like(d) else set())}
    return sorted(({s for t in case.inputs for s in t.symbols} | attribute_symbols(case.op)) - known)


def symbol_like(dim: Any) -> bool:
    return getattr(dim, "is_symbol", False)


def as_function(index: int, case: Case) -> Func:
    """The case as a `graph.func`."""
    b = Builder(Loc("cases.py", index + 1))
    params = [Value(from_lang(t), f"x{i}") for i, t in enumerate(case.inputs)]
    results = b.emit(f"graph.{case.op.name}", *params, **attrs_of(case.op)).results
    free = free_symbols(case)
    if free:
        params.append(Value(from_lang(TensorType(tuple(symbol(s) for s in free), u8)), "sizes"))
    return Func("graph.func", function_name(index), b.region(params, results), {"doc": ""}, b.loc)


@dataclass
class Levels:
    """The module of some cases at every level, and its bundle on this machine and on an emulated GPU."""

    graph: Module
    build: Build
    native: Any
    emulated: Any

    @cached_property
    def on_two_threads(self) -> Any:
        return load_bundle(self.build.bundle(), device="cpu", threads=2)


@cache
def levels(indices: tuple[int, ...]) -> Levels:
    module = verify(Module(tuple(as_function(i, CASES[i]) for i in indices)))
    build = Build(module, [host_level(), load("sm_90")])
    bundle = build.bundle()
    # the emulator reports races and stray accesses as errors
    emulated = load_bundle(bundle, device=EmulatorDevice())
    return Levels(module, build, load_bundle(bundle, device="cpu", threads=1), emulated)


def arguments(case: Case, env: dict[str, int], types: tuple[TensorType, ...], rng: np.random.Generator) -> list[Array]:
    arrays = inputs(case, types, rng)
    free = free_symbols(case)
    return [*arrays, np.zeros([env[s] for s in free], np.uint8)] if free else arrays


@pytest.mark.parametrize("level", ["graph", "schedule", "tile cpu", "tile cuda", "native", "emulated"])
@pytest.mark.parametrize(
    "index", [pytest.param(i, id=name, marks=() if i in SAMPLE else pytest.mark.slow) for i, name in enumerate(IDS)]
)
def test_level_equals_ref(index: int, level: str) -> None:
    case = CASES[index]
    rng = rng_of(case)
    found = levels(SAMPLE if index in SAMPLE else REST)
    name = function_name(index)
    tried = 0
    for env in sizes(case):
        made = concrete(case, env)
        if made is None:
            continue
        op, types = made
        args = arguments(case, env, types, rng)
        with np.errstate(all="ignore"):
            expected = each(op.ref(*args[: len(types)]))
        results: list[Any]
        if level == "graph":
            results = graph.run(found.graph, name, args)
        elif level == "schedule":
            results = schedule.run(found.build.schedule, name, args)
        elif level.startswith("tile"):
            arch = host_level() if level == "tile cpu" else load("sm_90")
            results = tile.run(found.build.tile(arch), name, args)
        else:
            bundle, given = (found.native, guarded(args, "above")) if level == "native" else (found.emulated, args)
            results = list(each(bundle[name](*given)))
        tried += 1
        for got, want in zip(results, expected, strict=True):
            assert_close(case, np.asarray(got), np.asarray(want), args)
    assert tried


def large(case: Case) -> dict[str, int]:
    """Sizes at which code is spread over threads, where the case leaves them open."""
    names = sorted({s for t in case.inputs for s in t.symbols} | attribute_symbols(case.op))
    open_ = [n for n in names if n not in case.sizes]
    size = {0: 0, 1: 70001, 2: 301, 3: 67}.get(len(open_), 19)
    return {n: size if n in open_ else case.sizes[n][1] for n in names}


@pytest.mark.parametrize("indices", [SAMPLE, pytest.param(REST, marks=pytest.mark.slow)], ids=["sample", "rest"])
def test_same_bits_over_runs_and_threads(indices: tuple[int, ...]) -> None:
    found, spread = levels(indices), 0
    for index in indices:
        case = CASES[index]
        made = concrete(case, env := large(case)) or concrete(case, env := list(sizes(case))[-1])
        if made is None:
            continue
        args = arguments(case, env, made[1], rng_of(case))
        first = each(found.native[function_name(index)](*args))
        spread += sum(x.size for x in args) > 10000
        for again in (found.native, found.on_two_threads, found.on_two_threads):
            for a, b in zip(first, each(again[function_name(index)](*args)), strict=True):
                assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), IDS[index]
    assert spread > len(indices) // 3

"""Eager NumPy = Graph interpreter = Schedule interpreter before and after fusion, for every operator and for functions.

Comparators: exact for integers and bools; for floats a bound per element type against the eager reference, which sums
in another order and computes transcendental functions by another library.
"""

from __future__ import annotations

import numpy as np
import pytest

from tessera.interpreters import apply
from tessera.operator import Case, registry
from tessera.pytree import flatten
from tessera.tensor import EagerTensor
from tesseracc.frontend.trace import trace
from tesseracc.interpret import graph, schedule
from tesseracc.ir.dialects.graph import attrs_of
from tesseracc.ir.parser import parse_module
from tesseracc.ir.printer import module_text
from tests.passes import programs
from tests.passes.programs import Array

CASES = [case for cls in registry().values() for case in cls.cases()]
#: relative bound, and absolute one in units of the largest element, by storage bytes of a float
BOUNDS = {8: 1e-12, 4: 3e-5, 2: 2e-2, 1: 0.25}


def close(got: Array, expected: Array, what: str) -> None:
    assert got.dtype == expected.dtype and got.shape == expected.shape, what
    if got.dtype.kind in "iub":
        assert np.array_equal(got, expected), what
        return
    bound, wide = BOUNDS[got.dtype.itemsize], expected.astype(np.float64)
    scale = max(1.0, float(np.max(np.abs(wide), initial=0.0, where=np.isfinite(wide))))
    np.testing.assert_allclose(got.astype(np.float64), wide, rtol=bound, atol=bound * scale, err_msg=what)


@pytest.mark.parametrize("case", CASES, ids=map(str, CASES))
def test_operator(case: Case) -> None:
    module = programs.module_of(case)
    before = programs.scheduled(module)
    after = programs.fused(module)
    rng = np.random.default_rng([len(str(case)), len(case.inputs)])
    for least in (True, False, False):
        env = programs.sizes_of(case, rng, least)
        inputs = programs.inputs_of(case, env, rng)
        op = type(case.op)(**graph.concrete(attrs_of(case.op), env))
        found = apply(op, *(EagerTensor(x) for x in inputs[:-1]))
        expected = [x.numpy() for x in (found if isinstance(found, tuple) else (found,))]
        levels = {
            "graph": graph.run(module, "f", inputs),
            "schedule": schedule.run(before, "f", inputs),
            "fused": schedule.run(after, "f", inputs),
        }
        for level, results in levels.items():
            for got, want in zip(results, expected, strict=True):
                close(got, want, f"{level} {env}")


SIZES = (
    {"N": 3, "D": 6, "B": 2, "S": 3, "A": 2, "C": 3, "H": 4, "K": 5, "M": 2},
    {"N": 1, "D": 2, "B": 1, "S": 1, "A": 1, "C": 1, "H": 1, "K": 1, "M": 1},
    {"N": 0, "D": 2, "B": 0, "S": 3, "A": 2, "C": 0, "H": 2, "K": 0, "M": 2},
    {"N": 17, "D": 34, "B": 5, "S": 7, "A": 13, "C": 4, "H": 9, "K": 33, "M": 3},
)


@pytest.mark.parametrize("name", programs.FUNCTIONS)
def test_function(name: str) -> None:
    fn = programs.FUNCTIONS[name]
    module = trace(fn).module
    before, after = programs.scheduled(module), programs.fused(module)
    assert module_text(parse_module(module_text(after))) == module_text(after)
    for number, env in enumerate(SIZES):
        inputs = programs.arrays_for(module.funcs[0].params, env, np.random.default_rng(number))
        with np.errstate(all="ignore"):
            expected = [x.numpy() for x in flatten(fn.invoke(*inputs))[0]]
        for level, results in (
            ("graph", graph.run(module, name, inputs)),
            ("schedule", schedule.run(before, name, inputs)),
            ("fused", schedule.run(after, name, inputs)),
        ):
            for got, want in zip(results, expected, strict=True):
                close(got, want, f"{level} {env}")

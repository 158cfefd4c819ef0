"""A case at every level: how far NumPy, the Tile interpreter, native code and emulated PTX are off, in bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from tessera.kernel import KernelDef, evaluate, specialise
from tessera.kernel.evaluate import bind
from tests.kernel.everywhere import levels
from tests.kernels.attention_cases import attention
from tests.kernels.cases import RESULT, Call, Case, ratio
from tests.kernels.library_cases import columns, products, rows, splits
from tests.kernels.seed_cases import seeds

#: one of each family of GPUs
ARCHS = ("sm_70", "sm_75", "sm_80", "sm_89", "sm_90", "sm_100", "sm_120")
#: the kernels' cases in families that are lowered alike
FAMILIES = {f.__name__: {str(case): case for case in f()} for f in (products, splits, rows, columns, attention, seeds)}
CASES = {name: case for family in FAMILIES.values() for name, case in family.items()}


def fixed(kernel: KernelDef, call: Call) -> tuple[KernelDef, list[str], list[Any]]:
    """The kernel of this call's constants and open dims, and the names and values of what is left to give."""
    arrays, _, env, constants = bind(kernel, call.args, {})
    found = specialise(kernel, constants, dims={name: int(str(env[name])) for name in kernel.open})
    names = [p.name for p in found.params if not p.constant]
    values = dict(zip((p.name for p in kernel.params), call.args, strict=False))
    return found, names, [arrays.get(name, values.get(name)) for name in names]


def worst(call: Call, names: Sequence[str], given: Sequence[Any], run: Callable[..., Any]) -> float:
    """The largest ratio of an error to its bound, over all results of one call."""
    mine = [np.copy(x) if isinstance(x, np.ndarray) else x for x in given]
    with np.errstate(all="ignore"):
        result = run(*mine)
    result = result[0] if isinstance(result, (list, tuple)) and result else result
    held = dict(zip(names, mine, strict=True)) | {RESULT: result}
    return max((ratio(np.asarray(held[want.at]), want) for want in call.wants), default=0.0)


def measured(case: Case, archs: Sequence[str], calls: Iterable[int] | None = None) -> dict[str, float]:
    """The worst ratio of each level; every kernel is compiled once, and runs once for targets with the same PTX."""
    found: dict[str, float] = {}
    for at in range(len(case.calls)) if calls is None else calls:
        call, kernel = case.calls[at](), case.kernel()
        specific, names, given = fixed(kernel, call)
        values = dict(zip((p.name for p in kernel.params), call.args, strict=False))

        def numpy(*args: Any, kernel: KernelDef = kernel, names: list[str] = names, values: Any = values) -> Any:
            return evaluate(kernel, list((values | dict(zip(names, args, strict=True))).values()))

        runs = {"NumPy": numpy} | levels(specific, archs)
        off = {run: worst(call, names, given, run) for run in dict.fromkeys(runs.values())}
        for level, run in runs.items():
            found[level] = max(found.get(level, 0.0), off[run])
    return found

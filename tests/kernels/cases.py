"""What the tests call kernels with: arguments, results in float64, and bounds that follow from where a kernel rounds.

U is the unit roundoff of f32, in which everything is added: a sum of n elements one behind the other is within n U of
the sum of their magnitudes, an elementary function within a few U. What is stored is rounded once to its type, and a
value that a product takes is rounded to the operand's type. Bounds are element by element, never of the largest one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from tessera.kernel import KernelDef
from tessera_runtime.core.dtypes import np_dtype

U = 2.0**-24
RESULT = ""  # the place of what a kernel returns
UNITS = {"bf16": 2.0**-8, "f16": 2.0**-11, "f32": U, "f64": 2.0**-53, "fp8_e4m3": 2.0**-4, "fp8_e5m2": 2.0**-3}


@dataclass(frozen=True, slots=True)
class Want:
    """An array in float64, and how far off each element may be; what is not finite must be the same."""

    at: str  # a parameter's name, or RESULT
    value: Any
    bound: Any


@dataclass(frozen=True, slots=True)
class Call:
    """One call: the arguments, and what they and the result must be afterwards."""

    args: list[Any]
    wants: list[Want]


@dataclass(frozen=True, slots=True)
class Case:
    """A kernel for one element type, and its calls."""

    name: str
    dtype: str
    kernel: Callable[[], KernelDef]
    calls: tuple[Callable[[], Call], ...]

    def __str__(self) -> str:
        return f"{self.name}-{self.dtype}"


def normal(*shape: int, seed: int = 0, dtype: str = "f32") -> Any:
    """Random elements; ints over their whole range."""
    rng, numpy = np.random.default_rng((seed, *shape)), np_dtype(dtype)
    if numpy.kind in "iu":
        least = np.iinfo(numpy)
        return rng.integers(least.min, least.max + 1, shape).astype(numpy)
    return rng.standard_normal(shape).astype(numpy)


def empty(*shape: int, dtype: str = "f32") -> Any:
    """Memory for a result, which starts as nothing that could be one."""
    return np.full(shape, 99, np_dtype(dtype))


def wide(x: Any) -> Any:
    return np.asarray(x).astype(np.float64)


def stored(at: str, dtype: str, value: Any, bound: Any = 0.0) -> Want:
    """`value`, known but for `bound`, rounded once to a type; ints are exact."""
    value = np.asarray(value)
    if dtype not in UNITS:
        return Want(at, value, np.zeros(value.shape))
    with np.errstate(invalid="ignore"):
        bound = np.broadcast_to(bound, value.shape) + 1.01 * UNITS[dtype] * (np.abs(value) + bound)
    return Want(at, value, bound + float(ml_dtypes.finfo(np_dtype(dtype)).smallest_subnormal))


def ratio(found: Any, want: Want) -> float:
    """The largest error, in bounds."""
    assert found.shape == want.value.shape
    if found.dtype.kind in "iu":
        return 0.0 if np.array_equal(found, want.value) else np.inf
    finite = np.isfinite(want.value)
    found = wide(found)
    if not np.array_equal(found[~finite], want.value[~finite], equal_nan=True):
        return np.inf
    error, bound = np.abs(found[finite] - want.value[finite]), want.bound[finite]
    worst = float(np.divide(error, bound, out=np.where(error > 0, np.inf, 0.0), where=bound > 0).max(initial=0))
    return np.inf if np.isnan(worst) else worst


def row_error(n: int) -> float:
    """Rounding of a sum of n elements, in blocks of at least 128 that are trees; of what is done once; and to spare."""
    return (-(-n // 128) * 6 + 32) * U

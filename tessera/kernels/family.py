"""Kernels that differ in element types, orders and the like: one function that makes them, each made once."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

from tessera.decorators import Kernel
from tessera.dtypes import as_dtype

__all__ = ["Family", "family"]


class Family:
    """The kernels that `make` gives for element types and other choices.

    `of(ts.f16, ...)` is one of them, the same object for the same choices, and belongs to the module that asks for it:
    `gemm = ts.kernels.matmul.of(ts.bf16)` makes `gemm` an entry there. A call takes the element type from its first
    argument, an array or tensor, and every other choice by default.
    """

    def __init__(self, make: Callable[..., Kernel]) -> None:
        functools.update_wrapper(self, make)
        self.name = make.__name__
        self._signature = inspect.signature(make)
        self._made: dict[tuple[object, ...], Kernel] = {}
        self._make = make

    def of(self, dtype: Any, **choices: Any) -> Kernel:
        """The kernel of an element type; `choices` are the other parameters of the function that makes it."""
        return self._of(sys._getframe(1).f_globals["__name__"], dtype, choices)

    def _of(self, module: str, dtype: Any, choices: dict[str, Any]) -> Kernel:
        bound = self._signature.bind(as_dtype(dtype), **choices)
        bound.apply_defaults()
        key = (module, *bound.arguments.values())
        if key not in self._made:
            self._made[key] = self._make(*bound.args, **bound.kwargs)
            self._made[key].__module__ = module
        return self._made[key]

    def __call__(self, first: Any, *args: Any, **kwargs: Any) -> Any:
        return self._of(__name__, first.dtype, {})(first, *args, **kwargs)

    def __repr__(self) -> str:
        return f"<kernels {self.name}>"


def family(make: Callable[..., Kernel]) -> Family:
    """Marks a function from an element type, and choices with defaults, to a kernel."""
    return Family(make)

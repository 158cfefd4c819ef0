"""Random tensor functions: DAGs of operators over symbolic sizes, built from a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import tessera as ts
from tessera.dtypes import as_dtype
from tessera.shapes import parse_dim
from tessera.tensor import EagerTensor
from tessera.types import TensorType

SIZES = (0, 1, 2, 3, 7, 33, 129)


@dataclass
class Program:
    """`body(*inputs)` gives a tuple of tensors; `types` are the inputs' types over the symbols N and D.

    The operators are chosen at the first call, which must be with symbolic sizes; later calls repeat them.
    """

    seed: int
    types: tuple[TensorType, ...]
    length: int
    steps: list[tuple[str, int, int, int]] = field(default_factory=list)

    def body(self, *inputs: Any) -> tuple[Any, ...]:
        values = list(inputs)
        if not self.steps:
            rng = np.random.default_rng(self.seed)
            for _ in range(self.length):
                values.append(self.choose(rng, values))
        else:
            for name, i, j, number in self.steps:
                values.append(STEPS[name](values[i], values[j], number))
        outputs = values[-3:]
        return (*outputs, inputs[0], outputs[0]) if self.seed % 4 == 0 else tuple(outputs)

    def choose(self, rng: np.random.Generator, values: list[Any]) -> Any:
        """One more operator on earlier values, one that fits their types whatever the sizes are."""
        names = sorted(STEPS)
        while True:
            name = names[int(rng.integers(len(names)))]
            i, j = (int(rng.integers(len(values))) for _ in range(2))
            number = int(rng.integers(1 << 30))
            made = STEPS[name](values[i], values[j], number)
            if made is not None and made.ndim <= 3:
                self.steps.append((name, i, j, number))
                return made


def program(seed: int) -> Program:
    """A program of 3 to 10 steps on three tensors."""
    rng = np.random.default_rng([seed, 77])
    shapes = [("N", "D"), ("N", "D"), ("D",), ("N", "1"), ("D", "N")]
    chosen = [shapes[0], *(shapes[int(i)] for i in rng.integers(0, len(shapes), 2))]
    dtypes = rng.choice(["f32", "f32", "f32", "bf16", "f16", "i32"], len(chosen))
    types = tuple(TensorType(tuple(map(parse_dim, s)), as_dtype(str(d))) for s, d in zip(chosen, dtypes))
    return Program(seed, types, int(rng.integers(3, 11)))


def _float(x: Any) -> Any:
    return x if x.dtype.is_float else ts.cast(x, ts.f32)


def _bounded(x: Any) -> Any:
    return ts.tanh(_float(x))


def _pair(x: Any, y: Any) -> bool:
    """Whether NumPy's rules broadcast the shapes for every size of the symbols; when repeated, they are known to."""
    if isinstance(x, EagerTensor):
        return True
    return all(str(a) == str(b) or 1 in (a, b) for a, b in zip(reversed(x.shape), reversed(y.shape)))


def _axis(x: Any, number: int) -> int:
    return number % x.ndim


STEPS: dict[str, Callable[[Any, Any, int], Any]] = {
    "add": lambda x, y, n: x + y if _pair(x, y) else None,
    "mul": lambda x, y, n: _bounded(x) * y if _pair(x, y) else None,
    "sub scalar": lambda x, y, n: x - (n % 5),
    "where": lambda x, y, n: ts.where(x > 0, x, y) if _pair(x, y) and x.dtype == y.dtype else None,
    "maximum": lambda x, y, n: ts.maximum(x, y) if _pair(x, y) else None,
    "tanh": lambda x, y, n: _bounded(x),
    "sigmoid": lambda x, y, n: ts.sigmoid(_float(x)),
    "abs": lambda x, y, n: ts.abs(x),
    "relu": lambda x, y, n: ts.relu(x),
    "cast": lambda x, y, n: ts.cast(_bounded(x), ("f32", "bf16", "f16", "f64")[n % 4]),
    "sum": lambda x, y, n: ts.sum(_bounded(x), axis=_axis(x, n), keepdims=bool(n & 8)) if x.ndim else None,
    "mean all": lambda x, y, n: ts.sum(_bounded(x)) if n % 3 == 0 else None,
    "softmax": lambda x, y, n: ts.softmax(_bounded(x), axis=_axis(x, n)) if x.ndim else None,
    "transpose": lambda x, y, n: ts.transpose(x) if x.ndim > 1 else None,
    "expand": lambda x, y, n: ts.expand_dims(x, n % (x.ndim + 1)) if x.ndim < 3 else None,
    "slice": lambda x, y, n: x[..., ::2] if x.ndim and n % 2 else None,
    "flip": lambda x, y, n: ts.flip(x, _axis(x, n)) if x.ndim else None,
    "concat": lambda x, y, n: ts.concat([x, x], axis=_axis(x, n)) if x.ndim else None,
    "matmul": lambda x, y, n: (
        _bounded(x) @ _bounded(y)
        if x.ndim == 2 and y.ndim == 2 and (isinstance(x, EagerTensor) or str(x.shape[1]) == str(y.shape[0]))
        else None
    ),
    "flatten": lambda x, y, n: ts.reshape(x, (-1,)) if x.ndim == 2 else None,
}

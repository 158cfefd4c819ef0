"""Subscripts: x[1:, None, ..., ::-1]."""

from __future__ import annotations

from typing import Any

import numpy as np

from tessera.errors import SourceError
from tessera.interpreters import apply
from tessera.ops.indexing import take
from tessera.ops.parts import Flip, Slice
from tessera.ops.views import ExpandDims, Squeeze
from tessera.shapes import Dim, Expr, dim_max, dim_min
from tessera.tensor import Tensor, as_tensor

__all__ = ["getitem"]

def getitem(x: Tensor, index: Any) -> Tensor:
    """x[...] with ints, slices, None, Ellipsis, sizes, and at most one tensor of ints (which takes along its axis)."""
    parts = index if isinstance(index, tuple) else (index,)
    used = sum(1 for p in parts if p is not None and p is not Ellipsis)
    if used > x.ndim:
        raise SourceError("E304", f"{used} indices for a tensor of rank {x.ndim}, {x.type}")
    if sum(1 for p in parts if p is Ellipsis) > 1:
        raise SourceError("E305", "an index can have one `...` only")
    full: list[Any] = []
    for p in parts:
        full += [np.s_[:]] * (x.ndim - used) if p is Ellipsis else [p]
    if not any(p is Ellipsis for p in parts):
        full += [np.s_[:]] * (x.ndim - used)

    starts: list[Dim] = []
    sizes: list[Dim] = []
    steps: list[int] = []
    flips: list[int] = []
    dropped: list[int] = []
    taken: tuple[int, Tensor] | None = None
    new: list[int] = []  # places of None among the kept axes
    kept = 0
    for p in full:
        axis = len(starts)
        if p is None:
            new.append(kept + len(new))
            continue
        dim = x.shape[axis]
        start: Dim = 0
        size: Dim = dim
        step = 1
        if isinstance(p, _PythonSlice):
            start, size, step = _cut(x, axis, p)
            if step < 0:
                flips.append(axis)
                start, step = start + (size - 1) * step, -step
        elif isinstance(p, (int, np.integer, Expr)) and not isinstance(p, bool):
            start, size = _place(x, axis, p if isinstance(p, Expr) else int(p)), 1
            dropped.append(axis)
        elif isinstance(p, (Tensor, np.ndarray, list)):
            if taken is not None:
                raise SourceError("E305", "an index can have one tensor only", help="use ts.take or ts.gather")
            taken = (kept, as_tensor(p))
        else:
            raise SourceError("E305", f"{p!r} is not an index", help="use ints, slices, None, ... or a tensor of ints")
        kept += axis not in dropped
        starts.append(start)
        sizes.append(size)
        steps.append(step)
    result = x
    if tuple(sizes) != x.shape or any(s != 0 for s in starts) or any(s != 1 for s in steps):
        result = apply(Slice(tuple(starts), tuple(sizes), tuple(steps)), result)
    if flips:
        result = apply(Flip(tuple(flips)), result)
    if dropped:
        result = apply(Squeeze(tuple(dropped)), result)
    if taken is not None:
        if taken[1].dtype.kind == "bool":
            raise SourceError("E303", "a bool tensor cannot be an index: its values would decide the size",
                              help="use ts.where")
        if new:
            raise SourceError("E305", "None and a tensor in one index", help="index in two steps")
        result = take(result, taken[1], taken[0])
    return apply(ExpandDims(tuple(new)), result) if new else result


_PythonSlice = type(np.s_[:])


def _place(x: Tensor, axis: int, index: Dim) -> Dim:
    dim = x.shape[axis]
    if isinstance(index, int) and isinstance(dim, int) and not -dim <= index < dim:
        raise SourceError("E305", f"index {index} is outside axis {axis} of {x.type}")
    return dim + index if isinstance(index, int) and index < 0 else index


def _cut(x: Tensor, axis: int, cut: Any) -> tuple[Dim, Dim, int]:
    """(start, size, step) of a Python slice, with Python's clamping, on a possibly symbolic axis."""
    dim = x.shape[axis]
    step = 1 if cut.step is None else cut.step
    if isinstance(step, bool) or not isinstance(step, int) or step == 0:
        raise SourceError("E305", f"{cut.step!r} is not a step of a slice", help="a step is an int other than 0")
    bounds = [v.item() if isinstance(v, Tensor) else v for v in (cut.start, cut.stop)]
    if not all(v is None or isinstance(v, (int, np.integer, Expr)) for v in bounds):
        raise SourceError("E305", f"the bounds of a slice are ints or sizes, got {cut.start!r}:{cut.stop!r}")
    if isinstance(dim, int) and not any(isinstance(v, Expr) for v in bounds):
        first, last, step = _PythonSlice(bounds[0], bounds[1], step).indices(dim)
        return first, len(range(first, last, step)), step
    if step < 0:
        if bounds != [None, None] or step != -1:
            raise SourceError("E305", f"a step of {step} along the symbolic axis {dim} needs the whole axis: [::-1]")
        return dim - 1, dim, -1
    start = _bound(bounds[0], dim, 0)
    size = dim_max(_bound(bounds[1], dim, dim) - start, 0)
    return start, size if step == 1 else (size + (step - 1)) // step, step


def _bound(value: Any, dim: Dim, missing: Dim) -> Dim:
    if value is None:
        return missing
    if isinstance(value, (int, np.integer)) and value < 0:
        return dim_max(dim + int(value), 0)
    return dim_min(value if isinstance(value, Expr) else int(value), dim)

"""Convolutions by products of spectra: equal up to rounding, with fewer multiplications for large windows."""

from __future__ import annotations

import math

from tessera.ops.convolution import Convolution
from tessera.ops.fourier import RADIX, fft, ifft, radices
from tessera.ops.linalg import matmul
from tessera.ops.parts import pad, stack
from tessera.ops.views import permute
from tessera.shapes import Dim
from tessera.tensor import Tensor, operators
from tessera.types import TensorType

__all__ = ["by_spectra", "spectra_are_cheaper"]


def _lengths(op: Convolution, x: TensorType, w: TensorType) -> list[int] | None:
    """For each axis the length of a transform that holds x at its place and no window that wraps round; None where
    sizes are not known, steps are not 1, or x is cut off in front."""
    found = []
    for out, low, size, window in zip(op.out, op.low, x.dims[3:], w.dims[3:], strict=True):
        if not all(isinstance(n, int) for n in (out, low, size, window)) or int(low) < 0:
            return None
        found.append(_smooth(max(int(out) + int(window) - 1, int(size) + int(low), 1)))
    steps = (*op.stride, *op.dilation, *op.spread)
    return found if all(step == 1 for step in steps) and found else None


def _smooth(least: int) -> int:
    """The first length from `least` on whose transform has small factors only."""
    return next(n for n in range(least, 2 * least + 1) if n == 1 or max(radices(n)) <= RADIX)


def spectra_are_cheaper(op: Convolution, x: TensorType, w: TensorType) -> bool:
    """Whether transforms of x, w and y and products of spectra take fewer multiplications than all windows do; for one
    example of a batch where its size is not known."""
    lengths, known = _lengths(op, x, w), all(isinstance(d, int) for d in (*x.dims[1:3], *w.dims[:3]))
    if lengths is None or not known or x.dtype != w.dtype or op.infer(x, w).dtype != x.dtype or x.dtype.is_narrow:
        return False
    batch, (groups, rows, inputs) = x.dims[0] if isinstance(x.dims[0], int) else 1, map(int, w.dims[:3])
    direct = batch * groups * rows * inputs * math.prod(map(int, (*op.out, *w.dims[3:])))
    points = math.prod(lengths)
    transforms = groups * (batch * inputs + rows * inputs + batch * rows)
    steps = sum(sum(radices(n)) for n in lengths)
    return direct > 4 * points * (transforms * steps + batch * groups * rows * inputs)


def by_spectra(op: Convolution, x: Tensor, w: Tensor) -> Tensor:
    """y = ifft(sum over c of fft(x) * conj(fft(w))), with x moved by `low` and both filled up with zeros.

    The sum over channels is a product of real matrices: rows (c, part) and columns (o, part), where
    (a + i b) conj(r + i s) = a r + b s + i (b r - a s).
    """
    lengths = _lengths(op, x.type, w.type)
    assert lengths is not None
    (batch, groups, inputs), rows, points = x.shape[:3], w.shape[1], math.prod(lengths)
    before = [(low, n - low - size) for low, n, size in zip(op.low, lengths, x.shape[3:], strict=True)]
    after = [(0, n - size) for n, size in zip(lengths, w.shape[3:], strict=True)]
    seen = _spectrum(pad(x, ((0, 0), (0, 0), (0, 0), *before))).reshape(batch, groups, inputs, points, 2)
    kernel = _spectrum(pad(w, ((0, 0), (0, 0), (0, 0), *after))).reshape(groups, rows, inputs, points, 2)
    columns = stack([kernel, stack([-kernel[..., 1], kernel[..., 0]], -1)], -1)  # [g, o, c, f, part of x, part of y]
    matrix = permute(columns, 0, 3, 2, 4, 1, 5).reshape(groups, points, 2 * inputs, 2 * rows)
    y = matmul(permute(seen, 1, 3, 0, 2, 4).reshape(groups, points, batch, 2 * inputs), matrix)
    y = permute(y.reshape(groups, points, batch, rows, 2), 2, 0, 3, 1, 4).reshape(batch, groups, rows, *lengths, 2)
    for axis in range(len(lengths)):
        y = _along(axis, y, inverse=True)
    return y[(slice(None),) * 3 + tuple(slice(0, int(out)) for out in op.out) + (0,)]


def _spectrum(x: Tensor) -> Tensor:
    """The transform of real [a, b, c, ..] over the axes from the third on, as pairs."""
    pairs = stack([x, operators.zeros_like(x)], -1)
    for axis in range(x.ndim - 3):
        pairs = _along(axis, pairs, inverse=False)
    return pairs


def _along(axis: int, x: Tensor, inverse: bool) -> Tensor:
    """The transform of pairs over the space axis `axis`."""
    order: list[Dim] = list(range(x.ndim))
    order[3 + axis], order[-2] = order[-2], order[3 + axis]
    turned = permute(x, *order)
    return permute(ifft(turned) if inverse else fft(turned), *order)

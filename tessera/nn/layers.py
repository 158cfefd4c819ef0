"""Convolutions, pooling, group normalisation and dropout, composed from operators."""

from __future__ import annotations

from collections.abc import Sequence

from tessera.errors import SourceError
from tessera.interpreters import apply
from tessera.ops.convolution import Convolution
from tessera.ops.elementwise import add, mul
from tessera.ops.linalg import product_type
from tessera.ops.nn import layer_norm
from tessera.ops.parts import pad
from tessera.ops.reduce import max, mean
from tessera.ops.select import cast, where
from tessera.ops.views import expand_dims, permute, reshape
from tessera.ops.windows import Windows, window_count
from tessera.random import bits
from tessera.shapes import Dim
from tessera.tensor import Tensor, TensorLike, as_tensor, operands

__all__ = ["avg_pool2d", "conv1d", "conv2d", "conv3d", "dropout", "group_norm", "max_pool2d"]

Sizes = int | Sequence[int]


def _each(name: str, what: str, value: Sizes, axes: int, least: int) -> tuple[int, ...]:
    """One int for every axis, or a sequence of them."""
    sizes = (value,) * axes if isinstance(value, int) else tuple(value)
    if len(sizes) != axes or not all(isinstance(s, int) and not isinstance(s, bool) and s >= least for s in sizes):
        raise SourceError("E305", f"{name} has {what}={value!r}", help=f"an int >= {least}, or one for each axis")
    return sizes


# Convolution ----------------------------------------------------------------------------------------------------------


def _convolution(name: str, axes: int, x: TensorLike, w: TensorLike, bias: TensorLike | None, stride: Sizes,
                 padding: Sizes, dilation: Sizes, groups: int, layout: str) -> Tensor:
    value, weight = operands(x, w)
    if value.ndim != axes + 2 or weight.ndim != axes + 2:
        raise SourceError("E304", f"{name} needs x and w of rank {axes + 2}, got {value.type} and {weight.type}",
                          help="x is [batch, channels, ..], w is [out, channels / groups, ..]")
    if layout not in ("channels_first", "channels_last"):
        raise SourceError("E305", f"{name} has no layout {layout!r}", help="use 'channels_first' or 'channels_last'")
    last = layout == "channels_last"
    if last:
        value = permute(value, 0, axes + 1, *range(1, axes + 1))
    steps, gaps = _each(name, "stride", stride, axes, 1), _each(name, "dilation", dilation, axes, 1)
    low = _each(name, "padding", padding, axes, 0)
    batch, channels, *lengths = value.shape
    rows, inner, *taps = weight.shape
    if groups < 1 or (isinstance(rows, int) and rows % groups):
        raise SourceError("E302", f"{name} with {groups} groups and a weight {weight.type}",
                          help="the groups divide the weight's first axis and the channels")
    out: list[Dim] = [
        window_count(n + 2 * p, (k - 1) * d + 1, s)
        for n, k, p, d, s in zip(lengths, taps, low, gaps, steps, strict=True)
    ]
    for n, k, p, d, count in zip(lengths, taps, low, gaps, out, strict=True):
        if isinstance(count, int) and count < 1:
            raise SourceError("E302", f"{name}: windows of {(k - 1) * d + 1} places in an axis of {n} + 2 * {p}",
                              help="windows are no longer than the padded axis")
    dtype = product_type(value.dtype, weight.dtype)
    wide = dtype.name if bias is None else dtype.wide.name
    found = apply(Convolution(tuple(out), low, steps, gaps, (1,) * axes, wide),
                  reshape(value, (batch, groups, channels // groups, *lengths)),
                  reshape(weight, (groups, rows // groups, inner, *taps)))
    found = reshape(found, (batch, rows, *out))
    if bias is not None:
        found = cast(add(found, cast(reshape(as_tensor(bias), (rows, *(1,) * axes)), dtype.wide)), dtype)
    return permute(found, 0, *range(2, axes + 2), 1) if last else found


def conv1d(x: TensorLike, w: TensorLike, bias: TensorLike | None = None, *, stride: Sizes = 1, padding: Sizes = 0,
           dilation: Sizes = 1, groups: int = 1, layout: str = "channels_first") -> Tensor:
    """conv2d over one axis: x [N, C, L], w [O, C / groups, K]."""
    return _convolution("conv1d", 1, x, w, bias, stride, padding, dilation, groups, layout)


def conv2d(x: TensorLike, w: TensorLike, bias: TensorLike | None = None, *, stride: Sizes = 1, padding: Sizes = 0,
           dilation: Sizes = 1, groups: int = 1, layout: str = "channels_first") -> Tensor:
    """Cross-correlation of x [N, C, H, W] with w [O, C / groups, K, L], plus bias [O]; gives [N, O, H', W'] with
    H' = (H + 2 padding - (K - 1) dilation - 1) // stride + 1. `channels_last` takes and gives [N, H, W, C]."""
    return _convolution("conv2d", 2, x, w, bias, stride, padding, dilation, groups, layout)


def conv3d(x: TensorLike, w: TensorLike, bias: TensorLike | None = None, *, stride: Sizes = 1, padding: Sizes = 0,
           dilation: Sizes = 1, groups: int = 1, layout: str = "channels_first") -> Tensor:
    """conv2d over three axes: x [N, C, D, H, W], w [O, C / groups, J, K, L]."""
    return _convolution("conv3d", 3, x, w, bias, stride, padding, dilation, groups, layout)


# Pooling --------------------------------------------------------------------------------------------------------------


def _windows(name: str, x: TensorLike, size: Sizes, stride: Sizes | None, padding: Sizes, border: float) -> Tensor:
    """[N, C, H', W', K, L]: the windows over the last two axes, padded with `border`."""
    value = as_tensor(x)
    if value.ndim < 2 or not value.dtype.is_float:
        raise SourceError("E304", f"{name} needs floats with axes [.., H, W], got {value.type}")
    sizes = _each(name, "size", size, 2, 1)
    steps = sizes if stride is None else _each(name, "stride", stride, 2, 1)
    around = _each(name, "padding", padding, 2, 0)
    if any(p >= k for p, k in zip(around, sizes, strict=True)):
        raise SourceError("E305", f"{name} has padding={padding!r} for windows of {sizes}",
                          help="every window needs a place inside")
    if any(around):
        value = pad(value, [(0, 0)] * (value.ndim - 2) + [(p, p) for p in around], border)
    rows = value.ndim - 2
    return apply(Windows(rows + 1, sizes[1], steps[1]), apply(Windows(rows, sizes[0], steps[0]), value))


def max_pool2d(x: TensorLike, size: Sizes, stride: Sizes | None = None, padding: Sizes = 0) -> Tensor:
    """The largest element of every window of `size` over the last two axes, one every `stride` (`size` by default).

    Padding is -inf. Largest elements that are equal share the derivative.
    """
    return max(_windows("max_pool2d", x, size, stride, padding, -float("inf")), (-2, -1))


def avg_pool2d(x: TensorLike, size: Sizes, stride: Sizes | None = None, padding: Sizes = 0) -> Tensor:
    """The mean of every window over the last two axes; padding counts as zeros."""
    return mean(_windows("avg_pool2d", x, size, stride, padding, 0.0), (-2, -1))


# Normalisation and dropout --------------------------------------------------------------------------------------------


def group_norm(x: TensorLike, groups: int, weight: TensorLike | None = None, bias: TensorLike | None = None,
               eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(variance + eps) over the channels of each group and all places of x [N, C, ..], then
    * weight + bias, of shape [C]."""
    value = as_tensor(x)
    batch, channels, *lengths = value.shape
    size: Dim = channels // groups
    for length in lengths:
        size = size * length
    dtype = value.dtype
    found = reshape(layer_norm(reshape(cast(value, dtype.wide), (batch, groups, size)), eps=eps), value.shape)
    for parameter, apply_ in ((weight, mul), (bias, add)):
        if parameter is not None:
            each = expand_dims(as_tensor(parameter), tuple(range(1, 1 + len(lengths))))
            found = apply_(found, cast(each, dtype.wide))
    return cast(found, dtype)


def dropout(x: TensorLike, rate: float, key: TensorLike, training: bool = True) -> Tensor:
    """Each element is 0 with probability `rate`, else x / (1 - rate). The key (ts.random.key) decides which.

    Element i is dropped where word i of the key is below rate * 2^32. With rate 0 or without `training`, x itself.
    """
    value = as_tensor(x)
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate < 1:
        raise SourceError("E305", f"dropout has rate={rate!r}", help="a number of [0, 1) that is known while tracing")
    if not training or rate == 0:
        return value
    kept = bits(value.shape, key=key) >= round(rate * 2**32)
    return where(kept, value * (1.0 / (1.0 - rate)), 0.0)

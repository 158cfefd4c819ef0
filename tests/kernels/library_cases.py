"""Calls of tessera.kernels: no rows, one element, ragged blocks, several blocks, shapes that tensor copies need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import tessera as ts
import tessera.kernels as K
from tests.kernels.cases import RESULT, UNITS, Call, Case, U, empty, normal, row_error, stored, wide

FLOATS = ("bf16", "f16", "f32")
INTS = ("i8", "u8", "i16", "i32")
MATRICES = ((0, 5, 3), (5, 0, 7), (1, 1, 1), (70, 150, 65), (72, 272, 64))  # rows, depth, columns
SMALL = ((0, 5, 3), (1, 1, 1), (20, 70, 33))
BATCHED = ((0, 5, 3), (5, 0, 7), (1, 1, 1), (70, 150, 33), (40, 136, 64))
#: rows and columns, and how far the elements are from 0
ROWS = ((0, 5, 0), (1, 1, 0), (17, 256, 0), (9, 600, 0), (3, 700, 30))
FAR = (3, 300, -200)  # exp of such elements is 0
COLUMNS = ((5, 0), (1, 1), (70, 33), (130, 64))


# Products -------------------------------------------------------------------------------------------------------------


def product(dtype: str, out: str, trans: tuple[bool, bool], batch: tuple[int, ...], shape: tuple[int, ...]) -> Call:
    m, k, n = shape
    a, b = normal(*batch, m, k, dtype=dtype), normal(*batch, k, n, seed=1, dtype=dtype)
    given = [x.swapaxes(-1, -2).copy() if t else x for x, t in zip((a, b), trans, strict=True)]
    if out == "i32":  # sums of 16 bits wrap around
        return Call(given, [stored(RESULT, out, (a.astype(np.int64) @ b.astype(np.int64)).astype(np.int32))])
    unit = UNITS["f64"] if out == "f64" else U
    return Call(given, [stored(RESULT, out, wide(a) @ wide(b), (k + 2) * unit * (np.abs(wide(a)) @ np.abs(wide(b))))])


def products() -> Iterator[Case]:
    orders = ((False, False), (True, False), (False, True), (True, True))
    every = [(dtype, dtype, order) for dtype in FLOATS for order in orders]
    others = [("fp8_e4m3", "f32"), ("i8", "i32"), ("f64", "f64"), ("bf16", "f32")]
    every += [(dtype, out, (False, t)) for dtype, out in others for t in (False, True)]
    every += [("fp8_e5m2", "f32", orders[2]), ("fp8_e4m3", "f32", orders[1]), ("i16", "i32", orders[0]),
              ("i8", "i32", orders[1]), ("f16", "f32", orders[3]), ("f64", "f64", orders[1])]  # fmt: skip
    for dtype, out, trans in every:
        batched = trans == (True, True)
        shapes = SMALL if dtype in ("f64", "i16") else BATCHED if batched else MATRICES
        kernel = partial(K.matmul.of, dtype, trans_a=trans[0], trans_b=trans[1], batched=batched, out=getattr(ts, out))
        name = "matmul_" + "".join("t" if t else "n" for t in trans) + ("_batched" if batched else "")
        calls = tuple(partial(product, dtype, out, trans, (2,) if batched else (), shape) for shape in shapes)
        yield Case(name + (f"_to_{out}" if out != dtype else ""), dtype, lambda k=kernel: k().definition, calls)


#: those that are cut into three parts: no depth, less than parts, ragged parts of one block and of two
PARTED = ((5, 0, 7), (1, 1, 1), (70, 300, 33), (72, 136, 64), (17, 700, 40))


def parted(dtype: str, out: str, trans: tuple[bool, bool], parts: int, shape: tuple[int, ...]) -> Call:
    """The product over each part of K, whose length is a multiple of 64, that of blocks."""
    m, k, n = shape
    whole = product(dtype, out, trans, (), shape)
    a, b = (wide(x.T if t else x) for x, t in zip(whole.args, trans, strict=True))
    length = -(-k // (parts * 64)) * 64
    cuts = [slice(p * length, (p + 1) * length) for p in range(parts)]
    want, size = (np.stack([x[:, at] @ y[at] for at in cuts]) for x, y in ((a, b), (np.abs(a), np.abs(b))))
    return Call([*whole.args, empty(parts, m, n, dtype=out)], [stored("W", out, want, (length + 2) * U * size)])


def sum_parts(dtype: str, out: str, parts: int, m: int, n: int) -> Call:
    w = normal(parts, m, n, dtype=dtype)
    if dtype == "i32":
        return Call([w], [stored(RESULT, out, w.sum(0, dtype=np.int32))])
    return Call([w], [stored(RESULT, out, wide(w).sum(0), parts.bit_length() * U * np.abs(wide(w)).sum(0))])


def splits() -> Iterator[Case]:
    kinds = (("bf16", "f32", (False, False)), ("f16", "f32", (True, False)), ("f32", "f32", (False, True)),
             ("i8", "i32", (True, True)))  # fmt: skip
    for dtype, out, trans in kinds:
        kernel = partial(K.matmul_parts.of, dtype, parts=3, trans_a=trans[0], trans_b=trans[1])
        calls = tuple(partial(parted, dtype, out, trans, 3, shape) for shape in PARTED)
        name = "matmul_parts_" + "".join("t" if t else "n" for t in trans)
        yield Case(name, dtype, lambda k=kernel: k().definition, calls)
    for dtype, out, parts in (("f32", "bf16", 8), ("f32", "f32", 3), ("i32", "i32", 5)):
        kernel = partial(K.sum_parts.of, dtype, parts=parts, out=getattr(ts, out))
        calls = tuple(partial(sum_parts, dtype, out, parts, *shape) for shape in COLUMNS)
        yield Case(f"sum_parts_to_{out}", dtype, lambda k=kernel: k().definition, calls)


# Rows -----------------------------------------------------------------------------------------------------------------


def given_rows(dtype: str, m: int, n: int, offset: float, scale: float = 1.0) -> Any:
    return (normal(m, n, dtype=dtype).astype(np.float64) * scale + offset).astype(normal(0, dtype=dtype).dtype)


def softmax(dtype: str, m: int, n: int, offset: float) -> Call:
    x = given_rows(dtype, m, n, offset, 4)
    x[:, 3:5] = -np.inf
    away = wide(x) - wide(x).max(1, keepdims=True, initial=-np.inf)
    want = np.exp(away)
    want /= want.sum(1, keepdims=True)
    bound = want * (row_error(n) + np.where(want > 0, np.abs(away), 0) * U)
    return Call([x, empty(m, n, dtype=dtype)], [stored("y", dtype, want, bound)])


def softmax_grad(dtype: str, m: int, n: int, offset: float) -> Call:
    y, dy = (np.abs(given_rows(dtype, m, n, 0)) / max(n, 1)).astype(normal(0, dtype=dtype).dtype), None
    dy = normal(m, n, seed=1, dtype=dtype)
    p, g = wide(y), wide(dy)
    total, size = ((p * t).sum(1, keepdims=True) for t in (g, np.abs(g)))
    bound = p * row_error(n) * (np.abs(g) + size)
    return Call([y, dy, empty(m, n, dtype=dtype)], [stored("dx", dtype, p * (g - total), bound)])


def normalised(t: Any, eps: float) -> tuple[Any, Any, Any, Any]:
    """(x - mean), scale, and how far the error of a mean goes."""
    n = max(t.shape[1], 1)
    mean = t.sum(1, keepdims=True) / n
    scale = 1 / np.sqrt(((t - mean) ** 2).sum(1, keepdims=True) / n + eps)
    return mean, t - mean, scale, np.abs(t).sum(1, keepdims=True) / n * scale


def layer_norm(dtype: str, m: int, n: int, offset: float) -> Call:
    x, weight, bias = given_rows(dtype, m, n, offset), normal(n, seed=1, dtype=dtype), normal(n, seed=2, dtype=dtype)
    _, away, scale, size = normalised(wide(x), 1e-5)
    bound = row_error(n) * (1 + size) * (np.abs(away) * scale + 1) * np.abs(wide(weight)) + 2 * U * np.abs(wide(bias))
    want = away * scale * wide(weight) + wide(bias)
    return Call([x, weight, bias, empty(m, n, dtype=dtype), 1e-5], [stored("y", dtype, want, bound)])


def layer_norm_grad(dtype: str, m: int, n: int, offset: float) -> Call:
    x, weight, dy = given_rows(dtype, m, n, offset), normal(n, seed=1, dtype=dtype), normal(m, n, seed=2, dtype=dtype)
    mean, away, scale, size = normalised(wide(x), 1e-5)
    h, g, count = away * scale, wide(dy) * wide(weight), max(n, 1)
    first, second = g.sum(1, keepdims=True) / count, (g * h).sum(1, keepdims=True) / count
    sizes = np.abs(g).sum(1, keepdims=True) / count, np.abs(g * h).sum(1, keepdims=True) / count
    # the mean is off by `size` of the rounding, h with it
    error = np.abs(g) + sizes[0] + (np.abs(h) + 1 + size) * (sizes[1] + (1 + size) * sizes[0])
    bound = row_error(n) * scale * error * (1 + np.abs(h))
    wants = [
        stored("dx", dtype, (g - first - h * second) * scale, bound),
        stored("mean", "f32", mean[:, 0], row_error(n) * np.abs(wide(x)).sum(1) / count),
        stored("scale", "f32", scale[:, 0], row_error(n) * ((1 + size) * scale)[:, 0]),
    ]
    return Call([x, weight, dy, empty(m, n, dtype=dtype), empty(m), empty(m), 1e-5], wants)


def rms_norm(dtype: str, m: int, n: int, offset: float) -> Call:
    x, weight = given_rows(dtype, m, n, offset), normal(n, seed=1, dtype=dtype)
    t = wide(x)
    want = t / np.sqrt((t * t).sum(1, keepdims=True) / max(n, 1) + 1e-6) * wide(weight)
    return Call([x, weight, empty(m, n, dtype=dtype), 1e-6], [stored("y", dtype, want, row_error(n) * np.abs(want))])


def rms_norm_grad(dtype: str, m: int, n: int, offset: float) -> Call:
    x, weight, dy = given_rows(dtype, m, n, offset), normal(n, seed=1, dtype=dtype), normal(m, n, seed=2, dtype=dtype)
    t, g, count = wide(x), wide(dy) * wide(weight), max(n, 1)
    scale = 1 / np.sqrt((t * t).sum(1, keepdims=True) / count + 1e-6)
    h = t * scale
    second, size = ((v * h).sum(1, keepdims=True) / count for v in (g, np.abs(g) * np.sign(h)))
    bound = row_error(n) * scale * (np.abs(g) + np.abs(h) * size)
    wants = [
        stored("dx", dtype, (g - h * second) * scale, bound),
        stored("scale", "f32", scale[:, 0], row_error(n) * scale[:, 0]),
    ]
    return Call([x, weight, dy, empty(m, n, dtype=dtype), empty(m), 1e-6], wants)


def labels(x: Any) -> tuple[Any, Any]:
    """Labels, some of them of no class, and the labelled logits (0 for those)."""
    m, n = x.shape
    label = np.random.default_rng(1).integers(-1, n + 2, m).astype(np.int32)
    label[:1] = n - 1
    return label, np.concatenate([wide(x), np.zeros((m, 1))], 1)[np.arange(m), np.where(outside(label, n), n, label)]


def outside(label: Any, n: int) -> Any:
    """Which labels are of none of n classes."""
    return (label < 0) | (label >= n)


def cross_entropy(dtype: str, m: int, n: int, offset: float) -> Call:
    x = given_rows(dtype, m, n, offset, 4)
    label, logits = labels(x)
    top = wide(x).max(1, initial=-np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):  # a row without elements
        total = top + np.log(np.exp(wide(x) - top[:, None]).sum(1))
        bound = row_error(n) * (1 + np.abs(total - top)) + 3 * U * (np.abs(total) + np.abs(logits))
    return Call([x, label, empty(m)], [stored("loss", "f32", np.where(outside(label, n), 0, total - logits), bound)])


def cross_entropy_grad(dtype: str, m: int, n: int, offset: float) -> Call:
    x, dloss = given_rows(dtype, m, n, offset, 4), normal(m, seed=3)
    label, _ = labels(x)
    away = wide(x) - wide(x).max(1, keepdims=True, initial=-np.inf)
    p = np.exp(away)
    p /= p.sum(1, keepdims=True)
    factor = np.where(outside(label, n), 0, wide(dloss))[:, None]
    hit = np.arange(n) == label[:, None]
    bound = (p * (row_error(n) + np.abs(away) * U) + hit * U) * np.abs(factor)
    return Call([x, label, dloss, empty(m, n, dtype=dtype)], [stored("dx", dtype, (p - hit) * factor, bound)])


def rows() -> Iterator[Case]:
    makers = (softmax, softmax_grad, layer_norm, layer_norm_grad, rms_norm, rms_norm_grad, cross_entropy)
    for make in (*makers, cross_entropy_grad):
        for dtype in FLOATS:
            kernel = getattr(K, make.__name__).of
            # statistics of no columns are not numbers
            shapes = ROWS if make in (layer_norm_grad, rms_norm_grad) else (*ROWS, (3, 0, 0))
            if make in (softmax, cross_entropy, cross_entropy_grad):
                shapes = (*shapes, FAR)
            calls = tuple(partial(make, dtype, *shape) for shape in shapes)
            yield Case(make.__name__, dtype, lambda k=kernel, d=dtype: k(d).definition, calls)


# Columns, reductions, transposition -----------------------------------------------------------------------------------


def column_error(m: int) -> float:
    """Rounding of a sum of m elements in blocks of 32, of the tree that joins them, and of what goes into it."""
    return (-(-m // 32) + 12) * U


def layer_norm_grad_weight(dtype: str, m: int, n: int) -> Call:
    x, dy = normal(m, n, dtype=dtype), normal(m, n, seed=1, dtype=dtype)
    mean, scale = normal(m, seed=2), np.abs(normal(m, seed=3)) + np.float32(0.1)
    h = (wide(x) - wide(mean)[:, None]) * wide(scale)[:, None]
    wants = [
        stored("dweight", dtype, (wide(dy) * h).sum(0), column_error(m) * np.abs(wide(dy) * h).sum(0)),
        stored("dbias", dtype, wide(dy).sum(0), column_error(m) * np.abs(wide(dy)).sum(0)),
    ]
    return Call([x, dy, mean, scale, empty(n, dtype=dtype), empty(n, dtype=dtype)], wants)


def rms_norm_grad_weight(dtype: str, m: int, n: int) -> Call:
    x, dy, scale = normal(m, n, dtype=dtype), normal(m, n, seed=1, dtype=dtype), np.abs(normal(m, seed=3))
    part = wide(dy) * wide(x) * wide(scale)[:, None]
    wants = [stored("dweight", dtype, part.sum(0), column_error(m) * np.abs(part).sum(0))]
    return Call([x, dy, scale, empty(n, dtype=dtype)], wants)


def reduction(name: str, dtype: str, m: int, n: int) -> Call:
    axis = 1 if name.startswith("row") else 0
    x, length, integer = normal(m, n, dtype=dtype), (m, n)[1 - axis], dtype in INTS
    t = x.astype(np.int64) if integer else wide(x)
    if name.endswith("max"):
        least = np.iinfo(x.dtype).min if integer else -np.inf
        return Call([x, empty(length, dtype=dtype)], [stored("y", dtype, t.max(axis, initial=least))])
    out = {"i32": "i64", "f64": "f64"}.get(dtype, "i32" if integer else "f32")
    bound = column_error((m, n)[axis]) * np.abs(t).sum(axis) * (UNITS["f64"] / U if dtype == "f64" else 1)
    return Call([x, empty(length, dtype=out)], [stored("y", out, t.sum(axis), bound)])


def transpose(dtype: str, m: int, n: int) -> Call:
    x = normal(m, n, dtype=dtype)
    return Call([x], [stored(RESULT, "i32" if dtype in INTS else dtype, wide(x).T)])


def columns() -> Iterator[Case]:
    makers: list[tuple[str, Callable[..., Call], tuple[str, ...]]] = [
        *((make.__name__, make, FLOATS) for make in (layer_norm_grad_weight, rms_norm_grad_weight)),
        *((name, partial(reduction, name), (*FLOATS, "f64", *INTS)) for name in ("row_sum", "row_max")),
        *((name, partial(reduction, name), (*FLOATS, "f64", *INTS)) for name in ("column_sum", "column_max")),
        ("transpose", transpose, (*FLOATS, "fp8_e4m3", "fp8_e5m2", "f64", *INTS)),
    ]
    for name, make, dtypes in makers:
        kernel = getattr(K, name).of
        for dtype in dtypes:
            shapes = (*COLUMNS, (9, 600)) if name.startswith("row") else COLUMNS
            calls = tuple(partial(make, dtype, *shape) for shape in shapes)
            yield Case(name, dtype, lambda k=kernel, d=dtype: k(d).definition, calls)

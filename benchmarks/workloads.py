"""What is compared: an entry of `programs.py` with inputs, and the fastest plain NumPy for the same values.

NumPy writes into memory that it is given (`out=`), reuses its buffers, and works in place; its arrays begin at cache
lines, as ours do. `numpy_source` is what the report prints.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
LINE = 64


@dataclass(frozen=True)
class Workload:
    """`make(sizes)` gives the arguments; `reference(args, out, spare)` fills `out`, using `spare` (as large) freely.

    `flops` and `bytes` (that must move at least) are those of one call. `target` is the ratio to reach, if one was set.
    `inplace` names the parameter that the program updates, where it does.
    """

    name: str
    entry: str
    sizes: tuple[int, ...]
    make: Callable[[np.random.Generator, tuple[int, ...]], tuple[Any, ...]]
    result: Callable[[tuple[int, ...]], tuple[int, ...]]
    reference: Callable[..., None]
    flops: float = 0.0
    bytes: float = 0.0
    target: float | None = None
    inplace: int | None = None

    @property
    def numpy_source(self) -> str:
        return inspect.getsource(self.reference)


def empty(shape: Sequence[int]) -> Array:
    """Uninitialised f32 memory that begins at a cache line."""
    count = int(np.prod(shape, dtype=np.int64))
    raw = np.empty(4 * count + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    return raw[start : start + 4 * count].view(np.float32).reshape(shape)


def normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> Array:
    """Normally distributed f32 at a cache line."""
    found = empty(shape)
    found[...] = rng.standard_normal(shape, dtype=np.float32)
    found *= np.float32(scale)
    return found


# -- NumPy at its best -----------------------------------------------------------------------------------------------


def numpy_matmul(a: Array, b: Array, *, out: Array, spare: Array) -> None:
    np.matmul(a, b, out=out)


def numpy_saxpy(x: Array, y: Array, alpha: float, *, out: Array, spare: Array) -> None:
    np.multiply(x, np.float32(alpha), out=spare)
    np.add(spare, y, out=y)


def numpy_axpy(a: float, x: Array, y: Array, *, out: Array, spare: Array) -> None:
    np.multiply(x, np.float32(a), out=out)
    np.add(out, y, out=out)


def numpy_softmax(x: Array, *, out: Array, spare: Array) -> None:
    np.subtract(x, x.max(axis=-1, keepdims=True), out=out)
    np.exp(out, out=out)
    np.divide(out, out.sum(axis=-1, keepdims=True), out=out)


def numpy_layer_norm(x: Array, *, out: Array, spare: Array) -> None:
    np.subtract(x, x.mean(axis=-1, keepdims=True), out=out)
    variance = np.einsum("ij,ij->i", out, out)[:, None] / np.float32(x.shape[-1])
    np.multiply(out, 1 / np.sqrt(variance + np.float32(1e-5)), out=out)


def numpy_gelu_chain(x: Array, w: Array, b: Array, r: Array, *, out: Array, spare: Array) -> None:
    np.multiply(x, w, out=out)
    np.add(out, b, out=out)
    np.multiply(out, out, out=spare)
    np.multiply(spare, np.float32(0.7978845608 * 0.044715), out=spare)
    np.add(spare, np.float32(0.7978845608), out=spare)
    np.multiply(spare, out, out=spare)
    np.tanh(spare, out=spare)
    np.add(spare, np.float32(1), out=spare)
    np.multiply(out, np.float32(0.5), out=out)
    np.multiply(out, spare, out=out)
    np.add(out, r, out=out)


def numpy_column_sums(x: Array, *, out: Array, spare: Array) -> None:
    np.sum(x, axis=0, out=out)


def numpy_transpose(x: Array, *, out: Array, spare: Array) -> None:
    np.copyto(out, x.T)


def numpy_mlp(x: Array, w1: Array, b1: Array, w2: Array, b2: Array, *, out: Array, spare: Array) -> None:
    h = np.empty((x.shape[0], w1.shape[1]), np.float32)
    t = np.empty_like(h)
    np.subtract(x, x.mean(axis=-1, keepdims=True), out=out)
    variance = np.einsum("ij,ij->i", out, out)[:, None] / np.float32(x.shape[-1])
    np.multiply(out, 1 / np.sqrt(variance + np.float32(1e-5)), out=out)
    np.matmul(out, w1, out=h)
    np.add(h, b1, out=h)
    np.multiply(h, h, out=t)
    np.multiply(t, np.float32(0.7978845608 * 0.044715), out=t)
    np.add(t, np.float32(0.7978845608), out=t)
    np.multiply(t, h, out=t)
    np.tanh(t, out=t)
    np.add(t, np.float32(1), out=t)
    np.multiply(h, np.float32(0.5), out=h)
    np.multiply(h, t, out=h)
    np.matmul(h, w2, out=out)
    np.add(out, b2, out=out)
    np.add(out, x, out=out)


ROWS = 16


def by_blocks(reference: Callable[..., None]) -> Callable[..., None]:
    """The same NumPy calls on `ROWS` rows at a time: what one call leaves in the cache, the next one finds there."""

    def run(*args: Array, out: Array, spare: Array) -> None:
        for i in range(0, out.shape[0], ROWS):
            part = (a[i : i + ROWS] if a.ndim == 2 else a for a in args)
            reference(*part, out=out[i : i + ROWS], spare=spare[: min(ROWS, out.shape[0] - i)])

    return functools.update_wrapper(run, reference)


def _against_blocks(workload: Workload) -> Workload:
    return replace(
        workload, name=f"{workload.name}, NumPy by rows", reference=by_blocks(workload.reference), target=None
    )


# -- the table -------------------------------------------------------------------------------------------------------


def _matmul(m: int, k: int, n: int, target: float | None = None) -> Workload:
    return Workload(
        f"matmul {m}x{k}x{n}", "matmul", (m, k, n),
        lambda rng, s: (normal(rng, s[0], s[1]), normal(rng, s[1], s[2])),
        lambda s: (s[0], s[2]), numpy_matmul, flops=2.0 * m * k * n, target=target,
    )  # fmt: skip


def _rows(entry: str, reference: Callable[..., None], n: int, d: int, target: float | None = None) -> Workload:
    return Workload(
        f"{entry} {n}x{d}", entry, (n, d), lambda rng, s: (normal(rng, *s),), lambda s: s, reference,
        bytes=8.0 * n * d, target=target,
    )  # fmt: skip


def _gelu_chain(n: int, d: int, target: float | None = None) -> Workload:
    return Workload(
        f"gelu(x*w+b)+r {n}x{d}", "gelu_chain", (n, d),
        lambda rng, s: (normal(rng, *s), normal(rng, s[1]), normal(rng, s[1]), normal(rng, *s)),
        lambda s: s, numpy_gelu_chain, bytes=12.0 * n * d, target=target,
    )  # fmt: skip


def _mlp(n: int, d: int, h: int) -> Workload:
    return Workload(
        f"mlp {n}x{d}x{h}", "mlp", (n, d, h),
        lambda rng, s: (
            normal(rng, s[0], s[1]), normal(rng, s[1], s[2], scale=s[1] ** -0.5), normal(rng, s[2]),
            normal(rng, s[2], s[1], scale=s[2] ** -0.5), normal(rng, s[1]),
        ),
        lambda s: (s[0], s[1]), numpy_mlp, flops=4.0 * n * d * h,
    )  # fmt: skip


N24 = 1 << 24
WORKLOADS: tuple[Workload, ...] = (
    _matmul(1024, 1024, 1024, target=0.8),
    _matmul(512, 512, 512),
    _matmul(2048, 2048, 2048),
    _matmul(1000, 999, 1001),
    Workload(
        "saxpy 2^24, in place", "saxpy", (N24,),
        lambda rng, s: (normal(rng, *s), normal(rng, *s), 1e-3), lambda s: s, numpy_saxpy,
        bytes=12.0 * N24, target=1.2, inplace=1,
    ),
    Workload(
        "a*x+y 2^24", "axpy", (N24,), lambda rng, s: (2.5, normal(rng, *s), normal(rng, *s)), lambda s: s, numpy_axpy,
        bytes=12.0 * N24,
    ),
    _rows("layer_norm", numpy_layer_norm, 4096, 4096, target=3.0),
    _rows("layer_norm", numpy_layer_norm, 4001, 4003),
    _rows("softmax", numpy_softmax, 4096, 4096, target=3.0),
    _rows("softmax", numpy_softmax, 4001, 4003),
    _gelu_chain(4096, 4096, target=5.0),
    _gelu_chain(4001, 4003),
    Workload(
        "column sums 4096x4096", "column_sums", (4096, 4096), lambda rng, s: (normal(rng, *s),), lambda s: (s[1],),
        numpy_column_sums, bytes=4.0 * 4096 * 4096,
    ),
    Workload(
        "transpose 4096x4096", "transpose", (4096, 4096), lambda rng, s: (normal(rng, *s),), lambda s: (s[1], s[0]),
        numpy_transpose, bytes=8.0 * 4096 * 4096,
    ),
    _mlp(512, 1024, 4096),
)  # fmt: skip


#: the usual way to write NumPy sets the targets; a loop over blocks of rows is the fastest, and shown beside it
WORKLOADS += tuple(_against_blocks(w) for w in WORKLOADS if w.sizes == (4096, 4096) and w.target is not None)


def sized(workload: Workload, sizes: tuple[int, ...], seed: int = 0) -> tuple[tuple[Any, ...], Array, Array]:
    """Arguments, result memory and spare memory for other sizes than the table's."""
    shape = workload.result(sizes)
    return workload.make(np.random.default_rng(seed), sizes), empty(shape), empty(shape)


def names(only: Sequence[str]) -> tuple[Workload, ...]:
    """The workloads whose name contains one of the words; all without words."""
    return tuple(w for w in WORKLOADS if not only or any(word in w.name or word == w.entry for word in only))



"""Global and shared memory traffic of the library's kernels on the emulator: coalesced, free of conflicts, as tiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tessera as ts
import tessera.kernels as K
from tessera.kernel import specialise
from tessera_runtime import load as load_bundle
from tesseracc.arch.arch import load
from tesseracc.driver import Build
from tesseracc.emulator_device import EmulatorDevice
from tesseracc.frontend.kernel import lower

Array = np.ndarray[Any, Any]
TYPES: dict[str, Any] = {"f16": np.float16, "bf16": ml_dtypes.bfloat16, "f32": np.float32}
UNIT = {"f16": 2.0**-11, "bf16": 2.0**-8, "f32": 2.0**-24}  # of one rounding


@dataclass(frozen=True)
class Case:
    """A kernel, its arguments, the result in f64, and the bytes that it moves to and from global memory."""

    kernel: Any
    args: list[Any]
    want: Array
    read: int
    written: int


def normal(dtype: str, *shape: int) -> Array:
    return np.random.default_rng(shape).standard_normal(shape).astype(TYPES[dtype])


def wide(x: Array) -> Array:
    return x.astype(np.float64)


def matmul(dtype: str, m: int = 128, n: int = 192, k: int = 256, *, trans_b: bool = False) -> Case:
    """Blocks of 64 x 64: every block reads its rows of A and columns of B."""
    a, b = normal(dtype, m, k), normal(dtype, k, n)
    read = (-(-n // 64) * a.size + -(-m // 64) * b.size) * a.itemsize
    given = np.ascontiguousarray(b.T) if trans_b else b
    kernel = K.matmul.of(getattr(ts, dtype), trans_b=trans_b).definition
    return Case(kernel, [a, given], wide(a) @ wide(b), read, m * n * a.itemsize)


def matmul_parts(dtype: str, m: int = 64, n: int = 128, k: int = 512) -> Case:
    """Two parts, of which each reads its half of the operands, in blocks of 64 x 64."""
    a, b = normal(dtype, m, k), normal(dtype, k, n)
    halves = slice(k // 2), slice(k // 2, k)
    want = np.stack([wide(a)[:, at] @ wide(b)[at] for at in halves])
    read = (-(-n // 64) * a.size + -(-m // 64) * b.size) * a.itemsize
    kernel = K.matmul_parts.of(getattr(ts, dtype), parts=2).definition
    return Case(kernel, [a, b, np.zeros((2, m, n), np.float32)], want, read, want.size * 4)


def sum_parts(dtype: str, m: int = 64, n: int = 256) -> Case:
    """Sums in f32, rounded to a type."""
    w = normal("f32", 6, m, n)
    kernel = K.sum_parts.of(ts.f32, parts=6, out=getattr(ts, dtype)).definition
    return Case(kernel, [w], wide(w).sum(0), w.nbytes, m * n * np.dtype(TYPES[dtype]).itemsize)


def transpose(dtype: str, m: int = 128, n: int = 192) -> Case:
    x = normal(dtype, m, n)
    return Case(K.transpose.of(getattr(ts, dtype)).definition, [x], wide(x.T), x.nbytes, x.nbytes)


def softmax(dtype: str, m: int = 32, n: int = 512) -> Case:
    x = normal(dtype, m, n)
    e = np.exp(wide(x) - wide(x).max(1, keepdims=True))
    kernel = K.softmax.of(getattr(ts, dtype)).definition
    return Case(kernel, [x, np.zeros_like(x)], e / e.sum(1, keepdims=True), 2 * x.nbytes, x.nbytes)


def layer_norm(dtype: str, m: int = 32, n: int = 512) -> Case:
    x, w, b = normal(dtype, m, n), normal(dtype, n), normal(dtype, n + 1)[:n].copy()
    z = wide(x)
    want = (z - z.mean(1, keepdims=True)) / np.sqrt(z.var(1, keepdims=True) + 1e-5) * wide(w) + wide(b)
    warps = m // 8 * 4  # each reads the weights for its rows
    kernel = K.layer_norm.of(getattr(ts, dtype)).definition
    args = [x, w, b, np.zeros_like(x), np.float32(1e-5)]
    return Case(kernel, args, want, 2 * x.nbytes + warps * (w.nbytes + b.nbytes), x.nbytes)


def column_sum(dtype: str, m: int = 64, n: int = 512) -> Case:
    x = normal(dtype, m, n)
    kernel = K.column_sum.of(getattr(ts, dtype)).definition
    return Case(kernel, [x, np.zeros(n, np.float32)], wide(x).sum(0), x.nbytes, 4 * n)


def attention(dtype: str, s: int = 128, d: int = 64) -> Case:
    q, k, v = (normal(dtype, 1, 2, s, d + i)[..., :d].copy() for i in range(3))
    scores = wide(q) @ wide(k).swapaxes(-1, -2) / 8
    p = np.exp(scores - scores.max(-1, keepdims=True))
    kernel = specialise(K.flash_attention.of(getattr(ts, dtype)).definition, dims={"D": d})
    args = [q, k, v, np.zeros_like(q), np.zeros((1, 2, s), np.float32), np.float32(0.125)]
    blocks = -(-s // 64)
    read = q.nbytes + blocks * (k.nbytes + v.nbytes)
    return Case(kernel, args, p / p.sum(-1, keepdims=True) @ wide(v), read, q.nbytes + 2 * s * 4)


KERNELS: dict[str, Callable[..., Case]] = {
    f.__name__: f for f in (matmul, matmul_parts, sum_parts, transpose, softmax, layer_norm, column_sum, attention)
}


def launched(case: Case, arch: str, dtype: str) -> Any:
    """The counters of one call on the emulator, which must find nothing, and whose result is right."""
    device = EmulatorDevice()
    args = [x.copy() if isinstance(x, np.ndarray) else x for x in case.args]
    found = load_bundle(Build(lower(case.kernel), [load(arch)]).bundle(), device=device)[case.kernel.name](*args)
    first = np.asarray(found[0] if isinstance(found, tuple | list) else found)
    assert first.shape == case.want.shape
    bound = 8 * UNIT[dtype] * (np.abs(case.want) + np.abs(case.want).max())
    assert (np.abs(wide(first) - case.want) <= bound).all()
    return device.counters()["total"]


PAIRS = [("matmul", "bf16"), ("transpose", "bf16"), ("softmax", "f16"), ("layer_norm", "bf16"), ("attention", "f16"),
         ("column_sum", "bf16"), ("matmul", "f32")]  # fmt: skip
SAMPLE = [(*pair, arch) for pair in PAIRS for arch in ("sm_80", "sm_90")]
SAMPLE += [("attention", "f32", "sm_80"), ("matmul_parts", "bf16", "sm_90"), ("sum_parts", "bf16", "sm_80")]
EVERY = [
    (name, dtype, arch) for name in KERNELS for dtype in TYPES for arch in ("sm_75", "sm_80", "sm_90")
    if (name, dtype) not in PAIRS and (name, dtype, arch) not in SAMPLE
]  # fmt: skip


def check(name: str, dtype: str, arch: str) -> None:
    case = KERNELS[name](dtype)
    counters = launched(case, arch, dtype)
    assert counters["coalescing_efficiency"] == 1.0 and counters["bank_conflicts"] == 0, counters
    read, written = counters["bytes_read"]["global"], counters["bytes_written"]["global"]
    least = case.read / 2 if load(arch).has("tma_multicast") else case.read  # two blocks may share what they read
    assert least * 0.98 <= read <= case.read * 1.02 and abs(written - case.written) <= case.written * 0.02


@pytest.mark.parametrize("name,dtype,arch", SAMPLE)
def test_aligned_shapes(name: str, dtype: str, arch: str) -> None:
    check(name, dtype, arch)


@pytest.mark.slow
@pytest.mark.parametrize("name,dtype,arch", EVERY)
def test_aligned_shapes_of_every_type(name: str, dtype: str, arch: str) -> None:
    check(name, dtype, arch)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_ragged_rows(arch: str) -> None:
    """Rows that no vector fits, and tiles that stick out on both sides."""
    rng = np.random.default_rng(7)
    m, n, k = (int(x) for x in rng.integers(65, 130, 3))
    for shape in ((m, n | 1, k), (m, n & ~7, k & ~7)):
        launched(matmul("bf16", *shape), arch, "bf16")
    launched(transpose("f16", m, n | 1), arch, "f16")

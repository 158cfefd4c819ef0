"""Global and shared memory traffic of the library's kernels on the emulator: coalesced, free of conflicts, as tiled."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest

import tessera.kernels as K
from tessera.kernel import KernelDef, specialise
from tessera_runtime import load as load_bundle
from tessera_runtime.core.dtypes import np_dtype
from tesseracc.arch.arch import load
from tesseracc.driver import Build
from tesseracc.emulator_device import EmulatorDevice
from tesseracc.frontend.kernel import lower
from tests.kernels import attention_cases, library_cases
from tests.kernels.cases import Call
from tests.kernels.matrix import fixed, worst

TYPES = ("f16", "bf16", "f32")
LANES = tuple(1 << bit for bit in range(6))


@dataclass(frozen=True)
class Case:
    """A kernel, a call, and the bytes that its tiles move from and to global memory.

    `asked`: bytes of values of rows, such as labels, read besides. Each of the lanes that share a row, a power of two,
    asks for these itself.
    """

    kernel: KernelDef
    call: Call
    read: int
    written: int
    asked: int = 0


def size(dtype: str) -> int:
    return int(np_dtype(dtype).itemsize)


def matmul(dtype: str, m: int = 128, n: int = 192, k: int = 256, *, trans_b: bool = False) -> Case:
    """Blocks of 64 x 64: every block reads its rows of A and columns of B."""
    call = library_cases.product(dtype, dtype, (False, trans_b), (), (m, k, n))
    read = (-(-n // 64) * m * k + -(-m // 64) * k * n) * size(dtype)
    return Case(K.matmul.of(dtype, trans_b=trans_b).definition, call, read, m * n * size(dtype))


def matmul_parts(dtype: str, m: int = 64, n: int = 128, k: int = 512) -> Case:
    """Two parts, of which each reads its half of the operands, in blocks of 64 x 64."""
    call = library_cases.parted(dtype, "f32", (False, False), 2, (m, k, n))
    read = (-(-n // 64) * m * k + -(-m // 64) * k * n) * size(dtype)
    return Case(K.matmul_parts.of(dtype, parts=2).definition, call, read, 2 * m * n * 4)


def sum_parts(dtype: str, m: int = 64, n: int = 256) -> Case:
    """Sums in f32, rounded to a type."""
    call = library_cases.sum_parts("f32", dtype, 6, m, n)
    return Case(K.sum_parts.of("f32", parts=6, out=dtype).definition, call, 6 * m * n * 4, m * n * size(dtype))


def transpose(dtype: str, m: int = 128, n: int = 192) -> Case:
    moved = m * n * size(dtype)
    return Case(K.transpose.of(dtype).definition, library_cases.transpose(dtype, m, n), moved, moved)


#: kernels of rows: how often they read a matrix, and the weights; vectors of rows that they read, and that they write
ROWS = {
    "softmax": (2, 0, 0, 0), "softmax_grad": (4, 0, 0, 0), "layer_norm": (2, 2, 0, 0), "layer_norm_grad": (5, 2, 0, 2),
    "rms_norm": (2, 1, 0, 0), "rms_norm_grad": (4, 2, 0, 1), "cross_entropy": (1, 0, 1, 1),
    "cross_entropy_grad": (2, 0, 2, 0), "row_sum": (1, 0, 0, 1), "row_max": (1, 0, 0, 1),
}  # fmt: skip


def rows(name: str, dtype: str, m: int = 32, n: int = 512) -> Case:
    """Groups of 4 warps take 8 rows, in pieces of 256 columns of which a lane has 16 bytes. Every warp, for f32 every
    pair of warps, has rows of its own and reads the weights for these."""
    matrices, weights, asked, left = ROWS[name]
    if name in ("row_sum", "row_max"):
        call = library_cases.reduction(name, dtype, m, n)
    else:
        call = getattr(library_cases, name)(dtype, m, n, 0)
    matrix = m * n * size(dtype)
    read = matrices * matrix + m // 8 * (8 // size(dtype)) * weights * n * size(dtype)
    of_rows = size(dtype) if name == "row_max" else 4
    written = (matrix if name not in ("cross_entropy", "row_sum", "row_max") else 0) + left * m * of_rows
    return Case(getattr(K, name).of(dtype).definition, call, read, written, asked * m * 4)


#: kernels of columns: how often they read a matrix, the vectors of rows that they read, and the results
COLUMNS = {
    "column_sum": (1, 0, 1), "column_max": (1, 0, 1), "layer_norm_grad_weight": (3, 2, 2),
    "rms_norm_grad_weight": (2, 1, 1),
}  # fmt: skip


def columns(name: str, dtype: str, m: int = 64, n: int = 512) -> Case:
    """Groups take 64 columns; all read the values of all rows."""
    matrices, asked, left = COLUMNS[name]
    short = name.startswith("column")
    call = library_cases.reduction(name, dtype, m, n) if short else getattr(library_cases, name)(dtype, m, n)
    result = 4 if name == "column_sum" else size(dtype)
    values = asked * n // 64 * m * 4
    read = matrices * m * n * size(dtype)
    return Case(getattr(K, name).of(dtype).definition, call, read, left * n * result, values)


def attention(name: str, dtype: str, s: int = 128, d: int = 64) -> Case:
    """Blocks of 64 queries and 64 keys."""
    call = getattr(attention_cases, name)(dtype, d, (1, 2, 2, s, s, False))
    kernel = specialise(getattr(K, name).of(dtype).definition, dims={"D": d})
    tensor, row, blocks = 2 * s * d * size(dtype), 2 * s * 4, -(-s // 64)
    read, written, asked = {
        "flash_attention": ((1 + 2 * blocks) * tensor, tensor + row, 0),
        "flash_attention_grad_q": ((3 + 2 * blocks) * tensor, tensor + row, row),
        "flash_attention_grad_kv": ((2 + 2 * blocks) * tensor, 2 * tensor, 2 * blocks * row),
    }[name]
    return Case(kernel, call, read, written, asked)


KERNELS: dict[str, Callable[..., Case]] = {
    **{f.__name__: f for f in (matmul, matmul_parts, sum_parts, transpose)},
    **{name: partial(rows, name) for name in ROWS},
    **{name: partial(columns, name) for name in COLUMNS},
    **{name: partial(attention, name) for name in K.__all__ if name.startswith("flash")},
}


def launched(case: Case, arch: str) -> Any:
    """The counters of one call on the emulator, which must find nothing, and whose result is right."""
    device = EmulatorDevice()
    kernel, names, given = fixed(case.kernel, case.call)
    run = load_bundle(Build(lower(kernel), [load(arch)]).bundle(), device=device)[kernel.name]
    assert worst(case.call, names, given, run) <= 1
    return device.counters()["total"]


PAIRS = [("matmul", "bf16"), ("transpose", "bf16"), ("softmax", "f16"), ("layer_norm", "bf16"),
         ("flash_attention", "f16"), ("column_sum", "bf16"), ("matmul", "f32")]  # fmt: skip
SAMPLE = [(*pair, arch) for pair in PAIRS for arch in ("sm_80", "sm_90")]
SAMPLE += [("flash_attention", "f32", "sm_80"), ("matmul_parts", "bf16", "sm_90"), ("sum_parts", "bf16", "sm_80")]
OTHERS = [name for name in KERNELS if name not in {sampled for sampled, _, _ in SAMPLE}]
SAMPLE += [(name, TYPES[at % 2], ("sm_80", "sm_90")[at // 2 % 2]) for at, name in enumerate(OTHERS)]
EVERY = [
    one for one in itertools.product(KERNELS, TYPES, ("sm_75", "sm_80", "sm_90")) if one not in SAMPLE
]  # fmt: skip


def check(name: str, dtype: str, arch: str) -> None:
    case = KERNELS[name](dtype)
    counters = launched(case, arch)
    assert counters["coalescing_efficiency"] == 1.0 and counters["bank_conflicts"] == 0, counters
    written = counters["bytes_written"]["global"]
    reads = [counters["bytes_read"]["global"] - case.asked * lanes for lanes in LANES]
    least = case.read / 2 if load(arch).has("tma_multicast") else case.read  # two blocks may share what they read
    assert any(least * 0.98 <= read <= case.read * 1.02 for read in reads)
    assert abs(written - case.written) <= case.written * 0.02


def test_every_kernel_is_here() -> None:
    assert set(KERNELS) == set(K.__all__) - {"Family"} == {name for name, _, _ in SAMPLE}


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
        launched(matmul("bf16", *shape), arch)
    launched(transpose("f16", m, n | 1), arch)

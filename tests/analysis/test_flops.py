"""Counts of floating-point operations: against sums by hand, executions that count, and the emulator's instructions."""

import re
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tessera as ts
from tessera.kernel import specialise
from tessera.kernels import flash_attention
from tesseracc.analysis.flops import of_kernel
from tesseracc.arch.arch import load
from tesseracc.driver import Build, front
from tesseracc.frontend import kernel as kernels
from tesseracc.ir.value import Func
from tests.passes.target.test_lower_gpu import compiled, run
from tests.passes.tile.kernels import gemm

F32, BF16 = ts.f32, ts.bf16


@ts.function
def product(a: ts.Tensor["M", "K", F32], b: ts.Tensor["K", "N", F32]):
    return ts.relu(a @ b)


@ts.function
def narrow(a: ts.Tensor["M", "K", BF16], b: ts.Tensor["K", "N", BF16]):
    return a @ b


@ts.function
def wide(x: ts.Tensor["M", "N", ts.f64], y: ts.Tensor["N", ts.f64]):
    return ts.sum(x * ts.exp(y), axis=1)


@ts.function
def normalise(x: ts.Tensor["N", "D", F32], w: ts.Tensor["D", F32]):
    return ts.softmax(x, axis=-1) * w


@ts.function
def moved(x: ts.Tensor["N", "D", F32], i: ts.Tensor["N", ts.i32]):
    return ts.where(x > 0, -x, ts.abs(x)), i * 3 + 1


def kernels_of(function: Any, arch: str) -> list[Func]:
    return list(Build(front({"f": function}), (load(arch),)).tile(load(arch)).of_kind("tile.kernel"))


def value(count: Any, sizes: dict[str, int]) -> int:
    found = count.substitute(sizes) if hasattr(count, "substitute") else count
    assert isinstance(found, int)
    return found


# On the rate: operations per cycle and multiprocessor or core, of the chips' data sheets.
@pytest.mark.parametrize(
    ("function", "arch", "expected"),
    [
        (product, "sm_90", lambda M, N, K, **_: {256: 2 * M * N * K + M * N}),
        (product, "x86-64-v3", lambda M, N, K, **_: {32: 2 * M * N * K + M * N}),
        (narrow, "sm_80", lambda M, N, K, **_: {2048: 2 * M * N * K}),
        (narrow, "sm_90", lambda M, N, K, **_: {4096: 2 * M * N * K}),
        # exp depends on the column alone; the sum adds every element
        (wide, "sm_90", lambda M, N, **_: {128: 2 * M * N + N}),
        # max, subtraction, exp, sum, scale, weight; one division for a row
        (normalise, "sm_80", lambda N, D, **_: {128: 6 * N * D + N}),
        (moved, "x86-64-v4", lambda **_: {}),
    ],
)  # fmt: skip
def test_functions(function: Any, arch: str, expected: Callable[..., dict[int, int]]) -> None:
    rng = np.random.default_rng(7)
    for _ in range(3):
        sizes = {name: int(rng.integers(1, 300)) for name in "MNKD"}
        found: dict[int, int] = {}
        for kernel in kernels_of(function, arch):
            for count, rate in kernel.attrs["flops"]:
                found[rate] = found.get(rate, 0) + value(count, sizes)
        assert found == expected(**sizes)


def test_loops_of_kernels_on_tiles_as_a_run_counts_them() -> None:
    """FlashAttention, its loops written out here."""
    definition = specialise(flash_attention.of(BF16).definition, {"causal": False}, dims={"D": 64})
    (kernel,) = kernels.lower(definition, "/").of_kind("tile.kernel")
    counts = of_kernel(kernel)
    assert counts is not None
    sizes = {"B": 2, "H": 3, "G": 1, "S": 130, "T": 200}
    products = 0
    for _ in range(sizes["B"] * sizes["H"]):
        for _ in range(0, sizes["S"], 64):
            for _ in range(0, sizes["T"], 64):
                products += 2 * (2 * 64 * 64 * 64)
    assert value(counts["mma.bf16"], sizes) == products
    assert products // 100 < value(counts["f32"], sizes) < products // 10
    causal = specialise(flash_attention.of(BF16).definition, {"causal": True}, dims={"D": 64})
    assert of_kernel(next(iter(kernels.lower(causal, "/").of_kind("tile.kernel")))) is None


@ts.kernel
def triangle(x: ts.Tensor["N", "N", F32], y: ts.Tensor["N", F32]):
    for i in ts.tile.range(0, N, 16):
        total = ts.tile.zeros((16,))
        for j in ts.tile.range(0, i + 16, 16):
            total = total + ts.tile.sum(x[i : i + 16, j : j + 16], axis=1)
        y[i : i + 16] = total


def test_loops_that_grow_with_the_group() -> None:
    (kernel,) = kernels_of(triangle, "sm_80")
    ((count, rate),) = kernel.attrs["flops"]
    for n in (16, 48, 160):
        blocks = n // 16
        assert value(count, {"N": n}) == sum(i + 1 for i in range(blocks)) * (256 + 16) and rate == 128


def test_matrix_instructions_that_the_emulator_counts() -> None:
    module = gemm(64, 64, 32, dtype="bf16")
    counts = of_kernel(module.func("gemm"))
    assert counts is not None
    rng = np.random.default_rng(3)
    sizes = {"M": 100, "N": 72, "K": 70}
    a, b = (rng.standard_normal(shape).astype(ml_dtypes.bfloat16) for shape in ((100, 70), (70, 72)))
    image = compiled(module, "sm_80")
    _, counters = run(module, module.func("gemm"), image, [a, b, np.zeros((100, 72), np.float32)], sizes)
    done = 0
    for name, times in counters.mma.items():
        m, n, k = map(int, re.findall(r"m(\d+)n(\d+)k(\d+)", name)[0])
        done += 2 * m * n * k * times
    assert value(counts["mma.bf16"], sizes) == done > 0

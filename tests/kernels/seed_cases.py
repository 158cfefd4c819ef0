"""Calls of the seeds' kernels, as they stand in samples/seeds: several groups, blocks of K and of keys, and edges."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from tessera.kernel import KernelDef, specialise
from tests.kernels.attention_cases import Attention, forward
from tests.kernels.cases import RESULT, Call, Case, U, Want, empty, normal, stored, wide

SEEDS = Path(__file__).parents[2] / "samples" / "seeds"
LENGTHS = (0, 1, 127, 129, 1000)
PRODUCTS = ((0, 5, 3), (5, 0, 7), (1, 1, 1), (100, 70, 130), (72, 160, 64))  # rows, depth, columns
FIELDS = ((0, 9), (1, 1), (130, 257), (3, 300))


@cache
def definition(name: str) -> KernelDef:
    found: KernelDef = runpy.run_path(str(SEEDS / f"{name}.py"))[name].definition
    return found


def saxpy(n: int) -> Call:
    x, y = normal(n), normal(n, seed=1)
    part, alpha = 0.37 * wide(x), float(np.float32(0.37))
    bound = U * np.abs(part)
    want = alpha * wide(x) + wide(y)
    return Call([x, y, alpha], [stored("y", "f32", want, bound), stored(RESULT, "f32", want, bound)])


def tile_example(n: int) -> Call:
    x = normal(n)
    return Call([x], [Want("data", 2 * wide(x), np.zeros(n))])


def process_chunks(n: int) -> Call:
    x = normal(n)
    want = np.where(x < 0, 0.5 * wide(x), wide(x) ** 2 + 1)
    return Call([x, empty(n)], [stored("output", "f32", want, U * wide(x) ** 2)])


def cooperative_reduction(n: int) -> Call:
    """A lane adds every 128th element, then come seven steps of a tree."""
    x = normal(n)
    return Call([x], [stored(RESULT, "f32", wide(x).sum(), (-(-n // 128) + 7) * U * np.abs(wide(x)).sum())])


def memory_hierarchy_example(m: int, n: int) -> Call:
    x = normal(m, n)
    return Call([x], [Want("A", wide(x), np.zeros((m, n)))])


def optimized_memory_access(m: int, n: int) -> Call:
    x = normal(m, n, dtype="bf16")
    return Call([x, empty(m, n, dtype="bf16")], [Want("dst", wide(x), np.zeros((m, n)))])


def product(name: str, m: int, k: int, n: int) -> Call:
    """C is read and written once for each block of 32 along K, or for all of them."""
    a, b, c = normal(m, k, dtype="bf16"), normal(k, n, seed=1, dtype="bf16"), normal(m, n, seed=2)
    size = np.abs(wide(c)) + np.abs(wide(a)) @ np.abs(wide(b))
    want = stored("C", "f32", wide(c) + wide(a) @ wide(b), (k + 2 + -(-k // 32)) * U * size)
    return Call([a, b, c], [want, Want(RESULT, want.value, want.bound)] if name == "gemm" else [want])


def attention(name: str, d: int, s: int, causal: bool, kind: str = "") -> Call:
    """One head, its batch in front."""
    problem = Attention("bf16", d, (2, 1, 1, s, s, causal), kind)
    want = forward(problem)[0]
    q, k, v = (x[:, 0] for x in (problem.q, problem.k, problem.v))
    value, bound = want.value[:, 0], want.bound[:, 0]
    if name == "flash_attention":
        return Call([q, k, v, causal], [Want(RESULT, value, bound)])
    return Call([q, k, v, empty(*q.shape, dtype="bf16"), problem.scale], [Want("O", value, bound)])


def seeds() -> Iterator[Case]:
    def case(name: str, dtype: str, calls: list[Callable[[], Call]], dims: dict[str, int] | None = None) -> Case:
        def kernel() -> Any:
            return specialise(definition(name), dims=dims) if dims else definition(name)

        return Case(f"seed_{name}", dtype, kernel, tuple(calls))

    for line in (saxpy, tile_example, process_chunks, cooperative_reduction):
        yield case(line.__name__, "f32", [partial(line, n) for n in LENGTHS])
    yield case("memory_hierarchy_example", "f32", [partial(memory_hierarchy_example, *shape) for shape in FIELDS])
    yield case("optimized_memory_access", "bf16", [partial(optimized_memory_access, *shape) for shape in FIELDS])
    for name in ("gemm", "double_buffered_gemm"):
        yield case(name, "bf16", [partial(product, name, *shape) for shape in PRODUCTS])
    lengths = [(0, True, ""), (1, False, ""), (65, True, ""), (150, False, ""), (70, False, "deep")]
    lengths += [(257, True, "flat"), (257, False, "flat_v")]
    calls: list[Callable[[], Call]] = [partial(attention, "flash_attention", 32, *given) for given in lengths]
    yield case("flash_attention", "bf16", calls, {"D": 32})
    lengths = [(1, False, ""), (129, False, ""), (140, False, "deep"), (257, False, "flat")]
    calls = [partial(attention, "fused_attention_kernel", 64, *given) for given in lengths]
    yield case("fused_attention_kernel", "bf16", calls)

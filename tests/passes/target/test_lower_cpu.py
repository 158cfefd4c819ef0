"""Lanes on the CPU: native results of Tile IR kernels against NumPy, on ragged sizes, at every level that runs here."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from tesseracc.arch.arch import load
from tesseracc.codegen.elf import link_image, read_image
from tesseracc.codegen.host import compile_cpu
from tesseracc.codegen.llvm import llvm_text
from tesseracc.interpret.tile import Memory, run_kernel
from tesseracc.ir.parser import parse_module
from tesseracc.ir.pipeline import Context, parse_pipeline, run_pipeline
from tesseracc.ir.printer import module_text
from tests.passes.target import cpu_kernels
from tests.passes.target.native import Native, levels

Array = np.ndarray[Any, Any]
LEVELS = pytest.mark.parametrize("level", levels())


@cache
def native(text: str, level: str) -> Native:
    return Native(text, level)


def sizes(group: int) -> list[int]:
    return [0, 1, 2, group - 1, group, group + 1, 5 * group + 3]


def check(code: Native, kernel: str, args: list[Any], symbols: dict[str, int], written: list[int], seed: int) -> None:
    """Fills the written arguments; the same bits come out of the grid in random pieces and of the interpreter."""
    rng = np.random.default_rng(seed)
    total = code.groups(kernel, symbols)
    again = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
    third = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
    code(kernel, args, symbols)
    cuts = sorted({0, total, *(int(c) for c in rng.integers(0, total + 1, 3))})
    pieces = list(zip(cuts, cuts[1:], strict=False))
    code(kernel, again, symbols, [pieces[i] for i in rng.permutation(len(pieces))])
    if total:
        run_kernel(code.kernels[kernel], [Memory(a, None) if isinstance(a, np.ndarray) else a for a in third], symbols)
    for at in written:
        np.testing.assert_array_equal(args[at], again[at])
        np.testing.assert_array_equal(args[at], third[at])


@LEVELS
@pytest.mark.parametrize("n", [*sizes(128), 1003])
def test_saxpy(level: str, n: int) -> None:
    rng = np.random.default_rng(n)
    x, y = rng.standard_normal((2, n)).astype(np.float32)
    a = np.float32(rng.standard_normal())
    expected = np.float64(a) * x + y
    code = (
        Native(cpu_kernels.SAXPY, level, passes="tile-to-cpu,expand-fma")
        if level == "x86-64-v2"
        else native(cpu_kernels.SAXPY, level)
    )
    args = [x, y.copy(), a]
    check(code, "saxpy", args, {"N": n}, [1], n)
    np.testing.assert_allclose(args[1], expected, rtol=2**-23, atol=2**-40)


@LEVELS
@pytest.mark.parametrize("rows,columns", [(3, d) for d in sizes(64)[1:]] + [(0, 5), (7, 200)])
def test_rows(level: str, rows: int, columns: int) -> None:
    rng = np.random.default_rng(columns)
    x = rng.standard_normal((rows, columns)).astype(np.float32)
    args = [x, np.zeros_like(x)]
    check(native(cpu_kernels.ROWS, level), "rows", args, {"N": rows, "D": columns}, [1], columns)
    if rows:
        wide = x.astype(np.float64)
        centred = wide - wide.max(axis=1, keepdims=True)
        expected = centred / (centred + 1).sum(axis=1, keepdims=True)
        condition = np.abs(centred + 1).sum(axis=1) / np.abs((centred + 1).sum(axis=1))
        bound = 2**-24 * (columns + 8) * float(condition.max())
        np.testing.assert_allclose(args[1], expected, rtol=bound, atol=1e-30)


@LEVELS
@pytest.mark.parametrize("n", sizes(128))
def test_branches(level: str, n: int) -> None:
    rng = np.random.default_rng(n)
    x, z = (2 * rng.standard_normal((2, n))).astype(np.float32)
    args = [x, z, np.full(n, 9, np.float32), np.full(n, 9, np.int32)]
    check(native(cpu_kernels.BRANCHES, level), "branches", args, {"N": n}, [2, 3], n)
    np.testing.assert_array_equal(args[2], np.where(x > 0, np.where(x > 1, x + x, x + z), -x))
    np.testing.assert_array_equal(args[3], np.where(x > 0, 1, 2))


@LEVELS
@pytest.mark.parametrize("n", sizes(32))
def test_collatz(level: str, n: int) -> None:
    def steps(value: int) -> int:
        count = 0
        while value > 1:
            value = value // 2 if value % 2 == 0 else 3 * value + 1
            count += 1
        return count

    x = np.random.default_rng(n).integers(1, 10_000, n)
    args = [x, np.zeros(n, np.int32)]
    check(native(cpu_kernels.COLLATZ, level), "collatz", args, {"N": n}, [1], n)
    np.testing.assert_array_equal(args[1], [steps(int(v)) for v in x])


@LEVELS
@pytest.mark.parametrize("n", sizes(128))
def test_shared_memory_tree(level: str, n: int) -> None:
    x = np.random.default_rng(n).standard_normal(n).astype(np.float32)
    groups = -(-n // 128)
    args = [x, np.zeros(groups, np.float32)]
    check(native(cpu_kernels.TREE, level), "tree", args, {"N": n, "M": groups}, [1], n)
    values = np.zeros(groups * 128, np.float32)
    values[:n] = x
    values = values.reshape(groups, 128)
    while values.shape[1] > 1:
        half = values.shape[1] // 2
        values = values[:, :half] + values[:, half:]
    np.testing.assert_array_equal(args[1], values[:, 0])


@LEVELS
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 4, 17), (2, 1, 16), (1, 5, 15), (0, 3, 4), (4, 0, 7)])
def test_grid_of_three_axes(level: str, shape: tuple[int, int, int]) -> None:
    args = [np.full(shape, -1, np.int64)]
    symbols = dict(zip("ABC", shape, strict=True))
    check(native(cpu_kernels.GRID, level), "grid", args, symbols, [0], 7)
    a, b, c = np.indices(shape)
    np.testing.assert_array_equal(args[0], 10000 * a + 100 * b + c)


@LEVELS
@pytest.mark.parametrize("n", sizes(16))
def test_loops_with_bounds_per_lane(level: str, n: int) -> None:
    rng = np.random.default_rng(n)
    depth = 19
    x = rng.standard_normal((n, depth))
    low, high, step = rng.integers(0, 10, n), rng.integers(0, depth + 1, n), rng.integers(1, 5, n)
    args = [x, low, high, step, np.zeros(n), np.zeros(n, np.int64)]
    check(native(cpu_kernels.VARYING, level), "varying", args, {"N": n, "D": depth}, [4, 5], n)
    for i in range(n):
        picked = range(int(low[i]), int(high[i]), int(step[i]))
        total = 0.0
        for j in picked:
            total += x[i, j]
        assert args[4][i] == total
        assert args[5][i] == (picked[-1] if len(picked) else -1)


@LEVELS
@pytest.mark.parametrize("n", sizes(128))
def test_memory_per_lane(level: str, n: int) -> None:
    x = np.random.default_rng(n).integers(-50, 50, (n, 13)).astype(np.int32)
    args = [x, np.zeros((5, n), np.int32), np.zeros(n, bool), np.zeros(n, np.int64)]
    check(native(cpu_kernels.LOCAL, level), "local", args, {"N": n, "D": 13}, [1, 2, 3], n)
    np.testing.assert_array_equal(args[1], [[np.count_nonzero(row % 5 == k) for row in x] for k in range(5)])
    np.testing.assert_array_equal(args[2], np.arange(n) % 2 == 1)
    np.testing.assert_array_equal(args[3], np.arange(n) // 7)


@LEVELS
@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 100])
def test_carried_indices(level: str, n: int) -> None:
    x = np.random.default_rng(n).integers(-99, 99, n)
    args = [x, np.zeros(n, np.int64)]
    check(native(cpu_kernels.CARRIED, level), "carried", args, {"N": n}, [1], n)
    padded = np.zeros(32 * (n // 32 + 1), np.int64)
    padded[:n] = x
    expected = padded.reshape(-1, 32).sum(axis=0) + np.arange(32)
    np.testing.assert_array_equal(args[1][:32], expected[: min(n, 32)])


@LEVELS
@pytest.mark.parametrize("n", sizes(64)[1:])
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_scattered_bytes_and_halves(level: str, n: int, density: float) -> None:
    rng = np.random.default_rng(n)
    groups = -(-n // 64)
    x, at = rng.integers(-128, 128, n).astype(np.int8), rng.permutation(n)
    on = rng.random(n) < density
    # where no lane takes part, the one element of s is not there to be read
    s = rng.standard_normal(1).astype(np.float16)
    args = [x, at, on, s, np.zeros(2 * n, np.int8), np.full(n, 9, np.float16), np.zeros(groups, np.int32)]
    check(native(cpu_kernels.SCATTERED, level), "scattered", args, {"N": n, "G": groups}, [4, 5, 6], n)
    expected = np.zeros(2 * n, np.int8)
    expected[2 * at[on]] = x[at[on]]
    np.testing.assert_array_equal(args[4], expected)
    np.testing.assert_array_equal(args[5], np.where(on, s[0], np.float16(0)))
    np.testing.assert_array_equal(args[6], [on[64 * g : 64 * g + 64].any() for g in range(groups)])


def _ops(text: str, level: str) -> list[str]:
    module = run_pipeline(parse_pipeline("tile-to-cpu"), parse_module(text), Context(load(level)))
    return [op.name for func in module.funcs for op in func.walk()]


def test_unit_strides_are_contiguous() -> None:
    for text in (cpu_kernels.SAXPY, cpu_kernels.ROWS, cpu_kernels.TREE, cpu_kernels.GRID):
        found = _ops(text, "x86-64-v4")
        assert "target.gather" not in found and "target.scatter" not in found


def test_full_groups_run_without_masks() -> None:
    found = _ops(cpu_kernels.SAXPY, "x86-64-v4")
    assert found.count("target.load") - 4 == found.count("target.masked_load") == 2  # 4 argument slots
    assert found.count("target.store") == found.count("target.masked_store") == 1
    # loops over rows of a matrix: the same three loads, once for whole vectors, once for the rest; the loop that stores
    # has a third copy, for the lanes up to the first boundary of memory
    found = _ops(cpu_kernels.ROWS, "x86-64-v4")
    assert found.count("target.masked_load") == 4 and found.count("target.load") == 3 + 5  # x, y and its address, D, N


def test_large_groups_keep_small_code() -> None:
    text = cpu_kernels.TREE.replace("128", "1024").replace("value = 64", "value = 512")
    for level in ("x86-64-v2", "x86-64-v4", "aarch64"):
        found = _ops(text, level)
        assert len(found) < 200


def test_carried_affine_index_stays_scalar() -> None:
    assert _ops(cpu_kernels.CARRIED, "x86-64-v4").count("target.gather") == 0


@pytest.mark.parametrize("level", ["aarch64", "x86-64-v2", "x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("name", sorted(cpu_kernels.ALL))
def test_code_for_every_level(level: str, name: str) -> None:
    """Machines that are not at hand too: the IR verifies and round-trips, and the image needs nothing from outside."""
    arch = load(level)
    module = run_pipeline(parse_pipeline("tile-to-cpu,expand-fma"), parse_module(cpu_kernels.ALL[name]), Context(arch))
    assert module_text(parse_module(module_text(module))) == module_text(module)
    symbols = [func.name for func in module.of_kind("target.func")]
    code = compile_cpu(llvm_text(module.of_kind("target.func"), arch), arch)
    image = read_image(link_image([code], arch.toolchain.machine))
    assert set(symbols) <= set(image)


@LEVELS
@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 40])
def test_groups_take_the_work_of_those_behind_them(level: str, n: int) -> None:
    """As far as the limit and the thread's own part go; each group's work is done once."""
    code, rng = native(cpu_kernels.SPANS, level), np.random.default_rng(n)
    cuts = sorted({0, n, *(int(c) for c in rng.integers(0, n + 1, 3))})
    pieces = list(zip(cuts, cuts[1:], strict=False))
    out = np.full(n, -1, np.int64)
    code("spans", [out], {"N": n}, [pieces[i] for i in rng.permutation(len(pieces))])
    expected = np.full(n, -1, np.int64)
    for begin, end in pieces:
        g = begin
        while g < end:
            span = min(3, max(1, n - 1 - g), end - g)
            expected[g : g + span] = g
            g += span
    np.testing.assert_array_equal(out, expected)
    alone = np.full(n, -1, np.int64)
    if n:
        run_kernel(code.kernels["spans"], [Memory(alone, None)], {"N": n})
    np.testing.assert_array_equal(alone, np.arange(n))

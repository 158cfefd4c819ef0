"""Atomic updates: every level and kind of GPU against NumPy, races with other accesses, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tessera as ts
from samples import histogram as sample
from tessera.dtypes import as_dtype
from tessera.errors import SourceError
from tessera.kernel import evaluate
from tessera_runtime.core.dtypes import np_dtype
from tessera_runtime.core.errors import TesseraError
from tests.kernel import atomic_kernels as K
from tests.kernel.everywhere import everywhere, levels

RNG = np.random.default_rng(226)
FAMILIES = ("sm_70", "sm_75", "sm_80", "sm_89", "sm_90", "sm_100", "sm_120")


@pytest.mark.parametrize(("n", "b"), ((0, 1), (1, 1), (1000, 7), (300, 97)))
def test_counts_of_lanes_in_global_memory(n: int, b: int) -> None:
    x, counts = RNG.integers(0, b, n).astype(np.int32), RNG.integers(0, 2**32, b).astype(np.uint32)
    expected = counts + np.bincount(x, minlength=b).astype(np.uint32)
    everywhere(K.counted.definition, [x, counts], archs=("sm_90",))
    np.testing.assert_array_equal(counts, expected)


@pytest.mark.parametrize("arch", FAMILIES)
def test_bits_in_shared_memory_and_updates_of_the_whole_group(arch: str) -> None:
    x, found = RNG.integers(0, 2**64, 331, dtype=np.uint64), RNG.integers(0, 2**64, 4, dtype=np.uint64)
    total = np.array(-7, np.int64)
    expected = found.copy()
    for group in range(3):  # group g runs iterations g, g + 3, ..
        mine = x[np.arange(x.size) // 64 % 3 == group]
        for k in range(4):
            expected[k] ^= np.bitwise_or.reduce(mine[mine % 4 == k])
    everywhere(K.bits.definition, [x, found, total], archs=(arch,))
    np.testing.assert_array_equal(found, expected)
    assert total == -7 + 3000 - 331 * 330 // 2


@pytest.mark.parametrize(("m", "n"), ((1, 1), (50, 45), (16, 64)))
def test_ragged_tiles_change_what_is_there(m: int, n: int) -> None:
    x = RNG.integers(-(2**62), 2**62, (m, n))
    low, high, every = (RNG.integers(-(2**61), 2**61, n) for _ in range(3))
    blocks = [x[i : i + 16].max(0) for i in range(0, m, 16)]
    expected = np.minimum(low, x.min(0)), np.maximum(high, x.max(0)), np.bitwise_and.reduce([every, *blocks])
    everywhere(K.extremes.definition, [x, low, high, every])
    for found, wanted in zip((low, high, every), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_tiles_in_shared_memory_are_in_program_order() -> None:
    x, sums = RNG.integers(-9, 9, (37, 45)).astype(np.int32), np.zeros(45, np.int32)
    expected = np.zeros(45, np.int32)
    for i in range(0, 37, 8):
        expected += x[i : i + 8].sum(0, dtype=np.int32)
        expected[::32] = np.maximum(expected[::32], -5)
    everywhere(K.histogram2d.definition, [x, sums])
    np.testing.assert_array_equal(sums, expected)


def test_iterations_with_updates_are_spread_over_groups_and_lanes() -> None:
    x, counts = RNG.integers(0, 5, (9, 140)).astype(np.int32), np.zeros(5, np.int32)
    expected = np.bincount(x.reshape(-1), np.repeat(np.arange(9), 140), 5).astype(np.int32)
    everywhere(K.shared_by_lanes.definition, [x, counts], archs=("sm_80",))
    np.testing.assert_array_equal(counts, expected)
    assert str(K.shared_by_lanes.definition.grid[0]) == "M"
    assert any(note.message.startswith("A69") for note in K.shared_by_lanes.definition.notes)


@pytest.mark.parametrize("dtype", ("u32", "i64", *(pytest.param(t, marks=pytest.mark.slow) for t in ("i32", "u64"))))
def test_every_kind_and_type(dtype: str) -> None:
    kernel, held = K.every_kind(as_dtype(dtype)), np_dtype(dtype)
    limits = np.iinfo(held)
    x, *found = (RNG.integers(limits.min, limits.max, n, held, endpoint=True) for n in (131, *[5] * 6))
    ufuncs = (np.add, np.minimum, np.maximum, np.bitwise_and, np.bitwise_or, np.bitwise_xor)
    expected = [old.copy() for old in found]
    for ufunc, old in zip(ufuncs, expected, strict=True):
        for k in range(5):
            for value in x[k::5]:
                old[k : k + 1] = ufunc(old[k : k + 1], value)
    everywhere(kernel.definition, [x, *found], archs=("sm_80",))
    for mine, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, wanted)


@pytest.mark.parametrize(("m", "k", "n"), ((70, 300, 65), (64, 0, 64)))
def test_parts_of_a_long_sum_are_added_to_what_is_there(m: int, k: int, n: int) -> None:
    a, b = (RNG.integers(-128, 128, shape).astype(np.int8) for shape in ((m, k), (k, n)))
    c = RNG.integers(-9, 9, (m, n)).astype(np.int32)
    expected = c + a.astype(np.int64) @ b
    everywhere(K.split_k.definition, [a, b, c], archs=("sm_90",))
    np.testing.assert_array_equal(c, expected)
    assert str(K.split_k.definition.grid[0]) == "ceildiv(K, 128)"


def test_sample() -> None:
    x, counts = RNG.standard_normal(9001).astype(np.float32) * 2, RNG.integers(0, 9, 64).astype(np.int32)
    places = np.clip((x + np.float32(4)) * np.float32(8), 0, 63).astype(np.int64)
    expected = counts + np.bincount(places, minlength=64)
    everywhere(sample.histogram.definition, [x, counts], archs=("sm_90",))
    np.testing.assert_array_equal(counts, expected)


# -- races and what is refused -----------------------------------------------------------------------------------------

HEAD = """import tessera as ts
@ts.kernel(grid=2, group=32)
def k(x: ts.Tensor["N", ts.i32], y: ts.Tensor["N", ts.f32], z: ts.Region[ts.reduce_max, ts.Tensor["N", ts.i32]],
      b: ts.Tensor["N", ts.i8]):
    i = ts.tile.local_id()
    s = ts.tile.alloc_shared((32,), ts.i32)
    s[i] = i
    ts.tile.barrier()
"""


def defined(body: str, path: Any) -> Any:
    path.write_text(HEAD + "".join(f"    {line}\n" for line in body.split("; ")))
    scope: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    return scope["k"].definition


@pytest.mark.parametrize(("body", "who"), (
    ("ts.tile.atomic_add(s[i % 2], 1); x[i + 32 * ts.tile.group_id()] = s[i]", "lanes"),
    ("ts.tile.atomic_add(s[i % 2], 1); s[i] = 0; x[0] = s[0]", "lanes"),
    ("t = s[0] + i; ts.tile.atomic_max(s[0], i)", "lanes"),
    ("ts.tile.atomic_add(s[0], 1); ts.tile.atomic_max(s[0], i); x[0] = s[0]", "lanes"),
    ("ts.tile.atomic_add(x[0], 1); ts.tile.barrier(); x[ts.tile.group_id()] = 1", "groups"),
    ("ts.tile.atomic_add(x[0:8], 1); ts.tile.atomic_and(x[0:8], 1)", "groups"),
    ("ts.tile.atomic_add(x[0], 1); ts.tile.barrier(); y[i] = ts.cast(x[0], ts.f32)", "groups"),
))  # fmt: skip
def test_updates_race_with_other_accesses_and_other_kinds(body: str, who: str, tmp_path: Any) -> None:
    kernel = defined(body, tmp_path / "race.py")
    with pytest.raises(SourceError, match=f"race on .* by different {who}") as told:
        evaluate(kernel, arguments())
    assert told.value.code == "E215"


def arguments() -> list[Any]:
    return [np.zeros(64, t) for t in (np.int32, np.float32, np.int32, np.int8)]


def test_levels_below_find_races_of_lanes(tmp_path: Any) -> None:
    body = "ts.tile.atomic_add(s[i % 2], 1); x[i + 32 * ts.tile.group_id()] = s[i]"
    runs = levels(defined(body, tmp_path / "race.py"), ("sm_80",))
    for name, code in (("interpreter", "E923"), ("sm_80", "E955")):
        with pytest.raises(TesseraError) as told:
            runs[name](*arguments())
        assert told.value.code == code
    mended = defined(body.replace("1); x", "1); ts.tile.barrier(); x"), tmp_path / "mended.py")
    everywhere(mended, arguments(), archs=("sm_80",))


@pytest.mark.parametrize(("body", "code", "words"), (
    ("old = ts.tile.atomic_add(x[0], 1)", "E226", "strict"),
    ("x[0] = ts.tile.atomic_add(x[0], 1) + 1", "E226", "order of lanes"),
    ("ts.tile.atomic_add(y[0], 1.0)", "E226", "fixed tree"),
    ("ts.tile.atomic_max(y[0:32], 1.0)", "E226", "deterministic"),
    ("ts.tile.atomic_add(b[0], 1)", "E206", "i32, u32, i64 and u64"),
    ("ts.tile.atomic_add(x[0], 1.5)", "E206", "holds i32"),
    ("ts.tile.atomic_add(z[0], 1)", "E208", "reduce_max"),
    ("z[i] = 1", "E208", "stored to here"),
    ("x[i] = z[i]", "E208", "loaded here; only ts.tile.atomic_max(z[..], value)"),
    ("z[i] += 1", "E208", "stored to here"),
    ("z[0:32] = ts.tile.zeros((32,), dtype=ts.i32)", "E208", "stored to here"),
    ("x[0:32] = z[0:32]", "E208", "loaded here"),
    ("ts.tile.barrier(); ts.tile.cp_async(s[0:32], z[0:32])", "E208", "loaded here"),
    ("ts.tile.atomic_add(x[0])", "E218", "a place and a value"),
    ("ts.tile.atomic_add(x[0], 1, order='release')", "E218", "orders nothing else"),
    ("ts.tile.atomic_add(x[0, 0], 1)", "E207", "rank 1"),
    ("ts.tile.atomic_cas(x[0], 1, 2)", "E204", "atomic_min"),
))  # fmt: skip
def test_what_has_no_fixed_result_is_refused(body: str, code: str, words: str, tmp_path: Any) -> None:
    with pytest.raises(SourceError) as told:
        defined(body, tmp_path / "refused.py")
    assert told.value.code == code and words in f"{told.value.message}; {told.value.help}"
    assert told.value.span is not None and told.value.span.line == 9 + body.count("; ")


def test_a_derivative_goes_round_updates_by_a_rule() -> None:
    def launched(x: Any) -> Any:
        counts = ts.tensor(np.zeros(64, np.int32))
        sample.histogram(x, counts)
        return ts.cast(counts, ts.f32)

    @ts.custom_vjp
    def counted(x: Any) -> Any:
        return launched(x)

    counted.defvjp(lambda x: (counted(x), x), lambda x, ct: x * ts.sum(ct))
    x = RNG.standard_normal(777).astype(np.float32)
    with pytest.raises(SourceError, match="its atomic_add of `counts` has no derivative") as told:
        ts.grad(lambda v: ts.sum(launched(v)))(ts.tensor(x))
    assert told.value.code == "E316" and "@ts.custom_vjp" in (told.value.help or "")
    found = ts.grad(lambda v: ts.sum(counted(v)))(ts.tensor(x))
    np.testing.assert_allclose(found.numpy(), 64 * x, rtol=1e-6)

"""`ts.memory`: bytes of tensors, results and temporaries, to the byte."""

from __future__ import annotations

import gc

import numpy as np

import tessera as ts
import tessera_runtime
from tessera_runtime.memory import Arena
from tests.runtime.support import bundle_bytes


def held() -> dict[str, int]:
    gc.collect()
    return ts.memory.memory_stats()


def test_tensors_count_once_until_they_are_gone() -> None:
    before = held()
    x = ts.tensor(np.ones((1000, 250), np.float32))
    assert held()["arrays"] - before["arrays"] == 1_000_000
    assert round(ts.memory.get_memory_usage() * 1e9) - before["total"] == 1_000_000
    views = [x.T, ts.reshape(x, (250, 1000)), x[10:20]]
    grown = held()["arrays"] - before["arrays"]
    y = x + x
    assert held()["arrays"] - before["arrays"] == grown + 1_000_000
    del x, y
    assert held()["arrays"] - before["arrays"] <= grown  # the views hold the storage
    del views
    assert held()["total"] == before["total"]


def test_the_peak_stays() -> None:
    ts.memory.reset_peak()
    before = held()
    assert before["peak"] >= before["total"]
    x = ts.tensor(np.ones(500_000))
    del x
    after = held()
    assert after["total"] == before["total"] and after["peak"] >= before["total"] + 4_000_000
    assert round(ts.memory.get_peak_memory_usage() * 1e9) == after["peak"]
    ts.memory.reset_peak()
    assert held()["peak"] == before["total"]


def test_results_and_temporaries_of_bundles() -> None:
    before = held()
    bundle = tessera_runtime.load(bundle_bytes(), threads=1)
    x = np.ones((3000, 5), np.float32)
    out0, out1 = bundle["chain"](x)
    now = held()
    assert 2 * 60_000 <= now["arrays"] - before["arrays"] <= 2 * 60_000 + 128  # each begins on a cache line
    # One temporary of 60 000 bytes and the scratch memory of `reverse`, on cache lines.
    assert now["temporaries"] - before["temporaries"] == 60_032 + 40_000
    del out0, out1, bundle
    assert held()["total"] == before["total"]


def test_an_arena_counts_what_it_holds() -> None:
    before = held()["temporaries"]
    arena = Arena()
    for size, counted in ((100, 100), (50, 100), (5000, 5000)):
        arena.reserve(size)
        assert held()["temporaries"] - before == counted
    del arena
    assert held()["temporaries"] == before

"""Barriers where the compiler has a ring of its own: one of the program waits for the copies of the program alone, and
one of the group stands for those of its warps."""

from __future__ import annotations

from functools import partial

import numpy as np

from tesseracc.arch.arch import load
from tests.kernels.cases import UNITS, Call, Case, U, Want, empty, normal, wide
from tests.kernels.deletions import Ordered, outcome
from tests.passes.target import pipeline_kernels


def nearest(rows: int, keys: int) -> Call:
    q, k = normal(rows, 64, dtype="bf16"), normal(400, 64, seed=1, dtype="bf16")
    blocks = [wide(q) @ wide(k[j : j + 64]).T for j in range(0, keys, 64)]
    size = np.abs(wide(q)).sum(axis=1, keepdims=True) * np.abs(wide(k)).max()
    value = np.maximum.reduce([np.zeros((rows, 64)), *blocks]) + wide(q)
    return Call([q, k, empty(rows, 64), keys], [Want("C", value, 66 * U * (size + np.abs(wide(q))))])


CALLS = (partial(nearest, 70, 384), partial(nearest, 40, 0))
CASE = Case("nearest", "bf16", lambda: pipeline_kernels.nearest.definition, CALLS)


def test_a_barrier_leaves_the_ring_under_way() -> None:
    text = Ordered(CASE, load("sm_80"), CASE.kernel()).text
    before, behind = text[: text.rindex("mma.sync")], text[text.rindex("mma.sync") :]
    assert "cp.async.wait_group" in text and "cp.async.wait_all" not in before
    assert "cp.async.wait_all" in behind  # the loop may have no iterations


def test_all_that_is_left_is_needed() -> None:
    found = outcome(CASE, "sm_80")
    assert found.tried > 5 and not found.survivors, found.survivors


def powers(rows: int, keys: int) -> Call:
    q, k, v = (normal(n, 64, seed=seed, dtype="bf16") for seed, n in enumerate((rows, keys, keys)))
    first = wide(q) @ wide(k).T + wide(q) @ wide(v).T
    size = np.abs(wide(q)) @ (np.abs(wide(k)) + np.abs(wide(v))).T @ np.abs(wide(k))
    bound = (1.01 * UNITS["bf16"] * np.abs(first)) @ np.abs(wide(k)) + (keys + 140) * U * size
    return Call([q, k, v, empty(rows, 64)], [Want("C", first @ wide(k), bound)])


LOADED = Case("powers", "bf16", lambda: pipeline_kernels.powers.definition,
              (partial(powers, 70, 440), partial(powers, 40, 440)))  # fmt: skip


def test_behind_a_barrier_of_the_group_a_slot_is_handed_back_without_one_of_the_warp() -> None:
    ordered = Ordered(LOADED, load("sm_90"), LOADED.kernel())
    assert "ldmatrix" in ordered.text and "wgmma" in ordered.text and "bar.warp.sync" not in ordered.text
    ordered.steps *= 5
    assert ordered.run(ordered.module, 0) == (None, ["powers__0__cluster"])

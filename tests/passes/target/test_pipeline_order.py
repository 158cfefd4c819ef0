"""What a barrier of the program waits for where the compiler has a ring of its own: the program's copies alone."""

from __future__ import annotations

from functools import partial

import numpy as np

from tesseracc.arch.arch import load
from tests.kernels.cases import Call, Case, U, Want, empty, normal, wide
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

"""The graph of a plan: what reads what, through blocks of which one runs."""

from typing import Any

from tessera_runtime.core import manifest as M
from tesseracc.bundle.describe import lifetimes, shared_text
from tesseracc.bundle.drawing import PlanGraph, graph


def launch(kernel: str, reads: str, writes: str) -> dict[str, Any]:
    args = list(dict.fromkeys((*reads, *writes)))
    return {"op": "launch", "kernel": kernel, "grid": ["1"], "group": 1, "args": args, "reads": list(reads),
            "writes": list(writes)}  # fmt: skip


def edges(steps: list[dict[str, Any]]) -> set[tuple[str, str]]:
    buffers = {"x": "input", "t": "temp", "o": "output"}
    plan = {"buffers": [{"name": n, "kind": k, "type": "f32[N]", "bytes": "4 * N"} for n, k in buffers.items()],
            "steps": steps}  # fmt: skip
    found = PlanGraph(plan, {})
    titles = [title for _, title, *_ in found.nodes]
    assert "<svg" in graph(plan, {})
    return {(titles[a], titles[b]) for a, b, _ in found.edges}


def test_one_behind_the_other() -> None:
    found = edges([launch("a", "x", "t"), launch("b", "t", "o"), launch("c", "o", "o")])
    assert found == {("x", "a"), ("a", "b"), ("b", "c"), ("c", "o")}


def test_what_is_only_written_needs_nothing() -> None:
    """Versions of one kernel for different sizes: each writes the result, none reads what another wrote."""
    when = {"op": "when", "unless": "N%2", "blocks": [2, 1]}
    inner = {"op": "when", "unless": "N%4", "blocks": [1, 0]}
    found = edges([when, inner, launch("fast", "x", "o"), launch("slow", "x", "o")])
    assert found == {("when", "when"), ("when", "fast"), ("when", "slow"), ("x", "fast"), ("x", "slow"),
                     ("fast", "o"), ("slow", "o")}  # fmt: skip


def test_a_loop_is_one_behind_the_other() -> None:
    loop = {"op": "loop", "on": "t", "blocks": [1, 1]}
    found = edges([launch("a", "x", "o"), loop, launch("test", "o", "t"), launch("step", "o", "o")])
    assert found == {("x", "a"), ("a", "test"), ("a", "step"), ("step", "o")}


def test_an_input_that_is_written_is_a_result_too() -> None:
    """One node above for what was given, one below for what it became."""
    assert edges([launch("a", "xo", "x"), launch("b", "x", "x")]) == {("x", "a"), ("a", "b"), ("b", "x")}


def test_what_a_loop_carries_lives_as_long_as_the_loop() -> None:
    """As the runtime places it: rows that each run puts are all there at the end, a row that a run makes only in it."""
    kinds = ("input", "temp", "temp", "temp", "output")
    buffers = tuple(M.Buffer(k, "" if k == "temp" else k, "f32", (4,)) for k in kinds)
    steps = (M.Copy(0, 1), M.Repeat(4, 3), M.Take(0, 2), M.Copy(2, 1), M.Put(1, 3), M.Copy(3, 4))
    plan = M.Plan("f", buffers, steps)
    assert lifetimes(plan) == [(0, 4), (0, 4), (2, 3), (1, 5), (5, 5)]
    assert lifetimes(M.Plan("f", buffers, ())) == [(0, -1)] * 5


def test_shared_memory_is_all_of_it() -> None:
    assert shared_text({"shared_bytes": 16, "dynamic_shared": "4096"}) == 4112
    assert shared_text({"shared_bytes": 16, "dynamic_shared": None}) == 16
    assert shared_text({"shared_bytes": 16, "dynamic_shared": "4 * N"}) == "16 + 4 * N"

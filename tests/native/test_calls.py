"""Libraries for C under many threads, and plans that are not what their kernels declare."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera_runtime.core.manifest import Kernel
from tesseracc.bundle import plan
from tesseracc.bundle.edit import changed
from tests.native.called import Called
from tests.native.model import saxpy


@ts.function
def rows(x: ts.Tensor["N", "D", ts.f32]):
    return ts.softmax(ts.layer_norm(x)) @ ts.transpose(x)


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_16_threads_of_1000_calls(tmp_path: Path) -> None:
    """Right results in each, each with its own workspace, and no memory kept."""
    called = Called(tmp_path, {"saxpy": saxpy, "rows": rows})
    rng = np.random.default_rng(2)
    shared = rng.standard_normal((5, 9)).astype(np.float32)
    code, expected = called("rows", {"x": shared}, N=5, D=9)
    assert code == 0
    wrong: list[Any] = []

    def work(number: int, times: int) -> None:
        x = np.arange(number + 1, dtype=np.float32)
        for i in range(times):
            y = np.full(number + 1, i, np.float32)
            code, _ = called("saxpy", {"a": 2.0, "x": x, "y": y}, N=number + 1)
            again, found = called("rows", {"x": shared}, N=5, D=9)
            if code or again or not (y == 2 * x + i).all() or found["out"].tobytes() != expected["out"].tobytes():
                wrong.append((number, i, code, again))

    def together(times: int) -> None:
        threads = [threading.Thread(target=work, args=(number, times)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive()

    together(50)
    growth = []
    for _ in range(3):
        before = resident()
        together(150)
        growth.append(resident() - before)
    # what calls kept would grow in every round; allocators of threads grow in some
    assert not wrong and min(growth) < 1 << 20, growth


@pytest.mark.parametrize("what", ["grid", "shape"])
def test_launches_are_held_against_declarations(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule P1 of specs/bundle.md, compiled: a launch that is not what its kernel declares runs nothing."""
    more = ("N", 1, "add")

    def other(kernel: Kernel) -> Kernel:
        if what == "grid":
            assert kernel.grid is not None
            return changed(kernel, grid=(*kernel.grid[:2], 2))
        params = [changed(p, shape=(more,)) if p.shape is not None else p for p in kernel.params]
        return changed(kernel, params=tuple(params))

    made = plan.target

    def doctored(*args: Any) -> Any:
        record, entries = made(*args)
        return changed(record, kernels=tuple(map(other, record.kernels))), entries

    monkeypatch.setattr(plan, "target", doctored)
    called = Called(tmp_path, {"saxpy": saxpy})
    x = np.ones(7, np.float32)
    assert called("saxpy", {"a": 2.0, "x": x, "y": x.copy()}, N=7)[0] == 2
    assert "cannot be computed" in called.message(2)

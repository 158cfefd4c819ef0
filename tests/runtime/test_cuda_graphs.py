"""CUDA graphs: one per function and extents, operands changed in place, a cap, strict mode, bits of plain launches."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import tessera_runtime
from tessera_runtime.core.errors import DeviceError
from tessera_runtime.devices.cuda import CudaDevice
from tests.runtime.fake_gpu import FakeDriver
from tests.runtime.gpu_bundles import HOPPER, bundle_of
from tests.runtime.support import WEIGHT, bundle_bytes
from tests.runtime.test_cuda_arrays import Foreign, rand


def loaded(capture_graph: bool | str = True, limit: int = 16) -> tuple[FakeDriver, tessera_runtime.Bundle]:
    driver = FakeDriver()
    data = bundle_of(HOPPER)
    return driver, tessera_runtime.load(
        data, device=CudaDevice(driver), capture_graph=capture_graph, graph_limit=limit
    )  # fmt: skip


def kinds(driver: FakeDriver) -> list[str]:
    found = [call[0] for call in driver.calls if call[0].startswith(("graph", "launch", "free_graph"))]
    driver.calls.clear()
    return found


def test_one_graph_per_extents_and_the_bits_of_launches() -> None:
    driver, bundle = loaded()
    _, plain = loaded(False)
    for rows in (3, 7, 3, 3, 7):
        x = rand(rows, 5) + len(driver.calls)
        for mine, theirs in zip(bundle["chain"](x), plain["chain"](x), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    found = kinds(driver)
    assert found.count("graph") == 2 and found.count("graph_launch") == 5 and "launch" not in found
    assert bundle.program.graphs == 2  # type: ignore[attr-defined]
    assert [len(nodes) for nodes in driver.graphs.values()] == [3, 3]


def test_only_what_changes_is_set() -> None:
    driver, bundle = loaded()
    x, y = rand(300), rand(300)
    expected = y.copy()
    for a in (1.5, 1.5, -2.0):
        expected += np.float32(a) * x
        bundle["saxpy"](a, x, y)
        np.testing.assert_array_equal(y, expected)
    # The block is the same one every time; the scalar is another once.
    assert kinds(driver) == ["graph", "graph_launch", "graph_launch", "graph_set", "graph_launch"]
    arrays = [Foreign(driver, rand(6, 5) + i) for i in range(3)]
    kept = [bundle["chain"](array) for array in arrays]
    found = kinds(driver)
    # Input, results and temporary move: all three nodes name something that moved.
    assert found[:2] == ["graph", "graph_launch"] and found.count("graph") == 1 and found.count("graph_set") >= 4
    for array, (out0, out1) in zip(arrays, kept, strict=True):
        np.testing.assert_array_equal(out1.numpy(), array.values()[:, ::-1])
        np.testing.assert_array_equal(out0.numpy(), array.values()[:, ::-1] + WEIGHT)


def test_the_least_used_graph_is_given_up() -> None:
    driver, bundle = loaded(limit=2)
    for rows in (1, 2, 1, 3, 1, 2):
        np.testing.assert_array_equal(bundle["chain"](rand(rows, 5))[1], rand(rows, 5)[:, ::-1])
    # 1 and 2 are made, 3 takes the place of 2, and 2 that of 3.
    found = kinds(driver)
    assert found.count("graph") == 4 and found.count("free_graph") == 2 and len(driver.graphs) == 2


def test_strict_mode() -> None:
    _, bundle = loaded("strict", limit=2)
    for rows in (1, 2, 1, 2):
        bundle["chain"](rand(rows, 5))
    with pytest.raises(DeviceError) as caught:
        bundle["chain"](rand(3, 5))
    assert caught.value.code == "E909" and "graph number 3 of 2" in caught.value.message
    np.testing.assert_array_equal(bundle["chain"](rand(1, 5))[1], rand(1, 5)[:, ::-1])
    with pytest.raises(DeviceError) as caught:
        tessera_runtime.load(bundle_bytes(), device="cpu", capture_graph="strict")
    assert caught.value.code == "E909"
    tessera_runtime.load(bundle_bytes(), device="cpu", capture_graph=True)["chain"](rand(3, 5))


def test_empty_calls_need_no_graph() -> None:
    driver, bundle = loaded("strict")
    out0, _ = bundle["chain"](np.empty((0, 5), np.float32))
    assert out0.shape == (0, 5) and kinds(driver) == []


def test_after_a_failure_the_graph_is_made_again() -> None:
    driver, bundle = loaded()
    x = rand(4, 5)
    bundle["chain"](x)
    driver.fail = {"graph_launch": DeviceError("E905", "cuGraphLaunch: CUDA_ERROR_X")}
    with pytest.raises(DeviceError) as caught:
        bundle["chain"](x)
    assert "in chain: reverse, add_row" in caught.value.message and not driver.graphs
    driver.fail = {}
    np.testing.assert_array_equal(bundle["chain"](x)[1], x[:, ::-1])
    assert len(driver.graphs) == 1


def test_threads_share_graphs() -> None:
    driver, bundle = loaded()
    wrong: list[Any] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(50):
            x = rng.standard_normal((int(rng.integers(1, 4)), 5)).astype(np.float32)
            out0, out1 = bundle["chain"](x)
            if not (np.array_equal(out1, x[:, ::-1]) and np.array_equal(out0, x[:, ::-1] + WEIGHT)):
                wrong.append(x.shape)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(driver.graphs) == 3

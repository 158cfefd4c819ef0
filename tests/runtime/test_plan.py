"""Placing temporaries, evaluating plans, large files, plug-in devices."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tessera_runtime
from tessera_runtime.bundle import BundleFile
from tessera_runtime.core.errors import DeviceError, InputError
from tessera_runtime.core.manifest import Arg, Buffer, Copy, Function, Input, Kernel, Launch, Output, Plan, Symbol
from tessera_runtime.memory import ALIGN, Arena, ArenaPool, assign
from tessera_runtime.plan import CopyStep, LaunchStep, instantiate
from tesseracc.bundle import write
from tests.runtime.support import WEIGHT, bundle_bytes, contents, cpu_target

NOTHING = Kernel("nothing", "nothing", ())
spans = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 12), st.integers(0, 12)), max_size=30)


@settings(derandomize=True, max_examples=300)
@given(spans)
def test_live_spans_never_overlap(raw: list[tuple[int, int, int]]) -> None:
    items = [(size, min(a, b), max(a, b)) for size, a, b in raw]
    offsets, total = assign(items)
    assert (offsets, total) == assign(items)
    rounded = [size + -size % ALIGN for size, _, _ in items]
    live = [sum(r for r, (_, a, b) in zip(rounded, items, strict=True) if a <= step <= b) for step in range(13)]
    assert max(live) <= total <= sum(rounded)
    for i, (size, first, last) in enumerate(items):
        assert offsets[i] % ALIGN == 0 and offsets[i] + size <= total
        for j in range(i):
            other, start, end = items[j]
            if size and other and start <= last and first <= end:
                assert offsets[i] + size <= offsets[j] or offsets[j] + other <= offsets[i]


def test_a_chain_of_temporaries_needs_two() -> None:
    """t0 -> t1 -> t2 -> ...: only neighbours are alive together."""
    _, total = assign([(1000, k, k + 1) for k in range(50)])
    assert total == 2 * 1024


def test_many_temporaries_are_placed_quickly() -> None:
    rng = np.random.default_rng(0)
    items = [
        (int(s), int(a), int(a + n))
        for s, a, n in zip(
            rng.integers(1, 1 << 20, 20_000), rng.integers(0, 20_000, 20_000), rng.integers(0, 50, 20_000), strict=True
        )
    ]
    offsets, total = assign(items)
    assert max(offsets) < total < sum(size for size, _, _ in items) // 50


def test_arena_is_aligned_and_kept() -> None:
    pool = ArenaPool()
    arena = pool.take()
    address = arena.reserve(1000)
    assert address % ALIGN == 0 and arena.reserve(10) == address
    assert arena.reserve(100_000) % ALIGN == 0 and arena.size == 100_000
    pool.give(arena)
    assert pool.take() is arena and pool.take() is not arena
    with pytest.raises(InputError) as caught:
        Arena().reserve(1 << 60)
    assert caught.value.code == "E713"


def plan(*steps: Any, buffers: tuple[Buffer, ...] = ()) -> Plan:
    return Plan("f", buffers, steps)


def launch(*grid: Any) -> Launch:
    return Launch(0, grid, ())


def test_grids() -> None:
    made = instantiate(plan(launch(("N",), 2, 3), launch(("N", 4, "sub"), 1, 1), launch(1, 1, 1)), [NOTHING], {"N": 4})
    assert [s.groups for s in made.steps if isinstance(s, LaunchStep)] == [24, 1]
    for grid, code in (
        ((("N", 9, "sub"), 1, 1), "E710"),
        (((1 << 40), (1 << 40), 1), "E713"),
        ((("N", 0, "mod"), 1, 1), "E710"),
    ):
        with pytest.raises(InputError if code == "E713" else tessera_runtime.TesseraError) as caught:
            instantiate(plan(launch(*grid)), [NOTHING], {"N": 4})
        assert caught.value.code == code and caught.value.exit_code == 7


def test_sizes() -> None:
    def temp(*shape: Any) -> Buffer:
        return Buffer("temp", "", "f32", shape)

    made = instantiate(plan(Copy(0, 1), buffers=(temp(("N",), 3), temp(3, ("N",)))), [], {"N": 5})
    assert made.steps == (CopyStep(0, 1, 60),) and made.offsets == (0, 64) and made.written == {1}
    assert instantiate(plan(Copy(0, 1), buffers=(temp(("N",), 3), temp(3, ("N",)))), [], {"N": 0}).steps == ()
    for buffers, code in (((temp(("N",)), temp(3)), "E710"), ((temp(1 << 30, 1 << 30), temp(1)), "E713")):
        with pytest.raises(InputError) as caught:
            instantiate(plan(Copy(0, 1), buffers=buffers), [], {"N": 5})
        assert caught.value.code == code
    with pytest.raises(tessera_runtime.TesseraError) as overflow:
        instantiate(plan(buffers=(temp(("N", "N", "mul")),)), [], {"N": 1 << 40})
    assert overflow.value.code == "E710"


def test_an_empty_constant_and_a_scalar_result() -> None:
    """Constants of no elements have an address as well; rank-0 tensors are arrays of one element."""
    f = Function(
        "f", "", (), (Input("x", "tensor", "f32", ()),), (Output("out", "f32", ()), Output("none", "f32", (0, 3)))
    )
    p = Plan(
        "f",
        (
            Buffer("input", "x", "f32", ()),
            Buffer("constant", "e", "f32", (0, 3)),
            Buffer("output", "out", "f32", ()),
            Buffer("output", "none", "f32", (0, 3)),
        ),
        (Copy(0, 2), Copy(1, 3)),
    )
    changed = contents(
        functions=(f,), targets=(cpu_target(plans=(p,)),), tests=(), constants={"e": np.empty((0, 3), np.float32)}
    )
    out, none = tessera_runtime.load(write(None, changed))["f"](2.5)
    assert out.shape == () and out == 2.5 and none.shape == (0, 3)


def test_the_cache_of_instances_is_bounded() -> None:
    reverse = tessera_runtime.load(bundle_bytes(), threads=1)["reverse"]
    for n in range(200):
        x = np.arange(n, dtype=np.float32).reshape(1, n)
        np.testing.assert_array_equal(reverse(x), x[:, ::-1])
    assert len(reverse._cache) <= 64


def test_a_large_file_is_mapped(tmp_path: Path) -> None:
    big = np.random.default_rng(0).standard_normal(5 << 20).astype(np.float32)
    path = tmp_path / "large.tsb"
    data = write(path, contents(constants={"w": WEIGHT, "big": big}))
    assert len(data) > 16 << 20
    file = BundleFile(path)
    constant = next(c for c in file.manifest.constants if c.name == "big")
    view = np.frombuffer(file.constant(constant), np.float32)
    np.testing.assert_array_equal(view, big)
    assert view.ctypes.data % 64 == 0 and not view.flags.writeable
    x = np.ones((2, 5), np.float32)
    np.testing.assert_array_equal(tessera_runtime.load(path)["chain"](x)[0], x + WEIGHT)
    with path.open("r+b") as raw:
        raw.seek(file._places["weights.safetensors"].data + constant.offset + (10 << 20))
        raw.write(b"\0\0\0\0\0")
    with pytest.raises(tessera_runtime.BundleError) as caught:
        tessera_runtime.load(path, verify_weights=True)
    assert caught.value.code == "E611"


def test_plug_in_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    from tesseracc.emulator_device import EmulatorDevice

    seen: list[Any] = []

    class Entry:
        def __init__(self, name: str, value: Any) -> None:
            self.name, self.value = name, value

        def load(self) -> Any:
            if isinstance(self.value, Exception):
                raise self.value
            return self.value

    def entries(group: str) -> list[Entry]:
        seen.append(group)
        return [Entry("emulator", EmulatorDevice), Entry("broken", ImportError("no"))]

    monkeypatch.setattr(importlib.metadata, "entry_points", entries)
    for name, code in (("emulator", "E904"), ("emulator:sm_90", "E904"), ("broken", "E903"), ("other", "E901")):
        with pytest.raises(DeviceError) as caught:
            tessera_runtime.load(bundle_bytes(), device=name)
        assert caught.value.code == code
    assert seen[0] == "tessera_runtime.devices"
    assert caught.value.help == "known: cpu[:TARGET], cuda[:N], broken[:TARGET], emulator[:TARGET]"


def test_symbol_only_in_an_output() -> None:
    """An extent that comes from a scalar."""
    f = Function(
        "iota", "", (Symbol("N", "n", -1),), (Input("n", "scalar", "i32"),), (Output("out", "f32", (("N",), 5)),)
    )
    p = Plan(
        "iota",
        (
            Buffer("constant", "w", "f32", (5,)),
            Buffer("constant", "z", "f32", (1, 5)),
            Buffer("output", "out", "f32", (("N",), 5)),
        ),
        (Launch(1, (("N", 1, "min"), 1, 1), (Arg(buffer=1), Arg(buffer=0), Arg(buffer=2), Arg(dim=5))),),
    )
    constants = {"w": WEIGHT, "z": np.ones((1, 5), np.float32)}
    bundle = tessera_runtime.load(
        write(None, contents(functions=(f,), targets=(cpu_target(plans=(p,)),), tests=(), constants=constants))
    )
    assert bundle["iota"](0).shape == (0, 5)
    np.testing.assert_array_equal(bundle["iota"](3)[0], 1 + WEIGHT)
    with pytest.raises(InputError) as caught:
        bundle["iota"](-1)
    assert caught.value.code == "E706"

"""`--emit c` for GPUs: the driver's calls, beside what the runtime asks of a driver for the same bundle."""

import ctypes
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts
import tessera_runtime
from tessera_runtime.devices.cuda import CudaDevice
from tesseracc.arch.arch import load
from tesseracc.bundle import plan
from tesseracc.codegen.image import Image
from tesseracc.driver import Build, front
from tesseracc.native.gpu_library import gpu_library
from tests.cli.run import Runner
from tests.native import model
from tests.native.fake_libcuda import HOST, FakeCuda, build
from tests.native.model import quarters, saxpy
from tests.runtime.fake_gpu import FakeDriver

WEIGHT = ts.tensor(np.random.default_rng(8).standard_normal((7, 5)).astype(np.float32))


@ts.function
def network(x: ts.Tensor["N", 7, ts.f32]):
    return ts.softmax(x @ WEIGHT), ts.sum(x, axis=0)


@ts.function
def product(x: ts.Tensor["M", "K", ts.f16], y: ts.Tensor["K", "N", ts.f16]):
    return x @ y


@ts.function
def halve(x: ts.Tensor["N", ts.f32]):
    return ts.while_loop(lambda v: ts.sum(v) > 1.0, lambda v: v * 0.5, x)


@ts.function
def walk(h: ts.Tensor["B", ts.f32], x: ts.Tensor["T", "B", ts.f32]):
    """Rows from the last one on: read, and written to a result and to a temporary."""

    def step(state, row):
        state = ts.cond(ts.sum(row) > 0, lambda s: s * 0.5 + row, lambda s: s - row, state)
        return state, state * state

    last, squares = ts.scan(step, h, x, reverse=True)
    return last, ts.scan(lambda s, row: (s + row, s), h, squares)[1]


ENTRIES = {f.name: f for f in (saxpy, network, product, quarters, halve, walk)}


class Quiet(FakeDriver):
    """A driver whose kernels do nothing, and whose bools are given."""

    def __init__(self, capability: tuple[int, int]) -> None:
        super().__init__(capability)
        self.flags: list[int] = []

    def _run(self, node: Any) -> None:
        pass

    def copy_out(self, address: int, pointer: int, nbytes: int) -> None:
        if nbytes == 1 and self.flags:
            ctypes.c_uint8.from_address(self.host(pointer, 1)).value = self.flags.pop(0)
        super().copy_out(address, pointer, nbytes)


class Made:
    def __init__(self, folder: Path) -> None:
        self.build = Build(front(ENTRIES), (load("sm_80"), load("sm_90"), load("ptx_80")))
        targets = [(self.build.target(i.arch), self.build.tile(i.arch), i) for i in self.build.images]  # type: ignore[attr-defined]
        self.targets: list[tuple[Any, Any, Image]] = targets
        self.records = [plan.target(module, image)[0] for module, _, image in targets]
        build(folder / "libcuda.so.1")
        self.folder = folder
        self.library = gpu_library("m", targets, HOST, "a test", str(folder / "libcuda.so.1"))
        (folder / "libm.so").write_bytes(self.library.image)
        self.c = ctypes.CDLL(str(folder / "libm.so"))
        self.bundle = self.build.bundle()

    def fake(self, capability: tuple[int, int]) -> FakeCuda:
        self.c.m_close()
        fake = FakeCuda(self.folder / "libcuda.so.1", capability)
        return fake

    def kinds(self, fake: FakeCuda, number: int) -> None:
        for kernel in self.records[number].kernels:
            fake.slots[kernel.symbol] = "v" * len(kernel.params) + "m" * len(kernel.maps)

    def call(self, name: str, arrays: list[Any], sizes: list[int], short: int = 0) -> int:
        numbers = [ctypes.c_int64(n) for n in sizes]
        ask = self.c[f"m_{name}_workspace"]
        ask.restype = ctypes.c_int64
        needed = ask(*numbers)
        memory = np.full(max(needed, 0) + 64, 0xA5, np.uint8)
        given = [ctypes.c_float(a) if isinstance(a, float) else ctypes.c_void_p(a.ctypes.data) for a in arrays]
        lent = ctypes.c_void_p(memory.ctypes.data + 1), ctypes.c_int64(needed - short)
        code = self.c[f"m_{name}"](*given, *numbers, *lent)
        assert (memory[max(needed, 0) + 1 :] == 0xA5).all()
        return int(code)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("gpu"))


def rand(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def case(name: str) -> tuple[list[Any], list[Any], list[int]]:
    if name == "saxpy":
        return [1.5, rand(301), rand(301)], [], [301]
    if name == "network":
        return [rand(13, 7)], [np.zeros((13, 5), np.float32), np.zeros(7, np.float32)], [13]
    if name == "product":
        inputs = [rand(200, 128).astype(np.float16), rand(128, 256).astype(np.float16)]
        return inputs, [np.zeros((200, 256), np.float16)], [128, 200, 256]  # K, M, N
    if name == "quarters":
        return [rand(64)], [np.zeros(16, np.float32)], [64]
    if name == "walk":
        return [rand(6), rand(4, 6)], [np.zeros(6, np.float32), np.zeros((4, 6), np.float32)], [6, 4]
    return [rand(100)], [np.zeros(100, np.float32)], [100]


def launches(calls: list[Any], buffers: dict[int, str]) -> list[Any]:
    """Launches with host arrays' device pointers by name; temporaries and constants are all one."""

    def shown(value: Any) -> Any:
        if isinstance(value, bytes):
            return "map", shown(int.from_bytes(value[:8], "little"))
        return buffers.get(value, "memory" if value > 1 << 28 else value)

    return [(*call[1:5], tuple(map(shown, call[5]))) for call in calls]


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize(("capability", "number"), [((9, 0), 1), ((8, 6), 0), ((8, 7), 2), ((12, 0), 2)])
def test_the_runtimes_launches(made: Made, name: str, capability: tuple[int, int], number: int) -> None:
    """Kernels, grids, groups, shared memory, parameters and tensor maps, in order; bytes in and out."""
    inputs, outputs, sizes = case(name)
    fake, driver = made.fake(capability), Quiet(capability)
    made.kinds(fake, number)
    if name == "halve":
        fake.flags, driver.flags = [1, 1, 0], [1, 1, 0]
    if name == "walk":
        fake.flags, driver.flags = [1, 0, 0, 1], [1, 0, 0, 1]
    arrays = [a.copy() if isinstance(a, np.ndarray) else a for a in inputs]
    assert made.call(name, [*arrays, *outputs], sizes) == 0
    assert fake.images == [made.targets[number][2].data[:64]]
    bundle = tessera_runtime.load(made.bundle, device=CudaDevice(driver))
    assert bundle.target.name == made.records[number].name
    bundle[name](*inputs)
    mine = [("launch", *c[1:]) for c in fake.calls if c[0] == "cuLaunchKernel"]
    theirs = [c for c in driver.calls if c[0] == "launch"]
    held = sum(a.nbytes for a in inputs if isinstance(a, np.ndarray))
    ins = [c for c in fake.calls if c[0] == "cuMemcpyHtoD_v2"][-sum(isinstance(a, np.ndarray) for a in inputs) :]
    their_ins = [c for c in driver.calls if c[0] == "copy_in"][-len(ins) :]  # behind the constants
    outs = [c for c in fake.calls if c[0] == "cuMemcpyDtoH_v2" and c[2] > 1]
    their_outs = [c for c in driver.calls if c[0] == "copy_out" and c[2] > 1]
    assert [c[2] for c in ins] == [c[2] for c in their_ins] and sum(c[2] for c in ins) == held
    assert [c[2] for c in outs] == [c[2] for c in their_outs]
    names = [f"in{n}" for n in range(len(ins))] + [f"out{n}" for n in range(len(outs))]
    mine_at = dict(zip([c[1] for c in ins + outs], names, strict=True))
    theirs_at = dict(zip([c[1] for c in their_ins + their_outs], names, strict=True))
    assert mine and launches(mine, mine_at) == launches(theirs, theirs_at)
    copies = [c[3] for c in fake.calls if c[0] == "cuMemcpyDtoD_v2"]
    assert copies == [c[3] for c in driver.calls if c[0] == "copy"]
    assert fake.depth == 0 and not fake.flags and not driver.flags
    made.c.m_close()
    assert not fake.memory and fake.contexts == fake.modules == 0


def test_another_gpu(made: Made) -> None:
    """The number goes to the driver, stays while failed openings are forgotten, and what was open is given back."""
    fake = made.fake((9, 0))
    made.kinds(fake, 1)
    inputs, outputs, sizes = case("quarters")
    try:
        for number in (0, 1, 0):
            made.c.m_device(number)
            assert fake.contexts == fake.modules == 0 and not fake.memory
            fake.fail = {"cuInit": 100}
            assert made.call("quarters", [*inputs, *outputs], sizes) == 4
            fake.fail = {}
            assert made.call("quarters", [*inputs, *outputs], sizes) == 0
            assert fake.ordinal == number and fake.contexts == 1
        fake.fail = {"cuDeviceGet": 101}
        made.c.m_device(7)
        assert made.call("quarters", [*inputs, *outputs], sizes) == 4
    finally:
        fake.fail = {}
        made.c.m_device(0)


def test_maps(made: Made) -> None:
    """Extents, strides and boxes innermost first; types by the driver's numbers (cuda.h)."""
    fake, driver = made.fake((9, 0)), Quiet((9, 0))
    made.kinds(fake, 1)
    inputs, outputs, sizes = case("product")
    assert made.call("product", [*inputs, *outputs], sizes) == 0
    tessera_runtime.load(made.bundle, device=CudaDevice(driver))["product"](*inputs)
    mine = [c for c in fake.calls if c[0] == "cuTensorMapEncodeTiled"]
    theirs = [c for c in driver.calls if c[0] == "tensor_map"]
    assert mine and len(mine) == len(theirs)
    for ours, (_, dtype, _, shape, their_box, span) in zip(mine, theirs, strict=True):
        kind, _, extents, strides, box, steps, rest = ours[1:]
        assert (kind, dtype) == (6, "f16") and extents == shape[::-1] and box == their_box[::-1]
        assert strides == (2 * shape[1],) and set(steps) == {1}
        assert rest == (0, {32: 1, 64: 2, 128: 3}[span], 3, 0)
    made.c.m_close()


@pytest.mark.parametrize(
    ("call", "result", "code"),
    [("cuInit", 100, 4), ("cuDeviceGet", 101, 4), ("cuDevicePrimaryCtxRetain", 2, 6), ("cuCtxPushCurrent_v2", 201, 7),
     ("cuModuleLoadData", 200, 7), ("cuModuleGetFunction", 500, 7), ("cuMemAlloc_v2", 2, 6), ("cuLaunchKernel", 1, 7),
     ("cuCtxSynchronize", 700, 7), ("cuMemcpyHtoD_v2", 1, 7), ("cuMemcpyDtoH_v2", 700, 7)],
)  # fmt: skip
def test_faults_leak_nothing(made: Made, call: str, result: int, code: int) -> None:
    fake = made.fake((9, 0))
    made.kinds(fake, 1)
    inputs, outputs, sizes = case("network")
    fake.fail = {call: result}
    assert made.call("network", [*inputs, *outputs], sizes) == code
    assert fake.depth == 0
    fake.fail = {}
    assert made.call("network", [*inputs, *outputs], sizes) == 0  # the next call begins anew
    made.c.m_close()
    assert not fake.memory and fake.contexts == fake.modules == fake.depth == 0


def test_what_needs_no_gpu_comes_first(made: Made) -> None:
    fake = made.fake((7, 0))
    assert made.call("quarters", [rand(10), rand(3)], [10]) >= 16
    assert made.call("quarters", [rand(8), rand(2)], [-4]) == 1
    assert made.call("quarters", [rand(8), rand(2)], [8], short=1) == 3
    assert not fake.calls
    assert made.call("quarters", [rand(8), rand(2)], [8]) == 5, "no code for 7.0"
    assert made.c.m_supported() == 0 and fake.contexts == 0


def test_no_driver(made: Made, tmp_path: Path) -> None:
    """Neither a library that is not there, nor one that lacks a call."""
    build(tmp_path / "old.so", leave_out="cuModuleLoadData")
    for name in ("absent.so", "old.so"):
        library = gpu_library("m", made.targets, HOST, "a test", str(tmp_path / name))
        path = tmp_path / f"lib{name}"
        path.write_bytes(library.image)
        c = ctypes.CDLL(str(path))
        memory = np.zeros(4096, np.uint8)
        x, y = rand(4), rand(1)
        given = [ctypes.c_void_p(a.ctypes.data) for a in (x, y)]
        code = c.m_quarters(*given, ctypes.c_int64(4), ctypes.c_void_p(memory.ctypes.data), ctypes.c_int64(4096))
        c.m_message.restype = ctypes.c_char_p
        assert code == 4 and b"driver" in c.m_message(4) and c.m_supported() == 0


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The product opens libcuda.so.1, imports four functions of libc, and gives what its header declares."""
    source, out = tmp_path / "model.py", tmp_path / "native"
    source.write_text(Path(model.__file__).read_text())
    said = Runner(capsys)("build", source, "--emit", "c", "--arch", "sm_90", "--arch", "sm_80", "-o", out, "--json")
    assert said.code == 0 and len(json.loads(said.out)["files"]) == 3
    image = (out / "libmodel.so").read_bytes()
    assert b"libcuda.so.1\0" in image and b"libc.so.6\0" in image
    text = (out / "model.h").read_text()
    for name in re.findall(r"\b(model_\w+)\(", text):
        assert name.encode() + b"\0" in image
    assert "model_close(void)" in text and "MODEL_DRIVER = 4" in text

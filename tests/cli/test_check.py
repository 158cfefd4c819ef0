"""`tesseracc check`: the verdict from the header is the choice that the runtime's devices make from the manifest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tessera_runtime.core import container
from tessera_runtime.core import manifest as M
from tessera_runtime.core.errors import DeviceError
from tessera_runtime.devices.cpu import CpuDevice
from tessera_runtime.devices.cuda import CudaDevice
from tesseracc.arch.arch import load, names
from tesseracc.bundle.preflight import Machine, check
from tests.cli.run import Runner
from tests.cli.samples import build, write_model

SUBSETS = [
    names(), ("sm_80", "ptx_75", "x86-64-v2"), ("sm_90", "sm_86"), ("sm_100f", "ptx_80"), ("x86-64-v3", "aarch64"),
]  # fmt: skip
GPUS = [(7, 0), (7, 2), (7, 5), (8, 0), (8, 6), (8, 7), (8, 9), (9, 0), (10, 0), (10, 3), (11, 0), (12, 0), (12, 1)]


class NoDriver:
    def name(self, device: object) -> str:
        return "a GPU"


def manifest(targets: tuple[str, ...]) -> M.Manifest:
    """Targets as a build records them, without code."""
    found = []
    for name in targets:
        arch = load(name)
        c = arch.capability
        capability = M.Capability(c.major, c.minor, c.match) if c else None
        found.append(
            M.Target(
                name, arch.kind, arch.toolchain.image, f"images/{name}", arch.preference, (), (),
                machine=arch.toolchain.machine, requires=tuple(sorted(arch.requires)), capability=capability,
            )
        )  # fmt: skip
    return M.Manifest(functions=(), targets=tuple(found), entries=())


@pytest.fixture
def tesseracc(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)


@pytest.mark.parametrize("targets", SUBSETS, ids="-".join)
def test_the_runtime_chooses_the_same(targets: tuple[str, ...]) -> None:
    described = manifest(targets)
    for capability in GPUS:
        device = CudaDevice.__new__(CudaDevice)
        device.capability, device.driver, device._device = capability, NoDriver(), None  # type: ignore[assignment]
        assert choice(device, described) == check(targets, Machine("gpu", capability=capability)).target, capability
    levels = [load(name) for name in names() if load(name).kind == "cpu"]
    for level in levels:
        features = frozenset(level.requires)
        cpu = CpuDevice(1, features=features, machine_name=level.toolchain.machine)
        answer = check(targets, Machine(level.name, level.toolchain.machine, features))
        assert choice(cpu, described) == answer.target, level.name
        assert [v.target for v in answer.verdicts] == list(targets)


def choice(device: CpuDevice | CudaDevice, described: M.Manifest) -> str | None:
    try:
        return device.select(described).name
    except DeviceError:
        return None


@pytest.fixture
def bundle(tesseracc: Runner, tmp_path: Path) -> Path:
    options = ("--arch", "x86-64-v2", "--arch", "x86-64-v3", "--arch", "sm_80", "--arch", "sm_90", "--entry", "scale")
    return build(tesseracc, write_model(tmp_path / "src"), tmp_path / "m.tsb", *options)


@pytest.mark.parametrize(
    ("option", "name", "target"),
    [
        ("--arch", "sm_90", "sm_90"),
        ("--arch", "sm_90a", "sm_90"),
        ("--arch", "sm_89", "sm_80"),
        ("--arch", "sm_87", None),  # a system on a chip
        ("--arch", "sm_100", None),
        ("--arch", "sm_75", None),
        ("--cpu", "x86-64-v4", "x86-64-v3"),
        ("--cpu", "x86-64-v2", "x86-64-v2"),
        ("--cpu", "aarch64", None),
    ],
)
def test_command(tesseracc: Runner, bundle: Path, option: str, name: str, target: str | None) -> None:
    said = tesseracc("check", bundle, option, name, "--json")
    answer = json.loads(said.out)
    assert said.code == (6 if target is None else 0)
    assert (answer["runs"], answer["target"], answer["machine"]) == (target is not None, target, name)
    assert len(answer["targets"]) == 4 and all(v["reason"] or v["runs"] == "yes" for v in answer["targets"])
    text = tesseracc("check", bundle, option, name)
    assert text.code == said.code and ("does not run" in text.out) == (target is None)


def test_only_the_header_is_read(tesseracc: Runner, bundle: Path, tmp_path: Path) -> None:
    """A file with the same first bytes and the same size, nothing else, gets the same answer."""
    data = bundle.read_bytes()
    cut = container.HEADER_OFFSET + container.HEADER_SIZE
    other = tmp_path / "other.tsb"
    other.write_bytes(data[:cut] + bytes(len(data) - cut))
    assert tesseracc("check", other, "--arch", "sm_90").code == 0
    assert tesseracc("inspect", other).code == 5
    for at, code in ((0, "E606"), (64, "E601"), (72, "E603"), (85, "E602"), (cut - 1, "E604")):
        broken = bytearray(data)
        broken[at] ^= 0x40
        other.write_bytes(broken)
        said = tesseracc("check", other, "--arch", "sm_90")
        assert said.code == 5 and code in said.err, at
    other.write_bytes(data[:1000])
    assert "E601" in tesseracc("check", other).err
    other.write_bytes(data[:-1])
    assert "E602" in tesseracc("check", other).err


def test_target_of_another_compiler() -> None:
    answer = check(("sm_999", "x86-64-v2"), Machine("gpu", capability=(9, 0)))
    assert answer.target is None and [v.runs for v in answer.verdicts] == ["unknown", "no"]


def test_bad_input(tesseracc: Runner, bundle: Path) -> None:
    assert tesseracc("check", bundle, "--arch", "sm_90", "--cpu", "x86-64-v3").code == 2
    assert "E805" in tesseracc("check", bundle, "--arch", "x86-64-v3").err
    assert "E805" in tesseracc("check", bundle, "--cpu", "sm_90").err
    assert "E805" in tesseracc("check", bundle, "--arch", "sm_hopper").err
    assert "E901" in tesseracc("check", bundle, "--device", "toaster").err
    assert "E802" in tesseracc("check", bundle.parent / "none.tsb").err
    assert tesseracc("check", bundle, "--device", "cpu").code == 0 or not Path("/proc/cpuinfo").exists()

"""Will a bundle run there: judged from the first bytes of a file, by the names of its targets.

The header lists target names. A name that this compiler knows stands for the requirements in its description; other
names are answered with `unknown`, for their requirements are in the manifest.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tessera_runtime.core import container
from tessera_runtime.core.errors import BundleError, DeviceError, TesseraError, UsageError, about
from tessera_runtime.core.files import open_regular
from tessera_runtime.core.manifest import Capability
from tessera_runtime.devices.cuda import runs_on
from tesseracc.arch.arch import Arch, load, names

__all__ = ["Answer", "Verdict", "check", "machine_of", "read_header"]

_GPU = re.compile(r"sm_(\d{1,3})(\d)([af]?)", re.ASCII)


class Machine(NamedTuple):
    """What code is to run on: a CPU (`machine` and features) or a GPU (compute capability)."""

    name: str
    machine: str = ""
    features: frozenset[str] = frozenset()
    capability: tuple[int, int] | None = None


@dataclass(frozen=True)
class Verdict:
    """One target of the bundle: `yes`, `no` or `unknown`, by which rule, and why not."""

    target: str
    runs: str
    rule: str
    reason: str
    preference: int = 0


@dataclass(frozen=True)
class Answer:
    """The verdicts, and the target that is taken: of those that run, the one of highest preference."""

    machine: str
    target: str | None
    rule: str
    verdicts: tuple[Verdict, ...]


def read_header(path: str) -> container.Header:
    """The header of a bundle, from its first 2192 bytes; the rest of the file is not read. E601 to E604, E802."""
    size = container.HEADER_OFFSET + container.HEADER_SIZE
    with open_regular(path) as file:
        data = file.read(size)
        length = os.fstat(file.fileno()).st_size
    with about(path):
        return _header(data, length)


def _header(data: bytes, length: int) -> container.Header:
    header = container.Header.unpack(data[container.HEADER_OFFSET :])
    expected = container.local_header(container.HEADER_NAME, container.HEADER_SIZE, 0, 4)
    skip = slice(container.CRC_OFFSET, container.CRC_OFFSET + 4)
    start = bytearray(data[: container.HEADER_OFFSET])
    start[skip] = bytes(4)
    padding = container.HEADER_OFFSET - len(expected) + 4
    if bytes(start) != container.local_header(container.HEADER_NAME, container.HEADER_SIZE, 0, padding):
        raise BundleError("E606", "the local header of 'tsb.header' is outside the strict profile")
    if header.file_size != length:
        raise BundleError("E602", f"the bundle should have {header.file_size} bytes and has {length}")
    return header


def machine_of(*, device: str | None = None, arch: str | None = None, cpu: str | None = None) -> Machine:
    """The machine that exactly one of the options names. E801, E805, E901 to E903."""
    given = [text for text in (device, arch, cpu) if text is not None]
    if len(given) != 1:
        raise UsageError("E801", "give one of --device, --arch and --cpu")
    if device is not None:
        return _present(device)
    if arch is not None:
        if match := _GPU.fullmatch(arch):
            return Machine(arch, capability=(int(match[1]), int(match[2])))
        found = load(arch)
        if found.kind != "cuda" or found.toolchain.image == "ptx":
            raise UsageError("E805", f"{arch} is no GPU", help="write --arch sm_90, or --cpu x86-64-v3")
        assert found.capability is not None
        return Machine(arch, capability=(found.capability.major, found.capability.minor))
    assert cpu is not None
    found = load(cpu)
    if found.kind != "cpu":
        raise UsageError("E805", f"{cpu} is no CPU level", help="write --cpu x86-64-v3, or --arch sm_90")
    return Machine(cpu, found.toolchain.machine, frozenset(found.requires))


def _present(device: str) -> Machine:
    """A device of this machine."""
    from tessera_runtime.devices import open_device
    from tessera_runtime.devices.cpu import cpu_features, machine
    from tessera_runtime.devices.cuda import CudaDevice

    if device == "cpu":
        return Machine("cpu", machine(), cpu_features())
    found = open_device(device)
    if not isinstance(found, CudaDevice):
        raise DeviceError("E901", f"{device} has no capability of its own", help="--device takes cpu, cuda and cuda:N")
    return Machine(device, capability=found.capability)


def check(targets: Sequence[str], machine: Machine, describe: Callable[[str], Arch] = load) -> Answer:
    """The selection rule of specs/bundle.md on target names."""
    verdicts = tuple(_verdict(name, machine, describe) for name in targets)
    fitting = sorted((v for v in verdicts if v.runs == "yes"), key=lambda v: (-v.preference, v.target))
    best = fitting[0] if fitting else None
    return Answer(machine.name, best.target if best else None, best.rule if best else "", verdicts)


def _verdict(name: str, machine: Machine, describe: Callable[[str], Arch]) -> Verdict:
    try:
        arch = describe(name) if name in names() else None
    except TesseraError:
        arch = None
    if arch is None:
        return Verdict(name, "unknown", "", "this compiler does not know the target; `tessera-run --list` reads more")
    wanted = arch.capability
    if (wanted is None) != (machine.capability is None):
        return Verdict(name, "no", "", "code for a CPU" if wanted is None else "code for a GPU", arch.preference)
    if wanted is None:
        if arch.toolchain.machine != machine.machine:
            return Verdict(name, "no", "", f"code for {arch.toolchain.machine}", arch.preference)
        missing = sorted(set(arch.requires) - machine.features)
        rule = "the machine and every feature that the target needs"
        return Verdict(name, "no" if missing else "yes", "" if missing else rule,
                       f"needs {' '.join(missing)}" if missing else "", arch.preference)  # fmt: skip
    assert machine.capability is not None
    rules: Mapping[str, str] = {
        "exact": "the very capability",
        "minor": "the same major version, from its minor version on, but for systems on a chip",
        "forward": "PTX, compiled by the driver" if arch.toolchain.image == "ptx" else "any later capability",
    }
    needed = Capability(wanted.major, wanted.minor, wanted.match)
    if runs_on(needed, *machine.capability):
        return Verdict(name, "yes", f"{wanted.match}: {rules[wanted.match]}", "", arch.preference)
    text = f"runs on {wanted.match} {wanted.major}.{wanted.minor} ({rules[wanted.match]})"
    return Verdict(name, "no", "", text, arch.preference)

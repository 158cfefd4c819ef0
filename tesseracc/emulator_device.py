"""The PTX emulator as a device of the runtime: `tessera-run m.tsb --device emulator`, or `emulator:sm_90` by target.

Runs the very PTX that a bundle carries: the image of a PTX target, or the text from which a cubin was assembled. Every
buffer is an allocation of its own, so that an access beyond one is found. A finding (access out of bounds, race,
divergent barrier ..) ends the call with the finding's code, its PTX line and its source line.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_runtime.bundle import BundleFile
from tessera_runtime.control import CopyStep, LaunchStep, MapStep, row_strides, walk
from tessera_runtime.core import recording
from tessera_runtime.core.dtypes import DTYPES
from tessera_runtime.core.errors import BundleError, DeviceError
from tessera_runtime.core.locks import lock
from tessera_runtime.core.manifest import Kernel, Manifest, Target
from tessera_runtime.core.places import place
from tessera_runtime.plan import Instance
from tessera_runtime.recorded import span
from tesseracc.emulator import Counters, Emulator, Finding, TensorMap, parse_ptx

__all__ = ["EmulatorDevice"]


class EmulatorDevice:
    """A GPU that is a Python program. `target` names the bundle's target to run; by default the most specific one."""

    def __init__(self, target: str = "", threads: int | None = None) -> None:
        self._wanted = target
        self.name = f"emulator:{target}" if target else "emulator"
        self.launches: list[tuple[str, tuple[int, int, int], Counters]] = []  # kernel, grid, what it did

    def counters(self) -> dict[str, object]:
        """What the launches so far did, each by itself and in total, as JSON; specs/emulator.md names the counters."""
        total = Counters()
        for _, _, found in self.launches:
            total += found
        each = [{"kernel": name, "grid": list(grid), **found.to_json()} for name, grid, found in self.launches]
        return {"launches": each, "total": total.to_json()}

    def select(self, manifest: Manifest) -> Target:
        """The target of highest preference that has PTX text, or the one asked for; E904."""
        targets = [t for t in manifest.targets if t.kind == "cuda" and (t.ptx is not None or t.format == "ptx")]
        for target in sorted(targets, key=lambda t: (-t.preference, t.name)):
            if not self._wanted or target.name == self._wanted:
                return target
        names = ", ".join(target.name for target in targets or manifest.targets)
        if targets:
            raise DeviceError("E904", f"the bundle has no PTX for '{self._wanted}'", help=f"it has PTX for {names}")
        raise DeviceError("E904", f"the bundle has no PTX; it has {names}", help="build it with `--arch sm_90`")

    def load(self, file: BundleFile, target: Target) -> EmulatorProgram:
        """Verify and parse the target's PTX."""
        return EmulatorProgram(file, target, self.launches, self.name)


class EmulatorProgram:
    """Parsed PTX and the device memory of its constants. Calls run one at a time."""

    def __init__(
        self, file: BundleFile, target: Target, launches: list[tuple[str, tuple[int, int, int], Counters]], device: str
    ) -> None:
        self._file, self._target, self._launches, self._device = file, target, launches, device
        text = file.entry(target.ptx or target.image)
        try:
            self._module = parse_ptx(text.decode("ascii").rstrip("\0"))
        except UnicodeDecodeError as error:
            raise BundleError("E630", f"the PTX of {target.name} is not ASCII text") from error
        for kernel in target.kernels:
            entry = self._module.entries.get(kernel.symbol)
            if entry is None:
                raise BundleError("E631", f"the PTX of {target.name} has no kernel '{kernel.symbol}'")
            declared = len(kernel.params) + len(kernel.maps)
            if len(entry.params) != declared:
                raise BundleError(
                    "E623", f"kernel {kernel.name} has {len(entry.params)} parameters in PTX, {declared} in the plan"
                )
        self._emulator = Emulator()
        self._by_name = {constant.name: constant for constant in file.manifest.constants}
        self._constants: dict[str, int] = {}
        self._lock = lock()

    def run(self, instance: Instance, arrays: Sequence[NDArray[Any] | None], scalars: Mapping[str, int]) -> None:
        """Run the plan's steps in order; see `tessera_runtime.devices.Program`."""
        memory, buffers = self._emulator.memory, instance.plan.buffers
        recorder = recording.active()
        with self._lock:
            taken: list[int] = []
            try:
                addresses: list[int] = []
                for buffer, nbytes, array in zip(buffers, instance.nbytes, arrays, strict=True):
                    if buffer.kind == "constant":
                        addresses.append(self._constant(buffer.ref))
                        continue
                    address = memory.alloc(nbytes)
                    taken.append(address)
                    addresses.append(address)
                    if array is not None and buffer.kind == "input":
                        memory.write(address, array)
                for number, step in walk(instance.steps, lambda buffer: memory.read(addresses[buffer], 1) != b"\0"):
                    start = time.perf_counter_ns()
                    if isinstance(step, CopyStep):
                        data = memory.read(addresses[step.src] + step.src_at, step.nbytes)
                        memory.write(addresses[step.dst] + step.dst_at, data)
                    else:
                        self._launch(step, addresses, scalars)
                    if recorder is not None:
                        stop = time.perf_counter_ns()
                        recorder.add(span(instance, self._target.kernels, number, step, start, stop, self._device))
                for index, array in enumerate(arrays):
                    if array is not None and index in instance.written:
                        flat = np.frombuffer(memory.read(addresses[index], array.nbytes), np.uint8)
                        array.reshape(-1).view(np.uint8)[:] = flat
            finally:
                for address in taken:
                    memory.free(address)

    def _launch(self, step: LaunchStep, addresses: Sequence[int], scalars: Mapping[str, int]) -> None:
        kernel = self._target.kernels[step.kernel]
        args: list[bytes] = []
        for (kind, value), param in zip(step.args, self._module.entries[kernel.symbol].params, strict=False):
            if isinstance(value, str):
                bits = scalars[value]
            else:
                bits = addresses[value] if kind == "buffer" else value
            args.append((bits & _MASK).to_bytes(8, "little")[: param.size])
        args += [_tensor_map(entry, addresses[entry.buffer]) for entry in step.maps]
        report = self._emulator.launch(
            self._module, kernel.symbol, step.grid, (kernel.group, 1, 1), args, step.dynamic_shared
        )  # fmt: skip
        self._launches.append((kernel.name, step.grid, report.counters))
        if report.findings:
            raise _finding(kernel, report.findings)

    def _constant(self, name: str) -> int:
        address = self._constants.get(name)
        if address is None:
            data = self._file.constant(self._by_name[name])
            address = self._emulator.memory.alloc(len(data))
            self._emulator.memory.write(address, data)
            self._constants[name] = address
        return address


def _tensor_map(entry: MapStep, address: int) -> bytes:
    """The map of a row-major tensor; copies move bits, so types of one size are one."""
    size = DTYPES[entry.dtype].itemsize
    kind = entry.dtype if entry.dtype in ("f16", "bf16", "f32", "f64") else f"u{8 * size}"
    return TensorMap(
        kind, address, entry.extents[::-1], row_strides(entry.extents, size), entry.box[::-1], swizzle=entry.span
    ).encode()  # fmt: skip


def _finding(kernel: Kernel, findings: Sequence[Finding]) -> DeviceError:
    """The first finding as an error; the others in its help."""
    first = findings[0]
    where = f" ({place(kernel)})" if kernel.source is not None else ""
    others = "; ".join(f.render().replace("\n", " ") for f in findings[1:4])
    text = first.render().removeprefix(f"{first.code}: ")
    return DeviceError(first.code, f"kernel {kernel.name}{where}: {text}", help=f"also: {others}" if others else None)


_MASK = (1 << 64) - 1

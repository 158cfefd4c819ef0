"""NVIDIA GPUs as a device: choosing an image by compute capability, loading it, running plans.

Of a call, everything on the device lies in one block: inputs, results, temporaries, each 256-byte aligned. Blocks are
kept for later calls; constants are uploaded, verified, when first used.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tessera_runtime.core.errors import DeviceError
from tessera_runtime.core.manifest import Capability, Kernel, Manifest, Target
from tessera_runtime.devices.cuda_driver import CudaPython, Driver, Handle
from tessera_runtime.plan import CopyStep, Instance, LaunchStep

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tessera_runtime.bundle import BundleFile

__all__ = ["CudaDevice", "CudaProgram", "open_cuda", "runs_on"]

ALIGN = 256
_DEFAULT_SHARED = 48 << 10  # dynamic shared memory that needs no asking
_MAX_GRID = (0x7FFFFFFF, 0xFFFF, 0xFFFF)
_MASK = (1 << 64) - 1


def runs_on(needed: Capability, major: int, minor: int) -> bool:
    """Whether a GPU of compute capability major.minor runs code made for `needed`."""
    if needed.match == "exact":
        return (major, minor) == (needed.major, needed.minor)
    if needed.match == "minor":
        return major == needed.major and minor >= needed.minor
    return (major, minor) >= (needed.major, needed.minor)


def open_cuda(ordinal: int) -> CudaDevice:
    """The GPU of that number, through cuda-python; E903."""
    return CudaDevice(CudaPython(), ordinal)


class CudaDevice:
    """One GPU, through any `Driver`."""

    def __init__(self, driver: Driver, ordinal: int = 0) -> None:
        self.driver = driver
        self.name = f"cuda:{ordinal}"
        count = driver.device_count()
        if ordinal >= count:
            raise DeviceError("E903", f"there is no device cuda:{ordinal}; this machine has {count}")
        self._device = driver.device(ordinal)
        self.capability = (
            driver.attribute(self._device, "COMPUTE_CAPABILITY_MAJOR"),
            driver.attribute(self._device, "COMPUTE_CAPABILITY_MINOR"),
        )
        self.shared_limit = driver.attribute(self._device, "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN")
        self._context: Handle = None
        self._lock = threading.Lock()

    def select(self, manifest: Manifest) -> Target:
        """The target of highest preference that this GPU runs; E904.

        Compilers give preferences such that architecture-specific code comes first, then code for the same major
        version, then PTX that the driver compiles.
        """
        targets = [target for target in manifest.targets if target.kind == "cuda"]
        for target in sorted(targets, key=lambda t: (-t.preference, t.name)):
            if target.capability is not None and runs_on(target.capability, *self.capability):
                return target
        major, minor = self.capability
        names = ", ".join(target.name for target in manifest.targets)
        raise DeviceError(
            "E904",
            f"{self.driver.name(self._device)} has compute capability {major}.{minor}; the bundle has code for {names}",
            help=f"build it with `--arch sm_{major}{minor}`",
        )

    def activate(self) -> None:
        """Make this device's context the calling thread's."""
        with self._lock:
            if self._context is None:
                self._context = self.driver.retain_context(self._device)
        self.driver.set_context(self._context)

    def load(self, file: BundleFile, target: Target) -> CudaProgram:
        """Verify and load the target's image."""
        return CudaProgram(self, file, target)


class CudaProgram:
    """A loaded module and its kernels."""

    def __init__(self, device: CudaDevice, file: BundleFile, target: Target) -> None:
        self._device, self._driver, self._file, self._target = device, device.driver, file, target
        device.activate()
        image = file.entry(target.image)
        module = self._driver.load_module(image + b"\0" if target.format == "ptx" else image)
        self._functions = [self._driver.function(module, kernel.symbol) for kernel in target.kernels]
        self._shared = [_DEFAULT_SHARED] * len(self._functions)  # dynamic shared memory each kernel may use
        self._by_name = {constant.name: constant for constant in file.manifest.constants}
        self._constants: dict[str, int] = {}
        self._idle: list[tuple[int, int]] = []  # blocks of device memory: size, pointer
        self._lock = threading.Lock()

    def run(self, instance: Instance, arrays: Sequence[NDArray[Any] | None], scalars: Mapping[str, int]) -> None:
        """Run the plan's steps in order and wait for them; see `devices.Program`."""
        driver, buffers = self._driver, instance.plan.buffers
        self._device.activate()
        offsets, total = _layout(instance)
        size, block = self._take(total)
        try:
            pointers = [
                block + offset if offset >= 0 else self._constant(buffer.ref)
                for offset, buffer in zip(offsets, buffers, strict=True)
            ]
            for index, array in enumerate(arrays):
                if array is not None and buffers[index].kind == "input" and array.nbytes:
                    driver.copy_in(pointers[index], array.ctypes.data, array.nbytes)
            for step in instance.steps:
                if isinstance(step, CopyStep):
                    driver.copy(pointers[step.dst], pointers[step.src], step.nbytes)
                else:
                    self._launch(step, pointers, scalars)
            self._wait(instance)
            for index, array in enumerate(arrays):
                if array is not None and index in instance.written and array.nbytes:
                    driver.copy_out(array.ctypes.data, pointers[index], array.nbytes)
        finally:
            with self._lock:
                self._idle.append((size, block))

    def _launch(self, step: LaunchStep, pointers: Sequence[int], scalars: Mapping[str, int]) -> None:
        kernel = self._target.kernels[step.kernel]
        if any(extent > limit for extent, limit in zip(step.grid, _MAX_GRID, strict=True)):
            raise DeviceError("E907", f"kernel {_shown(kernel)} needs a grid of {step.grid}, beyond {_MAX_GRID}")
        if step.dynamic_shared + kernel.shared_bytes > self._device.shared_limit:
            raise DeviceError(
                "E907",
                f"kernel {_shown(kernel)} needs {step.dynamic_shared + kernel.shared_bytes} bytes of shared memory; "
                f"the device has {self._device.shared_limit}",
            )
        slots = [
            pointers[value] if kind == "buffer" else (value & _MASK) if kind == "dim" else scalars[value]  # type: ignore[index,operator]
            for kind, value in step.args
        ]
        function = self._functions[step.kernel]
        try:
            with self._lock:
                if step.dynamic_shared > self._shared[step.kernel]:
                    self._driver.allow_shared(function, step.dynamic_shared)
                    self._shared[step.kernel] = step.dynamic_shared
            self._driver.launch(function, step.grid, (kernel.group, 1, 1), step.dynamic_shared, slots)
        except DeviceError as error:
            raise DeviceError(error.code, f"{error.message}, launching kernel {_shown(kernel)}") from error

    def _wait(self, instance: Instance) -> None:
        """A fault inside a kernel shows here; name the kernels that it can be."""
        try:
            self._driver.synchronize()
        except DeviceError as error:
            kernels = dict.fromkeys(
                _shown(self._target.kernels[s.kernel]) for s in instance.steps if isinstance(s, LaunchStep)
            )
            raise DeviceError(
                error.code, f"{error.message}, in {instance.plan.function}: {', '.join(kernels)}"
            ) from error

    def _take(self, nbytes: int) -> tuple[int, int]:
        """A block of at least `nbytes` of device memory: its size and pointer."""
        with self._lock:
            fits = [block for block in self._idle if block[0] >= nbytes]
            if fits:
                best = min(fits)
                self._idle.remove(best)
                return best
            small, self._idle = self._idle, []
        for _, pointer in small:
            self._driver.free(pointer)
        size = max(-(-nbytes // ALIGN) * ALIGN, ALIGN)
        return size, self._driver.allocate(size)

    def _constant(self, name: str) -> int:
        """The device pointer of a constant, uploaded and verified when first used."""
        with self._lock:
            pointer = self._constants.get(name)
            if pointer is None:
                import numpy as np

                data = np.frombuffer(self._file.constant(self._by_name[name]), dtype=np.uint8)
                pointer = self._driver.allocate(max(data.nbytes, ALIGN))
                if data.nbytes:
                    self._driver.copy_in(pointer, data.ctypes.data, data.nbytes)
                self._constants[name] = pointer
            return pointer


def _layout(instance: Instance) -> tuple[list[int], int]:
    """Offsets of all buffers but the constants (-1) in one block, and its size. The arena of temporaries is first."""
    end = -(-instance.arena // ALIGN) * ALIGN
    offsets: list[int] = []
    for buffer, nbytes, offset in zip(instance.plan.buffers, instance.nbytes, instance.offsets, strict=True):
        if buffer.kind in ("input", "output"):
            offsets.append(end)
            end += -(-nbytes // ALIGN) * ALIGN
        else:
            offsets.append(offset)
    return offsets, end


def _shown(kernel: Kernel) -> str:
    return kernel.name if kernel.source is None else f"{kernel.name} ({kernel.source.file}:{kernel.source.line})"

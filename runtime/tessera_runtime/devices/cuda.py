"""NVIDIA GPUs as a device: choosing an image by compute capability, its stream, its memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tessera_runtime.core.errors import DeviceError
from tessera_runtime.core.locks import lock
from tessera_runtime.core.manifest import Capability, Manifest, Target
from tessera_runtime.devices.cuda_driver import CudaPython, Driver, Handle
from tessera_runtime.devices.cuda_memory import BlockPool, DeviceArray, empty, failed, import_array
from tessera_runtime.devices.cuda_program import CudaProgram

if TYPE_CHECKING:
    from tessera_runtime.bundle import BundleFile

__all__ = ["INTEGRATED", "CudaDevice", "CudaProgram", "open_cuda", "runs_on"]

#: compute capabilities of GPUs in systems on a chip: NVIDIA promises no binary compatibility from or to them (CUDA C++
#: Programming Guide, "Binary Compatibility")
INTEGRATED = frozenset({(3, 2), (5, 3), (6, 2), (7, 2), (8, 7), (10, 1), (11, 0)})
_REMEMBERED = 4  # calls that a fault is told of


def runs_on(needed: Capability, major: int, minor: int) -> bool:
    """Whether a GPU of compute capability major.minor runs code made for `needed`."""
    here, made_for = (major, minor), (needed.major, needed.minor)
    if needed.match == "exact" or (needed.match == "minor" and INTEGRATED & {here, made_for}):
        return here == made_for
    if needed.match == "minor":
        return major == needed.major and minor >= needed.minor
    return here >= made_for


def open_cuda(ordinal: int) -> CudaDevice:
    """The GPU of that number, through cuda-python; E903."""
    return CudaDevice(CudaPython(), ordinal)


class CudaDevice:
    """One GPU, through any `Driver`.

    All work is queued on `stream`, a handle as other libraries give them; 0 is the default stream. `synchronous` (or
    the environment variable TESSERA_CUDA_SYNC) waits after every launch, so that a fault is told of its own kernel.
    """

    def __init__(self, driver: Driver, ordinal: int = 0, *, stream: int = 0, synchronous: bool | None = None) -> None:
        self.driver, self.ordinal, self.stream = driver, ordinal, stream
        self.synchronous = bool(os.environ.get("TESSERA_CUDA_SYNC")) if synchronous is None else synchronous
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
        self.pool = BlockPool(self)
        self._context: Handle = None
        self._queued: dict[str, None] = {}  # what nobody has waited for, the latest last
        self._lock = lock()

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

    @contextmanager
    def active(self) -> Iterator[None]:
        """This device's context is the calling thread's inside; afterwards what was it before, for others' sake."""
        with self._lock:
            if self._context is None:
                self._context = self.driver.retain_context(self._device)
        self.driver.push_context(self._context)
        try:
            yield
        finally:
            self.driver.pop_context()

    def load(self, file: BundleFile, target: Target) -> CudaProgram:
        """Verify and load the target's image."""
        return CudaProgram(self, file, target)

    def import_array(self, value: Any, what: str) -> DeviceArray | None:
        """An argument that lies on this device, without a copy; None for one of the host. E708."""
        return import_array(self, value, what)

    def empty(self, dtype: str, shape: tuple[int, ...], origin: str = "") -> DeviceArray:
        """Memory for a result that stays on the device; E906."""
        return empty(self, dtype, shape, origin)

    def queue(self, origin: str) -> None:
        """Remember what was queued and is not waited for: a fault in it shows at some later call, and is told of it."""
        self._queued.pop(origin, None)
        self._queued[origin] = None
        for old in list(self._queued)[:-_REMEMBERED]:
            self._queued.pop(old, None)

    def suspects(self, origin: str = "") -> str:
        """What a fault that shows now may come from: `origin`, and what was queued before it."""
        before = [known for known in reversed(list(self._queued)) if known != origin]
        return "; or, queued before it, in ".join([*([origin] if origin else []), *before])

    def wait(self, origin: str = "") -> None:
        """Wait for everything queued; the device is active. A fault in a kernel shows here: the error names `origin`,
        and what else may have run since somebody waited last."""
        try:
            self.driver.synchronize(self.stream)
        except DeviceError as error:
            raise failed(error, self.suspects(origin)) from error
        self._queued.clear()

    def lead(self, stream: int) -> None:
        """What others queue on their `stream` from now on comes after all that is queued here."""
        self._order(self.stream, stream)

    def follow(self, stream: int) -> None:
        """What is queued here from now on comes after all that others have queued on their `stream`."""
        self._order(stream, self.stream)

    def _order(self, before: int, after: int) -> None:
        if before == after:
            return
        with self.active():
            event = self.driver.event()
            try:
                self.driver.record(event, before)
                self.driver.wait(after, event)
            finally:
                self.driver.free_event(event)

    def bandwidth(self, nbytes: int) -> float:
        """Bytes per second, read and written, of a copy on the device that moves about `nbytes`: measured."""
        with self.active():
            return self._bandwidth(nbytes)

    def _bandwidth(self, nbytes: int) -> float:
        half = max(nbytes // 2, 1 << 12)
        blocks = self.pool.take(half), self.pool.take(half)
        events = self.driver.event(), self.driver.event()
        best = float("inf")
        try:
            for _ in range(5):
                self.driver.record(events[0], self.stream)
                self.driver.copy(blocks[1].pointer, blocks[0].pointer, half, self.stream)
                self.driver.record(events[1], self.stream)
                self.wait("a measurement of bandwidth")
                best = min(best, self.driver.elapsed(*events))
        finally:
            for event in events:
                self.driver.free_event(event)
        return 2 * half / best

    def clock(self) -> float:
        """Cycles per second of all multiprocessors together, at the highest clock that the driver names."""
        units, kilohertz = (
            self.driver.attribute(self._device, name) for name in ("MULTIPROCESSOR_COUNT", "CLOCK_RATE")
        )
        return units * kilohertz * 1e3

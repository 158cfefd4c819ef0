"""The CPU as a device: choosing an image by CPU features, loading it, running its kernels over a thread pool.

Kernel ABI, version 1: `void kernel(void **args, int64_t begin, int64_t end, void *scratch)`. `args` holds one 8-byte
slot per parameter (a buffer's address, an extent, a scalar's bits in the low bytes); groups begin..end of the linear
index (x fastest) are to be run; `scratch` is 64-byte aligned memory of the calling thread.
"""

from __future__ import annotations

import ctypes
import platform
import time
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from tessera_runtime.control import CopyStep, LaunchStep, walk
from tessera_runtime.core import recording
from tessera_runtime.core.errors import DeviceError
from tessera_runtime.core.locks import lock
from tessera_runtime.core.manifest import Kernel, Manifest, Target
from tessera_runtime.devices.clock import cycles_per_second
from tessera_runtime.devices.elf import LoadedImage, check_description
from tessera_runtime.devices.threads import Pool, available_threads
from tessera_runtime.memory import ALIGN, ArenaPool
from tessera_runtime.plan import Instance
from tessera_runtime.recorded import span

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tessera_runtime.bundle import BundleFile

__all__ = ["CpuDevice", "amx_permission", "cpu_features", "machine"]

_KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
_AMX = {"amx_tile", "amx_bf16", "amx_int8"}


def machine() -> str:
    """`x86-64`, `aarch64`, or what the system calls itself."""
    name = platform.machine().lower()
    return {"x86_64": "x86-64", "amd64": "x86-64", "arm64": "aarch64"}.get(name, name)


@cache
def cpu_features() -> frozenset[str]:
    """The CPU's features by their /proc/cpuinfo names, as far as the system has enabled them.

    Without /proc/cpuinfo only what every CPU of the architecture has is assumed.
    """
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key.strip() in ("flags", "Features"):
                    return frozenset(value.split())
    except OSError:
        pass
    return frozenset({"fp", "asimd"} if machine() == "aarch64" else ())


@cache
def amx_permission() -> bool:
    """Ask Linux for the AMX tile state, once, before threads use it: arch_prctl(ARCH_REQ_XCOMP_PERM, 18)."""
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_long)
    syscall.restype = ctypes.c_long
    return machine() == "x86-64" and bool(syscall(158, 0x1023, 18) == 0)


class CpuDevice:
    """This machine's CPU. `features` and `machine_name` can be given to see what another machine would choose;
    `target` names the bundle's target to run, instead of the most preferred one."""

    def __init__(
        self, threads: int | None = None, *, target: str = "", features: frozenset[str] | None = None,
        machine_name: str | None = None,
    ) -> None:  # fmt: skip
        if threads is not None and not 1 <= threads <= 4096:
            raise DeviceError("E901", f"{threads} threads are not possible", help="give a number between 1 and 4096")
        self.name = f"cpu:{target}" if target else "cpu"
        self.threads = threads or available_threads()
        self._wanted = target
        self._features = features
        self._machine = machine_name or machine()
        self._pool = Pool(self.threads)

    def _missing(self, target: Target) -> list[str]:
        if target.machine != self._machine:
            return [target.machine]
        features = cpu_features() if self._features is None else self._features
        missing = [feature for feature in target.requires if feature not in features]
        if not missing and self._features is None and _AMX & set(target.requires) and not amx_permission():
            return ["permission to use amx_tile"]
        return missing

    def select(self, manifest: Manifest) -> Target:
        """The CPU target of highest preference whose requirements this CPU meets, or the one asked for; E902."""
        targets = [t for t in manifest.targets if t.kind == "cpu" and self._wanted in ("", t.name)]
        for target in sorted(targets, key=lambda t: (-t.preference, t.name)):
            if not self._missing(target):
                return target
        if not targets:
            names = [target.name for target in manifest.targets]
            found = ", ".join(target.name for target in manifest.targets if target.kind == "cpu")
            if self._wanted in names:
                told = f"'{self._wanted}' is an image for GPUs; the bundle's CPU images: {found or 'none'}"
                raise DeviceError("E902", told, help="`--device cuda` or `--device emulator` takes it")
            lacking = f"CPU image '{self._wanted[:40]}'" if self._wanted else "CPU image"
            raise DeviceError(
                "E902", f"the bundle has no {lacking}; it has {found or ', '.join(names)}",
                help=f"name one of these, or build it with `--arch {self._wanted[:40] or 'cpu'}` as well",
            )  # fmt: skip
        lacks = "; ".join(f"{target.name} needs {' '.join(self._missing(target))}" for target in targets)
        raise DeviceError(
            "E902", f"no image of the bundle runs on this CPU: {lacks}", help="build it with `--arch cpu`"
        )

    def load(self, file: BundleFile, target: Target) -> CpuProgram:
        """Verify and load the target's image."""
        return CpuProgram(file, target, self._pool, self.name)

    def bandwidth(self, nbytes: int) -> float:
        """Bytes per second, read and written, of a copy that moves about `nbytes`, by all threads: measured."""
        import numpy as np

        half = max(nbytes // 2, 1 << 12)
        source, target = np.ones(half, np.uint8), np.zeros(half, np.uint8)
        a, b, grain = source.ctypes.data, target.ctypes.data, max(half >> 6, 1 << 12)

        def move(begin: int, end: int, slot: int) -> None:
            low = begin * grain
            ctypes.memmove(b + low, a + low, min(end * grain, half) - low)

        best, rounds, limit = float("inf"), 0, time.perf_counter() + 0.1
        while rounds < 3 or (time.perf_counter() < limit and rounds < 1000):
            start = time.perf_counter()
            self._pool.run(move, -(-half // grain))
            best, rounds = min(best, time.perf_counter() - start), rounds + 1
        return 2 * half / best

    def clock(self) -> float | None:
        """Cycles per second of the cores that its threads can have, together: measured on one. None: not known."""
        cycles = cycles_per_second(self._machine)
        return None if cycles is None else cycles * min(self.threads, available_threads())


class CpuProgram:
    """A loaded CPU image."""

    def __init__(self, file: BundleFile, target: Target, pool: Pool, device: str = "cpu") -> None:
        code = file.entry(target.image)
        self._image = LoadedImage(code, target.machine)
        self._kernels = [_KERNEL(self._image.address(kernel.symbol)) for kernel in target.kernels]
        check_description(code, target.kernels)
        self._scratch = [-(-kernel.scratch_bytes // ALIGN) * ALIGN for kernel in target.kernels]
        self._seconds = [0.0] * len(self._kernels)  # of a group, as last measured: for the pool alone
        self._pool = pool
        self._arenas = ArenaPool()
        self._file = file
        self._records: tuple[Kernel, ...] = target.kernels
        self._device = device
        self._by_name = {constant.name: constant for constant in file.manifest.constants}
        self._constants: dict[str, int] = {}
        self._keep: list[NDArray[Any]] = []
        self._lock = lock()

    def _constant(self, name: str) -> int:
        """The address of a constant in the bundle's own memory, verified when first used."""
        address = self._constants.get(name)
        if address is None:
            import numpy as np

            view = np.frombuffer(self._file.constant(self._by_name[name]), dtype=np.uint8)
            with self._lock:
                self._keep.append(view)
                address = self._constants[name] = view.ctypes.data
        return address

    def run(self, instance: Instance, arrays: Sequence[NDArray[Any] | None], scalars: Mapping[str, int]) -> None:
        """Run the plan's steps in order; see `devices.Program`."""
        scratch = max((self._scratch[s.kernel] for s in instance.steps if isinstance(s, LaunchStep)), default=0)
        arena_bytes = -(-instance.arena // ALIGN) * ALIGN
        arena = self._arenas.take()
        try:
            base = arena.reserve(arena_bytes + scratch * self._pool.threads)
            addresses = [
                array.ctypes.data if array is not None
                else base + offset if offset >= 0
                else self._constant(buffer.ref)
                for array, offset, buffer in zip(arrays, instance.offsets, instance.plan.buffers, strict=True)
            ]  # fmt: skip
            steps = walk(instance.steps, lambda buffer: bool(ctypes.c_uint8.from_address(addresses[buffer]).value))
            recorder = recording.active()
            if recorder is None:
                for _, step in steps:
                    self._step(step, addresses, scalars, base + arena_bytes)
            else:
                for number, step in steps:
                    start = time.perf_counter_ns()
                    self._step(step, addresses, scalars, base + arena_bytes)
                    stop = time.perf_counter_ns()
                    recorder.add(span(instance, self._records, number, step, start, stop, self._device))
        finally:
            self._arenas.give(arena)

    def _step(
        self, step: LaunchStep | CopyStep, addresses: Sequence[int], scalars: Mapping[str, int], scratch: int
    ) -> None:
        if isinstance(step, CopyStep):
            ctypes.memmove(addresses[step.dst] + step.dst_at, addresses[step.src] + step.src_at, step.nbytes)
            return
        slots = [
            addresses[value] if kind == "buffer" else (value & _MASK) if kind == "dim" else scalars[value]  # type: ignore[index,operator]
            for kind, value in step.args
        ]
        packed = (ctypes.c_uint64 * max(len(slots), 1))(*slots)
        self._launch(step.kernel, ctypes.addressof(packed), step.groups, scratch)

    def _launch(self, kernel: int, args: int, groups: int, scratch: int) -> None:
        function, stride = self._kernels[kernel], self._scratch[kernel]
        if self._pool.threads == 1 or groups == 1:
            function(args, 0, groups, scratch)
            return
        self._seconds[kernel] = self._pool.run(
            lambda begin, end, slot: function(args, begin, end, scratch + slot * stride), groups, self._seconds[kernel]
        )


_MASK = (1 << 64) - 1

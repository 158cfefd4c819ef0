"""Devices by name, and what each one offers.

A device chooses a target of a bundle (`select`) and loads it (`load`) into a program that runs plans. Devices other
than cpu and cuda are plug-ins: entry points of the group `tessera_runtime.devices`, whose value is called with the
text after the colon (`name:rest`) and the number of threads, and returns a `Device`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from tessera_runtime.core.errors import DeviceError, TesseraError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tessera_runtime.bundle import BundleFile
    from tessera_runtime.core.manifest import Manifest, Target
    from tessera_runtime.plan import Instance

__all__ = ["Device", "DeviceFactory", "Program", "open_device"]

GROUP = "tessera_runtime.devices"


class Program(Protocol):
    """A target's code, loaded on a device. `run` may be called from several threads at once."""

    def run(self, instance: Instance, arrays: Sequence[NDArray[Any] | None], scalars: Mapping[str, int]) -> None:
        """Run a plan. `arrays[i]` is the contiguous host array of plan buffer i, None for constants and temporaries;
        those that the plan writes are updated. `scalars` are the bits of scalar inputs, by name."""


class Device(Protocol):
    """A place that runs plans."""

    name: str

    def select(self, manifest: Manifest) -> Target:
        """The target to run here; E902 or E904 when there is none."""

    def load(self, file: BundleFile, target: Target) -> Program:
        """Load a target's code, verified."""


DeviceFactory = Callable[[str, "int | None"], Device]


def open_device(name: str, threads: int | None = None) -> Device:
    """The device called `cpu`, `cpu:TARGET`, `cuda`, `cuda:N`, or a plug-in; E901 or E903."""
    kind, colon, rest = name.partition(":")
    if kind == "cpu" and bool(colon) == bool(rest):
        from tessera_runtime.devices.cpu import CpuDevice

        return CpuDevice(threads, target=rest)
    if kind == "cuda" and (not rest or (rest.isascii() and rest.isdigit() and len(rest) < 5)):
        from tessera_runtime.devices.cuda import open_cuda

        return open_cuda(int(rest or 0))
    from importlib.metadata import entry_points

    plugins = {entry.name: entry for entry in entry_points(group=GROUP)}
    if kind not in plugins:
        known = ", ".join(["cpu[:TARGET]", "cuda[:N]", *(f"{plugin}[:TARGET]" for plugin in sorted(plugins))])
        raise DeviceError("E901", f"there is no device '{name[:40]}'", help=f"known: {known}")
    try:
        factory: DeviceFactory = plugins[kind].load()
    except TesseraError:
        raise
    except Exception as error:
        raise DeviceError("E903", f"the device plug-in '{kind}' does not load: {error}") from error
    return factory(rest, threads)

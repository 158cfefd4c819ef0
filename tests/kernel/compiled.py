"""Kernels compiled for this machine and for the emulated GPU, each once."""

from __future__ import annotations

from functools import cache
from typing import Any

from tessera_runtime import load as load_bundle
from tesseracc.arch.arch import load
from tesseracc.driver import Build, host_level
from tesseracc.emulator_device import EmulatorDevice
from tesseracc.frontend.kernel import lower


@cache
def compiled(kernel: Any) -> tuple[Any, Any]:
    """The kernel as a function of a native bundle, and as one of a bundle on the emulator."""
    module = lower(kernel.definition)
    native = load_bundle(Build(module, [host_level()]).bundle(), threads=2)
    emulated = load_bundle(Build(module, [load("sm_90")]).bundle(), device=EmulatorDevice())
    return native[kernel.name], emulated[kernel.name]

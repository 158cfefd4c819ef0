"""`tesseracc build --emit c`: a shared library with a C interface instead of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tessera_runtime.core.errors import UsageError

if TYPE_CHECKING:
    from tesseracc.driver import Build
    from tesseracc.native.library import Library

__all__ = ["emit_c"]


def emit_c(build: Build, file: str, output: str | None, chosen: bool) -> list[str]:
    """Write lib<stem>.so, <stem>.h and example.c into the folder `output` (default <stem>_c); their paths.

    `chosen` tells that --arch was given: one CPU target or GPUs then, else it is the most modest CPU of this machine.
    """
    from tesseracc.native.library import name_of
    from tesseracc.textio import write_bytes, write_text

    stem = name_of(Path(file).stem)
    made = _gpu(build, stem) if chosen and all(a.kind == "cuda" for a in build.archs) else _cpu(build, stem, chosen)
    folder = Path(output) if output is not None else Path(file).with_name(f"{stem}_c")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError("E803", f"cannot write {folder}: {error.strerror}") from None
    paths = [folder / f"lib{stem}.so", folder / f"{stem}.h", folder / "example.c"]
    write_bytes(paths[0], made.image)
    write_text(paths[1], made.header)
    write_text(paths[2], made.example)
    return [str(path) for path in paths]


def _gpu(build: Build, stem: str) -> Library:
    """For all GPUs asked for, called from a CPU of this machine's kind."""
    from tessera_runtime.devices.cpu import machine
    from tesseracc.arch.arch import resolve
    from tesseracc.codegen.image import Image
    from tesseracc.native.gpu_library import gpu_library
    from tesseracc.provenance import compiler

    host = min((a for a in resolve(["cpu"]) if a.toolchain.machine == machine()), key=lambda a: a.preference)
    targets = [
        (build.target(image.arch), build.tile(image.arch), image) for image in build.images if isinstance(image, Image)
    ]
    names = ", ".join(arch.name for arch in build.archs)
    return gpu_library(stem, targets, host, f"tesseracc {compiler()} for {names}")


def _cpu(build: Build, stem: str, chosen: bool) -> Library:
    from tessera_runtime.devices.cpu import machine
    from tesseracc.native.library import library
    from tesseracc.provenance import compiler

    fitting = sorted(
        (arch for arch in build.archs if arch.kind == "cpu" and (chosen or arch.toolchain.machine == machine())),
        key=lambda arch: arch.preference,
    )
    if not fitting or (chosen and len(build.archs) != 1):
        raise UsageError("E801", "--emit c is for one CPU target, or for GPUs",
                         help="give one --arch, or several GPUs, or none for the baseline")  # fmt: skip
    arch = fitting[0]
    return library(stem, build.target(arch), build.tile(arch), arch, f"tesseracc {compiler()} for {arch.name}")

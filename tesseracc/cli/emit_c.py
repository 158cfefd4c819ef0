"""`tesseracc build --emit c`: a shared library with a C interface instead of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tessera_runtime.core.errors import UsageError

if TYPE_CHECKING:
    from tesseracc.driver import Build

__all__ = ["emit_c"]


def emit_c(build: Build, file: str, output: str | None, chosen: bool) -> list[str]:
    """Write lib<stem>.so, <stem>.h and example.c into the folder `output` (default <stem>_c); their paths.

    `chosen` tells that --arch was given: it must be one CPU target then, else it is the most modest for this machine.
    """
    from tessera_runtime.devices.cpu import machine
    from tesseracc.native.library import library
    from tesseracc.provenance import compiler
    from tesseracc.textio import write_bytes, write_text

    stem = Path(file).stem
    fitting = sorted(
        (arch for arch in build.archs if arch.kind == "cpu" and (chosen or arch.toolchain.machine == machine())),
        key=lambda arch: arch.preference,
    )
    if not fitting or (chosen and len(build.archs) != 1):
        raise UsageError("E801", "--emit c is for one CPU target", help="give one --arch, or none for the baseline")
    arch = fitting[0]
    made = library(stem, build.target(arch), build.tile(arch), arch, f"tesseracc {compiler()} for {arch.name}")
    folder = Path(output) if output else Path(file).with_name(f"{stem}_c")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError("E803", f"cannot write {folder}: {error.strerror}") from None
    paths = [folder / f"lib{stem}.so", folder / f"{stem}.h", folder / "example.c"]
    write_bytes(paths[0], made.image)
    write_text(paths[1], made.header)
    write_text(paths[2], made.example)
    return [str(path) for path in paths]

"""`--dump-dir`: the IR after every pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tesseracc.ir.value import Module

    Observer = Callable[[str, str, Module], None]

__all__ = ["dumper"]


def dumper(folder: str, module: Module) -> Observer:
    """Writes `NN.level.pass.tir` after every pass, and the constants once."""
    from tessera_runtime.core.errors import UsageError
    from tesseracc.ir.printer import module_text
    from tesseracc.textio import constants_bytes, write_bytes, write_text

    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError("E803", f"cannot write {folder}: {error.strerror}") from None
    if module.constants:
        write_bytes(path / "constants.safetensors", constants_bytes(module.constants))
    write_text(path / "00.front.tir", module_text(module, locations=True))
    count = [0]

    def observe(level: str, name: str, after: Module) -> None:
        count[0] += 1
        write_text(path / f"{count[0]:02d}.{level}.{name}.tir", module_text(after, locations=True))

    return observe

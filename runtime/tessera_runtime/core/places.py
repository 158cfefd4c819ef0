"""Where the kernels of a target come from in the source, as people are told."""

from __future__ import annotations

from collections.abc import Collection

from tessera_runtime.core.manifest import Kernel

__all__ = ["place", "place_of"]


def place(kernel: Kernel) -> str:
    """All lines of a kernel: `model.py:12`, `model.py:12,15-17`, `model.py:12 layers.py:40`; empty if not known."""
    if kernel.source is None:
        return ""
    lines: dict[str, dict[int, None]] = {kernel.source.file: {}}
    for part in kernel.parts or (kernel.source,):
        lines.setdefault(part.file, {})[part.line] = None
    return " ".join(f"{file}:{_ranges(sorted(found))}" for file, found in lines.items() if found)


def _ranges(numbers: list[int]) -> str:
    ends: list[list[int]] = []
    for number in numbers:
        if ends and number == ends[-1][1] + 1:
            ends[-1][1] = number
        else:
            ends.append([number, number])
    return ",".join(f"{low}-{high}" if low < high else str(low) for low, high in ends)


def place_of(kernel: Kernel, written: Collection[int]) -> str:
    """The line whose result is the first of these parameters by line; that of the whole kernel if none is known."""
    found = [(part.file, part.line) for part in kernel.parts if not set(part.params).isdisjoint(written)]
    return "{}:{}".format(*min(found)) if found else place(kernel)

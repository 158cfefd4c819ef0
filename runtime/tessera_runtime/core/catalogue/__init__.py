"""The one catalogue of error and warning codes. Every code raised anywhere has an entry here; keep each range sorted.

Ranges: E1xx loading and parsing a module; E2xx kernel language; E3xx shapes, dtypes and operators at trace time
(`language`). E4xx IR text, verifier, passes; E5xx toolchain (`compiler`). E6xx bundle (`bundle`). E7xx inputs and
guards; E8xx command line and files; E9xx devices, execution, emulator findings (`running`). Warnings are Wxyz in the
same ranges.
"""

from __future__ import annotations

from tessera_runtime.core.catalogue import bundle, compiler, language, running
from tessera_runtime.core.catalogue.entry import Entry
from tessera_runtime.core.exitcodes import Exit

__all__ = ["CATALOGUE", "Entry", "exit_code_of"]

# The exit code of a code's range, for codes without an entry of their own.
_RANGE_EXIT = {
    "1": Exit.SOURCE, "2": Exit.SOURCE, "3": Exit.SOURCE, "4": Exit.SOURCE, "5": Exit.TOOLCHAIN,
    "6": Exit.BUNDLE, "7": Exit.INPUT, "8": Exit.USAGE, "9": Exit.DEVICE,
}  # fmt: skip

CATALOGUE: dict[str, Entry] = {
    entry.code: entry for part in (language, compiler, bundle, running) for entry in part.ENTRIES
}


def exit_code_of(code: str) -> int:
    """The exit code that an error of this code leads to; internal error (70) for a code of no known range."""
    entry = CATALOGUE.get(code)
    if entry is not None:
        return entry.exit_code
    return int(_RANGE_EXIT.get(code[1:2], Exit.INTERNAL))

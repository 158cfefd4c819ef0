"""tesseracc: the ahead-of-time compiler for Tessera programs."""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers know it: the entry point imports this, and as little as can be with it

if TYPE_CHECKING:
    from typing import Any


def __getattr__(name: str) -> Any:
    # the language takes a fifth of a second to import, which `tesseracc --help` does without
    if name == "__version__":
        import tessera

        return tessera.__version__
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

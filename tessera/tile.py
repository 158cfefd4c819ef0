"""`ts.tile`: the words of the kernel language. They have a meaning inside a @ts.kernel only, where they are parsed."""

from __future__ import annotations

from typing import Any

from tessera.errors import SourceError, did_you_mean


def __getattr__(name: str) -> Any:
    """A stand-in for any word, which says where it belongs when it is called. Unknown words raise AttributeError."""
    from tessera.kernel.vocabulary import TILE

    if name.startswith("_") or name not in TILE:
        raise AttributeError(f"ts.tile has no `{name}`; {did_you_mean(name, TILE) or 'see specs/kernel.md'}")

    def word(*args: Any, **kwargs: Any) -> Any:
        raise SourceError("E319", f"ts.tile.{name} is used outside a kernel", help="mark the function with @ts.kernel")

    return word

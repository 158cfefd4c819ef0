"""Python values that are part of what is compiled: what tells them apart, and how a recipe spells them."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Hashable, Mapping

__all__ = ["identity", "spelled"]


class _Itself:
    """An object that is equal to itself alone, and that stays as long as this does: nothing else gets its address."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


def identity(value: object) -> Hashable:
    """Equal for values that one compilation serves: containers by what they hold, other objects by their own equality
    if they can be hashed, else by being the same object."""
    kind = type(value)
    if isinstance(value, (list, tuple)):
        return kind, tuple(map(identity, value))
    if isinstance(value, Mapping):
        return kind, tuple((identity(k), identity(v)) for k, v in value.items())
    if isinstance(value, (set, frozenset)):
        return kind, frozenset(map(identity, value))
    if isinstance(value, (float, complex)):  # -0.0 is not 0.0 here, and nan is nan
        return kind, repr(value)
    if dataclasses.is_dataclass(value) and kind.__hash__ is None:
        return kind, tuple(identity(getattr(value, f.name)) for f in dataclasses.fields(value))
    try:
        hash(value)
    except TypeError:
        return kind, _Itself(value)
    return kind, value


def spelled(value: object) -> str:
    """The value as text that is the same in every process: literals, containers and records of them; else its type."""
    kind = type(value)
    if isinstance(value, enum.Enum):
        return f"{kind.__qualname__}.{value.name}"
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        inside = ", ".join(map(spelled, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' if len(value) == 1 else ''})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{spelled(k)}: {spelled(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (set, frozenset)):
        return "{" + ", ".join(sorted(map(spelled, value))) + "}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        shown = (f"{f.name}={spelled(getattr(value, f.name))}" for f in dataclasses.fields(value))
        return f"{kind.__qualname__}({', '.join(shown)})"
    named = value if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")) else kind
    return f"<{getattr(named, '__qualname__', kind.__qualname__)}>"

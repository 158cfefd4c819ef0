"""Reading checked data: every field of a mapping is taken once, with its type."""

from __future__ import annotations

from typing import Any, get_args

from tessera_runtime.core.errors import TesseraError

__all__ = ["Fields", "invalid"]


def invalid(name: str, what: str) -> TesseraError:
    """The error for a file that says what it may not."""
    return TesseraError("E501", f"arch/{name}.yaml: {what}", help="this is a fault of the compiler's own data")


class Fields:
    """A mapping whose keys are each taken once; what is left over, or missing, is an error that names it."""

    def __init__(self, file: str, where: str, data: Any) -> None:
        if not isinstance(data, dict):
            raise invalid(file, f"{where or 'the file'} is not a mapping")
        self.file, self.where, self.data = file, where, dict(data)

    def take(self, key: str, kind: type, default: Any = None) -> Any:
        """The value of a field, of a type."""
        value = self.data.pop(key, default)
        if kind is float and isinstance(value, int):
            value = float(value)
        if type(value) is not kind:
            raise invalid(self.file, f"{self.where}{key} is missing or not a {kind.__name__}")
        return value

    def choice(self, key: str, alternatives: Any) -> Any:
        """A field that is one of the words of a Literal."""
        value = self.take(key, str)
        if value not in get_args(alternatives):
            raise invalid(self.file, f"{self.where}{key} is {value}, not one of {', '.join(get_args(alternatives))}")
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        """A field that is a list of distinct names; none where it is missing."""
        value = self.take(key, list, [])
        if not all(isinstance(item, str) for item in value) or len(set(value)) != len(value):
            raise invalid(self.file, f"{self.where}{key} is not a list of distinct names")
        return tuple(value)

    def inner(self, key: str) -> Fields:
        """A field that is a mapping."""
        return Fields(self.file, f"{self.where}{key}.", self.take(key, dict))

    def done(self) -> None:
        """Nothing is left."""
        if self.data:
            raise invalid(self.file, f"{self.where}{min(self.data)} is not a field")

"""The base of every error of the project: a stable code, a message, an optional help line, an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tessera_runtime.core.catalogue import CATALOGUE, exit_code_of

__all__ = ["BundleError", "DeviceError", "InputError", "TesseraError", "UsageError", "about"]


class TesseraError(Exception):
    """An error that a user can act on.

    `code` is a key of the catalogue (`E611`), `message` one sentence without the code, `help` what to do about it.
    `file` is the path of the bundle that it is about, where it is about one that has a path.
    """

    file: str | None = None

    def __init__(self, code: str, message: str, *, help: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.help = help

    @property
    def title(self) -> str:
        """The catalogue's short title of this code."""
        entry = CATALOGUE.get(self.code)
        return entry.title if entry is not None else "error"

    @property
    def exit_code(self) -> int:
        """The exit code of a process that ends with this error."""
        return exit_code_of(self.code)

    def to_json(self) -> dict[str, object]:
        """A JSON object: code, title, message, help, exit_code; `file` where it is known. Subclasses add fields."""
        named = {} if self.file is None else {"file": self.file}
        return {
            "code": self.code,
            "title": self.title,
            "message": self.message,
            "help": self.help,
            "exit_code": self.exit_code,
            **named,
        }

    def render(self) -> str:
        """Text for a terminal: `error[E611]: message`, then the help line."""
        kind = "warning" if self.code.startswith("W") else "error"
        text = f"{kind}[{self.code}]: {self.message}"
        return text if self.help is None else f"{text}\n  help: {self.help}"

    def __str__(self) -> str:
        return self.render()


class BundleError(TesseraError):
    """E6xx: the bundle is truncated, altered, malformed or of another version."""

    def to_json(self) -> dict[str, object]:
        """Those of every error, and `file`, null for bytes."""
        return {**super().to_json(), "file": self.file}


@contextmanager
def about(file: str | None, *others: type[TesseraError]) -> Iterator[None]:
    """Bundle errors that arise inside, and those of the `others`, name this file, unless they name one already."""
    try:
        yield
    except TesseraError as error:
        if isinstance(error, (BundleError, *others)) and error.file is None and file is not None:
            error.file, error.message = file, f"{file}: {error.message}"
        raise


class InputError(TesseraError):
    """E7xx: an input does not satisfy the function's signature or guards."""


class UsageError(TesseraError):
    """E8xx: the command line or a file named on it."""


class DeviceError(TesseraError):
    """E9xx: a device is missing, unsuitable, or failed."""

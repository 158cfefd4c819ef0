"""What a tool remarked although it succeeded: never dropped, never printed behind the caller's back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tessera_runtime.core.errors import TesseraError

__all__ = ["Finding", "report"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One remark about `subject` (a kernel or module). An `E...` code fails a build, a `W...` code is shown."""

    code: str
    subject: str
    text: str

    @property
    def is_error(self) -> bool:
        """Whether a build with this finding fails."""
        return self.code.startswith("E")

    def error(self) -> TesseraError:
        """The finding as an exception, also the way to render it."""
        return TesseraError(self.code, f"{self.subject}: {self.text}")


def report(found: Iterable[Finding], sink: list[Finding] | None) -> None:
    """Hand findings to the caller's list. A caller that gave none has nobody to show them to: the first is raised."""
    for finding in found:
        if sink is None:
            raise finding.error()
        sink.append(finding)

"""What the emulator reports: findings with a code, the PTX line and the source line, and the errors it raises."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tessera_runtime.core.errors import TesseraError

if TYPE_CHECKING:
    from tesseracc.emulator.counters import Counters
    from tesseracc.emulator.ptx import Instruction

__all__ = ["EmulatorError", "Finding", "FindingLog", "Report", "StopLaunch"]

OUT_OF_BOUNDS = "E951"
MISALIGNED = "E952"
UNINITIALISED = "E953"
DIVERGENT_BARRIER = "E954"
SHARED_RACE = "E955"
GLOBAL_RACE = "E956"
DEADLOCK = "E957"
STEP_LIMIT = "E958"
ASYNC_HAZARD = "E959"
BAD_STATE = "E960"
PROXY_FENCE = "E961"


class EmulatorError(TesseraError):
    """The PTX cannot be parsed or run: E940 syntax, E941 unknown instruction, E942 launch arguments, E943 memory."""

    def __init__(self, code: str, message: str, *, line: int | None = None, help: str | None = None) -> None:
        super().__init__(code, message if line is None else f"PTX line {line}: {message}", help=help)
        self.line = line


class StopLaunch(Exception):
    """Raised inside the machine after a finding that leaves nothing sensible to execute."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One defect of the program: where (PTX line, source `file:line`), who (CTA and thread), and the other access."""

    code: str
    message: str
    ptx_line: int
    source: str | None = None
    other_line: int | None = None
    other_source: str | None = None
    count: int = 1

    def render(self) -> str:
        """One or two lines of text."""
        where = f"PTX line {self.ptx_line}" + (f", {self.source}" if self.source else "")
        text = f"{self.code}: {self.message} ({where})"
        if self.other_line is not None:
            other = f"PTX line {self.other_line}" + (f", {self.other_source}" if self.other_source else "")
            text += f"\n  other access: {other}"
        return text if self.count == 1 else f"{text}\n  {self.count} times"

    def to_json(self) -> dict[str, object]:
        """The fields as a JSON object."""
        return {
            "code": self.code, "message": self.message, "ptx_line": self.ptx_line, "source": self.source,
            "other_line": self.other_line, "other_source": self.other_source, "count": self.count,
        }  # fmt: skip


@dataclass(slots=True)
class FindingLog:
    """Findings of a launch, one per (code, instruction, other instruction); repetitions only count.

    `halt`: the first one ends the launch.
    """

    halt: bool = False
    found: dict[tuple[str, int, int | None], Finding] = field(default_factory=dict)

    def add(self, code: str, message: str, at: Instruction, other: Instruction | None = None, count: int = 1) -> None:
        """Record a defect of instruction `at`; `other` is the access it conflicts with."""
        key = (code, at.index, None if other is None else other.index)
        old = self.found.get(key)
        if old is not None:
            message, count = old.message, old.count + count
        self.found[key] = Finding(
            code, message, at.line, str(at.loc) if at.loc else None,
            None if other is None else other.line, str(other.loc) if other is not None and other.loc else None, count,
        )  # fmt: skip
        if self.halt:
            raise StopLaunch


@dataclass(slots=True)
class Report:
    """The outcome of a launch: findings in order of discovery, counters, and what the kernel printed."""

    findings: list[Finding]
    counters: Counters
    printed: str = ""

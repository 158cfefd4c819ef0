"""The entry point of `tesseracc`. It imports nothing by itself, so that Ctrl-C has its exit code from the start."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tessera_runtime.core.errors import TesseraError


def main(argv: list[str] | None = None) -> None:
    """Runs a subcommand, and turns every failure into a message and a documented exit code."""
    args = sys.argv[1:] if argv is None else argv
    try:
        from tessera_runtime.core.command import run

        def work() -> int:
            from tesseracc.cli import group

            return group.work(args)

        code = run(work, as_json="--json" in args, whose="compiler", parts=_parts, render=_render)
    except KeyboardInterrupt:  # before there was anything to run
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)


def _parts(error: TesseraError) -> Sequence[TesseraError]:
    from tessera.errors import each_error

    return each_error(error)


def _render(error: TesseraError) -> str:
    from tessera.errors import render

    return render(error)

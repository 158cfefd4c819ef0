"""The entry point of `tesseracc`. It imports nothing by itself, so that Ctrl-C has its exit code from the start."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as type checkers know it; typing takes longer to import than all of this

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from tessera_runtime.core.errors import TesseraError


def main(argv: list[str] | None = None) -> None:
    """Runs a subcommand, and turns every failure into a message and a documented exit code."""
    try:
        args = sys.argv[1:] if argv is None else argv
        from tessera_runtime.core.command import INTERRUPTED, end_at_next, run

        def work() -> int:
            from tesseracc.cli import group

            return group.work(args)

        code = run(work, as_json="--json" in args, whose="compiler", parts=_parts, render=_render)
        if argv is None:  # the process ends with it
            end_at_next(b"" if code == INTERRUPTED else b"interrupted\n")
    except KeyboardInterrupt:  # before there was anything to run, or behind it
        import os

        try:
            os.write(2, b"interrupted\n")
        finally:
            os._exit(130)
    sys.exit(code)


def _parts(error: TesseraError) -> Sequence[TesseraError]:
    errors = _language()
    return (error,) if errors is None else errors.each_error(error)


def _render(error: TesseraError) -> str:
    errors = _language()
    return error.render() if errors is None else errors.render(error)


def _language() -> Any:
    """What shows errors of a program. They come from it, so where nothing has loaded it there is none; and loading it
    now may fail, where memory has run out."""
    return sys.modules.get("tessera.errors")

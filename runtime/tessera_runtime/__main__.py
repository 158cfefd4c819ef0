"""The entry point of `tessera-run` and of `python -m tessera_runtime`.

It imports nothing by itself, and all the rest inside of the guard, so that Ctrl-C has its exit code from the start.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers know it; typing takes longer to import than all of this

if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["command"]


def command() -> NoReturn:
    """The command `tessera-run`: never returns, never lets an exception out."""
    try:
        from tessera_runtime.cli import command

        command()
    except KeyboardInterrupt:  # before there was anything to run, or behind it
        import os

        try:
            os.write(2, b"interrupted\n")
        finally:
            os._exit(130)


if __name__ == "__main__":
    command()

"""Code of the user that runs inside the compiler: what it prints, and what it raises, as errors at the user's line."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import tessera
import tessera_runtime
import tesseracc
from tessera.errors import Call, SourceError, Span, characters, did_you_mean
from tessera_runtime.core.errors import TesseraError
from tessera_runtime.core.numbers import short
from tesseracc import descriptors

_OURS = tuple(
    os.path.join(os.path.dirname(os.path.abspath(str(package.__file__))), "")
    for package in (tessera, tesseracc, tessera_runtime)
)
LONGEST = 2000  # characters of an exception's own words
_INSTALLED = f"{os.sep}site-packages{os.sep}"


class _Lent(io.TextIOBase):
    """The compiler's stderr, lent to the user's code: it cannot be closed."""

    def __init__(self, owned: Any) -> None:
        self.owned = owned

    def __getattr__(self, name: str) -> Any:
        return getattr(self.owned, name)

    def write(self, text: str) -> int:
        return int(self.owned.write(text))

    def flush(self) -> None:
        self.owned.flush()

    def fileno(self) -> int:
        return int(self.owned.fileno())

    def isatty(self) -> bool:
        return bool(self.owned.isatty())

    def close(self) -> None:
        """The compiler goes on writing."""


@contextmanager
def user_code(file: Path, code: str, name: str) -> Iterator[None]:
    """Around code of the user in `file`: whatever it raises becomes a SourceError.

    `code` is for its own exceptions; `name` says what runs ("the module"). An error of the project that has no place
    yet gets one. What the code prints goes to stderr: stdout is for results. Ctrl-C passes. Descriptors of the compiler
    that it closed are an error too, whatever else it did.
    """
    streams, gone = descriptors.Streams(), descriptors.lost()
    try:
        with _coded(file, code, name):
            yield
    finally:
        closed = [*streams.restore(), *sorted(descriptors.lost() - gone)]
        if closed:
            shown = f"{', '.join(map(str, closed[:8]))}{', ..' if len(closed) > 8 else ''}"
            raise SourceError(
                code, f"{name} closes file descriptors that it did not open: {shown}", span=Span(str(file), 1),
                help="leave descriptors alone that others opened: os.close and os.closerange spare none",
            )  # fmt: skip


@contextmanager
def _coded(file: Path, code: str, name: str) -> Iterator[None]:
    """What `user_code` does about exceptions."""
    lent, depth = _Lent(sys.stderr), sys.getrecursionlimit()
    try:
        with redirect_stdout(lent), redirect_stderr(lent):
            yield
    except SourceError as error:
        if error.span is None:
            calls = _calls(error, file)
            error.at(_place(calls, file), calls)
        raise
    except TesseraError as error:
        calls = _calls(error, file)
        raise SourceError(
            error.code, error.message, help=error.help, span=_place(calls, file), calls=calls
        ) from error
    except KeyboardInterrupt:
        raise
    except SystemExit as error:
        calls = _calls(error, file)
        raise SourceError(code, f"{name} ends the process", span=_place(calls, file), calls=calls) from None
    except AssertionError as error:
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        if os.path.abspath(last).startswith(_OURS):
            raise  # a fault of the compiler
        raise user_error(error, file, code) from error
    except BaseException as error:
        raise user_error(error, file, code) from error
    finally:
        sys.setrecursionlimit(max(depth, sys.getrecursionlimit()))  # what it leaves is the compiler's too


def user_error(error: BaseException, file: Path, code: str) -> SourceError:
    """An error with the code, at the innermost line that stands in the folder of `file`; E102 for a failed import."""
    calls = _calls(error, file)
    span = _place(calls, file)
    if isinstance(error, ImportError):
        alone = "no known parent package" in str(error)
        help = "a folder is a package when it holds an `__init__.py`" if alone else None
        return SourceError("E102", f"an import fails: {error}", span=span, calls=calls, help=help)
    known: list[str] = []
    name = getattr(error, "name", None)
    if isinstance(error, AttributeError) and name and error.obj is not None:
        known = dir(error.obj)
    elif isinstance(error, NameError) and name and error.__traceback__ is not None:
        last = error.__traceback__
        while last.tb_next is not None:
            last = last.tb_next
        known = [*last.tb_frame.f_locals, *last.tb_frame.f_globals]
    if isinstance(error, AttributeError) and error.obj is tessera:
        help = _spelling(str(name))
    else:
        help = did_you_mean(str(name), known) if known else None
    return SourceError(code, _summary(error), span=span, calls=calls, help=help)


def _spelling(name: str) -> str | None:
    """The public function of that name, in `ts` or one of its modules, else the nearest."""
    from difflib import get_close_matches  # a slow import, needed for errors only

    spaces = {"ts": tessera, **{f"ts.{part}": getattr(tessera, part) for part in ("nn", "random", "optim")}}
    known = {
        f"{space}.{word}": word for space, module in spaces.items()
        for word in getattr(module, "__all__", dir(module)) if not word.startswith("_")
    }  # fmt: skip
    same = [full for full, word in known.items() if word == name]
    if same:
        return f"use {same[0]}"
    near = get_close_matches(name, sorted(known.values()), n=1, cutoff=0.6)
    return f"did you mean `{next(full for full, word in known.items() if word == near[0])}`?" if near else None


def _summary(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # the user's own __str__
        text = ""
    return f"{type(error).__name__}: {short(text, LONGEST)}" if text else type(error).__name__


def _calls(error: BaseException, file: Path) -> tuple[Call, ...]:
    """The frames that stand in the folder of `file`, innermost first; not those of packages installed in there."""
    inside = os.path.join(file.absolute().parent, "")
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.startswith(inside)
        and not frame.filename.startswith(_OURS)
        and _INSTALLED not in frame.filename
    ]
    return tuple(Call(frame.name, _span_of(frame)) for frame in reversed(frames))


def _place(calls: tuple[Call, ...], file: Path) -> Span:
    return calls[0].span if calls else Span(str(file), 1)


def _span_of(frame: traceback.FrameSummary) -> Span:
    """The place of a frame; Python 3.10 knows the line only. Python counts bytes, a Span characters."""
    line = frame.lineno or 1
    col, end_line, end_col = (getattr(frame, name, None) or 0 for name in ("colno", "end_lineno", "end_colno"))
    start = characters(frame.filename, line, col)
    return Span(frame.filename, line, start, end_line, characters(frame.filename, end_line, end_col))

"""`tessera-run`: runs a function of a bundle and shows, stores or compares its results."""

from __future__ import annotations

import argparse
import atexit
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from tessera_runtime.core.command import run
from tessera_runtime.core.errors import UsageError
from tessera_runtime.core.numbers import integer, real
from tessera_runtime.core.streams import Unread, flush

__all__ = ["command", "main"]

_EXAMPLES = """\
inputs:
  x=@x.npy  x=@f.npz:key  x=@f.safetensors:key   from a file
  x=4x64xf32=1  x=2x2xf32=[[1 2][3 4]]           every element, or all elements
  x=randn:4x64xbf16                              normal samples, fixed by --seed
  alpha=3.5                                      a scalar

examples:
  tessera-run m.tsb                                        run the embedded tests, or show the functions
  tessera-run m.tsb --validate --device cuda:0             run the embedded tests (tesseracc build --embed-tests)
  tessera-run m.tsb --function mlp --input x=randn:4x64xf32
  tessera-run m.tsb --input x=@x.npy --output out=@y.npy
  tessera-run m.tsb --input x=@x.npy --expected out=@y.npy --rtol 1e-5
  tessera-run m.tsb --function mlp --input x=randn:4x64xf32 --profile trace.json
  tessera-run train.tsb --function step --repeat 500 --state s.safetensors --log loss.csv
  tessera-run train.tsb --function step --init init --profile trace.json
  tessera-run m.tsb --device cuda:0 --bisect --function mlp --input x=@x.npy   the first step that differs from the CPU

exit codes: 0 ok, 1 result mismatch, 2 usage, 5 bundle invalid, 6 device, 7 input or guard, 70 internal error,
130 interrupted
"""


_CALLS = 10**9  # of --repeat and --benchmark


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError("E801", message, help="see tessera-run --help")


def _whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """The type of an option that takes an integer."""

    def read(text: str) -> int:
        try:
            return integer(text, low, high)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def _bound(text: str) -> float:
    """The type of an option that takes a tolerance."""
    try:
        value = real(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not finite and not negative")
    return value


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """argparse makes one for every option, and imports shutil and all its compressors to learn the terminal's width."""

    def __init__(self, prog: str) -> None:
        try:
            width = os.get_terminal_size().columns
        except OSError:
            given = os.environ.get("COLUMNS", "")
            width = int(given) if given.isascii() and given.isdigit() else 80
        super().__init__(prog, width=max(width - 2, 40))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = _Parser(
        prog="tessera-run", description="Run a function of a Tessera bundle.", epilog=_EXAMPLES, allow_abbrev=False,
        formatter_class=_Formatter,
    )  # fmt: skip
    p.add_argument("bundle", help="the bundle, a .tsb file")
    p.add_argument("--function", metavar="NAME", help="which function; may be left out when there is one")
    p.add_argument("--input", metavar="SPEC", action="append", default=[], help="an input, as NAME=VALUE or in order")
    p.add_argument(
        "--output", metavar="NAME=@FILE", action="append", default=[], help="store a result as .npy or .safetensors"
    )
    p.add_argument(
        "--expected", metavar="NAME=VALUE", action="append", default=[], help="compare a result; VALUE as for --input"
    )
    p.add_argument("--atol", type=_bound, help="absolute tolerance for floats (--expected: 1e-6)")
    p.add_argument("--rtol", type=_bound, help="relative tolerance for floats (--expected: 1e-5)")
    p.add_argument("--seed", type=_whole(0, 2**32 - 1), default=0, help="seed of randn: inputs (default 0)")
    p.add_argument("--device", default="cpu", help="cpu, cpu:TARGET, cuda:N, emulator or emulator:TARGET (default cpu)")
    p.add_argument("--threads", type=_whole(1, 4096), metavar="N", help="CPU threads (default: all)")
    p.add_argument(
        "--benchmark", type=_whole(1, _CALLS), nargs="?", const=0, metavar="N",
        help="time N calls (default: about one second)",
    )  # fmt: skip
    p.add_argument(
        "--repeat", type=_whole(1, _CALLS), metavar="N",
        help="call the function N times; what it updates goes into the next call",
    )  # fmt: skip
    p.add_argument(
        "--state", metavar="FILE",
        help="where the state lies, a .safetensors file: read if it exists, then written (where nothing is measured)",
    )  # fmt: skip
    p.add_argument("--init", metavar="NAME", help="the function that makes the first state (default: init)")
    p.add_argument("--save-every", type=_whole(1, _CALLS), metavar="K", help="write the state after every K calls too")
    p.add_argument("--log", metavar="FILE", help="write the scalar results of every call as CSV")
    p.add_argument(
        "--profile", metavar="FILE",
        help="time every kernel over 10 calls, or those of --benchmark: a table, and a Chrome trace in FILE",
    )  # fmt: skip
    p.add_argument("--counters", action="store_true", help="show what the kernels did (device emulator)")
    p.add_argument("--list", action="store_true", help="show functions and targets, run nothing")
    p.add_argument(
        "--validate", action="store_true", help="run the embedded tests on the device; exit code 1 if one fails"
    )
    p.add_argument(
        "--bisect", action="store_true", help="find the first step that differs from a reference; then exit code 1"
    )
    p.add_argument(
        "--reference", metavar="R", help="of --bisect: a device (cpu:x86-64-v2, emulator) or another build's .tsb"
    )
    p.add_argument(
        "--verify", action="store_true", help="verify every byte of the bundle, weights included, before anything else"
    )
    p.add_argument(
        "--require-signature", metavar="KEY", action="append", default=[],
        help="refuse the bundle unless this public key, or one in this folder, signed it; repeats, all must be met",
    )  # fmt: skip
    p.add_argument(
        "--weights", metavar="FOLDER", help="where the weights are that the bundle does not hold (default: beside it)"
    )
    p.add_argument("--json", action="store_true", help="print one JSON object")
    p.add_argument("--version", action="store_true", help="print the version")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code; never lets an exception out."""
    args = list(sys.argv[1:] if argv is None else argv)
    return run(lambda: _main(args), as_json="--json" in args, whose="runtime")


def _main(args: list[str]) -> int:
    if "--version" in args:
        from tessera_runtime import __version__

        print(f"tessera-run {__version__}")
        return 0
    for text in args:
        if text.startswith("--") and text.endswith("=--"):  # argparse takes it for the end of the options
            raise UsageError("E801", f"argument {text[:-3]}: '--' is no value", help="see tessera-run --help")
    try:
        options = parser().parse_args(args)
    except SystemExit as error:  # --help
        return error.code if isinstance(error.code, int) else 0
    from tessera_runtime.api import load
    from tessera_runtime.run import Runner

    # Inputs and outputs are understood before the bundle is read, so that a slip costs no time.
    runner = Runner(options)
    required = None  # then the environment decides; an option adds to it
    if options.require_signature:
        from tessera_runtime.signature import from_environment

        required = [*from_environment(), *options.require_signature]
    bundle = load(
        options.bundle, options.device, options.threads, verify_weights=options.verify, require_signature=required,
        weights=options.weights,
    )  # fmt: skip
    report, code = runner.run(bundle)
    if options.json:
        print(json.dumps(_told({**report, "exit_code": code}), sort_keys=True, allow_nan=False, default=_plain))
    return code


def _told(value: Any) -> Any:
    """The value for JSON; a float that JSON has no number for is text (`"nan"`, `"inf"`)."""
    if isinstance(value, dict):
        return {key: _told(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_told(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    return str(value)


def command() -> NoReturn:
    """The command `tessera-run`: `main`, and the end of the process.

    What others want done at the end is done, and output is flushed; but the interpreter is not taken apart object by
    object, which takes longer than a short run and frees only what the system frees anyway.
    """
    code = main()
    atexit._run_exitfuncs()
    with suppress(Exception, Unread):  # of stdout main has told it
        flush()
    os._exit(code)


if __name__ == "__main__":
    command()

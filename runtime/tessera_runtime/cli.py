"""`tessera-run`: runs a function of a bundle and shows, stores or compares its results."""

from __future__ import annotations

import argparse
import atexit
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

from tessera_runtime.core.errors import TesseraError, UsageError
from tessera_runtime.core.exitcodes import Exit

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
  tessera-run m.tsb --device cuda:0 --bisect --function mlp --input x=@x.npy   the first step that differs from the CPU

exit codes: 0 ok, 1 result mismatch, 2 usage, 5 bundle invalid, 6 device, 7 input or guard, 70 internal error,
130 interrupted
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError("E801", message, help="see tessera-run --help")


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
    p.add_argument("--atol", type=float, help="absolute tolerance for floats (--expected: 1e-6)")
    p.add_argument("--rtol", type=float, help="relative tolerance for floats (--expected: 1e-5)")
    p.add_argument("--seed", type=int, default=0, help="seed of randn: inputs (default 0)")
    p.add_argument("--device", default="cpu", help="cpu, cpu:TARGET, cuda:N or emulator (default cpu)")
    p.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all)")
    p.add_argument(
        "--benchmark", type=int, nargs="?", const=0, metavar="N", help="time N calls (default: about one second)"
    )
    p.add_argument(
        "--repeat", type=int, metavar="N", help="call the function N times; what it updates goes into the next call"
    )
    p.add_argument(
        "--state", metavar="FILE", help="where the state lies, a .safetensors file: read if it exists, then written"
    )
    p.add_argument("--init", metavar="NAME", help="the function that makes the first state (default: init)")
    p.add_argument("--save-every", type=int, metavar="K", help="write the state after every K calls too")
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
    try:
        code = _main(args)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except TesseraError as error:
        return _fail(args, error.to_json(), error.render(), error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _discard_output()
        return 0
    except SystemExit as error:  # argparse's --help
        return error.code if isinstance(error.code, int) else 0
    except Exception as error:
        if isinstance(error, OSError) and error.filename is None:  # no file of ours: stdout
            _discard_output()
            told = UsageError("E803", f"cannot write to the standard output: {error.strerror or error}")
            return _fail([], {}, told.render(), told.exit_code)
        if os.environ.get("TESSERA_DEBUG"):
            raise
        text, code = f"{type(error).__name__}: {error}", int(Exit.INTERNAL)
        document = {"code": "internal", "message": text, "exit_code": code}
        text = f"internal error: {text}\n  help: this is a fault of the runtime; TESSERA_DEBUG=1 shows where"
        return _fail(args, document, text, code)


def _fail(args: Sequence[str], document: dict[str, Any], text: str, code: int) -> int:
    """Tells an error to programs or to people; the exit code."""
    if "--json" not in args:
        print(text, file=sys.stderr)
        return code
    try:
        print(json.dumps({"errors": [document], "exit_code": code}, sort_keys=True), flush=True)
    except OSError:  # nobody reads it; the exit code still tells
        _discard_output()
    return code


def _discard_output() -> None:
    """What is still to be flushed when the process ends goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _main(args: list[str]) -> int:
    if "--version" in args:
        from tessera_runtime import __version__

        print(f"tessera-run {__version__}")
        return 0
    options = parser().parse_args(args)
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
        print(json.dumps({**report, "exit_code": code}, sort_keys=True, allow_nan=False, default=_plain))
    return code


def _plain(value: Any) -> Any:
    return str(value)


def command() -> NoReturn:
    """The command `tessera-run`: `main`, and the end of the process.

    What others want done at the end is done, and output is flushed; but the interpreter is not taken apart object by
    object, which takes longer than a short run and frees only what the system frees anyway.
    """
    code = main()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # closed before the process began
            with suppress(OSError, ValueError):  # of stdout main has told it
                stream.flush()
    os._exit(code)


if __name__ == "__main__":
    command()

"""`tesseracc emulate`: run a kernel of a PTX file on arrays, print findings and counters. No CLI library in here."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tessera_runtime.core.errors import UsageError
from tessera_runtime.core.files import write_atomic
from tesseracc.emulator.findings import EmulatorError, Report
from tesseracc.emulator.launch import launch
from tesseracc.emulator.parser import parse_ptx
from tesseracc.emulator.types import Array

__all__ = ["emulate", "parse_argument", "parse_dims"]

_SCALARS: dict[str, Any] = {
    "i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64, "u8": np.uint8, "u16": np.uint16,
    "u32": np.uint32, "u64": np.uint64, "f16": np.float16, "f32": np.float32, "f64": np.float64,
}  # fmt: skip


def parse_dims(text: str) -> tuple[int, int, int]:
    """`2,1,1` (or `2`) as three positive integers. E942 otherwise."""
    try:
        values = [int(part, 0) for part in text.split(",")]
    except ValueError:
        values = []
    if not 1 <= len(values) <= 3 or min(values) < 1:
        raise EmulatorError("E942", f"`{text}` is not one to three positive integers such as 2,1,1")
    x, y, z = (*values, 1, 1)[:3]
    return x, y, z


def parse_argument(text: str) -> Any:
    """`@x.npy`: a buffer; `i32=201`, `f32=1.5`: a scalar; `hex=00ff..`: raw bytes of a by-value parameter."""
    if text.startswith("@"):
        return _load(text[1:])
    kind, _, value = text.partition("=")
    try:
        if kind == "hex":
            return bytes.fromhex(value)
        dtype = _SCALARS[kind]
        return dtype(float(value)) if kind[0] == "f" else dtype(int(value, 0))
    except (KeyError, ValueError, OverflowError) as error:
        raise EmulatorError(
            "E942", f"argument `{text}` is not understood", help="write @file.npy, i32=201, f32=1.5 or hex=00ff"
        ) from error


def _load(path: str) -> Array:
    """The array of a .npy file."""
    try:
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise UsageError("E802", f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, EOFError, SyntaxError) as error:
        raise EmulatorError("E942", f"{path} is not a .npy file") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biufcV":
        raise EmulatorError("E942", f"{path} is not a .npy file of numbers")
    return np.ascontiguousarray(array)


def emulate(
    ptx: str | Path, kernel: str, grid: str, block: str, arguments: Sequence[str] = (), outputs: Sequence[str] = (), *,
    dynamic_shared: int = 0, cluster: str | None = None, seed: int = 0, detect: bool = True, counters: bool = False,
    as_json: bool = False,
) -> tuple[int, str]:  # fmt: skip
    """Run one launch. `outputs` are `N=@y.npy`: write the N-th argument's buffer after the launch.

    Returns (exit code, text to print): 0 without findings, 1 with. E802 and E803 for files that cannot be read or
    written, EmulatorError for PTX and arguments that are not understood.
    """
    path = Path(ptx)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError("E802", f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError("E802", f"{path} is not UTF-8 text") from error
    values = [parse_argument(a) for a in arguments]
    targets = [_output(text_, values) for text_ in outputs]
    report = launch(
        parse_ptx(text), kernel, parse_dims(grid), parse_dims(block), values, dynamic_shared, seed, detect,
        cluster=parse_dims(cluster) if cluster else None,
    )  # fmt: skip
    for index, target in targets:
        image = io.BytesIO()
        np.save(image, values[index], allow_pickle=False)
        write_atomic(str(target), image.getvalue())
    return (1 if report.findings else 0), _render(report, counters, as_json)


def _output(text: str, values: Sequence[Any]) -> tuple[int, Path]:
    number, _, target = text.partition("=")
    if not number.isdigit() or not target.startswith("@") or int(number) >= len(values):
        raise EmulatorError("E942", f"output `{text}` is not N=@file.npy with the number of an argument")
    if not isinstance(values[int(number)], np.ndarray):
        raise EmulatorError("E942", f"argument {number} is not a buffer")
    return int(number), Path(target[1:])


def _render(report: Report, counters: bool, as_json: bool) -> str:
    if as_json:
        out: dict[str, object] = {"findings": [f.to_json() for f in report.findings]}
        if report.printed:
            out["printed"] = report.printed
        if counters:
            out["counters"] = report.counters.to_json()
        return json.dumps(out, indent=2, sort_keys=True)
    lines = report.printed.splitlines() + ([f.render() for f in report.findings] or ["no findings"])
    if counters:
        for name, value in report.counters.to_json().items():
            if isinstance(value, dict):
                lines += [f"{name}.{key}: {count}" for key, count in value.items()]
            else:
                lines.append(f"{name}: {value}")
    return "\n".join(lines)

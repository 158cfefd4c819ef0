"""`tesseracc emulate`: run a kernel of a PTX file on arrays, print findings and counters. No CLI library in here."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from tessera_runtime.core.errors import InputError
from tessera_runtime.core.files import check_apart, check_output, read_text, write_atomic
from tessera_runtime.core.inputspec import read_npy
from tessera_runtime.core.numbers import integer, real, short
from tesseracc.emulator.findings import EmulatorError, Report
from tesseracc.emulator.launch import launch
from tesseracc.emulator.parser import parse_ptx
from tesseracc.emulator.ptx import Module
from tesseracc.emulator.types import Array

__all__ = ["emulate", "parse_argument", "parse_dims"]

_LARGEST = 2**31 - 1  # extent of a grid
_SCALARS: dict[str, Any] = {
    "i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64, "u8": np.uint8, "u16": np.uint16,
    "u32": np.uint32, "u64": np.uint64, "f16": np.float16, "f32": np.float32, "f64": np.float64,
}  # fmt: skip


def parse_dims(text: str) -> tuple[int, int, int]:
    """`2,1,1` (or `2`) as three positive integers. E942 otherwise."""
    try:
        values = [integer(part.strip(), 1, _LARGEST) for part in text.split(",")]
    except ValueError:
        values = []
    if not 1 <= len(values) <= 3:
        raise EmulatorError(
            "E942", f"`{short(text)}` is not one to three positive integers", help="write 2,1,1 (x, y, z) or 2"
        )
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
        if kind[0] != "f":
            return dtype(integer(value, prefixed=True))
        with np.errstate(over="raise"):
            return np.float64(real(value)).astype(dtype)
    except (KeyError, ValueError, OverflowError, FloatingPointError) as error:
        raise EmulatorError(
            "E942", f"argument `{short(text)}` is not understood", help="write @file.npy, i32=201, f32=1.5 or hex=00ff"
        ) from error


def _load(path: str) -> Array:
    """The array of a .npy file. E802, E942."""
    try:
        array = read_npy(path)
    except InputError as error:
        raise EmulatorError("E942", error.message) from error
    if array.dtype.kind not in "biufcV" or array.dtype.hasobject:
        raise EmulatorError("E942", f"'{path}' is not a .npy file of numbers")
    return np.ascontiguousarray(array)


def emulate(
    ptx: str | os.PathLike[str], kernel: str | None, grid: str, block: str, arguments: Sequence[str] = (),
    outputs: Sequence[str] = (), *, dynamic_shared: int = 0, cluster: str | None = None, seed: int = 0,
    detect: bool = True, counters: bool = False, as_json: bool = False,
) -> tuple[int, str]:  # fmt: skip
    """Run one launch of a kernel of the file `ptx`; without a name, of its only one. `outputs` are `N=@y.npy`: write
    the N-th argument's buffer after the launch.

    Returns (exit code, text to print): 0 without findings, 1 with. E802 and E803 for files that cannot be read or
    written, EmulatorError for PTX and arguments that are not understood.
    """
    values = [parse_argument(a) for a in arguments]
    targets = [_output(text, values) for text in outputs]
    for _, target in targets:
        check_apart(target, os.fspath(ptx))
    check_output(*(target for _, target in targets))
    module = parse_ptx(read_text(ptx))
    report = launch(
        module, kernel or _only_entry(ptx, module), parse_dims(grid), parse_dims(block), values, dynamic_shared,
        seed, detect, cluster=parse_dims(cluster) if cluster else None,
    )  # fmt: skip
    for index, target in targets:
        image = io.BytesIO()
        np.save(image, values[index], allow_pickle=False)
        write_atomic(target, image.getvalue())
    return (1 if report.findings else 0), _render(report, counters, as_json)


def _only_entry(file: str | os.PathLike[str], module: Module) -> str:
    """The name of the file's only entry. E942 where there are several, or none."""
    names = sorted(module.entries)
    if len(names) != 1:
        told = f"choose one with --kernel: {', '.join(names)}" if names else "an entry begins with `.entry`"
        raise EmulatorError("E942", f"'{os.fspath(file)}' has {len(names)} kernels", help=told)
    return names[0]


def _output(text: str, values: Sequence[Any]) -> tuple[int, str]:
    number, _, target = text.partition("=")
    try:
        index = integer(number, 0, len(values) - 1)
        if not target.startswith("@"):
            raise ValueError("no file")
    except ValueError:
        raise EmulatorError(
            "E942", f"output `{short(text)}` is not N=@file.npy with the number of an argument (from 0)"
        ) from None
    if not isinstance(values[index], np.ndarray):
        raise EmulatorError("E942", f"argument {index} is not a buffer")
    return index, target[1:]


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

"""`tesseracc emulate`: run a kernel of a PTX file on arrays, print findings and counters. No CLI library in here."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence

import numpy as np

from tessera_runtime.core.files import check_apart, check_output, read_text, write_atomic
from tessera_runtime.core.numbers import integer, short
from tesseracc.emulator.arguments import Signature
from tesseracc.emulator.findings import EmulatorError, Report
from tesseracc.emulator.launch import launch
from tesseracc.emulator.parser import parse_ptx
from tesseracc.emulator.ptx import Function, Module

__all__ = ["emulate", "parse_dims"]

_LARGEST = 2**31 - 1  # extent of a grid


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


def emulate(
    ptx: str | os.PathLike[str], kernel: str | None, grid: str, block: str, arguments: Sequence[str] = (),
    outputs: Sequence[str] = (), *, dynamic_shared: int = 0, cluster: str | None = None, seed: int = 0,
    detect: bool = True, counters: bool = False, as_json: bool = False,
) -> tuple[int, str]:  # fmt: skip
    """Run one launch of a kernel of the file `ptx`; without a name, of its only one. `outputs` are `N=@y.npy` or
    `NAME=@y.npy`: write that argument's buffer after the launch.

    Returns (exit code, text to print): 0 without findings, 1 with. E802 and E803 for files that cannot be read or
    written, EmulatorError for PTX and arguments that are not understood.
    """
    dims = parse_dims(grid), parse_dims(block), parse_dims(cluster) if cluster else None
    text = read_text(ptx)
    module = parse_ptx(text)
    signature = Signature(_entry(ptx, module, kernel), text)
    targets = [_output(given, signature) for given in outputs]
    for _, target in targets:
        check_apart(target, os.fspath(ptx))
    check_output(*(target for _, target in targets))
    values = signature.bind(arguments)
    for index, _ in targets:
        if not isinstance(values[index], np.ndarray):
            raise EmulatorError("E942", f"argument {index} is not a buffer")
    report = launch(
        module, signature.kernel.name, dims[0], dims[1], values, dynamic_shared, seed, detect, cluster=dims[2]
    )
    for index, target in targets:
        image = io.BytesIO()
        np.save(image, values[index], allow_pickle=False)
        write_atomic(target, image.getvalue())
    return (1 if report.findings else 0), _render(report, counters, as_json)


def _entry(file: str | os.PathLike[str], module: Module, name: str | None) -> Function:
    """The kernel of that name, or the file's only one. E942 where there is none, or are several."""
    names = sorted(module.entries)
    if name is not None:
        if name in names:
            return module.entries[name]
        known = f"kernels: {', '.join(names) or 'none'}"
        raise EmulatorError("E942", f"'{os.fspath(file)}' has no kernel `{short(name)}`", help=known)
    if len(names) != 1:
        told = f"choose one with --kernel: {', '.join(names)}" if names else "an entry begins with `.entry`"
        raise EmulatorError("E942", f"'{os.fspath(file)}' has {len(names)} kernels", help=told)
    return module.entries[names[0]]


def _output(text: str, signature: Signature) -> tuple[int, str]:
    """The number of a parameter and the file: `1=@y.npy`, or `y=@y.npy` by name."""
    name, _, target = text.partition("=")
    try:
        index = signature.places[name] if name in signature.places else integer(name, 0, len(signature.names) - 1)
        if not target.startswith("@"):
            raise ValueError("no file")
    except ValueError:
        raise EmulatorError(
            "E942", f"output `{short(text)}` is not N=@file.npy with the number of an argument (from 0) or its name"
        ) from None
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

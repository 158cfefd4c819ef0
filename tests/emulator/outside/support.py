"""Reads committed PTX, runs it with every check on, and compares."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tesseracc.emulator import GlobalMemory, Module, Report, TensorMap, launch, parse_ptx

HERE = Path(__file__).parent


@cache
def program(name: str) -> Module:
    """The module `cuda/NAME.ptx` or `triton/NAME.ptx`."""
    return parse_ptx((HERE / f"{name}.ptx").read_text())


def run(*args: Any, **options: Any) -> Report:
    """`launch`; correct programs have no findings."""
    report = launch(*args, **options)
    assert not report.findings, "\n".join(f.render() for f in report.findings)
    return report


def within(got: Any, want: Any, bound: Any) -> None:
    """|got - want| <= bound, element by element; the message shows the worst."""
    error = np.abs(np.asarray(got, np.float64) - np.asarray(want, np.float64))
    bound = np.broadcast_to(bound, error.shape)
    bad = ~(error <= bound)
    worst = np.unravel_index(np.argmax(np.where(np.isnan(error), np.inf, error - bound)), error.shape)
    assert not bad.any(), f"{int(bad.sum())} of {bad.size} off, at {worst}: {got[worst]} for {want[worst]}"


def tensor_map(
    memory: GlobalMemory, array: Any, dtype: str, box: tuple[int, ...], swizzle: int = 0
) -> tuple[bytes, int]:
    """(tensor map of `array`, its address in `memory`); `box` is innermost first like the map's own fields."""
    raw = np.ascontiguousarray(array)
    address = memory.alloc(raw.nbytes)
    memory.write(address, raw.view(np.uint8))
    strides = tuple(int(s) for s in reversed(raw.strides[:-1]))
    return TensorMap(dtype, address, tuple(reversed(raw.shape)), strides, box, swizzle=swizzle).encode(), address

"""Calls of functions that the driver supplies: vprintf and __assertfail (CUDA programming guide, formatted output)."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from tesseracc.emulator.decode import Decoder
from tesseracc.emulator.findings import BAD_STATE, StopLaunch
from tesseracc.emulator.memory import BASES
from tesseracc.emulator.ptx import Instruction, SymbolRef, Vector
from tesseracc.emulator.table import Step
from tesseracc.emulator.wave import Wave

__all__ = ["device_call"]

_CONVERSION = re.compile(r"%([-+ #0]*)(\d*(?:\.\d*)?)(hh|h|ll|l|z|j|t)?([diouxXeEfFgGaAcsp%])")


def device_call(i: Instruction, d: Decoder, name: str) -> Step:
    """The step of a call; ValueError for a function that is not one of them."""
    returns, _, arguments = i.operands
    if name not in ("vprintf", "__assertfail") or not isinstance(returns, Vector) or not isinstance(arguments, Vector):
        raise ValueError(f"`{name}` has no body")
    places = [d.symbols[p.name][1] for p in arguments.items if isinstance(p, SymbolRef)]
    result = next((d.symbols[p.name][1] for p in returns.items if isinstance(p, SymbolRef)), None)

    def print_(w: Wave) -> None:
        for lane in w.lanes.tolist():
            text, count = _formatted(_text(w, _word(w, lane, places[0])), w, lane, _word(w, lane, places[1]))
            w.launch.printed.append(text)
            if result is not None:
                at = lane * w.launch.local_stride + result
                w.launch.local.data[at : at + 4] = np.array([count], np.uint32).view(np.uint8)
                w.launch.written["local"][at : at + 4] = 1

    def fail(w: Wave) -> None:
        lane = int(w.lanes[0])
        what = _text(w, _word(w, lane, places[0]))
        w.log.add(BAD_STATE, f"assertion `{what}` failed in {w.launch.who(w, lane)}", i)
        raise StopLaunch

    run = print_ if name == "vprintf" else fail
    return d.guarded(i.guard, run) if i.guard is not None else run


def _word(w: Wave, lane: int, offset: int, size: int = 8) -> int:
    """An unsigned number in a lane's local memory."""
    at = lane * w.launch.local_stride + offset
    return int.from_bytes(w.launch.local.data[at : at + size].tobytes(), "little")


def _text(w: Wave, address: int) -> str:
    """The string at a generic address of global memory."""
    segment = w.launch.memory.find(address)
    if segment is None:
        return "(null)" if not address else "(invalid)"
    raw = segment.data[address - segment.base : segment.size].tobytes()
    return str(raw.split(b"\0", 1)[0], "utf-8", "replace")


def _formatted(form: str, w: Wave, lane: int, arguments: int) -> tuple[str, int]:
    """What vprintf prints, and how many arguments it took. They lie one behind the other, each aligned to its size."""
    offset, count = arguments - BASES["local"], 0

    def take(size: int) -> int:
        nonlocal offset, count
        offset, count = -(-offset // size) * size + size, count + 1
        return _word(w, lane, offset - size, size)

    return _CONVERSION.sub(lambda m: _converted(m, take, lambda address: _text(w, address)), form), count


def _converted(m: re.Match[str], take: Callable[[int], int], text: Callable[[int], str]) -> str:
    flags, width, length, kind = m[1], m[2], m[3], m[4]
    if kind == "%":
        return "%"
    if kind == "s":
        return f"%{flags}{width}s" % text(take(8))
    if kind == "p":
        return f"%{flags}{width}s" % hex(take(8))
    if kind == "c":
        return f"%{flags}{width}c" % (take(4) & 0xFF)
    if kind in "eEfFgGaA":
        value = float(np.uint64(take(8)).view(np.float64))
        return value.hex() if kind in "aA" else f"%{flags}{width}{kind}" % value
    size = 8 if length in ("l", "ll", "z", "j", "t") else 4
    bits = {"hh": 8, "h": 16}.get(length or "", 8 * size)
    number = take(size) & (1 << bits) - 1
    if kind in "di":
        number -= number >> bits - 1 << bits
    return f"%{flags}{width}{kind}" % number

"""Runs Target IR of CPU kernels with NumPy, on a memory of its own: what a level's code computes, on any machine.

    memory = Memory()
    slots = [memory.add(x), memory.add(y), 100]      # buffers that are changed in place, then extents and scalars
    run_kernel(func, memory, slots, 0, groups)

    results = run(build.tile(arch), build.target(arch), "f", inputs)       # a whole function

Every access must lie in memory that was added and be aligned as it says; else it is a finding (E921). Scratch memory
begins as garbage.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tessera_runtime.core.dtypes import np_dtype
from tessera_runtime.core.errors import TesseraError
from tesseracc.interpret import scalar
from tesseracc.interpret.binding import evaluate_dim
from tesseracc.interpret.target_products import ROW_BYTES, ROWS, amx_dot, dot_pairs
from tesseracc.interpret.tile import run as run_program
from tesseracc.ir.dialects.target_cpu import TILE_REGISTERS
from tesseracc.ir.types import PtrType, Type, VecType, element, size_of
from tesseracc.ir.value import Func, Module, Op, Region, Value

__all__ = ["Memory", "bits", "run", "run_kernel"]

Array = np.ndarray[Any, Any]
GARBAGE = 0xFF  # NaN as floats of any width
_PAGE = 4096


class Memory:
    """Pieces of memory at addresses of their own, apart from each other."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._pieces: list[Array] = []
        self._end = _PAGE

    def add(self, array: Array) -> int:
        """The address, on a page, of an array's own memory."""
        assert array.flags.c_contiguous
        start = self._end
        self._starts.append(start)
        self._pieces.append(array.reshape(-1).view(np.uint8))
        self._end += (array.nbytes // _PAGE + 2) * _PAGE
        return start

    def view(self, address: int, size: int, align: int = 1) -> Array:
        """The bytes at an address; E921."""
        at = bisect_right(self._starts, address) - 1
        if at >= 0 and address % align == 0:
            offset = address - self._starts[at]
            if offset + size <= len(self._pieces[at]):
                return self._pieces[at][offset : offset + size]
        what = f"is not at a multiple of {align}" if address % align else "lies outside of all buffers"
        raise TesseraError("E921", f"an access of {size} bytes at {address:#x} {what}")


def run_kernel(func: Func, memory: Memory, slots: Sequence[int], begin: int, end: int) -> None:
    """The groups begin .. end of a kernel's `target.func`; scalars are given by their bits."""
    packed = np.array([slot & (1 << 64) - 1 for slot in slots] or [0], np.uint64)
    scratch = np.full(max(int(func.attrs["scratch"]), 1), GARBAGE, np.uint8)
    values = (memory.add(packed), np.asarray(begin, np.int64), np.asarray(end, np.int64), memory.add(scratch))
    _Run(memory).region(func.body, values)


def run(tile: Module, module: Module, name: str, inputs: Sequence[Any]) -> list[Array]:
    """A function's program, at the tile level, with its kernels as they are at the target level."""

    def launch(kernel: Func, args: Sequence[Any], symbols: Mapping[str, int]) -> None:
        memory = Memory()
        slots = [memory.add(a.array) if hasattr(a, "array") else bits(a) for a in args]
        slots += [symbols[name] for name in kernel.attrs["symbols"]]
        groups = math.prod(evaluate_dim(size, symbols) for size in kernel.attrs["grid"])
        run_kernel(module.func(kernel.name), memory, slots, 0, groups)

    return run_program(tile, name, inputs, launch)


def bits(scalar_value: Any) -> int:
    """A scalar as an argument slot holds it."""
    raw = np.asarray(scalar_value).tobytes().ljust(8, b"\0")
    return int(np.frombuffer(raw, np.int64)[0])


class _Run:
    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.env: dict[Value, Any] = {}
        self.registers: list[Array] | None = None

    def region(self, region: Region, args: Sequence[Any]) -> list[Any]:
        self.env.update(zip(region.args, args, strict=True))
        for op in region.ops:
            self.env.update(zip(op.results, self.op(op), strict=True))
        return [self.env[v] for v in region.yields]

    def op(self, op: Op) -> list[Any]:
        if op.name == "arith.constant":
            return [scalar.constant(op.attrs["value"], element(op.result.type))]
        if op.defn.dialect == "arith":
            return [scalar.evaluate(op, [self.env[v] for v in op.operands])]
        if op.defn.dialect == "scf":
            return self.flow(op)
        found = _TABLE[op.name](self, op)
        return [] if found is None else [found]

    def flow(self, op: Op) -> list[Any]:
        if op.name == "scf.if":
            return self.region(op.regions[0 if self.env[op["cond"]] else 1], ())
        state = [self.env[v] for v in op.group("inits")]
        if op.name == "scf.while":
            while self.region(op.regions[0], state)[0]:
                state = self.region(op.regions[1], state)
            return state
        lo, hi, step = (self.env[v] for v in op.operands[:3])
        for index in range(int(lo), int(hi), int(step)):
            state = self.region(op.regions[0], [np.asarray(index, lo.dtype), *state])
        return state

    # -- values and memory ---------------------------------------------------------------------------------------------

    def vector(self, value: Value) -> Array:
        found = self.env[value]
        return np.broadcast_to(found, (value.type.count,)) if isinstance(value.type, VecType) else np.asarray(found)

    def load(self, address: int, type_: Type, align: int) -> Any:
        if isinstance(type_, PtrType):
            return int(self.memory.view(address, 8, align).view(np.uint64)[0])
        count = type_.count if isinstance(type_, VecType) else 1
        dtype = np_dtype(element(type_))
        raw = self.memory.view(address, count * dtype.itemsize, align).copy().view(dtype)
        return raw if isinstance(type_, VecType) else raw[0, ...]

    def store(self, address: int, value: Array, align: int) -> None:
        raw = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        self.memory.view(address, raw.size, align)[...] = raw

    def rows(self, op: Op) -> list[Array]:
        """The memory of a tile register's rows."""
        start, stride = self.env[op["ptr"]], int(self.env[op["stride"]])
        return [self.memory.view(start + row * stride, ROW_BYTES) for row in range(ROWS)]

    def tiles(self) -> list[Array]:
        assert self.registers is not None, "tile registers are used before they are configured"
        return self.registers


def _offset(run: _Run, op: Op) -> int:
    return int(run.env[op["ptr"]] + int(run.env[op["index"]]) * size_of(op.attrs["dtype"]))


def _load(run: _Run, op: Op) -> Any:
    return run.load(run.env[op["ptr"]], op.result.type, op.attrs["align"])


def _store(run: _Run, op: Op) -> None:
    run.store(run.env[op["ptr"]], run.vector(op["value"]), op.attrs["align"])


def _update(run: _Run, op: Op) -> None:
    value, address = run.vector(op["value"]), run.env[op["ptr"]]
    old = run.load(address, op["value"].type, value.itemsize)
    run.store(address, scalar.binary(op.attrs["kind"], old, value, element(op["value"].type)), value.itemsize)


def _places(run: _Run, op: Op) -> list[tuple[int, int]]:
    """(lane, address) where the mask is true: contiguous elements, or those at `index`."""
    mask, ptr = run.vector(op["mask"]), run.env[op["ptr"]]
    size = size_of(op.attrs.get("dtype") or element((op["value"] if not op.results else op.result).type))
    index = run.vector(op["index"]) if "dtype" in op.attrs else range(len(mask))
    return [(lane, ptr + int(index[lane]) * size) for lane in range(len(mask)) if mask[lane]]


def _load_some(run: _Run, op: Op) -> Array:
    found: Array = run.vector(op["other"]).copy()
    for lane, address in _places(run, op):
        found[lane] = run.memory.view(address, found.itemsize, found.itemsize).view(found.dtype)[0]
    return found


def _store_some(run: _Run, op: Op) -> None:
    value = run.vector(op["value"])
    for lane, address in _places(run, op):
        run.store(address, value[lane], value.itemsize)


def _insert(run: _Run, op: Op) -> Array:
    found: Array = run.vector(op["vec"]).copy()
    found[op.attrs["lane"]] = run.env[op["a"]]
    return found


def _shuffle(run: _Run, op: Op) -> Array:
    both: Array = np.concatenate([run.vector(op["a"]), run.vector(op["b"])])
    return np.asarray(both[list(op.attrs["lanes"])])


def _amx_config(run: _Run, op: Op) -> None:
    run.registers = [np.zeros((ROWS, ROW_BYTES), np.uint8) for _ in range(TILE_REGISTERS)]


def _amx_load(run: _Run, op: Op) -> None:
    run.tiles()[op.attrs["register"]] = np.stack(run.rows(op))


def _amx_store(run: _Run, op: Op) -> None:
    for place, row in zip(run.rows(op), run.tiles()[op.attrs["register"]], strict=True):
        place[...] = row


def _amx_dot(run: _Run, op: Op) -> None:
    acc, a, b = op.attrs["registers"]
    tiles = run.tiles()
    tiles[acc] = amx_dot(tiles[acc], tiles[a], tiles[b], op.attrs["dtypes"])


def _amx_release(run: _Run, op: Op) -> None:
    run.registers = None


_TABLE: dict[str, Callable[[_Run, Op], Any]] = {
    "target.offset": _offset,
    "target.load": _load,
    "target.store": _store,
    "target.update": _update,
    "target.masked_load": _load_some,
    "target.masked_store": _store_some,
    "target.gather": _load_some,
    "target.scatter": _store_some,
    "target.prefetch": lambda run, op: None,
    "target.fence": lambda run, op: None,
    "target.cast_ptr": lambda run, op: run.env[op["ptr"]],
    "target.splat": lambda run, op: np.full(op.attrs["count"], run.env[op["a"]]),
    "target.iota": lambda run, op: np.arange(op.attrs["count"], dtype=np_dtype(op.attrs["dtype"])),
    "target.extract": lambda run, op: run.vector(op["vec"])[op.attrs["lane"], ...],
    "target.insert": _insert,
    "target.shuffle": _shuffle,
    "target.any": lambda run, op: run.vector(op["mask"]).any(),
    "target.all": lambda run, op: run.vector(op["mask"]).all(),
    "target.recast": lambda run, op: np.ascontiguousarray(run.vector(op["a"])).view(np_dtype(op.attrs["dtype"])),
    "target.dot_pairs": lambda run, op: dot_pairs(*(run.vector(op[name]) for name in ("a", "b", "acc"))),
    "target.amx_config": _amx_config,
    "target.amx_release": _amx_release,
    "target.amx_load": _amx_load,
    "target.amx_store": _amx_store,
    "target.amx_dot": _amx_dot,
}

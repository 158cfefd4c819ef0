"""Whole tiles in the Tile interpreter: a tile is an array, a block of a buffer a gather with bounds."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tessera_runtime.core.dtypes import np_dtype
from tesseracc.interpret import scalar
from tesseracc.interpret.tile_memory import ATOMICS, Memory
from tesseracc.interpret.tile_races import Finding
from tesseracc.ir.types import TileType, element, kind_of
from tesseracc.ir.value import Func, Op, Region, Value

Array = np.ndarray[Any, Any]

#: an element that leaves the others of a fold as they are, by kind of fold and kind of element
_IDENTITY: dict[str, Callable[[Any], Any]] = {
    "add": lambda dtype: 0,
    "mul": lambda dtype: 1,
    "or": lambda dtype: 0,
    "and": lambda dtype: -1,
    "max": lambda dtype: np.iinfo(dtype).min if np.issubdtype(dtype, np.integer) else -np.inf,
    "min": lambda dtype: np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else np.inf,
}


def fold(values: Array, axis: int, kind: str, dtype: str) -> Array:
    """Element i with element i + n/2, n halving, n padded to a power of two by elements that change nothing."""
    values = np.moveaxis(values, axis, 0)
    size = 1 << max(len(values) - 1, 0).bit_length()
    if size != len(values):
        plain = np.float64 if kind_of(dtype) == "f" else np.int8 if dtype == "bool" else values.dtype
        rest = np.full((size - len(values), *values.shape[1:]), _IDENTITY[kind](plain)).astype(values.dtype)
        values = np.concatenate([values, rest])
    while len(values) > 1:
        half = len(values) // 2
        values = scalar.binary(kind, values[:half], values[half:], dtype)
    found: Array = values[0]
    return found


class TileValues:
    """The operations of dialects/tile_values.py, for a class that keeps values of operands and one group's memory."""

    kernel: Func
    values: dict[Value, Any]
    lanes: int
    #: copies under way: groups of them, the last one still open
    copies: list[list[Callable[[], None]]]

    def do_tile_full(self, op: Op) -> Array:
        type_ = op.result.type
        assert isinstance(type_, TileType)
        return np.full(type_.shape, self.values[op["a"]], np_dtype(type_.dtype))

    def do_tile_coordinate(self, op: Op) -> Array:
        type_ = op.result.type
        assert isinstance(type_, TileType)
        found: Array = np.indices(type_.shape, np_dtype(type_.dtype))[op.attrs["axis"]]
        return found

    def do_tile_broadcast(self, op: Op) -> Array:
        type_ = op.result.type
        assert isinstance(type_, TileType)
        source: Array = self.values[op["a"]]
        shape = [1] * len(type_.shape)
        for size, axis in zip(source.shape, op.attrs["axes"], strict=True):
            shape[axis] = size
        found: Array = np.broadcast_to(source.reshape(shape), type_.shape).copy()
        return found

    def do_tile_transpose(self, op: Op) -> Array:
        return np.ascontiguousarray(np.transpose(self.values[op["a"]], op.attrs["perm"]))

    def do_tile_fold(self, op: Op) -> Any:
        return fold(self.values[op["a"]], op.attrs["axis"], op.attrs["kind"], element(op["a"].type))

    def do_tile_element(self, op: Op) -> Array:
        found: Array = self.values[op["tile"]][tuple(self.values[v] for v in op.group("indices"))]
        return np.broadcast_to(found, (self.lanes,))

    # -- blocks of buffers -----------------------------------------------------------------------------------------

    def _places(
        self, memory: Memory, shape: Sequence[int], axes: Sequence[int], at: Sequence[Value]
    ) -> tuple[Array, Array]:
        """Flat element numbers of a block, and which of them are in the buffer (the others have number 0)."""
        inside = np.ones(shape, bool)
        flat = np.zeros(shape, np.int64)
        for axis, (size, start) in enumerate(zip(memory.array.shape, at, strict=True)):
            index = np.full(shape, int(self.values[start]), np.int64)
            if axis in axes:
                index += np.indices(shape, np.int64)[list(axes).index(axis)]
            inside &= (index >= 0) & (index < size)
            flat = flat * size + index
        return np.where(inside, flat, 0), inside

    def do_tile_read(self, op: Op) -> Array:
        memory: Memory = self.values[op["buf"]]
        type_ = op.result.type
        assert isinstance(type_, TileType)
        flat, inside = self._places(memory, type_.shape, op.attrs["axes"], op.group("indices"))
        self._touch(op, memory, flat[inside], "load")
        found: Array = np.zeros(type_.shape, memory.array.dtype)
        found[inside] = memory.array.reshape(-1)[flat[inside]]
        return found

    def do_tile_write(self, op: Op) -> None:
        memory: Memory = self.values[op["buf"]]
        value: Array = self.values[op["value"]]
        flat, inside = self._places(memory, value.shape, op.attrs["axes"], op.group("indices"))
        for axis, count in enumerate(op.group("counts")):
            inside &= np.indices(value.shape, np.int64)[axis] < int(self.values[count])
        self._touch(op, memory, flat[inside], "store")
        memory.array.reshape(-1)[flat[inside]] = value[inside]

    def do_tile_update_block(self, op: Op) -> None:
        memory: Memory = self.values[op["buf"]]
        value: Array = self.values[op["value"]]
        flat, inside = self._places(memory, value.shape, op.attrs["axes"], op.group("indices"))
        for axis, count in enumerate(op.group("counts")):
            inside &= np.indices(value.shape, np.int64)[axis] < int(self.values[count])
        self._touch(op, memory, flat[inside], op.attrs["kind"])
        ATOMICS[op.attrs["kind"]].at(memory.array.reshape(-1), flat[inside], value[inside])

    def _touch(self, op: Op, memory: Memory, flat: Array, how: str) -> None:
        """Checks a "load", a "store" or an update of that kind: that memory of the group is there to be read, that no
        copy to it is under way, and that no other group touches what is the launch's."""
        shadow = memory.shadow
        if shadow is None:
            return
        self.check_groups(op, memory, flat, how)
        if shadow.pending is not None and shadow.pending[flat].any():
            raise Finding("E923", self.kernel, op, "touches memory that an unfinished copy still writes")
        if how == "store":
            shadow.initialised[flat] = True
        elif not shadow.initialised[flat].all():
            raise Finding("E922", self.kernel, op, "reads memory of the group that nobody wrote")

    # -- copies ----------------------------------------------------------------------------------------------------

    def do_tile_copy_async(self, op: Op) -> None:
        src, dst = self.values[op["src"]], self.values[op["dst"]]
        shape = op.attrs["shape"]
        from_, there = self._places(src, shape, op.attrs["src_axes"], op.group("src_at"))
        to, inside = self._places(dst, shape, op.attrs["dst_axes"], op.group("dst_at"))
        self._touch(op, src, from_[there], "load")
        self._touch(op, dst, to[inside], "store")
        pending = dst.shadow.pending = np.zeros(dst.array.size, np.int64) if dst.shadow.pending is None else (
            dst.shadow.pending
        )  # fmt: skip
        pending[to[inside]] += 1
        values = np.zeros(shape, src.array.dtype)
        values[there] = src.array.reshape(-1)[from_[there]]

        def land() -> None:
            dst.array.reshape(-1)[to[inside]] = values[inside]
            pending[to[inside]] -= 1

        self.copies[-1].append(land)

    def do_tile_commit(self, op: Op) -> None:
        self.copies.append([])

    def do_tile_wait(self, op: Op) -> None:
        self.finish(op.attrs["pending"])

    def do_tile_pipeline(self, op: Op) -> Any:
        lo, hi, step = (int(self.values[v]) for v in op.operands[:3])
        state = [self.values[v] for v in op.group("inits")]
        fill, use = op.regions
        for number, index in enumerate(range(lo, hi, step)):
            at = [np.int64(index), np.int64(number % op.attrs["stages"])]
            outside, self.copies = self.copies, [[]]
            self.run(fill, at)
            self.do_tile_commit(op)
            self.finish(0)
            self.copies = outside
            state = self.run(use, [*at, *state])
        return state[0] if len(op.results) == 1 else state

    @abstractmethod
    def check_groups(self, op: Op, memory: Memory, at: Array, how: str) -> None:
        """Raises E923 where groups of the launch conflict."""

    @abstractmethod
    def run(self, region: Region, args: Sequence[Any] = ()) -> list[Any]:
        """What a region yields."""

    def finish(self, pending: int) -> None:
        """Lets the oldest groups of copies land until at most `pending` closed ones remain."""
        while len(self.copies) - 1 > pending:
            for land in self.copies.pop(0):
                land()

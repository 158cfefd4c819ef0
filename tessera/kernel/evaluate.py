"""Runs a kernel with NumPy: the definition of the kernel language.

All lanes of all groups go through the statements together. A uniform value is an array of shape (groups, 1), a
varying one of shape (groups, lanes); a mask of either shape says who takes part. Groups are taken some thousands at a
time, which nobody can see: accesses of different groups to one element, one of them a store, are an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tessera.dtypes import DType, as_dtype
from tessera.errors import Span
from tessera.kernel import values
from tessera.kernel.memory import Access, Memory
from tessera.kernel.parse import specialise
from tessera.kernel.report import fail
from tessera.kernel.tile_evaluate import TileEvaluator, largest_tile
from tessera.kernel.tree import (
    Alloc,
    Assign,
    Atomic,
    AtomicTile,
    Barrier,
    Binary,
    Block,
    Buffer,
    Cast,
    Choose,
    Commit,
    Compare,
    Const,
    Copy,
    DimValue,
    Expr,
    For,
    Id,
    If,
    KernelDef,
    Load,
    Read,
    Reduce,
    Stmt,
    Store,
    StoreTile,
    TileType,
    Unary,
    Var,
    Wait,
    Where,
    While,
)  # fmt: skip
from tessera.kernel.values import Array
from tessera.shapes import Dim, substitute
from tessera.types import TensorSpec, TensorType, check_spec

__all__ = ["bind", "evaluate"]

_LANES_AT_ONCE = 1 << 20
_ELEMENTS_AT_ONCE = 1 << 21


def evaluate(kernel: KernelDef, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> Any:
    """Runs the kernel on arrays, which it changes in place. Returns what it returns: the same arrays, or NumPy scalars.

    Raises SourceError E222 or E307 for wrong arguments, E215 for a race, E216 for an access out of bounds, E217 for
    shared memory that was not written.
    """
    *_, constants = bind(kernel, args, kwargs or {})
    *_, given, _ = bind(kernel, args, kwargs or {})
    kernel = specialise(kernel, constants, dims={name: _size(given[name], {}) for name in kernel.open})
    arrays, scalars, env, _ = bind(kernel, args, kwargs or {})
    outs = {
        r.buffer: np.zeros([_size(d, env) for d in r.buffer.dims], values_dtype(r.buffer.dtype))
        for r in kernel.results
        if r.param is None
    }
    memories = {
        p.buffer: Memory(p.buffer, arrays[p.name], tracked=p.name in kernel.written, written=True)
        for p in kernel.buffers
        if p.buffer is not None
    }
    memories |= {buffer: Memory(buffer, array, tracked=True, written=True) for buffer, array in outs.items()}
    grid = [_size(dim, env) for dim in kernel.grid]
    total = int(np.prod(grid, dtype=np.int64)) if all(g > 0 for g in grid) else 0
    step = max(1, min(_LANES_AT_ONCE // kernel.group, _ELEMENTS_AT_ONCE // largest_tile(kernel)))
    for first in range(0, total, step):
        ids = np.arange(first, min(first + step, total), dtype=np.int64)
        _Groups(kernel, ids, grid, env, dict(memories), scalars).run()
    results = tuple(
        arrays[r.param] if r.param is not None else outs[r.buffer] if r.buffer.rank else outs[r.buffer][()]
        for r in kernel.results
    )
    return None if not results else results[0] if len(results) == 1 else results


def values_dtype(dtype: DType) -> np.dtype[Any]:
    """The NumPy dtype of an array of these elements."""
    from tessera_runtime.core.dtypes import np_dtype

    return np_dtype(dtype.name)


def _size(dim: Dim, env: Mapping[str, Dim]) -> int:
    value = env.get(str(dim)) if not isinstance(dim, int) else dim
    value = substitute(dim, env) if value is None else value
    assert isinstance(value, int), f"{dim} is not determined by the arguments"
    return value


def bind(
    kernel: KernelDef, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[dict[str, Array], dict[Var, Array], dict[str, Dim], dict[str, object]]:
    """Arguments by name: arrays, scalars, the sizes of dims, and compile-time values. Raises SourceError E222, E307."""
    names = [p.name for p in kernel.params]
    if len(args) > len(names):
        raise fail("E222", f"`{kernel.name}` takes {len(names)} arguments, {len(args)} are given", kernel.span)
    given = dict(zip(names, args, strict=False))
    for key, value in kwargs.items():
        if key in given or key not in names:
            raise fail("E222", f"`{kernel.name}` has no argument `{key}` to give here", kernel.span)
        given[key] = value
    arrays: dict[str, Array] = {}
    scalars: dict[Var, Array] = {}
    constants: dict[str, object] = {}
    env: dict[str, Dim] = {}
    for param in kernel.params:
        if param.name not in given:
            if not param.has_default:
                raise fail("E222", f"`{kernel.name}` needs `{param.name}`", param.span)
            given[param.name] = param.default
        value = given[param.name]
        if param.buffer is not None:
            array = _array(kernel, param.name, param.buffer, value)
            spec = TensorSpec(param.buffer.dims, param.buffer.dtype)
            env = check_spec(kernel.name, param.name, spec, TensorType(array.shape, as_dtype(array.dtype)), env)
            arrays[param.name] = array
        elif param.var is not None:
            dtype = param.var.type.dtype
            if not isinstance(value, (int, float, np.generic)) and not (
                isinstance(value, np.ndarray) and value.ndim == 0
            ):
                raise fail(
                    "E222", f"`{param.name}` of {kernel.name} is a scalar, not {type(value).__name__}", param.span
                )
            if isinstance(value, (float, np.floating)) and not dtype.is_float:
                raise fail("E222", f"`{param.name}` of {kernel.name} is {dtype}, not a float", param.span)
            scalars[param.var] = _scalar(value, dtype)
        else:
            constants[param.name] = value
    for name in sorted(kernel.written):
        for other, array in arrays.items():
            if other != name and array.size and np.shares_memory(array, arrays[name]):
                raise fail(
                    "E222",
                    f"`{name}` and `{other}` of {kernel.name} are the same memory, and `{name}` is written",
                    kernel.span,
                )
    return arrays, scalars, env, constants


def _scalar(value: Any, dtype: DType) -> Array:
    big = dtype.kind == "uint" and value > np.iinfo(np.int64).max
    source = as_dtype("f64" if dtype.is_float else "u64" if big else "i64")
    number = np.asarray(float(value) if dtype.is_float else int(value), values.held(source))
    return values.cast(number.reshape(1, 1), source, dtype)


def _array(kernel: KernelDef, name: str, buffer: Buffer, value: Any) -> Array:
    array: Array = value if isinstance(value, np.ndarray) else np.asarray(value)
    if name in kernel.written and (array is not value or not array.flags.writeable):
        raise fail("E222", f"`{name}` of {kernel.name} is written and needs a writeable NumPy array", buffer.span)
    return array


class _Groups(TileEvaluator):
    """Some groups of one launch."""

    def __init__(
        self,
        kernel: KernelDef,
        ids: Array,
        grid: list[int],
        env: Mapping[str, Dim],
        memories: dict[Buffer, Memory],
        scalars: Mapping[Var, Array],
    ) -> None:
        self.kernel, self.ids, self.grid, self.dims = kernel, ids, grid, env
        self.memories = memories
        self.vars: dict[Var, Array] = dict(scalars)
        self.lanes = np.arange(kernel.group, dtype=np.int64).reshape(1, -1)
        self.group = ids.reshape(-1, 1)
        self.interval = np.zeros((len(ids), 1), np.int64)
        # agents: lane l of group g is g * (lanes + 1) + 1 + l, the group as a whole g * (lanes + 1)
        self.whole = self.group * (kernel.group + 1)
        super().__init__()

    def run(self) -> None:
        self.block(self.kernel.body, np.ones((len(self.ids), 1), bool))

    # -- statements ------------------------------------------------------------------------------------------------

    def block(self, body: Sequence[Stmt], mask: Array) -> None:
        for stmt in body:
            self.statement(stmt, mask)

    def statement(self, stmt: Stmt, mask: Array) -> None:
        match stmt:
            case Assign(var, value):
                self.assign(var, self.expr(value, mask), mask)
            case Store():
                self.store(stmt, mask)
            case Atomic():
                self.atomic(stmt, mask)
            case If(cond, then, orelse):
                test = self.expr(cond, mask)
                for part, taken in ((then, mask & test), (orelse, mask & ~test)):
                    if part and taken.any():
                        self.block(part, taken)
            case For():
                self.loop(stmt, mask)
            case While(cond, body):
                mask = mask & self.expr(cond, mask)
                while mask.any():
                    self.block(body, mask)
                    mask = mask & self.expr(cond, mask)
            case StoreTile():
                self.store_tile(stmt, mask)
            case AtomicTile():
                self.atomic_tile(stmt, mask)
            case Copy():
                self.copy(stmt, mask)
            case Commit():
                self.commit(mask)
            case Wait(pending):
                self.land(mask, pending)
            case Barrier():
                self.land(mask, None)
                self.interval = self.interval + mask[:, :1]
            case Alloc(buffer):
                self.alloc(buffer)

    def assign(self, var: Var, value: Array, mask: Array) -> None:
        old = self.vars.get(var)
        if isinstance(var.type, TileType):
            mask = mask[:, :1].reshape(-1, *[1] * var.type.rank)
        self.vars[var] = value if old is None or mask.all() else np.where(mask, value, old)

    def loop(self, stmt: For, mask: Array) -> None:
        index, hi, step = (self.expr(e, mask) for e in (stmt.lo, stmt.hi, stmt.step))
        if (mask & (step <= 0)).any():
            raise fail("E219", "the step of a range is not positive", stmt.span)
        active = mask & (index < hi)
        while active.any():
            self.vars[stmt.var] = index
            self.block(stmt.body, active)
            index = index + step
            active = active & (index < hi)

    def alloc(self, buffer: Buffer) -> None:
        size = int(np.prod(buffer.dims, dtype=np.int64))  # type: ignore[arg-type]
        array = np.zeros((len(self.ids), size), values_dtype(buffer.dtype))
        self.memories[buffer] = Memory(buffer, array, tracked=True, written=False)

    def store(self, stmt: Store, mask: Array) -> None:
        indices = [self.expr(i, mask) for i in stmt.indices]
        value = self.expr(stmt.value, mask)
        memory = self.memories[stmt.buffer]
        access, where = self.access(memory, indices, mask, stmt.varying, stmt.span)
        memory.store(access)
        raw = values.to_storage(np.ascontiguousarray(np.broadcast_to(value, where.shape)[where]), stmt.buffer.dtype)
        memory.put(access.at, raw)

    def atomic(self, stmt: Atomic, mask: Array) -> None:
        indices = [self.expr(i, mask) for i in stmt.indices]
        value = self.expr(stmt.value, mask)
        memory = self.memories[stmt.buffer]
        access, where = self.access(memory, indices, mask, stmt.varying, stmt.span)
        memory.update(access, stmt.op)
        raw = values.to_storage(np.ascontiguousarray(np.broadcast_to(value, where.shape)[where]), stmt.buffer.dtype)
        memory.combine(access.at, raw, stmt.op)

    # -- memory ----------------------------------------------------------------------------------------------------

    def access(
        self, memory: Memory, indices: Sequence[Array], mask: Array, varying: bool, span: Span
    ) -> tuple[Access, Array]:
        """The elements that the masked lanes (or groups) touch. Raises SourceError E216."""
        shape = (len(self.ids), self.kernel.group if varying else 1)
        where = np.broadcast_to(mask, shape)
        buffer = memory.buffer
        extents = [_size(d, self.dims) for d in buffer.dims]
        flat = np.zeros(shape, np.int64)
        for axis, (index, extent) in enumerate(zip(indices, extents, strict=True)):
            wide = np.broadcast_to(index, shape)
            bad = where & ((wide < 0) | (wide >= extent))
            if bad.any():
                group, lane = np.unravel_index(int(np.argmax(bad)), shape)
                who = f"lane {lane} of group {self.ids[group]}" if varying else f"group {self.ids[group]}"
                raise fail(
                    "E216",
                    f"index {int(wide[group, lane])} is outside extent {extent} of axis {axis} "
                    f"of `{buffer.name}` ({who})",
                    span,
                    "guard the access, or check the bounds of the loop",
                )
            flat = flat * extent + wide
        if buffer.space == "shared":
            flat = flat + np.arange(len(self.ids), dtype=np.int64).reshape(-1, 1) * memory.array.shape[1]
        agent = np.broadcast_to(self.whole + 1 + self.lanes if varying else self.whole, shape)
        groups, intervals = np.broadcast_to(self.group, shape), np.broadcast_to(self.interval, shape)
        return Access(flat[where], agent[where], groups[where], intervals[where], span), where

    def load(self, expr: Load, mask: Array) -> Array:
        indices = [self.expr(i, mask) for i in expr.indices]
        memory = self.memories[expr.buffer]
        varying = expr.type.varying
        access, where = self.access(memory, indices, mask, varying, expr.span)
        memory.load(access)
        raw = memory.elements(access.at)
        out = np.zeros(where.shape, values.held(expr.buffer.dtype))
        out[where] = values.from_storage(np.ascontiguousarray(raw), expr.buffer.dtype)
        return out

    # -- expressions -----------------------------------------------------------------------------------------------

    def expr(self, expr: Expr, mask: Array) -> Array:
        match expr:
            case Const(value, type_):
                held = values.held(type_.dtype)
                if type_.dtype.is_narrow:
                    return values.cast(np.array([[value]], np.float64), as_dtype("f64"), type_.dtype)
                with np.errstate(over="ignore"):
                    return np.array([[value]], held)
            case DimValue(dim):
                return np.array([[_size(dim, self.dims)]], np.int64)
            case Id(kind, axis=axis):
                return self.id(kind, axis)
            case Read(var):
                return self.vars[var]
            case Unary(op, a, type_):
                return values.unary(op, self.expr(a, mask), type_.dtype)
            case Binary(op, a, b, type_):
                return values.binary(op, self.expr(a, mask), self.expr(b, mask), type_.dtype)
            case Compare(pred, a, b):
                return values.compare(pred, self.expr(a, mask), self.expr(b, mask))
            case Cast(a, type_):
                return values.cast(self.expr(a, mask), a.type.dtype, type_.dtype)
            case Where(cond, a, b):
                return np.where(self.expr(cond, mask), self.expr(a, mask), self.expr(b, mask))
            case Choose(cond, a, b):
                test = self.expr(cond, mask)
                yes, no = mask & test, mask & ~test
                if not no.any():
                    return self.expr(a, yes)
                if not yes.any():
                    return self.expr(b, no)
                return np.where(test, self.expr(a, yes), self.expr(b, no))
            case Load():
                return self.load(expr, mask)
            case Reduce(op, a, type_):
                return self.reduce(op, self.expr(a, mask), type_.dtype, mask)
            case Block(body, value):
                self.block(body, mask)
                return self.expr(value, mask)
            case _:
                return self.tile(expr, mask)

    def id(self, kind: str, axis: int) -> Array:
        x = self.grid[0]
        match kind:
            case "local":
                return self.lanes
            case "lane":
                return self.lanes % 32
            case "group":
                if axis >= len(self.grid):
                    return np.zeros((1, 1), np.int64)
                below = int(np.prod(self.grid[:axis], dtype=np.int64))
                return (self.group // below) % self.grid[axis]
            case _:
                return (self.group % x) * self.kernel.group + self.lanes

    def reduce(self, op: str, a: Array, dtype: DType, mask: Array) -> Array:
        """Lane l takes in lane l + n/2, n halves. A reduction synchronises the group, as a barrier does."""
        self.interval = self.interval + mask[:, :1]
        found = np.broadcast_to(a, (len(self.ids), self.kernel.group))
        while found.shape[1] > 1:
            half = found.shape[1] // 2
            found = values.binary(op, found[:, :half], found[:, half:], dtype)
        return found

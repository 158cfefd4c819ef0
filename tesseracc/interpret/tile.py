"""Runs Tile IR with NumPy: programs launch kernels, kernels run group after group, all lanes of a group in step.

A uniform value is a rank-0 array, a lanes value a vector with one element per lane (inside `tile.map`: one per
coordinate). A mask says which lanes take part. Accesses are checked: out of bounds, shared memory that nobody wrote,
and conflicting accesses of different lanes inside one barrier interval, or of different groups of a launch, are
findings (E921, E922, E923).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tessera.shapes import Dim
from tessera_runtime.core.dtypes import np_dtype
from tessera_runtime.core.errors import TesseraError
from tesseracc.interpret import scalar
from tesseracc.interpret.binding import evaluate_dim, solve_dims
from tesseracc.interpret.tile_memory import ATOMICS, Memory, Shadow
from tesseracc.interpret.tile_owners import Owners
from tesseracc.interpret.tile_program import Steps
from tesseracc.interpret.tile_races import Finding, Races, place
from tesseracc.interpret.tile_values import TileValues
from tesseracc.ir.types import BufType, LanesType, ScalarType, TileType, element, kind_of
from tesseracc.ir.value import Func, Module, Op, Region, Value

Array = np.ndarray[Any, Any]
MAX_STEPS = 50_000_000


class _Group(Races, TileValues):
    """One group of one kernel."""

    def __init__(self, kernel: Func, symbols: Mapping[str, int], group_ids: tuple[int, ...], epochs: list[int],
                 grid: Sequence[int]) -> None:  # fmt: skip
        self.kernel = kernel
        self.grid = grid
        self.symbols = symbols
        self.group_ids = group_ids
        self.size = int(kernel.attrs["group"])
        self.lanes = self.size
        self.mask: Array = np.ones(self.size, bool)
        self.values: dict[Value, Any] = {}
        self.epochs = epochs  # a counter shared by all groups: an epoch belongs to one group
        self.epoch = self._new_epoch()
        self.in_map = False
        self.copies = [[]]
        self.steps = 0

    def _new_epoch(self) -> int:
        self.epochs[0] += 1
        return self.epochs[0]

    # -- values --------------------------------------------------------------------------------------------------

    def get(self, value: Value) -> Any:
        return self.values[value]

    def lanes_of(self, value: Value) -> Array:
        found: Array = np.broadcast_to(self.values[value], (self.lanes,))
        return found

    def dim(self, expr: Dim) -> int:
        return evaluate_dim(expr, self.symbols)

    # -- regions -------------------------------------------------------------------------------------------------

    def run(self, region: Region, args: Sequence[Any] = ()) -> list[Any]:
        self.values.update(zip(region.args, args, strict=True))
        for op in region.ops:
            self.steps += 1
            if self.steps > MAX_STEPS:
                raise TesseraError("E924", f"@{self.kernel.name}: no end after {MAX_STEPS} operations{place(op)}")
            found = self.step(op)
            if len(op.results) == 1:
                self.values[op.result] = found
            else:
                self.values.update(zip(op.results, found or (), strict=True))
        return [self.values[v] for v in region.yields]

    def masked(self, mask: Array, run: Callable[[], list[Any]]) -> list[Any]:
        saved, self.mask = self.mask, mask
        try:
            return run()
        finally:
            self.mask = saved

    def merge(self, mask: Array, new: Sequence[Any], old: Sequence[Any]) -> list[Any]:
        return [np.where(mask, n, o) for n, o in zip(new, old, strict=True)]

    # -- operations ----------------------------------------------------------------------------------------------

    def step(self, op: Op) -> Any:
        if op.defn.dialect == "arith":
            return self.arith(op)
        method: Callable[[Op], Any] = getattr(self, "do_" + op.name.replace(".", "_"))
        return method(op)

    def arith(self, op: Op) -> Any:
        if op.name == "arith.constant":
            type_ = op.result.type
            value = scalar.constant(op.attrs["value"], element(type_))
            shape = type_.shape if isinstance(type_, TileType) else self.lanes
            return value if isinstance(type_, ScalarType) else np.full(shape, value)
        return scalar.evaluate(op, [self.values[v] for v in op.operands])

    def do_tile_group_id(self, op: Op) -> Any:
        return np.int64(self.group_ids[op.attrs["axis"]])

    def do_tile_group_count(self, op: Op) -> Any:
        return np.int64(self.grid[op.attrs["axis"]])

    def do_tile_group_span(self, op: Op) -> Any:
        return np.int64(1)

    def do_tile_local_id(self, op: Op) -> Any:
        return np.arange(self.size, dtype=np.int64)

    def do_tile_linear_id(self, op: Op) -> Any:
        return self.group_ids[0] * self.size + np.arange(self.size, dtype=np.int64)

    def do_tile_lane_id(self, op: Op) -> Any:
        return np.arange(self.size, dtype=np.int64) % 32

    def do_tile_dim(self, op: Op) -> Any:
        return np.int64(self.dim(op.attrs["expr"]))

    def do_tile_splat(self, op: Op) -> Any:
        return self.lanes_of(op["a"])

    def do_tile_alloc(self, op: Op) -> Any:
        type_ = op.result.type
        assert isinstance(type_, BufType)
        shape = tuple(self.dim(d) for d in type_.dims)
        per_lane = type_.space == "local"
        full = (*shape, self.size) if per_lane else shape
        count = int(np.prod(full))
        array = np.zeros(full, np_dtype(type_.dtype))
        return Memory(array, Shadow.of(count, False), per_lane)

    def do_tile_barrier(self, op: Op) -> Any:
        self.copies.append([])  # a barrier finishes all copies
        self.finish(0)
        self.epoch = self._new_epoch()

    def do_tile_reduce(self, op: Op) -> Any:
        values = self.lanes_of(op["a"]).copy()
        while len(values) > 1:
            half = len(values) // 2
            values = scalar.binary(op.attrs["kind"], values[:half], values[half : 2 * half], element(op["a"].type))
        self.epoch = self._new_epoch()
        return values[0]

    # -- memory --------------------------------------------------------------------------------------------------

    def flat_index(self, op: Op, memory: Memory, active: Array) -> Array:
        """Flat element numbers per lane; inactive lanes give 0."""
        shape = memory.array.shape[:-1] if memory.per_lane else memory.array.shape
        flat = np.zeros(self.lanes, np.int64)
        for axis, value in enumerate(op.group("indices")):
            index = self.lanes_of(value)
            bad = active & ((index < 0) | (index >= shape[axis]))
            if bad.any():
                lane = int(np.argmax(bad))
                what = f"index {int(index[lane])} of axis {axis} is outside 0..{shape[axis] - 1} (lane {lane})"
                raise Finding("E921", self.kernel, op, what)
            flat = flat * shape[axis] + np.where(active, index, 0)
        if memory.per_lane:
            flat = flat * self.size + np.arange(self.size)
        return flat

    def active(self, op: Op) -> Array:
        where = op.optional("where")
        return self.mask if where is None else self.mask & self.lanes_of(where)

    def is_uniform(self, op: Op) -> bool:
        return not any(isinstance(v.type, LanesType) for v in op.operands) and not self.memory(op).per_lane

    def memory(self, op: Op) -> Memory:
        found = self.values[op["buf"]]
        assert isinstance(found, Memory)
        return found

    def do_tile_load(self, op: Op) -> Any:
        memory = self.memory(op)
        active = self.active(op)
        flat = self.flat_index(op, memory, active)
        values = np.zeros(self.lanes, memory.array.dtype)
        if memory.array.size:
            values[active] = memory.array.reshape(-1)[flat[active]]
        self.check_read(op, memory, flat, active)
        if isinstance(op.result.type, ScalarType):
            first = int(np.argmax(active)) if active.any() else 0
            return values[first]
        return values

    def do_tile_store(self, op: Op) -> Any:
        memory = self.memory(op)
        active = self.active(op)
        if self.is_uniform(op) and not self.in_map:
            if not active.any():
                return
            first = int(np.argmax(active))
            active = np.zeros(self.lanes, bool)
            active[first] = True
        flat = self.flat_index(op, memory, active)
        self.check_write(op, memory, flat, active)
        memory.array.reshape(-1)[flat[active]] = self.lanes_of(op["value"])[active]

    def do_tile_update(self, op: Op) -> None:
        memory = self.memory(op)
        active = self.active(op)
        if self.is_uniform(op) and not self.in_map:
            active = active & (np.arange(self.lanes) == np.argmax(active))
        flat = self.flat_index(op, memory, active)
        self.check_update(op, memory, flat, active)
        ATOMICS[op.attrs["kind"]].at(memory.array.reshape(-1), flat[active], self.lanes_of(op["value"])[active])

    # -- control flow --------------------------------------------------------------------------------------------

    def do_scf_if(self, op: Op) -> Any:
        found = self.run(op.regions[0 if bool(self.values[op["cond"]]) else 1])
        return found[0] if len(op.results) == 1 else found

    def do_scf_for(self, op: Op) -> Any:
        lo, hi, step = (int(self.values[v]) for v in op.operands[:3])
        dtype = np_dtype(element(op.operands[0].type))
        state = [self.values[v] for v in op.group("inits")]
        for i in range(lo, hi, step):
            state = self.run(op.regions[0], [dtype.type(i), *state])
        return state[0] if len(op.results) == 1 else state

    def do_scf_while(self, op: Op) -> Any:
        state = [self.values[v] for v in op.group("inits")]
        while bool(self.run(op.regions[0], state)[0]):
            state = self.run(op.regions[1], state)
        return state[0] if len(op.results) == 1 else state

    def do_tile_if(self, op: Op) -> Any:
        cond = self.lanes_of(op["cond"])
        chosen: list[list[Any]] = []
        for region, mask in zip(op.regions, (self.mask & cond, self.mask & ~cond), strict=True):
            if mask.any() or region.yields:
                chosen.append(self.masked(mask, lambda region=region: self.run(region)))  # type: ignore[misc]
            else:
                chosen.append([])
        found = self.merge(cond, *chosen) if op.results else []
        return found[0] if len(op.results) == 1 else found

    def do_tile_for(self, op: Op) -> Any:
        index, hi, step = (self.lanes_of(v).copy() for v in op.operands[:3])
        state = [self.lanes_of(v) if isinstance(v.type, LanesType) else self.values[v] for v in op.group("inits")]
        while True:
            mask = self.mask & (index < hi)
            if not mask.any():
                break
            args = [index.copy(), *state]
            new = self.masked(mask, lambda args=args: self.run(op.regions[0], args))  # type: ignore[misc]
            state = self.merge(mask, new, state)
            index = np.where(mask, index + step, index)
        return state[0] if len(op.results) == 1 else state

    def do_tile_while(self, op: Op) -> Any:
        state = [self.lanes_of(v) for v in op.group("inits")]
        mask = self.mask
        while True:
            (cond,) = self.masked(mask, lambda state=state: self.run(op.regions[0], state))  # type: ignore[misc]
            mask = mask & np.broadcast_to(cond, (self.lanes,))
            if not mask.any():
                break
            new = self.masked(mask, lambda state=state: self.run(op.regions[1], state))  # type: ignore[misc]
            state = self.merge(mask, new, state)
        return state[0] if len(op.results) == 1 else state

    # -- tiles ---------------------------------------------------------------------------------------------------

    def do_tile_zeros(self, op: Op) -> Any:
        type_ = op.result.type
        assert isinstance(type_, TileType)
        return np.zeros(type_.shape, np_dtype(type_.dtype))

    def do_tile_map(self, op: Op) -> Any:
        shape = tuple(op.attrs["shape"])
        extents = [min(max(int(self.values[v]), 0), n) for v, n in zip(op.group("extents"), shape, strict=True)]
        box = tuple(slice(0, n) for n in extents)
        count = int(np.prod(extents))
        coordinates = (
            [c.reshape(-1).astype(np.int64) for c in np.indices(extents)]
            if count
            else [np.zeros(0, np.int64)] * len(shape)
        )
        tiles = [self.values[t][box].reshape(-1) for t in op.group("tiles")]
        saved = self.lanes, self.mask, self.in_map
        self.lanes, self.mask, self.in_map = count, np.ones(count, bool), True
        yields = self.run(op.regions[0], [*coordinates, *tiles]) if count else []
        results = []
        for i, result in enumerate(op.results):
            full = np.zeros(shape, np_dtype(element(result.type)))
            if count:
                full[box] = np.broadcast_to(yields[i], (count,)).reshape(extents)
            results.append(full)
        self.lanes, self.mask, self.in_map = saved
        return results[0] if len(results) == 1 else results

    def do_tile_mma(self, op: Op) -> Any:
        a, b, acc = (self.values[v] for v in op.operands[:3])
        extents = op.group("extents")
        limit = min(int(self.values[extents[2]]), a.shape[1]) if extents else a.shape[1]
        dtype = element(op.result.type)
        a, b = (scalar.cast(x, element(v.type), dtype) for x, v in zip((a, b), op.operands[:2], strict=True))
        total = acc
        for k in range(limit):
            left, right = np.broadcast_to(a[:, k : k + 1], acc.shape), np.broadcast_to(b[k : k + 1], acc.shape)
            if kind_of(dtype) == "f":
                total = scalar.fma(left, right, total, dtype)
            else:
                total = scalar.binary("add", scalar.binary("mul", left, right, dtype), total, dtype)
        return total


def _bind(kernel: Func, args: Sequence[Any]) -> dict[str, int]:
    """The kernel's symbols from the shapes of its buffers."""
    declared: list[tuple[Dim, ...]] = []
    actual: list[tuple[int, ...]] = []
    for param, arg in zip(kernel.params, args, strict=True):
        if isinstance(param.type, BufType):
            declared.append(param.type.dims)
            actual.append(arg.array.shape)
    return solve_dims(declared, actual)


def run_kernel(kernel: Func, args: Sequence[Memory | Array], symbols: Mapping[str, int] | None = None) -> None:
    """Runs a kernel on its whole grid. Buffers are `Memory`, scalars rank-0 arrays; written buffers change."""
    bound = dict(symbols or {}) or _bind(kernel, args)
    grid = [evaluate_dim(d, bound) for d in kernel.attrs["grid"]]
    grid += [1] * (3 - len(grid))
    epochs = [0]
    for z in range(grid[2]):
        for y in range(grid[1]):
            for x in range(grid[0]):
                with np.errstate(all="ignore"):
                    _Group(kernel, bound, (x, y, z), epochs, grid).run(kernel.body, args)


def run(
    module: Module,
    name: str,
    inputs: Sequence[Any],
    kernels: Callable[[Func, Sequence[Memory | Array], Mapping[str, int]], None] = run_kernel,
) -> list[Array]:
    """Runs a `tile.program`. Inputs are arrays or scalars; arrays that it writes are changed in place. `kernels` runs
    one of its kernels."""
    program = module.func(name)
    values: dict[Value, Any] = {}
    declared: list[tuple[Dim, ...]] = []
    actual: list[tuple[int, ...]] = []
    for param, given in zip(program.params, inputs, strict=True):
        if isinstance(param.type, BufType):
            values[param] = Memory(np.asarray(given), None)
            declared.append(param.type.dims)
            actual.append(values[param].array.shape)
        else:
            values[param] = scalar.constant(given, element(param.type))
    symbols = solve_dims(declared, actual)

    def launch(op: Op, args: Sequence[Any]) -> None:
        kernel = module.func(op.attrs["kernel"])
        bound = _kernel_symbols(kernel, op, symbols)
        kernels(kernel, _launched(args), bound)

    Steps(module.constants, values, symbols, launch).run(program.body)
    return [values[v].array for v in program.body.yields]


def _launched(args: Sequence[Any]) -> list[Any]:
    """Arguments of a launch, which nothing has touched yet. Buffers that are the same memory share their shadow."""
    shadows: dict[tuple[int, int], Shadow] = {}

    def fresh(memory: Memory) -> Memory:
        size = memory.array.size
        key = memory.array.ctypes.data, size
        if key not in shadows:
            shadows[key] = Shadow.of(size, True)
            shadows[key].owners = Owners(size)
        return Memory(memory.array, shadows[key])

    return [fresh(arg) if isinstance(arg, Memory) else arg for arg in args]


def _kernel_symbols(kernel: Func, op: Op, symbols: Mapping[str, int]) -> dict[str, int]:
    """A kernel's symbols are those of the program, or solved from the buffers that it is given."""
    names = kernel.attrs.get("symbols", ())
    if all(name in symbols for name in names):
        return dict(symbols)
    declared, actual = [], []
    for param, given in zip(kernel.params, op.operands, strict=True):
        if isinstance(param.type, BufType) and isinstance(given.type, BufType):
            declared.append(param.type.dims)
            actual.append(tuple(evaluate_dim(d, symbols) for d in given.type.dims))
    return solve_dims(declared, actual)

"""A plan at given extents: sizes, grids and arguments evaluated, temporaries placed. Done once per set of extents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tessera_runtime.control import (
    BranchStep,
    CopyStep,
    LaunchStep,
    LoopStep,
    MapStep,
    RepeatStep,
    RowStep,
    Step,
    blocks,
)  # fmt: skip
from tessera_runtime.core.dtypes import DTYPES
from tessera_runtime.core.errors import BundleError, InputError
from tessera_runtime.core.manifest import (
    Branch,
    Copy,
    Dim,
    Kernel,
    Launch,
    Loop,
    Plan,
    Put,
    Repeat,
    Take,
    TensorMap,
    When,
)
from tessera_runtime.core.shapeexpr import evaluate
from tessera_runtime.memory import assign

__all__ = ["CopyStep", "Instance", "LaunchStep", "extents", "instantiate", "lifetimes", "place"]

_MAX_BYTES = 1 << 47


class Instance(NamedTuple):
    """A plan at given extents. `offsets[i]` is a temporary's place in an arena of `arena` bytes, -1 for other buffers.

    `written` are the buffers that some step writes. Steps over empty grids, empty copies and repeats of nothing are
    left out. The steps of a branch or loop follow it (`tessera_runtime.control`).
    """

    plan: Plan
    shapes: tuple[tuple[int, ...], ...]
    nbytes: tuple[int, ...]
    offsets: tuple[int, ...]
    arena: int
    steps: tuple[Step, ...]
    written: frozenset[int]


def extents(shape: Sequence[Dim], env: Mapping[str, int], what: str) -> tuple[int, ...]:
    """The shape's extents; E710 for a negative one."""
    result = tuple(dim if isinstance(dim, int) else evaluate(dim, env) for dim in shape)
    for extent in result:
        if extent < 0:
            raise InputError("E710", f"{what} would have the extent {extent}")
    return result


def nbytes_of(shape: Sequence[int], dtype: str, what: str) -> int:
    """The bytes of a dense tensor; E713 beyond any real memory."""
    size = DTYPES[dtype].itemsize
    for extent in shape:
        size *= extent
    if size > _MAX_BYTES:
        raise InputError("E713", f"{what} would need {size} bytes")
    return size


def instantiate(plan: Plan, kernels: Sequence[Kernel], env: Mapping[str, int]) -> Instance:
    """Evaluate a checked plan of a target with these kernels. E710, E713; E625 for what a kernel does not allow."""
    shapes, sizes = [], []
    for index, buffer in enumerate(plan.buffers):
        what = f"{plan.function}: {buffer.kind} {buffer.ref or index}"
        shape = extents(buffer.shape, env, what)
        shapes.append(shape)
        sizes.append(nbytes_of(shape, buffer.dtype, what))
    maker = _Maker(plan, kernels, env, sizes)
    maker.block(0, len(plan.steps), 0)
    offsets, arena = place(plan, sizes, maker.steps)
    steps, written = tuple(maker.steps), frozenset(maker.written)
    return Instance(plan, tuple(shapes), tuple(sizes), tuple(offsets), arena, steps, written)


class _Maker:
    """Evaluates the steps of a plan in order."""

    def __init__(self, plan: Plan, kernels: Sequence[Kernel], env: Mapping[str, int], sizes: Sequence[int]) -> None:
        self.plan, self.kernels, self.env, self.sizes = plan, kernels, env, sizes
        self.steps: list[Step] = []
        self.written: set[int] = set()

    def block(self, start: int, stop: int, count: int) -> int:
        """Evaluates steps start..stop, `count` being that of the innermost repeat; gives how many steps that makes."""
        before, at = len(self.steps), start
        while at < stop:
            step = self.plan.steps[at]
            at += 1
            if isinstance(step, Launch):
                self.launch(step)
            elif isinstance(step, Copy):
                self.copy(step)
            elif isinstance(step, (Take, Put)):
                self.row(step, count)
            else:
                at = self.control(step, at, count)
        return len(self.steps) - before

    def control(self, step: Branch | When | Repeat | Loop, at: int, count: int) -> int:
        """A step with blocks, which begin at `at`; gives where they end."""
        mine = len(self.steps)
        if isinstance(step, When):
            middle, end = at + step.then, at + step.then + step.other
            fits = step.unless if isinstance(step.unless, int) else evaluate(step.unless, self.env)
            self.block(*((middle, end) if fits else (at, middle)), count)
            return end
        if isinstance(step, Repeat):
            (times,) = extents((step.count,), self.env, f"{self.plan.function}: the number of steps of a loop")
            self.steps.append(RepeatStep(times, 0))
            self.steps[mine] = RepeatStep(times, self.block(at, at + step.body, times))
            if len(self.steps) == mine + 1:
                del self.steps[mine]  # nothing, any number of times
            return at + step.body
        first, second = (step.then, step.other) if isinstance(step, Branch) else (step.head, step.body)
        if self.sizes[step.on] != 1:
            raise InputError("E710", f"{self.plan.function}: {self.sizes[step.on]} elements decide where one should")
        make = BranchStep if isinstance(step, Branch) else LoopStep
        self.steps.append(make(step.on, 0, 0))
        lengths = self.block(at, at + first, count), self.block(at + first, at + first + second, count)
        self.steps[mine] = make(step.on, *lengths)
        return at + first + second

    def copy(self, step: Copy) -> None:
        self.written.add(step.dst)
        src, dst = self.sizes[step.src], self.sizes[step.dst]
        if src != dst:
            raise InputError("E710", f"{self.plan.function}: a copy of {src} bytes into {dst}")
        if src:
            self.steps.append(CopyStep(step.src, step.dst, src))

    def row(self, step: Take | Put, count: int) -> None:
        self.written.add(step.dst)
        put = isinstance(step, Put)
        row, whole = (self.sizes[i] for i in ((step.src, step.dst) if put else (step.dst, step.src)))
        if count * row != whole:
            raise InputError("E710", f"{self.plan.function}: {count} rows of {row} bytes in {whole}")
        if row:
            self.steps.append(RowStep(step.src, step.dst, row, put, step.reverse))

    def launch(self, step: Launch) -> None:
        where, env = self.plan.function, self.env
        kernel = self.kernels[step.kernel]
        for arg, param in zip(step.args, kernel.params, strict=True):
            if param.access != "read" and arg.buffer is not None:
                self.written.add(arg.buffer)
        x, y, z = extents(step.grid, env, f"{where}: a grid")
        (shared,) = extents((step.dynamic_shared,), env, f"{where}: shared memory")
        own = _hold(where, step, kernel, (x, y, z, shared), self.sizes, env)
        if x * y * z == 0:
            return
        if x * y * z >= 1 << 62:
            raise InputError("E713", f"{where}: a grid of {x} x {y} x {z} groups")
        args: list[tuple[str, int | str]] = []
        for arg in step.args:
            if arg.buffer is not None:
                args.append(("buffer", arg.buffer))
            elif arg.dim is not None:
                args.append(("dim", arg.dim if isinstance(arg.dim, int) else evaluate(arg.dim, env)))
            else:
                args.append(("scalar", arg.scalar or ""))
        maps = tuple(_map(where, step, kernel, entry, own) for entry in kernel.maps)
        self.steps.append(LaunchStep(step.kernel, (x, y, z), x * y * z, tuple(args), shared, maps))


def _hold(
    function: str, step: Launch, kernel: Kernel, given: tuple[int, ...], sizes: Sequence[int], env: Mapping[str, int]
) -> dict[str, int]:
    """Hold a launch against its kernel's declaration: the buffers' bytes, grid and shared memory (`given`); E625.

    Gives the values of the kernel's symbols.
    """
    where = f"{function}: launch of {kernel.name}"
    dims = [arg.dim for arg in step.args if arg.dim is not None]
    own = {
        name: dim if isinstance(dim, int) else evaluate(dim, env)
        for name, dim in zip(kernel.symbols, dims, strict=False)
    }
    if any(value < 0 for value in own.values()):
        raise InputError("E710", f"{where}: an extent is negative")
    declared = given[:3] if kernel.grid is None else extents(kernel.grid, own, where)
    shared = given[3:] if kernel.dynamic_shared is None else extents((kernel.dynamic_shared,), own, where)
    if declared + shared != given:
        raise BundleError(
            "E625", f"{where}: grid and shared bytes are {given}, and the kernel declares {declared + shared}"
        )
    for slot, (arg, param) in enumerate(zip(step.args, kernel.params, strict=True)):
        if param.shape is None or arg.buffer is None:
            continue
        needed = nbytes_of(extents(param.shape, own, where), param.dtype, where)
        if needed != sizes[arg.buffer]:
            raise BundleError("E625", f"{where}: argument {slot} has {sizes[arg.buffer]} bytes, declared are {needed}")
    return own


def _map(function: str, step: Launch, kernel: Kernel, entry: TensorMap, own: Mapping[str, int]) -> MapStep:
    """A tensor map at given extents. E710 where there is none: an extent is 0 or too large, or rows are not multiples
    of 16 bytes."""
    where = f"{function}: a tensor map of {kernel.name}"
    param, buffer = kernel.params[entry.param], step.args[entry.param].buffer
    assert param.shape is not None and buffer is not None, "the manifest was checked"
    shape = extents(param.shape, own, where)
    row = shape[-1] * DTYPES[param.dtype].itemsize
    size = nbytes_of(shape, param.dtype, where)
    if row % 16 or not all(1 <= extent < 1 << 31 for extent in shape) or size >= 1 << 40:
        raise InputError("E710", f"{where} cannot have the extents {shape}")
    return MapStep(buffer, param.dtype, shape, entry.box, entry.span)


def place(plan: Plan, sizes: Sequence[int], steps: Sequence[Step]) -> tuple[list[int], int]:
    """Each temporary's offset in one arena by the steps that use it (-1 for other buffers), and the arena's bytes."""
    alive = lifetimes(steps)
    temps = [i for i, buffer in enumerate(plan.buffers) if buffer.kind == "temp"]
    places, arena = assign([(sizes[i] if i in alive else 0, *alive.get(i, (0, 0))) for i in temps])
    offsets = [-1] * len(plan.buffers)
    for index, place in zip(temps, places, strict=True):
        offsets[index] = place
    if arena > _MAX_BYTES:
        raise InputError("E713", f"{plan.function}: temporaries would need {arena} bytes")
    return offsets, arena


def lifetimes(steps: Sequence[Step]) -> dict[int, tuple[int, int]]:
    """The first and the last step that uses each buffer. What a loop uses and steps outside of it use too lives as
    long as the whole loop."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    ends: list[tuple[int, int]] = []  # loops: their first and last step
    for number, step in enumerate(steps):
        for index in _used(step):
            first.setdefault(index, number)
            last[index] = max(last.get(index, number), number)
        if isinstance(step, LoopStep):
            decided = number + step.head  # where `on` is looked at
            last[step.on] = max(last[step.on], decided)
        if isinstance(step, (RepeatStep, LoopStep)):
            ends.append((number, number + sum(blocks(step))))
    for start, stop in reversed(ends):  # inner loops before those around them
        for index in {i for step in steps[start : stop + 1] for i in _used(step)}:
            if first[index] < start or last[index] > stop:
                first[index], last[index] = min(first[index], start), max(last[index], stop)
    return {index: (first[index], last[index]) for index in first}


def _used(step: Step) -> list[int]:
    """The buffers that a step itself uses."""
    if isinstance(step, LaunchStep):
        return [v for k, v in step.args if k == "buffer" and isinstance(v, int)]
    if isinstance(step, (CopyStep, RowStep)):
        return [step.src, step.dst]
    return [step.on] if isinstance(step, (BranchStep, LoopStep)) else []

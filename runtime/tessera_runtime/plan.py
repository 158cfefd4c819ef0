"""A plan at given extents: sizes, grids and arguments evaluated, temporaries placed. Done once per set of extents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tessera_runtime.core.dtypes import DTYPES
from tessera_runtime.core.errors import BundleError, InputError
from tessera_runtime.core.manifest import Copy, Dim, Kernel, Launch, Plan
from tessera_runtime.core.shapeexpr import evaluate
from tessera_runtime.memory import assign

__all__ = ["CopyStep", "Instance", "LaunchStep", "extents", "instantiate", "place"]

_MAX_BYTES = 1 << 47


class LaunchStep(NamedTuple):
    """A launch: kernel index, grid, and per argument ("buffer", index), ("dim", value) or ("scalar", input name)."""

    kernel: int
    grid: tuple[int, int, int]
    groups: int
    args: tuple[tuple[str, int | str], ...]
    dynamic_shared: int


class CopyStep(NamedTuple):
    """A copy of `nbytes` between two plan buffers."""

    src: int
    dst: int
    nbytes: int


class Instance(NamedTuple):
    """A plan at given extents. `offsets[i]` is a temporary's place in an arena of `arena` bytes, -1 for other buffers.

    `written` are the buffers that some step writes. Steps over empty grids and empty copies are left out.
    """

    plan: Plan
    shapes: tuple[tuple[int, ...], ...]
    nbytes: tuple[int, ...]
    offsets: tuple[int, ...]
    arena: int
    steps: tuple[LaunchStep | CopyStep, ...]
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
    steps: list[LaunchStep | CopyStep] = []
    written: set[int] = set()
    for step in plan.steps:
        if isinstance(step, Copy):
            if sizes[step.src] != sizes[step.dst]:
                raise InputError("E710", f"{plan.function}: a copy of {sizes[step.src]} bytes into {sizes[step.dst]}")
            written.add(step.dst)
            if sizes[step.src]:
                steps.append(CopyStep(step.src, step.dst, sizes[step.src]))
            continue
        kernel = kernels[step.kernel]
        for arg, param in zip(step.args, kernel.params, strict=True):
            if param.access != "read" and arg.buffer is not None:
                written.add(arg.buffer)
        x, y, z = extents(step.grid, env, f"{plan.function}: a grid")
        (shared,) = extents((step.dynamic_shared,), env, f"{plan.function}: shared memory")
        _hold(plan.function, step, kernel, (x, y, z, shared), sizes, env)
        if x * y * z == 0:
            continue
        if x * y * z >= 1 << 62:
            raise InputError("E713", f"{plan.function}: a grid of {x} x {y} x {z} groups")
        args: list[tuple[str, int | str]] = []
        for arg in step.args:
            if arg.buffer is not None:
                args.append(("buffer", arg.buffer))
            elif arg.dim is not None:
                args.append(("dim", arg.dim if isinstance(arg.dim, int) else evaluate(arg.dim, env)))
            else:
                args.append(("scalar", arg.scalar or ""))
        steps.append(LaunchStep(step.kernel, (x, y, z), x * y * z, tuple(args), shared))
    offsets, arena = place(plan, sizes, steps)
    return Instance(plan, tuple(shapes), tuple(sizes), tuple(offsets), arena, tuple(steps), frozenset(written))


def _hold(
    function: str, step: Launch, kernel: Kernel, given: tuple[int, ...], sizes: Sequence[int], env: Mapping[str, int]
) -> None:
    """Hold a launch against its kernel's declaration: the buffers' bytes, grid and shared memory (`given`); E625."""
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


def place(plan: Plan, sizes: Sequence[int], steps: Sequence[LaunchStep | CopyStep]) -> tuple[list[int], int]:
    """Each temporary's offset in one arena by the steps that use it (-1 for other buffers), and the arena's bytes."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for number, step in enumerate(steps):
        used = (step.src, step.dst) if isinstance(step, CopyStep) else [v for k, v in step.args if k == "buffer"]
        for index in used:
            if isinstance(index, int):
                first.setdefault(index, number)
                last[index] = number
    temps = [i for i, buffer in enumerate(plan.buffers) if buffer.kind == "temp"]
    places, arena = assign([(sizes[i] if i in first else 0, first.get(i, 0), last.get(i, 0)) for i in temps])
    offsets = [-1] * len(plan.buffers)
    for index, place in zip(temps, places, strict=True):
        offsets[index] = place
    if arena > _MAX_BYTES:
        raise InputError("E713", f"{plan.function}: temporaries would need {arena} bytes")
    return offsets, arena

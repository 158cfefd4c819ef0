"""Branches and loops of a plan: which steps run, in which order.

An evaluated plan is a flat tuple of steps. The steps of a branch, repeat or loop follow it; it says how many they are.
Devices take the steps that move or compute something from `walk`, and tell it what a buffer of bool holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

__all__ = [
    "BranchStep", "CopyStep", "LaunchStep", "LoopStep", "MapStep", "RepeatStep", "RowStep", "Step", "blocks",
    "row_strides", "walk",
]  # fmt: skip


class MapStep(NamedTuple):
    """A tensor map that a launch passes: of a buffer as a tensor of these extents; `core.manifest.TensorMap`."""

    buffer: int
    dtype: str
    extents: tuple[int, ...]
    box: tuple[int, ...]
    span: int


def row_strides(extents: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """Bytes between neighbours of a row-major tensor along every axis but the last, from the innermost outwards."""
    strides, stride = [], itemsize
    for extent in reversed(extents[1:]):
        stride *= extent
        strides.append(stride)
    return tuple(strides)


class LaunchStep(NamedTuple):
    """A launch: kernel index, grid, and per argument ("buffer", index), ("dim", value) or ("scalar", input name).
    The tensor maps follow the arguments."""

    kernel: int
    grid: tuple[int, int, int]
    groups: int
    args: tuple[tuple[str, int | str], ...]
    dynamic_shared: int
    maps: tuple[MapStep, ...] = ()


class CopyStep(NamedTuple):
    """A copy of `nbytes` between two plan buffers, from byte `src_at` of one to byte `dst_at` of the other."""

    src: int
    dst: int
    nbytes: int
    src_at: int = 0
    dst_at: int = 0


class RowStep(NamedTuple):
    """A copy of one row of `nbytes` for step i of the innermost repeat: from row i of `src`, or (`put`) to row i of
    `dst`; counted from the end if `reverse`."""

    src: int
    dst: int
    nbytes: int
    put: bool
    reverse: bool


class BranchStep(NamedTuple):
    """Of the next `then + other` steps the first `then` if buffer `on` holds true, else the others."""

    on: int
    then: int
    other: int


class RepeatStep(NamedTuple):
    """The next `body` steps, so many `times`."""

    times: int
    body: int


class LoopStep(NamedTuple):
    """The next `head` steps; while buffer `on` holds true then, the `body` steps behind them and the head again."""

    on: int
    head: int
    body: int


Step: TypeAlias = LaunchStep | CopyStep | RowStep | BranchStep | RepeatStep | LoopStep


def blocks(step: object) -> tuple[int, ...]:
    """The lengths of the blocks that follow a step."""
    if isinstance(step, BranchStep):
        return step.then, step.other
    if isinstance(step, RepeatStep):
        return (step.body,)
    return (step.head, step.body) if isinstance(step, LoopStep) else ()


def walk(steps: Sequence[Step], holds: Callable[[int], bool]) -> Iterator[tuple[int, LaunchStep | CopyStep]]:
    """(number, step) in the order of execution. `holds(buffer)` is asked when all steps given before have been run."""
    return _block(steps, 0, len(steps), holds, (0, 1))


def _block(
    steps: Sequence[Step], start: int, stop: int, holds: Callable[[int], bool], row: tuple[int, int]
) -> Iterator[tuple[int, LaunchStep | CopyStep]]:
    """The steps start..stop; `row` is (i, count) of the innermost repeat."""
    at = start
    while at < stop:
        step = steps[at]
        first = at + 1
        at = first + sum(blocks(step))
        if isinstance(step, (LaunchStep, CopyStep)):
            yield first - 1, step
        elif isinstance(step, RowStep):
            place = (row[1] - 1 - row[0] if step.reverse else row[0]) * step.nbytes
            where = (0, place) if step.put else (place, 0)
            yield first - 1, CopyStep(step.src, step.dst, step.nbytes, *where)
        elif isinstance(step, BranchStep):
            middle = first + step.then
            taken = (first, middle) if holds(step.on) else (middle, at)
            yield from _block(steps, *taken, holds, row)
        elif isinstance(step, RepeatStep):
            for i in range(step.times):
                yield from _block(steps, first, at, holds, (i, step.times))
        else:
            middle = first + step.head
            yield from _block(steps, first, middle, holds, row)
            while holds(step.on):
                yield from _block(steps, middle, at, holds, row)
                yield from _block(steps, first, middle, holds, row)

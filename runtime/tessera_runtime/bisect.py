"""Finding the first step of a function whose results differ from a reference, on the shipped bundle.

Both plans, of the target under test and of the reference, are cut where both hold the same live values. From cut to
cut each side runs its own steps on the same values, those of the reference: errors do not add up, and the first part
that differs is where a wrong result comes from. Two targets of one program usually have the same steps, and then every
step is a part of its own; a branch or a loop is one as a whole. Only values that a later step reads are kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tessera_runtime import guards
from tessera_runtime.api import Bundle
from tessera_runtime.compare import Difference, compare, readable
from tessera_runtime.control import BranchStep, CopyStep, LaunchStep, LoopStep, RowStep, Step, blocks
from tessera_runtime.core.dtypes import DTYPES, np_dtype
from tessera_runtime.core.manifest import Buffer, Function, Kernel, Plan
from tessera_runtime.core.places import place_of
from tessera_runtime.memory import aligned_empty
from tessera_runtime.plan import Instance, instantiate, place

__all__ = ["Part", "bisect"]

Values = dict[str, NDArray[Any]]


class Part(NamedTuple):
    """Steps between two cuts: the kernels of the target under test, their lines (of a fault that), and differences."""

    steps: tuple[int, ...]
    kernels: tuple[str, ...]
    sources: tuple[str, ...]
    differences: tuple[tuple[str, Difference], ...]  # of values by name


def bisect(
    tested: Bundle, reference: Bundle, name: str, arguments: Mapping[str, Any], bound: tuple[float, float] | None
) -> Iterator[Part]:
    """Run function `name` part by part; gives each part as it ends. Continues after differences. E7xx for arguments
    that do not fit, before anything runs.

    `bound` is (atol, rtol); by default it follows from the element types and extents at hand: 4 sqrt(n) units of the
    narrowest float among a part's buffers, n being the longest axis, relative to the largest value.
    """
    function = tested[name].function
    arrays, scalars, env = _arguments(function, arguments)
    sides = [_Side(bundle, name, env) for bundle in (tested, reference)]
    values: Values = {f"input {key}": np.array(array, order="C") for key, array in arrays.items()}
    return _parts(sides, values, scalars, bound)


def _parts(
    sides: Sequence[_Side], values: Values, scalars: Mapping[str, int], bound: tuple[float, float] | None
) -> Iterator[Part]:
    done = [0, 0]
    for cut in _cuts(sides[0], sides[1]):
        ranges = [range(start, stop) for start, stop in zip(done, cut, strict=True)]
        found, wanted = (side.run(steps, values, scalars) for side, steps in zip(sides, ranges, strict=True))
        common = [key for key in wanted if key in found]
        differences = []
        different_keys: set[str] = set()
        for key in common:
            dtype = sides[0].buffer(key).dtype
            limits = bound or _bound(sides[0].shapes(ranges[0]), readable(wanted[key], dtype))
            different = compare(found[key], wanted[key], dtype, *limits)
            if different is not None:
                differences.append((_shown(key), different))
                different_keys.add(key)
        steps = [step for unit in ranges[0] for step in sides[0].moving(unit)]
        kernels = [sides[0].kernel(step) for step in steps]
        yield Part(
            tuple(steps),
            tuple(kernel.name if kernel else "copy" for kernel in kernels),
            tuple(sides[0].place(step, different_keys) for step in steps),
            tuple(differences),
        )
        values.update(wanted)
        needed = sides[1].live(cut[1])
        values = {key: array for key, array in values.items() if key in needed}
        done = list(cut)


def _arguments(
    function: Function, arguments: Mapping[str, Any]
) -> tuple[dict[str, NDArray[Any]], dict[str, int], dict[str, int]]:
    """The call's arrays, scalars' bits, and symbols."""
    arrays: dict[str, NDArray[Any]] = {}
    scalars: dict[str, int] = {}
    for item, value in zip(function.inputs, guards.arrange(function, (), arguments), strict=True):
        if item.kind == "scalar":
            scalars[item.name] = guards.scalar_bits(function, item, value)
        else:
            arrays[item.name] = guards.tensor(function, item, value)
    numbers = guards.scalar_extents(function, scalars)
    return arrays, scalars, guards.solve(function, {name: array.shape for name, array in arrays.items()}, numbers)


def _shown(key: str) -> str:
    """`out` for an output or input, `value of block__1` for a temporary."""
    kind, _, rest = key.partition(" ")
    return rest if kind in ("input", "output") else f"value of {rest.partition(' ')[0]}"


def _bound(kinds: Sequence[tuple[str, tuple[int, ...]]], wanted: NDArray[Any]) -> tuple[float, float]:
    epsilon = max((2.0 ** -DTYPES[dtype].mantissa for dtype, _ in kinds if DTYPES[dtype].kind == "f"), default=0.0)
    longest = max((extent for _, shape in kinds for extent in shape), default=1)
    relative = 4 * math.ceil(math.sqrt(longest)) * epsilon
    if wanted.dtype.kind != "f":
        return 0.0, 0.0
    sizes = np.abs(wanted.astype(np.float64))
    return relative * float(sizes[np.isfinite(sizes)].max(initial=0.0)), relative


class _Side:
    """One target's plan at the call's extents, in units: steps, and whole branches and loops.

    A value's key names it on both sides: `input x`, `output y`, `constant w`, or for a temporary the kernel that first
    writes it, and which of its arguments it is.
    """

    def __init__(self, bundle: Bundle, name: str, env: Mapping[str, int]) -> None:
        self._bundle = bundle
        self._kernels = bundle.target.kernels
        self._plan = bundle.plans[name]
        self.instance: Instance = instantiate(self._plan, self._kernels, env)
        self.units = list(_units(self.instance.steps))
        self.uses = [self._used(unit) for unit in self.units]
        self.keys: list[str] = [
            "temp" if buffer.kind == "temp" else f"{buffer.kind} {buffer.ref}" for buffer in self._plan.buffers
        ]
        # Until which step each buffer is of use; results are to the end.
        self._until = [len(self.uses) if self._is_result(index) else -1 for index in range(len(self._plan.buffers))]
        for number, (reads, _) in enumerate(self.uses):
            for index in reads:
                self._until[index] = max(self._until[index], number)
        self._last: list[dict[int, str]] = []  # after each step: who wrote each buffer last
        writers: dict[int, str] = {}
        counts: dict[str, int] = {}
        for unit, (_, written) in zip(self.units, self.uses, strict=True):
            first = next((k for k in map(self.kernel, unit) if k is not None), None)
            kernel = first.name if first is not None else "copy"
            for slot, index in enumerate(written):
                writers[index] = kernel
                if self.keys[index] == "temp":
                    key = f"temp {kernel} {slot}"
                    counts[key] = counts.get(key, -1) + 1  # a kernel may be launched for several temporaries
                    self.keys[index] = f"{key} {counts[key]}"
            self._last.append(dict(writers))
        self._index = {key: index for index, key in enumerate(self.keys)}

    def _is_result(self, index: int) -> bool:
        kind = self._plan.buffers[index].kind
        return kind == "output" or (kind == "input" and index in self.instance.written)

    def _used(self, unit: range) -> tuple[list[int], list[int]]:
        """The buffers that a unit reads and those that it writes, each once, in order. What a branch or a loop writes
        it may leave as it was, so it counts as read too."""
        reads: dict[int, None] = {}
        writes: dict[int, None] = {}
        for number in unit:
            step = self.instance.steps[number]
            if isinstance(step, LaunchStep):
                for (kind, value), param in zip(step.args, self._kernels[step.kernel].params, strict=True):
                    if kind == "buffer" and isinstance(value, int):
                        if param.access != "write":
                            reads[value] = None
                        if param.access != "read":
                            writes[value] = None
            elif isinstance(step, (CopyStep, RowStep)):
                reads[step.src] = writes[step.dst] = None
            elif isinstance(step, (BranchStep, LoopStep)):
                reads[step.on] = None
        return list({**reads, **writes} if len(unit) > 1 else reads), list(writes)

    def moving(self, unit: int) -> list[int]:
        """The steps of a unit that launch or copy."""
        kinds = (LaunchStep, CopyStep, RowStep)
        return [number for number in self.units[unit] if isinstance(self.instance.steps[number], kinds)]

    def buffer(self, key: str) -> Buffer:
        return self._plan.buffers[self._index[key]]

    def kernel(self, step: int) -> Kernel | None:
        found = self.instance.steps[step]
        return self._kernels[found.kernel] if isinstance(found, LaunchStep) else None

    def place(self, step: int, different: Set[str]) -> str:
        """The lines of a step's kernel; where values differ that it writes, the line of the first of them."""
        found = self.instance.steps[step]
        if not isinstance(found, LaunchStep):
            return ""
        kernel = self._kernels[found.kernel]
        pairs = enumerate(zip(found.args, kernel.params, strict=True))
        return place_of(kernel, [
            slot for slot, ((kind, value), param) in pairs
            if kind == "buffer" and isinstance(value, int) and param.access != "read" and self.keys[value] in different
        ])  # fmt: skip

    def shapes(self, units: Sequence[int]) -> list[tuple[str, tuple[int, ...]]]:
        """Element types and shapes of what these units touch."""
        touched = {index for unit in units for used in self.uses[unit] for index in used}
        return [(self._plan.buffers[index].dtype, self.instance.shapes[index]) for index in sorted(touched)]

    def live(self, stop: int) -> dict[str, str]:
        """The values given or written before unit `stop` that a later one reads or that are results: key to writer."""
        writers = self._last[stop - 1] if stop else {}
        return {
            self.keys[index]: writers.get(index, "")
            for index, buffer in enumerate(self._plan.buffers)
            if (self._until[index] >= stop) and (index in writers or buffer.kind == "input")
        }

    def run(self, units: Sequence[int], values: Values, scalars: Mapping[str, int]) -> Values:
        """The values that these units write and that live on, computed from `values`, which stay."""
        if not units:
            return {}
        after = self.live(units[-1] + 1)
        written = {index for unit in units for index in self.uses[unit][1]}
        buffers: list[Buffer] = []
        arrays: list[NDArray[Any] | None] = []
        results: Values = {}
        for index, buffer in enumerate(self._plan.buffers):
            key = self.keys[index]
            array: NDArray[Any] | None = None
            kind = "constant" if buffer.kind == "constant" else "temp"
            if key in values:
                kind, array = "input", values[key].copy() if index in written else values[key]
            elif index in written and key in after:
                kind, array = "output", aligned_empty(self.instance.shapes[index], np_dtype(buffer.dtype))
                array.reshape(-1).view(np.uint8)[:] = 0
            if array is not None and index in written and key in after:
                results[key] = array
            buffers.append(Buffer(kind, buffer.ref, buffer.dtype, buffer.shape))
            arrays.append(array)
        chosen = tuple(self.instance.steps[number] for unit in units for number in self.units[unit])
        plan = Plan(self._plan.function, tuple(buffers), ())
        offsets, arena = place(plan, self.instance.nbytes, chosen)
        part = self.instance._replace(
            plan=plan, offsets=tuple(offsets), arena=arena, steps=chosen, written=frozenset(written)
        )
        self._bundle.program.run(part, arrays, scalars)
        return results


def _units(steps: Sequence[Step]) -> Iterator[range]:
    """The steps outside of branches and loops, and these as a whole."""
    at = 0
    while at < len(steps):
        end = at + 1 + sum(blocks(steps[at]))
        yield range(at, end)
        at = end


def _cuts(tested: _Side, reference: _Side) -> Iterator[tuple[int, int]]:
    """Pairs of numbers of units after which both sides hold the same live values, written by kernels of equal names.

    The last pair is both plans' ends. Each unit of the tested plan is cut off at the earliest fitting place.
    """
    ends = len(tested.units), len(reference.units)
    places: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for stop in range(1, ends[1]):
        places.setdefault(tuple(sorted(reference.live(stop).items())), []).append(stop)
    last = 0
    for stop in range(1, ends[0]):
        later = [at for at in places.get(tuple(sorted(tested.live(stop).items())), ()) if at > last]
        if later:
            last = later[0]
            yield stop, last
    yield ends

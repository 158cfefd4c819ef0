"""What orders the accesses of a compiled kernel, taken out of its PTX one instruction at a time, and what is then seen.

Each entry that some call of a case reaches is tried, first with the call that does most in it; what none reaches is
launched for empty arrays alone. Kernels that loop over their work are launched with one block (or one cluster) for all
of it, so that order between one piece and the next counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

import numpy as np

from tessera.kernel import KernelDef
from tessera_runtime import load as load_bundle
from tessera_runtime.bundle import BundleFile
from tessera_runtime.core.errors import TesseraError
from tessera_runtime.core.manifest import Target
from tesseracc.arch.arch import Arch, load
from tesseracc.driver import Build
from tesseracc.emulator import Emulator, Module, Report, launch, parse_ptx
from tesseracc.emulator.ptx import Instruction
from tesseracc.emulator_device import EmulatorDevice, EmulatorProgram
from tesseracc.frontend.kernel import lower
from tesseracc.interpret.binding import evaluate_dim
from tesseracc.ir.value import Func, Region
from tests.emulator.test_deletions import deletions
from tests.kernels.cases import Call, Case
from tests.kernels.matrix import fixed, worst

SEEDS = 3
READERS = frozenset({"ldmatrix", "wgmma", "tcgen05", "atom", "red", "mapa", "cvta"})
#: limits of a launch: what the unchanged kernel needs at least, so that a wait that nobody ends is found soon
STEPS = (20_000, 100_000, 1_000_000)


class _Emulator(Emulator):
    """Launches of other code than the bundle has, with a seed, few blocks, and an end; says which entries ran."""

    def __init__(self, module: Module, seed: int, blocks: dict[str, int], steps: int) -> None:
        super().__init__(seed)
        self.module, self.blocks, self.steps = module, blocks, steps
        self.ran: list[str] = []

    def launch(
        self, module: Module, kernel: str, grid: Sequence[int], block: Sequence[int], args: Sequence[Any] = (),
        dynamic_shared: int = 0, cluster: Sequence[int] | None = None,
    ) -> Report:  # fmt: skip
        grid = (min(grid[0], self.blocks.get(kernel, grid[0])), *grid[1:])
        self.ran.append(kernel)
        return launch(self.module, kernel, grid, block, args, dynamic_shared, self.seed, True, self.memory,
                      counting=False, max_steps=self.steps, strict=True, halt=True)  # fmt: skip


class _Device(EmulatorDevice):
    """Keeps the program of a bundle at hand."""

    program: EmulatorProgram

    def load(self, file: BundleFile, target: Target) -> EmulatorProgram:
        self.program = super().load(file, target)
        return self.program


@dataclass
class Outcome:
    """The instructions that order something in the entries of a case, and how their absence shows."""

    tried: int = 0
    by: dict[str, int] = field(default_factory=dict)  # code of the first finding, or `value`
    redundant: int = 0  # nobody misses them, and nobody can: what they order is never read
    survivors: list[str] = field(default_factory=list)  # the lines that nobody else misses


@dataclass(eq=False)
class Ordered:
    """A case for one target, compiled for the constants of some of its calls."""

    case: Case
    arch: Arch
    kernel: KernelDef
    steps: int = STEPS[0]

    @cached_property
    def build(self) -> Build:
        return Build(lower(self.kernel), [self.arch])

    @cached_property
    def bundle(self) -> bytes:
        return self.build.bundle()

    @cached_property
    def text(self) -> str:
        (image,) = self.build.images
        return image.ptx

    @cached_property
    def blocks(self) -> dict[str, int]:
        """How many blocks do for the entries whose grid has an end whatever the sizes."""

        def bounded(func: Func) -> bool:
            huge = dict.fromkeys(func.attrs["symbols"], 1 << 24)
            return evaluate_dim(func.attrs["grid"][0], huge) < 1 << 12

        found = [f for f in self.build.target(self.arch).funcs if f.kind == "target.func"]
        return {f.attrs["symbol"]: f.attrs.get("cluster", (1,))[0] for f in found if bounded(f)}

    @cached_property
    def launched(self) -> frozenset[str]:
        """The entries that programs launch for sizes above 0, of which there are many random ones."""
        funcs = self.build.target(self.arch).funcs
        symbols = sorted({name for f in funcs if f.kind == "target.func" for name in f.attrs["symbols"]})
        rng = np.random.default_rng(5)
        some = (999, len(symbols))
        extents = rng.integers(1, 64, some) * rng.choice((1, 64), some)
        sizes = [dict(zip(symbols, row, strict=True)) for row in extents.tolist()]

        def visit(region: Region, env: dict[str, int]) -> Iterator[str]:
            for op in region.ops:
                if op.name == "tile.launch":
                    yield op.attrs["kernel"]
                elif op.name == "tile.when":
                    yield from visit(op.regions[evaluate_dim(op.attrs["unless"], env) != 0], env)

        bodies = [f.body for f in funcs if f.kind == "tile.program"]
        return frozenset(name for body in bodies for env in sizes for name in visit(body, env))

    @cached_property
    def module(self) -> Module:
        return parse_ptx(self.text)

    @cached_property
    def loaded(self) -> tuple[Any, EmulatorProgram]:
        """The compiled function, and its program on the device."""
        device = _Device()
        return load_bundle(self.bundle, device=device)[self.kernel.name], device.program

    @cache  # noqa: B019
    def call(self, number: int) -> tuple[Call, list[str], list[Any]]:
        call = self.case.calls[number]()
        return (call, *fixed(self.case.kernel(), call)[1:])

    def without(self, entry: str, line: int) -> Module:
        """The module with what stands in a line, counted from 0, done away with: a wait goes on at once."""
        old = self.module.functions[entry]
        body = [
            replace(i, opcode="pmevent", mods=(), operands=(), guard=None) if i.line == line + 1 else i
            for i in old.body
        ]
        return replace(
            self.module, functions=self.module.functions | {entry: replace(old, body=body)}, programs={}
        )

    def run(self, module: Module, number: int, seed: int = 0) -> tuple[str | None, list[str]]:
        """How a call shows that it is wrong (None: it does not), and the entries that it ran."""
        function, program = self.loaded
        program._emulator = emulator = _Emulator(module, seed, self.blocks, self.steps)
        try:
            off = worst(*self.call(number), function)
        except TesseraError as error:
            return error.code, emulator.ran
        return (None if off <= 1 else "value"), emulator.ran

    def result(self, args: Sequence[Any], seed: int, blocks: int) -> Any:
        """What the kernel gives, with so many blocks (or clusters) of the entries that loop over their work."""
        function, program = self.loaded
        grids = {name: count * blocks for name, count in self.blocks.items()}
        program._emulator = _Emulator(self.module, seed, grids, STEPS[-1])
        return np.asarray(function(*(np.copy(x) for x in args)))

    def shows(self, module: Module, numbers: Iterable[int]) -> str | None:
        """How one of some calls shows, for one of some seeds, that it is wrong."""
        codes = (self.run(module, number, seed)[0] for number in numbers for seed in range(SEEDS))
        return next((code for code in codes if code is not None), None)


def size(case: Case, number: int) -> int:
    """Elements of a call, 0 if one of its arrays has none."""
    sizes = [np.size(x) for x in case.calls[number]().args]
    return sum(sizes) if all(sizes) else 0


def outcome(case: Case, arch: str) -> Outcome:
    """All deletions in all entries that calls reach, the larger calls first."""
    found = Outcome()
    kernels: dict[KernelDef, list[int]] = {}
    launched: set[tuple[object, str]] = set()
    tried: set[tuple[object, str]] = set()
    for number in sorted(range(len(case.calls)), key=lambda number: -size(case, number)):
        if size(case, number):
            kernels.setdefault(fixed(case.kernel(), case.calls[number]())[0], []).append(number)
    for kernel, numbers in kernels.items():
        ordered = Ordered(case, load(arch), kernel)
        reached = Reached(ordered, numbers)
        while not ordered.launched <= reached.by.keys() and reached.more():
            pass
        for entry in reached.by:
            one_entry(ordered, entry, reached, found)
        constants = frozenset(dict(kernel.constants).items())
        launched |= {(constants, entry) for entry in ordered.launched}
        tried |= {(constants, entry) for entry in reached.by}
    assert launched <= tried, launched - tried
    return found


@dataclass
class Reached:
    """The calls that reach an entry; what the unchanged kernel gives is right for each. Calls are made as needed."""

    ordered: Ordered
    waiting: list[int]
    by: dict[str, list[int]] = field(default_factory=dict)

    def more(self) -> bool:
        """Makes one more call, if there is one."""
        if not self.waiting:
            return False
        number, ordered = self.waiting.pop(0), self.ordered
        for ordered.steps in (limit for limit in STEPS if limit >= ordered.steps):
            code, ran = ordered.run(ordered.module, number)
            if code != "E958":
                break
        assert code is None, code
        for entry in ran:
            self.by.setdefault(entry, []).append(number)
        return True

    def calls(self, entry: str) -> Iterator[int]:
        """All calls that reach an entry."""
        at = 0
        while at < len(self.by[entry]) or self.more():
            yield from self.by[entry][at : at + 1]
            at = min(at + 1, len(self.by[entry]))


def one_entry(ordered: Ordered, entry: str, reached: Reached, found: Outcome) -> None:
    """All deletions in one entry of a kernel, with the calls that reach it."""
    lines = ordered.text.split("\n")
    for at in deletions(ordered.text, f"{entry}("):
        found.tried += 1
        code = ordered.shows(ordered.without(entry, at), reached.calls(entry))
        if code is None and unread(ordered.module, entry):
            found.redundant += 1
        elif code is None:
            found.survivors.append(f"{entry}: {lines[at].strip()}")
        else:
            found.by[code] = found.by.get(code, 0) + 1


def unread(module: Module, entry: str) -> bool:
    """Whether nothing in a kernel can read shared memory."""

    def reads(i: Instruction) -> bool:
        elsewhere = {"global", "param", "const", "local"} & set(i.mods)
        return i.opcode in READERS or (i.opcode == "ld" and not elsewhere) or (i.opcode == "cp" and "bulk" in i.mods)

    return not any(reads(i) for i in module.functions[entry].body)

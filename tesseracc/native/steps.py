"""A plan's steps in LLVM IR: launches, copies, rows, branches and loops.

All sizes that steps use are computed before the first of them, where a size that cannot be ends the call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tessera_runtime import control
from tessera_runtime.core.dtypes import DTYPES
from tessera_runtime.core.manifest import Branch, Copy, Kernel, Launch, Loop, Put, Repeat, Step, Take, When
from tessera_runtime.plan import lifetimes
from tesseracc.native.sizes import Body, Number

__all__ = ["Steps", "alive"]

_WIDE = 32  # bytes that a copy moves at once


def alive(steps: Sequence[Step]) -> dict[int, tuple[int, int]]:
    """The first and the last step that uses each buffer, through loops as the runtime has it."""
    return lifetimes([_evaluated(step) for step in steps])


def _evaluated(step: Step) -> control.Step:
    """The step as the runtime evaluates it, but for sizes, which do not matter for lifetimes."""
    match step:
        case Launch():
            args = tuple(("buffer", arg.buffer) for arg in step.args if arg.buffer is not None)
            return control.LaunchStep(step.kernel, (1, 1, 1), 1, args, 0)
        case Copy():
            return control.CopyStep(step.src, step.dst, 1)
        case Branch():
            return control.BranchStep(step.on, step.then, step.other)
        case Repeat():
            return control.RepeatStep(1, step.body)
        case When():  # either block, which the sizes tell
            return control.RepeatStep(1, step.then + step.other)
        case Loop():
            return control.LoopStep(step.on, step.head, step.body)
    return control.RowStep(step.src, step.dst, 1, isinstance(step, Put), step.reverse)


@dataclass
class Steps:
    """The steps of one plan on their way into a body. `bits` are the scalars' slots, `nbytes` the buffers' sizes."""

    body: Body
    steps: Sequence[Step]
    kernels: Sequence[Kernel]
    nbytes: Sequence[Number]
    bits: Mapping[str, str]
    pointers: Mapping[int, str] = field(default_factory=dict)
    scratch: str = "null"

    def prepare(self) -> None:
        """Compute the sizes of all steps. Wrong ones set the body's flag."""
        self._groups: dict[int, Number] = {}
        self._dims: dict[tuple[int, int], Number] = {}
        self._counts: dict[int, Number] = {}
        self._unless: dict[int, Number] = {}
        self._check(0, len(self.steps), 0)

    def _check(self, start: int, stop: int, count: Number) -> None:
        body, at = self.body, start
        while at < stop:
            step, number = self.steps[at], at
            at += 1
            if isinstance(step, Launch):
                self._check_launch(number, step)
            elif isinstance(step, (Take, Put)):
                row, whole = (step.src, step.dst) if isinstance(step, Put) else (step.dst, step.src)
                self._same(body.operate("mul", count, self.nbytes[row]), self.nbytes[whole])
            elif isinstance(step, Copy):
                self._same(self.nbytes[step.src], self.nbytes[step.dst])
            elif isinstance(step, Repeat):
                self._counts[number] = body.extent(step.count)
                self._check(at, at + step.body, self._counts[number])
                at += step.body
            elif isinstance(step, When):
                at = self._check_when(number, at, step, count)
            else:
                self._same(self.nbytes[step.on], 1)
                for length in (step.then, step.other) if isinstance(step, Branch) else (step.head, step.body):
                    self._check(at, at + length, count)
                    at += length

    def _check_launch(self, number: int, step: Launch) -> None:
        body = self.body
        groups: Number = 1
        for dim in step.grid:
            groups = body.operate("mul", groups, body.extent(dim))
        self._groups[number] = groups
        for slot, arg in enumerate(step.args):
            if arg.dim is not None:
                self._dims[number, slot] = body.dim(arg.dim)
        self._hold(number, step)

    def _hold(self, number: int, step: Launch) -> None:
        """Hold a launch against its kernel's declaration (P1 of specs/bundle.md). Sizes that are the same expressions,
        as the compiler's are, need no code."""
        body, kernel = self.body, self.kernels[step.kernel]
        grid = [body.extent(dim) for dim in step.grid]
        dims = [self._dims[number, slot] for slot, arg in enumerate(step.args) if arg.dim is not None]
        outer, body.symbols = body.symbols, dict(zip(kernel.symbols, dims, strict=False))
        declared = grid if kernel.grid is None else [body.extent(dim) for dim in kernel.grid]
        needed = {
            slot: body.nbytes(param.shape, DTYPES[param.dtype].itemsize)
            for slot, param in enumerate(kernel.params)
            if param.shape is not None
        }
        body.symbols = outer
        for given, own in zip(grid, declared, strict=True):
            self._same(given, own)
        for slot, nbytes in needed.items():
            buffer = step.args[slot].buffer
            assert buffer is not None, "the manifest was checked"
            self._same(self.nbytes[buffer], nbytes)

    def _check_when(self, number: int, at: int, step: When, count: Number) -> int:
        """Sizes of the block that is not run may be wrong: it is for other ones. Gives where the blocks end."""
        body = self.body
        self._unless[number] = unless = body.dim(step.unless)
        before, faults = body.fault, []
        for length in (step.then, step.other):
            body.fault = "false"
            with body.apart():
                self._check(at, at + length, count)
            faults.append(body.fault)
            at += length
        fits = body.value(f"icmp eq i64 {unless}, 0")
        body.fault = before
        body.wrong(body.value(f"select i1 {fits}, i1 {faults[0]}, i1 {faults[1]}"))
        return at

    def _same(self, a: Number, b: Number) -> None:
        if a != b:
            self.body.wrong(self.body.value(f"icmp ne i64 {a}, {b}"))

    def run(self) -> None:
        """Emit all steps, in order."""
        self._block(0, len(self.steps), ("0", 1))

    def _block(self, start: int, stop: int, row: tuple[str, Number]) -> None:
        """The steps start..stop; `row` names the step of the innermost repeat, and how many it has."""
        body, at = self.body, start
        while at < stop:
            step, number = self.steps[at], at
            at += 1
            match step:
                case Launch():
                    self._launch(number, step)
                case Copy():
                    self._copy(self.pointers[step.dst], self.pointers[step.src], self.nbytes[step.src])
                case Take() | Put():
                    self._row(step, row)
                case Repeat():
                    self._repeat(number, at, step)
                    at += step.body
                case Branch() | When():
                    then, other, after = (body.label(stem) for stem in ("then", "else", "after"))
                    body.line(f"br i1 {self._first(number, step)}, label %{then}, label %{other}")
                    for label, first, length in ((then, at, step.then), (other, at + step.then, step.other)):
                        body.line(f"{label}:")
                        self._block(first, first + length, row)
                        body.line(f"br label %{after}")
                    body.line(f"{after}:")
                    at += step.then + step.other
                case Loop():
                    head, inside, after = (body.label(stem) for stem in ("head", "body", "after"))
                    body.line(f"br label %{head}")
                    body.line(f"{head}:")
                    self._block(at, at + step.head, row)
                    body.line(f"br i1 {self._flag(step.on)}, label %{inside}, label %{after}")
                    body.line(f"{inside}:")
                    self._block(at + step.head, at + step.head + step.body, row)
                    body.line(f"br label %{head}")
                    body.line(f"{after}:")
                    at += step.head + step.body

    def _launch(self, number: int, step: Launch) -> None:
        """Store the arguments, 8 bytes each, and start the kernel; no groups, no start."""
        body, launch, after = self.body, self.body.label("launch"), self.body.label("after")
        body.line(f"br i1 {body.value(f'icmp eq i64 {self._groups[number]}, 0')}, label %{after}, label %{launch}")
        body.line(f"{launch}:")
        for slot, arg in enumerate(step.args):
            if arg.buffer is not None:
                given = f"ptr {self.pointers[arg.buffer]}"
            else:
                given = f"i64 {self.bits[arg.scalar] if arg.scalar is not None else self._dims[number, slot]}"
            body.line(f"store {given}, ptr {self._at('%args', 8 * slot)}, align 8")
        self._start(number, step)
        body.line(f"br label %{after}")
        body.line(f"{after}:")

    def _start(self, number: int, step: Launch) -> None:
        symbol, groups = self.kernels[step.kernel].symbol, self._groups[number]
        self.body.line(f'call void @"{symbol}"(ptr %args, i64 0, i64 {groups}, ptr {self.scratch})')

    def _at(self, base: str, offset: int) -> str:
        return self.body.value(f"getelementptr i8, ptr {base}, i64 {offset}")

    def _row(self, step: Take | Put, row: tuple[str, Number]) -> None:
        body, (index, count) = self.body, row
        if step.reverse:
            index = body.value(f"sub i64 {body.value(f'sub i64 {count}, 1')}, {index}")
        put = isinstance(step, Put)
        nbytes = self.nbytes[step.src if put else step.dst]
        away = body.value(f"mul i64 {index}, {nbytes}")
        source, target = self.pointers[step.src], self.pointers[step.dst]
        if put:
            target = body.value(f"getelementptr i8, ptr {target}, i64 {away}")
        else:
            source = body.value(f"getelementptr i8, ptr {source}, i64 {away}")
        self._copy(target, source, nbytes)

    def _copy(self, target: str, source: str, nbytes: Number) -> None:
        copy(self.body, target, source, nbytes)

    def _repeat(self, number: int, at: int, step: Repeat) -> None:
        body, count = self.body, self._counts[number]
        before, head, inside, latch, after = (body.label(s) for s in ("before", "head", "body", "latch", "after"))
        body.line(f"br label %{before}")
        body.line(f"{before}:")
        body.line(f"br label %{head}")
        body.line(f"{head}:")
        index = body.value(f"phi i64 [ 0, %{before} ], [ %{latch}.next, %{latch} ]")
        body.line(f"br i1 {body.value(f'icmp slt i64 {index}, {count}')}, label %{inside}, label %{after}")
        body.line(f"{inside}:")
        self._block(at, at + step.body, (index, count))
        body.line(f"br label %{latch}")
        body.line(f"{latch}:")
        body.line(f"%{latch}.next = add i64 {index}, 1")
        body.line(f"br label %{head}")
        body.line(f"{after}:")

    def _first(self, number: int, step: Branch | When) -> str:
        """Whether the first block is the one to run."""
        if isinstance(step, When):
            return self.body.value(f"icmp eq i64 {self._unless[number]}, 0")
        return self._flag(step.on)

    def _flag(self, buffer: int) -> str:
        byte = self.body.value(f"load i8, ptr {self.pointers[buffer]}, align 1")
        return self.body.value(f"icmp ne i8 {byte}, 0")


def copy(body: Body, target: str, source: str, nbytes: Number) -> None:
    """32 bytes at a time, then single ones: a library without libc has no memcpy."""
    whole = body.value(f"and i64 {nbytes}, {-_WIDE}") if isinstance(nbytes, str) else nbytes & -_WIDE
    for kind, width, start, stop in ((f"<{_WIDE} x i8>", _WIDE, 0, whole), ("i8", 1, whole, nbytes)):
        before, head, loop, after = (body.label(stem) for stem in ("before", "head", "loop", "after"))
        body.line(f"br label %{before}")
        body.line(f"{before}:")
        body.line(f"br label %{head}")
        body.line(f"{head}:")
        index = body.value(f"phi i64 [ {start}, %{before} ], [ %{loop}.next, %{loop} ]")
        body.line(f"br i1 {body.value(f'icmp slt i64 {index}, {stop}')}, label %{loop}, label %{after}")
        body.line(f"{loop}:")
        item = body.value(f"load {kind}, ptr {body.value(f'getelementptr i8, ptr {source}, i64 {index}')}, align 1")
        body.line(f"store {kind} {item}, ptr {body.value(f'getelementptr i8, ptr {target}, i64 {index}')}, align 1")
        body.line(f"%{loop}.next = add i64 {index}, {width}")
        body.line(f"br label %{head}")
        body.line(f"{after}:")

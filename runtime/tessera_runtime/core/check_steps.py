"""Whether the steps of a plan fit together: what they name exists, what they read was written, blocks are whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from tessera_runtime.core import manifest as m
from tessera_runtime.core.errors import BundleError, TesseraError
from tessera_runtime.core.shapeexpr import validate

__all__ = ["bad", "check_steps", "dims_fit"]

MAX_DEPTH = 32  # blocks within each other


def bad(where: str, message: str) -> BundleError:
    return BundleError("E623", f"{where}: {message}")


def dims_fit(dims: Iterable[m.Dim], symbols: Collection[str], where: str) -> None:
    for dim in dims:
        if not isinstance(dim, int):
            try:
                validate(dim, symbols)
            except TesseraError as error:
                raise BundleError("E624", f"{where}: {error.message}") from error


def check_steps(
    where: str, plan: m.Plan, inputs: Mapping[str, m.Input], kernels: Sequence[m.Kernel], symbols: Collection[str]
) -> set[int]:
    """The buffers that have contents when the plan has run; E623, E624 for a fault."""
    steps = _Steps(where, plan, inputs, kernels, symbols)
    steps.block(0, len(plan.steps), 0, False)
    return steps.defined


class _Steps:
    def __init__(
        self,
        where: str,
        plan: m.Plan,
        inputs: Mapping[str, m.Input],
        kernels: Sequence[m.Kernel],
        symbols: Collection[str],
    ) -> None:
        self.where, self.plan, self.inputs, self.kernels, self.symbols = where, plan, inputs, kernels, symbols
        # Inputs and constants have contents from the start; what else is read, an earlier step has written.
        self.defined = {index for index, buffer in enumerate(plan.buffers) if buffer.kind in ("input", "constant")}
        self.added: list[int] = []  # the others in `defined`, in order

    def block(self, start: int, stop: int, depth: int, repeated: bool) -> list[int]:
        """Steps start..stop; `repeated` if a repeat is around. Gives the buffers whose rows the block puts."""
        if depth > MAX_DEPTH:
            raise bad(self.where, f"has more than {MAX_DEPTH} blocks within each other")
        rows: list[int] = []
        number = start
        while number < stop:
            step, at = self.plan.steps[number], f"{self.where}, step {number}"
            number += 1
            if isinstance(step, m.Launch):
                self.launch(at, step)
            elif isinstance(step, m.Copy):
                self.copy(at, step)
            elif isinstance(step, (m.Take, m.Put)):
                self.row(at, step, repeated)
                if isinstance(step, m.Put):
                    rows.append(step.dst)
            else:
                number = self.control(at, step, number, stop, depth, repeated)
        return rows

    def control(
        self, at: str, step: m.Branch | m.When | m.Repeat | m.Loop, start: int, stop: int, depth: int, repeated: bool
    ) -> int:
        """A step with blocks, which begin at `start`; gives where they end."""
        if isinstance(step, (m.Branch, m.When)):
            first, second = step.then, step.other
        else:
            first, second = (step.body, 0) if isinstance(step, m.Repeat) else (step.head, step.body)
        middle, end = start + first, start + first + second
        if end > stop:
            raise bad(at, f"has blocks of {first + second} steps, {stop - start} are left")
        if isinstance(step, m.Repeat):
            dims_fit((step.count,), self.symbols, at)
            mark = len(self.added)
            rows = self.block(start, end, depth + 1, True)
            self.undo(mark)  # the steps may run no times at all
            for index in rows:
                self.define(index)
        elif isinstance(step, (m.Branch, m.When)):
            if isinstance(step, m.Branch):
                self.flag(at, step.on)
            else:
                dims_fit((step.unless,), self.symbols, at)
            mark = len(self.added)
            self.block(start, middle, depth + 1, repeated)
            then = set(self.undo(mark))
            self.block(middle, end, depth + 1, repeated)
            for index in self.undo(mark):
                if index in then:
                    self.define(index)
        else:
            self.block(start, middle, depth + 1, repeated)
            self.flag(at, step.on)
            mark = len(self.added)
            self.block(middle, end, depth + 1, repeated)
            self.undo(mark)
        return end

    def flag(self, at: str, index: int) -> None:
        """What decides is a bool that has contents."""
        self.exists(at, index)
        if self.plan.buffers[index].dtype != "bool":
            raise bad(at, f"is decided by buffer {index}, which is no bool")
        self.reads(index)

    def define(self, index: int) -> None:
        if index not in self.defined:
            self.defined.add(index)
            self.added.append(index)

    def undo(self, mark: int) -> list[int]:
        """Forget what was defined since `mark`; gives it."""
        found = self.added[mark:]
        self.defined.difference_update(found)
        del self.added[mark:]
        return found

    def exists(self, at: str, *indices: int) -> None:
        if max(indices) >= len(self.plan.buffers):
            raise bad(at, f"names buffer {max(indices)} of {len(self.plan.buffers)}")

    def reads(self, index: int) -> None:
        if index not in self.defined:
            raise bad(self.where, f"reads buffer {index} before any step has written it")

    def may_write(self, index: int) -> None:
        buffer = self.plan.buffers[index]
        if buffer.kind == "constant" or (buffer.kind == "input" and not self.inputs[buffer.ref].inout):
            raise bad(self.where, f"writes the {buffer.kind} '{buffer.ref}'")

    def writes(self, index: int) -> None:
        self.may_write(index)
        self.define(index)

    def copy(self, at: str, step: m.Copy) -> None:
        self.exists(at, step.src, step.dst)
        if step.src == step.dst:
            raise bad(at, "copies a buffer to itself")
        if self.plan.buffers[step.src].dtype != self.plan.buffers[step.dst].dtype:
            raise bad(at, "copies between element types")
        self.reads(step.src)
        self.writes(step.dst)

    def row(self, at: str, step: m.Take | m.Put, repeated: bool) -> None:
        self.exists(at, step.src, step.dst)
        if not repeated:
            raise bad(at, "moves a row outside of every repeat")
        if step.src == step.dst or self.plan.buffers[step.src].dtype != self.plan.buffers[step.dst].dtype:
            raise bad(at, "moves a row to its own buffer or to another element type")
        self.reads(step.src)
        if isinstance(step, m.Take):
            self.writes(step.dst)
        else:
            self.may_write(step.dst)

    def launch(self, at: str, step: m.Launch) -> None:
        if step.kernel >= len(self.kernels):
            raise bad(at, f"launches kernel {step.kernel} of {len(self.kernels)}")
        kernel = self.kernels[step.kernel]
        dims_fit((*step.grid, step.dynamic_shared), self.symbols, at)
        if len(step.args) != len(kernel.params):
            raise bad(at, f"passes {len(step.args)} arguments to {kernel.name}, which takes {len(kernel.params)}")
        for slot, (arg, param) in enumerate(zip(step.args, kernel.params, strict=True)):
            _check_arg(f"{at}, argument {slot}", arg, param, self.plan, self.inputs, self.symbols)
        pairs = zip(step.args, kernel.params, strict=True)
        passed = [(arg.buffer, param) for arg, param in pairs if arg.buffer is not None]
        for index, param in passed:
            if param.access != "write":
                self.reads(index)
        times = Counter(index for index, _ in passed)
        for index, param in passed:
            if param.access != "read":
                if times[index] > 1:
                    raise bad(at, f"passes buffer {index}, which {kernel.name} writes, twice")
                self.writes(index)


def _check_arg(
    where: str, arg: m.Arg, param: m.Param, plan: m.Plan, inputs: Mapping[str, m.Input], symbols: Collection[str]
) -> None:
    given = [
        kind for kind, value in (("buffer", arg.buffer), ("dim", arg.dim), ("scalar", arg.scalar)) if value is not None
    ]
    if given != [param.kind]:
        raise bad(where, f"is {' and '.join(given) or 'nothing'} where the kernel takes a {param.kind}")
    if arg.buffer is not None:
        if arg.buffer >= len(plan.buffers):
            raise bad(where, f"buffer {arg.buffer} of {len(plan.buffers)}")
        if plan.buffers[arg.buffer].dtype != param.dtype:
            raise bad(where, f"is {plan.buffers[arg.buffer].dtype} where the kernel takes {param.dtype}")
    elif arg.dim is not None:
        if param.dtype != "i64":
            raise bad(where, f"an extent is i64, not {param.dtype}")
        dims_fit((arg.dim,), symbols, where)
    else:
        source = inputs.get(arg.scalar or "")
        if source is None or source.kind != "scalar" or source.dtype != param.dtype:
            raise bad(where, f"is not the {param.dtype} scalar '{arg.scalar}'")

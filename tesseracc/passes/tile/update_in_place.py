"""`update-in-place`: state is updated in its own memory.

A function's attribute `state` pairs parameters with results. The step that writes the result moves behind the last that
reads the parameter where it can. The result's temporary becomes the parameter itself where nothing reads the parameter
after it is written, and the kernel that writes it either does not read the parameter or may
overwrite it (attribute `updates`, from `mark-updates`): the two buffers of the launch are one then. Elsewhere the
result is copied into the parameter at the end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from types import MappingProxyType

from tesseracc.ir.builder import make
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import substitute
from tesseracc.ir.value import Func, Module, Op, Region, Value


def _names(ops: Iterable[Op], buf: Value) -> set[Value]:
    """A buffer and all views of it."""
    found = {buf}
    for op in ops:
        for inner in op.walk():
            if inner.name == "tile.view" and inner["buf"] in found:
                found.add(inner.result)
    return found


def _whole(ops: Iterable[Op], value: Value) -> Value:
    """The buffer that a view shows."""
    behind = {op.result: op["buf"] for op in ops if op.name == "tile.view"}
    while value in behind:
        value = behind[value]
    return value


def _touches(op: Op, names: set[Value]) -> bool:
    return any(v in names for inner in op.walk() if inner.name != "tile.view" for v in inner.operands)


def _merged(kernel: Func, keep: int, drop: int) -> Func:
    """The kernel with one buffer in place of two: what it wrote to `drop` goes to `keep`, which it reads."""
    params = kernel.params
    body = substitute(kernel.body, {params[drop]: params[keep]})
    body = replace(body, args=tuple(p for i, p in enumerate(body.args) if i != drop))
    access = tuple("readwrite" if i == keep else a for i, a in enumerate(kernel.attrs["access"]) if i != drop)
    return kernel.with_(body=body, attrs=MappingProxyType({**kernel.attrs, "access": access}))


class _Update:
    """One program, changed pair by pair."""

    def __init__(self, program: Func, kernels: dict[str, Func]) -> None:
        self.program, self.kernels = program, kernels
        self.body = program.body

    def run(self) -> Func:
        params = {p.name: p for p in self.program.params}
        updates = set(self.program.attrs.get("updates", ()))
        copied: list[Op] = []
        for name, number in self.program.attrs["state"]:
            param, made = params[name], self.body.yields[number]
            if not self._joined(param, made, (name, number) in updates):
                copied.append(make("tile.copy", made, param))
            yields = tuple(param if i == number else v for i, v in enumerate(self.body.yields))
            self.body = replace(self.body, yields=yields)
        return self.program.with_(body=replace(self.body, ops=(*self.body.ops, *copied)))

    def _joined(self, param: Value, made: Value, may_overwrite: bool) -> bool:
        """Let the result live in the parameter's memory. False, and nothing changed, where that is not possible."""
        old, new = _names(self.body.ops, param), _names(self.body.ops, made)
        ops = self._sunk(old, new)
        writers = [i for i, op in enumerate(ops) if self._writes(op, new)]
        # several writers are versions of one launch, of which one runs
        if not writers or (len(writers) > 1 and any(ops[i].attrs.get("when", 1) == 1 for i in writers)):
            return False
        if any(_touches(op, old) for i, op in enumerate(ops) if i > writers[0] and i not in writers):
            return False
        changed = {i: self._in_place(ops[i], old, new, may_overwrite) for i in writers}
        if any(found is None for found in changed.values()):
            return False
        moved: list[Op] = []
        for i, op in enumerate(ops):
            if made not in op.results:
                moved += changed[i] or [] if i in changed else [op]
        body = Region(self.body.args, tuple(moved), self.body.yields)
        self.body = substitute(body, {made: param})
        return True

    def _sunk(self, old: set[Value], new: set[Value]) -> tuple[Op, ...]:
        """The steps, with the one that writes the result behind the last that reads the old value, where that is legal:
        nothing in between touches what the step writes, or writes what it reads."""
        ops = self.body.ops
        writers = [i for i, op in enumerate(ops) if self._writes(op, new)]
        readers = [i for i, op in enumerate(ops) if _touches(op, old)]
        if len(writers) != 1 or not readers or readers[-1] <= writers[0]:
            return ops
        at, last = writers[0], readers[-1]
        between = ops[at + 1 : last + 1]
        taken = {v: _names(ops, _whole(ops, v)) for v in ops[at].operands}
        written = set().union(*(names for names in taken.values() if self._writes(ops[at], names)))
        if any(_touches(op, written) or self._writes(op, set().union(*taken.values())) for op in between):
            return ops
        return (*ops[:at], *between, ops[at], *ops[last + 1 :])

    def _writes(self, op: Op, names: set[Value]) -> bool:
        if op.name == "tile.launch":
            access = self.kernels[str(op.attrs["kernel"])].attrs["access"]
            return any(v in names and a != "read" for v, a in zip(op.operands, access, strict=True))
        if op.name == "tile.copy":
            return op["dst"] in names
        return bool(op.regions) and _touches(op, names)

    def _in_place(self, writer: Op, old: set[Value], new: set[Value], may_overwrite: bool) -> list[Op] | None:
        """The writer of the result, writing to the parameter; None where it may not."""
        read = [i for i, v in enumerate(writer.operands) if v in old]
        if writer.name == "tile.copy":
            return [] if read else [writer]
        if writer.name != "tile.launch":
            return None
        if not read:
            return [writer]
        write = [i for i, v in enumerate(writer.operands) if v in new]
        if not may_overwrite or len(read) != 1 or len(write) != 1:
            return None
        if writer.operands[write[0]].type != writer.operands[read[0]].type:
            return None
        name = str(writer.attrs["kernel"])
        self.kernels[name] = _merged(self.kernels[name], read[0], write[0])
        rest = tuple(v for i, v in enumerate(writer.operands) if i != write[0])
        return [replace(writer, operands=rest, segments=(len(rest),))]


@register("update-in-place", level="tile")
def run(module: Module, context: Context) -> Module:
    """Lets state be updated in its own memory."""
    kernels = {func.name: func for func in module.of_kind("tile.kernel")}
    programs = {f.name: _Update(f, kernels).run() for f in module.of_kind("tile.program") if f.attrs.get("state")}
    return module.with_(
        funcs=tuple(programs[f.name] if f.name in programs and f.kind == "tile.program" else kernels.get(f.name, f)
                    for f in module.funcs)
    )  # fmt: skip

"""`join-launches`: consecutive launches that do not depend on each other become one (horizontal fusion).

    launch k0 on g0 groups                launch k on g0 + g1 + .. groups:
    launch k1 on g1 groups     =>             if id < g0: k0(id)   elif id < g0 + g1: k1(id - g0)   ..

So updates of many parameters, sums of one tensor along several axes, or on a CPU the products of one input with several
matrices are one launch each. With L the time of a launch, w of a group, and P groups that run at a time,

    apart   sum (L + ceil(g_i / P) w_i)                joined   L + ceil(sum g_i / P) max w_i   at most

and as ceil(sum g_i / P) <= sum ceil(g_i / P), the launch is never slower where groups have as many lanes and hold no
memory together, so that P is the same for all. So on GPUs kernels of shared memory and of matrix units stay apart,
whose size would bind all others. The arena keeps its size: a launch that brings a new temporary does not join where one
of those before it is the last to use another, whose place it could have had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tessera.shapes import Dim
from tesseracc.arch.arch import Arch
from tesseracc.ir.builder import Builder
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import clone_op
from tesseracc.ir.types import TileType
from tesseracc.ir.value import Func, Module, Op, Region, Value

#: kernels of one launch: the code of all of them is one function, which is compiled as a whole
MOST = 16
#: operations of a kernel that is compiled with others
LONGEST = 2000
#: steps of a program that only name memory
_NAMES = ("tile.temp", "tile.view", "tile.constant")
_SLOT = 8  # bytes of an argument


def can_share(kernel: Func, arch: Arch) -> bool:
    """Whether groups of a kernel may run beside those of others. Kernels of the language stay as they are written: they
    have no `flops` yet."""
    if len(kernel.attrs["grid"]) != 1 or "flops" not in kernel.attrs:
        return False
    count = 0
    for op in kernel.walk():
        count += 1
        if op.name in ("tile.linear_id", "tile.group_count") or (op.name == "tile.group_id" and op.attrs["axis"]):
            return False
        tiles = any(isinstance(v.type, TileType) for v in op.results)
        if arch.kind == "cuda" and (tiles or op.name == "tile.alloc"):
            return False
    return count <= LONGEST


@dataclass
class _Run:
    """Launches that are to be one, in order, and the names of memory that stand between them."""

    ops: list[Op] = field(default_factory=list)
    names: list[Op] = field(default_factory=list)
    reads: set[Value] = field(default_factory=set)  # whole buffers
    writes: set[Value] = field(default_factory=set)
    ends: bool = False  # whether a temporary was used for the last time


class _Joining:
    """One program."""

    def __init__(self, program: Func, kernels: dict[str, Func], gone: set[str], arch: Arch) -> None:
        self.program, self.kernels, self.gone, self.arch = program, kernels, gone, arch
        self.whole: dict[Value, Value] = {}
        self.temps: set[Value] = set()
        self.last: dict[Value, Op] = {}  # of each temporary, the step of its region that uses it last

    def run(self) -> Func:
        body = self.region(self.program.body, self.program.body.yields)
        return self.program.with_(body=body)

    def buffer(self, value: Value) -> Value:
        """The memory that a name stands for."""
        return self.whole.get(value, value)

    def region(self, region: Region, kept: Sequence[Value]) -> Region:
        used: dict[Value, Op] = {}
        for op in region.ops:
            if op.name == "tile.view":
                self.whole[op.result] = self.buffer(op["buf"])
            elif op.name == "tile.temp":
                self.temps.add(op.result)
            else:
                used.update((self.buffer(v), op) for inner in op.walk() for v in inner.operands)
        self.temps -= {self.buffer(v) for v in kept}
        self.last.update(used)
        ops: list[Op] = []
        run = _Run()
        for op in region.ops:
            if op.name == "tile.launch" and self.takes(run, op):
                self.add(run, op)
            elif op.name in _NAMES:
                run.names.append(op)
            else:
                ops += self.close(run)
                run = _Run()
                if op.name == "tile.launch" and self.shares(op):
                    self.add(run, op)
                else:
                    ops.append(replace(op, regions=tuple(self.region(inner, ()) for inner in op.regions)))
        return Region(region.args, (*ops, *self.close(run)), region.yields)

    def kernel(self, launch: Op) -> Func:
        return self.kernels[str(launch.attrs["kernel"])]

    def shares(self, launch: Op) -> bool:
        """Whether a launch may be one with any; of a kernel of a lower level it stays as it is."""
        return str(launch.attrs["kernel"]) in self.kernels and can_share(self.kernel(launch), self.arch)

    def takes(self, run: _Run, launch: Op) -> bool:
        """Whether a launch may be one with those of a run."""
        if not self.shares(launch) or launch.attrs.get("when", 1) != 1:
            return False
        if not run.ops:
            return True
        reads, writes = self.touched(launch)
        if (reads | writes) & run.writes or writes & run.reads:
            return False
        if run.ends and any(v in self.temps and v not in reads for v in writes):
            return False
        first = self.kernel(run.ops[0])
        if self.kernel(launch).attrs["group"] != first.attrs["group"] or len(run.ops) == MOST:
            return False
        every = [self.kernel(op) for op in (*run.ops, launch)]
        slots = sum(len(k.params) for k in every) + len({s for k in every for s in k.attrs["symbols"]})
        return _SLOT * slots <= self.arch.limits.parameter_bytes

    def touched(self, launch: Op) -> tuple[set[Value], set[Value]]:
        """The memory that a launch reads and writes."""
        access = self.kernel(launch).attrs["access"]
        pairs = [(self.buffer(v), a) for v, a in zip(launch.operands, access, strict=True)]
        return {v for v, a in pairs if a != "write"}, {v for v, a in pairs if a not in ("read", "value")}

    def add(self, run: _Run, launch: Op) -> None:
        reads, writes = self.touched(launch)
        run.ops.append(launch)
        run.reads |= reads
        run.writes |= writes
        run.ends = run.ends or any(v in self.temps and self.last.get(v) is launch for v in reads)

    def close(self, run: _Run) -> list[Op]:
        """The steps of a run that has ended: names first, for they do nothing."""
        if len(run.ops) < 2:
            # a name may be that of what the launch uses, or of what it made: their order is free
            return [*run.names, *run.ops]
        buffers = list(dict.fromkeys(v for op in run.ops for v in op.operands))
        kernels = [self.kernel(op) for op in run.ops]
        name = kernels[0].name
        self.gone.update(kernel.name for kernel in kernels[1:])
        self.kernels[name] = joined(kernels, [op.operands for op in run.ops], buffers)
        launch = replace(run.ops[0], operands=tuple(buffers), segments=(len(buffers),))
        return [*run.names, launch]


def joined(kernels: Sequence[Func], operands: Sequence[Sequence[Value]], buffers: Sequence[Value]) -> Func:
    """One kernel for launches on these buffers: its groups are those of the first, then those of the second, .."""
    first = kernels[0]
    access: dict[Value, set[str]] = {v: set() for v in buffers}
    params: dict[Value, Value] = {}
    for kernel, given in zip(kernels, operands, strict=True):
        for value, param, how in zip(given, kernel.params, kernel.attrs["access"], strict=True):
            params.setdefault(value, Value(param.type, param.name))
            access[value].add(how)
    b = Builder(first.loc)
    number = b.op("tile.group_id")
    ends: list[Dim] = []
    for kernel in kernels:
        ends.append((ends[-1] if ends else 0) + kernel.attrs["grid"][0])

    def part(b: Builder, low: int, high: int) -> None:
        """The kernels low .. high - 1: one of them, or one half of them."""
        if high - low > 1:
            middle = (low + high) // 2
            before = b.op("arith.cmp", number, b.op("tile.dim", expr=ends[middle - 1]), pred="lt")

            def half(low: int, high: int) -> Region:
                inner = Builder(b.loc)
                part(inner, low, high)
                return inner.region()

            b.emit("scf.if", before, regions=[half(low, middle), half(middle, high)])
            return
        kernel = kernels[low]
        mine = number if low == 0 else b.op("arith.sub", number, b.op("tile.dim", expr=ends[low - 1]))
        same = {p: params[v] for p, v in zip(kernel.params, operands[low], strict=True)}
        b.ops += _on_group(kernel.body, same, mine)

    part(b, 0, len(kernels))
    symbols = sorted({s for kernel in kernels for s in kernel.attrs["symbols"]})
    counts: dict[int, Dim] = {}
    for kernel in kernels:
        for count, rate in kernel.attrs.get("flops", ()):
            counts[rate] = counts.get(rate, 0) + count
    attrs = {
        **first.attrs,
        "access": tuple(_both(access[v]) for v in buffers),
        "grid": (ends[-1],),
        "symbols": tuple(symbols),
        "flops": tuple((counts[rate], rate) for rate in sorted(counts, reverse=True)),
    }
    return Func("tile.kernel", first.name, b.region([params[v] for v in buffers]), attrs, first.loc)


def _both(found: set[str]) -> str:
    return found.pop() if len(found) == 1 else "readwrite"


def _on_group(body: Region, same: dict[Value, Value], number: Value) -> list[Op]:
    """The operations of a kernel with its parameters and the number of the group replaced."""
    ops: list[Op] = []
    for op in body.ops:
        if op.name == "tile.group_id":
            same[op.result] = number
        else:
            ops.append(clone_op(op, same))
    return ops


@register("join-launches", level="tile")
def run(module: Module, context: Context) -> Module:
    """Makes one launch of consecutive ones that do not depend on each other."""
    kernels = {func.name: func for func in module.of_kind("tile.kernel")}
    programs: dict[str, Func] = {}
    gone: set[str] = set()  # kernels that others hold now
    for program in module.of_kind("tile.program"):
        programs[program.name] = _Joining(program, kernels, gone, context.need_arch()).run()
    funcs: list[Func] = []
    for func in module.funcs:
        if func.kind == "tile.program":
            funcs.append(programs[func.name])
        elif func.name not in gone:
            funcs.append(kernels.get(func.name, func))
    return module.with_(funcs=tuple(funcs))

"""Entry points in LLVM IR: a function's plan for one CPU target, compiled.

Sizes, guards, offsets of temporaries and grids are evaluated by the code itself, in the order of the runtime: symbols,
guards, sizes, memory, steps. Nothing is allocated and nothing is written but results and the caller's workspace.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tessera_runtime.core.dtypes import DTYPES
from tessera_runtime.core.manifest import Copy, Function, Guard, Input, Kernel, Launch, Output, Plan
from tesseracc.native.memory import share
from tesseracc.native.sizes import Body, Number
from tesseracc.native.steps import Steps, alive

__all__ = ["CODES", "Entry", "GUARDS_FROM", "entry_text", "scalar_type"]

#: return codes that every function shares; from GUARDS_FROM on they are guards, counted through the library
CODES = {
    "OK": (0, "no error"),
    "SHAPE": (1, "a size is negative, or is not what a scalar argument says"),
    "RANGE": (2, "a size is too large or cannot be computed"),
    "WORKSPACE": (3, "the workspace is too small"),
}
GUARDS_FROM = 16
ALIGN = 64
INTRINSICS = """\
declare { i64, i1 } @llvm.sadd.with.overflow.i64(i64, i64)
declare { i64, i1 } @llvm.ssub.with.overflow.i64(i64, i64)
declare { i64, i1 } @llvm.smul.with.overflow.i64(i64, i64)
declare i64 @llvm.smin.i64(i64, i64)
declare i64 @llvm.smax.i64(i64, i64)
"""


class Entry(NamedTuple):
    """A function, its plan for the target, its name in C, and the code of its first guard."""

    function: Function
    plan: Plan
    name: str
    guards: int

    @property
    def steps(self) -> tuple[Launch | Copy, ...]:
        """The plan's steps; `library` refuses plans with others."""
        return tuple(step for step in self.plan.steps if isinstance(step, (Launch, Copy)))


def scalar_type(dtype: str) -> str:
    """The LLVM type by which a scalar is passed: narrow floats and bool by their bits."""
    return {"f32": "float", "f64": "double"}.get(dtype, f"i{8 * DTYPES[dtype].itemsize}")


def own_outputs(function: Function) -> list[Output]:
    """The results that need memory from the caller."""
    return [output for output in function.outputs if output.alias is None]


def entry_text(entries: Sequence[Entry], kernels: Sequence[Kernel], weights: Mapping[str, str]) -> str:
    """The IR module of all entries. `weights` gives the symbol of each constant, defined elsewhere in the library."""
    used = sorted({step.kernel for e in entries for step in e.plan.steps if isinstance(step, Launch)})
    parts = [INTRINSICS]
    parts += [f"declare hidden void @{_quoted(kernels[k].symbol)}(ptr, i64, i64, ptr)\n" for k in used]
    parts += [f"@{symbol} = external hidden constant i8, align {ALIGN}\n" for symbol in weights.values()]
    for entry in entries:
        parts += [_workspace(entry, kernels), _run(entry, kernels, weights)]
        parts += [shape_text(entry, output) for output in own_outputs(entry.function)]
    return "\n".join(parts)


def _quoted(symbol: str) -> str:
    return f'"{symbol}"'


def symbols_of(entry: Entry) -> tuple[list[str], Body]:
    names = [symbol.name for symbol in entry.function.symbols]
    return [f"i64 %n_{name}" for name in names], Body({name: f"%n_{name}" for name in names})


def define(name: str, result: str, parameters: Sequence[str], body: Body) -> str:
    lines = "\n".join(body.lines)
    return f"define {result} @{name}({', '.join(parameters)}) nounwind {{\nentry:\n{lines}\n}}\n"


def check_symbols(body: Body, result: str) -> None:
    for value in body.symbols.values():
        body.leave(body.value(f"icmp slt i64 {value}, 0"), result)


class _Layout(NamedTuple):
    """Bytes of every plan buffer, offsets of temporaries and of the scratch memory, bytes in all."""

    nbytes: list[Number]
    offsets: dict[int, Number]
    scratch: Number
    total: Number


def layout_of(body: Body, entry: Entry, kernels: Sequence[Kernel], align: int = ALIGN) -> _Layout:
    """Where the temporaries lie in one block, each on a multiple of `align`."""
    plan = entry.plan
    nbytes = [body.nbytes(buffer.shape, DTYPES[buffer.dtype].itemsize) for buffer in plan.buffers]
    uses = alive(plan.steps)
    temps = [index for index in sorted(uses) if plan.buffers[index].kind == "temp"]
    places = share([uses[temp] for temp in temps], [nbytes[temp] for temp in temps])
    sizes: list[Number] = [0] * (max(places, default=-1) + 1)
    for temp, place in zip(temps, places, strict=True):
        sizes[place] = body.operate("max", sizes[place], nbytes[temp])
    starts: list[Number] = []
    end: Number = 0
    for size in sizes:
        starts.append(end)
        rounded = body.operate("mul", body.operate("ceildiv", size, align), align)
        end = body.operate("add", end, rounded)
    scratch = max((kernels[s.kernel].scratch_bytes for s in plan.steps if isinstance(s, Launch)), default=0)
    # The caller's memory need not be aligned; a little more makes it so.
    total = body.operate("add", end, -(-scratch // ALIGN) * ALIGN + ALIGN)
    return _Layout(nbytes, {t: starts[p] for t, p in zip(temps, places, strict=True)}, end, total)


def _workspace(entry: Entry, kernels: Sequence[Kernel]) -> str:
    parameters, body = symbols_of(entry)
    check_symbols(body, f"i64 -{CODES['SHAPE'][0]}")
    layout = layout_of(body, entry, kernels)
    body.leave(body.fault, f"i64 -{CODES['RANGE'][0]}")
    body.line(f"ret i64 {layout.total}")
    return define(f"{entry.name}_workspace", "i64", parameters, body)


def shape_text(entry: Entry, output: Output) -> str:
    """The extents of one result, for callers that allocate it."""
    parameters, body = symbols_of(entry)
    check_symbols(body, f"i32 {CODES['SHAPE'][0]}")
    values = [body.extent(dim) for dim in output.shape]
    body.leave(body.fault, f"i32 {CODES['RANGE'][0]}")
    for axis, value in enumerate(values):
        body.line(f"store i64 {value}, ptr {body.value(f'getelementptr i64, ptr %extents, i64 {axis}')}, align 8")
    body.line(f"ret i32 {CODES['OK'][0]}")
    return define(f"{entry.name}_{output.name}_shape", "i32", [*parameters, "ptr %extents"], body)


def parameters_of(entry: Entry) -> tuple[list[Input], list[Output]]:
    """Inputs, then results that the caller gives memory for: the order of the C parameters before the sizes."""
    return list(entry.function.inputs), own_outputs(entry.function)


def run_parameters(entry: Entry) -> tuple[list[str], Body]:
    """The parameters of an entry point, and its body."""
    sizes, body = symbols_of(entry)
    inputs, outputs = parameters_of(entry)
    parameters = [
        f"ptr %i_{i.name}" if i.kind == "tensor" else f"{scalar_type(i.dtype)} %i_{i.name}" for i in inputs
    ] + [f"ptr %o_{o.name}" for o in outputs]
    return [*parameters, *sizes, "ptr %workspace", "i64 %workspace_bytes"], body


def check_arguments(body: Body, entry: Entry) -> dict[str, str]:
    """Hold sizes, scalars and guards, in this order; the scalars' bits by name."""
    check_symbols(body, f"i32 {CODES['SHAPE'][0]}")
    bits = {i.name: bits_of(body, i) for i in entry.function.inputs if i.kind == "scalar"}
    check_scalars(body, entry, bits)
    for number, guard in enumerate(entry.function.guards):
        check_guard(body, guard, entry.guards + number)
    return bits


def _run(entry: Entry, kernels: Sequence[Kernel], weights: Mapping[str, str]) -> str:
    parameters, body = run_parameters(entry)
    bits = check_arguments(body, entry)
    layout = layout_of(body, entry, kernels)
    steps = Steps(body, entry.plan.steps, kernels, layout.nbytes, bits)
    steps.prepare()
    body.leave(body.fault, f"i32 {CODES['RANGE'][0]}")
    short = body.value(f"icmp slt i64 %workspace_bytes, {layout.total}")
    missing = body.value("icmp eq ptr %workspace, null")
    body.leave(body.value(f"or i1 {short}, {missing}"), f"i32 {CODES['WORKSPACE'][0]}")
    base = aligned(body)
    slots = max((len(step.args) for step in entry.plan.steps if isinstance(step, Launch)), default=0)
    body.line(f"%args = alloca [{max(slots, 1)} x i64], align 16")
    pointers: dict[int, str] = {}
    for index, buffer in enumerate(entry.plan.buffers):
        if buffer.kind == "temp":
            if index in layout.offsets:
                pointers[index] = body.value(f"getelementptr i8, ptr {base}, i64 {layout.offsets[index]}")
        else:
            pointers[index] = {"input": "%i_", "output": "%o_"}.get(buffer.kind, "@") + (
                weights[buffer.ref] if buffer.kind == "constant" else buffer.ref
            )
    steps.pointers = pointers
    steps.scratch = body.value(f"getelementptr i8, ptr {base}, i64 {layout.scratch}")
    steps.run()
    body.line(f"ret i32 {CODES['OK'][0]}")
    return define(entry.name, "i32", parameters, body)


def bits_of(body: Body, item: Input) -> str:
    """A scalar's bits in the low bytes of a slot."""
    kind, name = scalar_type(item.dtype), f"%i_{item.name}"
    width = 8 * DTYPES[item.dtype].itemsize
    if kind in ("float", "double"):
        name, kind = body.value(f"bitcast {kind} {name} to i{width}"), f"i{width}"
    return name if width == 64 else body.value(f"zext {kind} {name} to i64")


def check_scalars(body: Body, entry: Entry, bits: Mapping[str, str]) -> None:
    """A size that a scalar argument gives must be the one that the caller says."""
    kinds = {item.name: item.dtype for item in entry.function.inputs}
    for symbol in entry.function.symbols:
        if symbol.axis >= 0:
            continue
        value, dtype = bits[symbol.input], kinds[symbol.input]
        width = 8 * DTYPES[dtype].itemsize
        if DTYPES[dtype].kind == "i" and width < 64:
            value = body.value(f"sext i{width} {body.value(f'trunc i64 {value} to i{width}')} to i64")
        wanted = body.operate("add", body.operate("mul", body.symbols[symbol.name], symbol.scale), symbol.offset)
        body.leave(body.value(f"icmp ne i64 {value}, {wanted}"), f"i32 {CODES['SHAPE'][0]}")


def check_guard(body: Body, guard: Guard, code: int) -> None:
    before, body.fault = body.fault, "false"
    value = body.dim(guard.expr)
    body.leave(body.fault, f"i32 {CODES['RANGE'][0]}")
    body.fault = before
    broken = {"eq": "ne", "ne": "eq", "ge": "slt", "gt": "sle"}[guard.relation]
    body.leave(body.value(f"icmp {broken} i64 {value}, 0"), f"i32 {code}")


def aligned(body: Body) -> str:
    address = body.value("ptrtoint ptr %workspace to i64")
    up = body.value(f"and i64 {body.value(f'sub i64 0, {address}')}, {ALIGN - 1}")
    return body.value(f"getelementptr i8, ptr %workspace, i64 {up}")

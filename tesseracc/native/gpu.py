"""Entry points that run on an NVIDIA GPU: the interface of `entries`, one compiled plan for each target.

Of a call, inputs, results and temporaries lie in one block of the device's memory, each on a multiple of 256 bytes. The
caller's workspace holds the operands of launches. All that a call took is given back, whatever it returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tessera_runtime.core.dtypes import DTYPES
from tessera_runtime.core.manifest import Copy, Kernel, Launch, Put, Take, TensorMap
from tesseracc.native import driver
from tesseracc.native.driver import Code, Words, call, test, word
from tesseracc.native.entries import (
    CODES,
    INTRINSICS,
    Entry,
    aligned,
    check_arguments,
    check_symbols,
    define,
    layout_of,
    own_outputs,
    run_parameters,
    shape_text,
    symbols_of,
)  # fmt: skip
from tesseracc.native.sizes import Body, Number
from tesseracc.native.steps import Steps

__all__ = ["gpu_text"]

_ALIGN = 256  # of what lies in the device's memory
_MAP = 128  # bytes of a tensor map, which lies on a multiple of 64
_MAX_EXTENT, _MAX_MAPPED, _ROW = (1 << 31) - 1, (1 << 40) - 1, 16  # of a tensor that a map describes
# CUtensorMapDataType; what copies move are bits, so other types go by their size
_MAP_TYPES = {"f16": 6, "f32": 7, "f64": 8, "bf16": 9}
_MAP_BITS = {1: 0, 2: 1, 4: 2, 8: 4}
_SWIZZLES = {32: 1, 64: 2, 128: 3}  # CUtensorMapSwizzle by the bytes of a row
_L2_256B = 3  # CUtensorMapL2promotion


def gpu_text(
    entries: Sequence[Sequence[Entry]], codes: Sequence[Code], weights: Mapping[str, int], prefix: str
) -> str:  # fmt: skip
    """The IR module: `entries[target][function]`. `weights` gives the constants' offsets in their block."""
    parts = [INTRINSICS, _MOVE]
    for number, (mine, code) in enumerate(zip(entries, codes, strict=True)):
        parts += [_plan(entry, code.target.kernels, weights, number) for entry in mine]
    for place, entry in enumerate(entries[0]):
        every = [mine[place] for mine in entries]
        parts += [_entry(entry, every, codes), _workspace(entry, every, codes)]
        parts += [shape_text(entry, output) for output in own_outputs(entry.function)]
    parts.append(f"define void @{prefix}_close() nounwind {{\n  call void @tessera.release()\n  ret void\n}}\n")
    parts.append(
        f"define void @{prefix}_device(i32 %number) nounwind {{\n  call void @tessera.release()\n"
        f"  store i32 %number, ptr {word(Words.ORDINAL)}, align 8\n  ret void\n}}\n"
    )
    parts.append(
        f"define i32 @{prefix}_supported() nounwind {{\n  %code = call i32 @tessera.open()\n"
        "  %good = icmp eq i32 %code, 0\n  %one = zext i1 %good to i32\n  ret i32 %one\n}\n"
    )
    return "\n".join(parts)


_MOVE = """
define internal i32 @tessera.move(ptr %copy, ptr %target, ptr %source, i64 %nbytes) nounwind {
entry:
  %none = icmp eq i64 %nbytes, 0
  br i1 %none, label %nothing, label %some
some:
  %result = call i32 %copy(ptr %target, ptr %source, i64 %nbytes)
  ret i32 %result
nothing:
  ret i32 0
}
"""


@dataclass
class _GpuSteps(Steps):
    """Steps whose memory is the device's; a failing one ends the call at the label `undo`."""

    def prepare(self) -> None:
        self._grids: dict[int, tuple[Number, ...]] = {}
        self._shapes: dict[tuple[int, int], list[Number]] = {}
        super().prepare()

    def _check_launch(self, number: int, step: Launch) -> None:
        super()._check_launch(number, step)
        body, kernel = self.body, self.kernels[step.kernel]
        self._grids[number] = tuple(body.extent(dim) for dim in step.grid)
        for extent in self._grids[number]:  # the driver refuses the other axes' by itself
            self._within(extent, 0, _MAX_EXTENT)
        own: dict[str, Number] = {}
        dims = [self._dims[number, slot] for slot, arg in enumerate(step.args) if arg.dim is not None]
        own.update(zip(kernel.symbols, dims, strict=False))
        before, outer, body.fault = body.fault, body.symbols, "false"
        for place, entry in enumerate(kernel.maps):
            body.symbols = own
            self._shapes[number, place] = self._mapped(kernel, entry)
            body.symbols = outer
        faults, body.fault = body.fault, before
        if faults != "false":  # a launch of nothing needs no map
            none = body.value(f"icmp eq i64 {self._groups[number]}, 0")
            body.wrong(body.value(f"select i1 {none}, i1 false, i1 {faults}"))

    def _mapped(self, kernel: Kernel, entry: TensorMap) -> list[Number]:
        """The extents, and the bytes from one row, plane, .. to the next, outermost first: what a map can describe."""
        body, param = self.body, kernel.params[entry.param]
        assert param.shape is not None, "the manifest was checked"
        extents = [body.extent(dim) for dim in param.shape]
        strides: list[Number] = []
        size: Number = DTYPES[param.dtype].itemsize
        for extent in reversed(extents):
            size = body.operate("mul", size, extent)
            strides.append(size)
            self._within(extent, 1, _MAX_EXTENT)
        self._within(size, 0, _MAX_MAPPED)
        self._same(body.operate("mod", strides[0], _ROW), 0)
        return [*reversed(extents), *strides[:-1]]

    def _within(self, value: Number, low: int, high: int) -> None:
        self.body.wrong(self.body.value(f"icmp slt i64 {value}, {low}"))
        self.body.wrong(self.body.value(f"icmp sgt i64 {value}, {high}"))

    def _start(self, number: int, step: Launch) -> None:
        body, kernel, count = self.body, self.kernels[step.kernel], len(step.args)
        for slot in range(count):
            body.line(f"store ptr {self._at('%args', 8 * slot)}, ptr {self._at('%params', 8 * slot)}, align 8")
        for place, entry in enumerate(kernel.maps):
            where = self._at("%maps", _MAP * place)
            self._encode(number, place, kernel, entry, step, where)
            body.line(f"store ptr {where}, ptr {self._at('%params', 8 * (count + place))}, align 8")
        grid = ", ".join(f"i32 {self._narrow(extent)}" for extent in self._grids[number])
        function = body.value(f"load ptr, ptr {word(Words.FUNCTIONS + step.kernel)}, align 8")
        shared = step.dynamic_shared
        assert isinstance(shared, int), "the compiler knows what a kernel needs"
        group = f"i32 {kernel.group}, i32 1, i32 1"
        arguments = f"ptr {function}, {grid}, {group}, i32 {shared}, ptr null, ptr %params, ptr null"
        test(body, call(body, "cuLaunchKernel", arguments), "undo")

    def _encode(self, number: int, place: int, kernel: Kernel, entry: TensorMap, step: Launch, where: str) -> None:
        body, rank, param = self.body, len(entry.box), kernel.params[entry.param]
        values = self._shapes[number, place]
        for index, value in enumerate(values):  # innermost first, as the driver has them
            body.line(f"store i64 {value}, ptr {self._at('%extents', 8 * index)}, align 8")
        for index, extent in enumerate(reversed(entry.box)):
            body.line(f"store i32 {extent}, ptr {self._at('%box', 4 * index)}, align 4")
            body.line(f"store i32 1, ptr {self._at('%box', 4 * (rank + index))}, align 4")
        kind = _MAP_TYPES.get(param.dtype, _MAP_BITS[DTYPES[param.dtype].itemsize])
        buffer = step.args[entry.param].buffer
        assert buffer is not None, "the manifest was checked"
        arguments = (
            f"ptr {where}, i32 {kind}, i32 {rank}, ptr {self.pointers[buffer]}, ptr %extents, "
            f"ptr {self._at('%extents', 8 * rank)}, ptr %box, ptr {self._at('%box', 4 * rank)}, i32 0, "
            f"i32 {_SWIZZLES[entry.span]}, i32 {_L2_256B}, i32 0"
        )
        test(body, call(body, driver.MAPS, arguments), "undo")

    def _narrow(self, value: Number) -> Number:
        """A grid's extent, which has been checked, as the driver takes it."""
        return value if isinstance(value, int) else self.body.value(f"trunc i64 {value} to i32")

    def _copy(self, target: str, source: str, nbytes: Number) -> None:
        move(self.body, "cuMemcpyDtoD_v2", target, source, nbytes)

    def _flag(self, buffer: int) -> str:
        move(self.body, "cuMemcpyDtoH_v2", "%flag", self.pointers[buffer], 1)
        return self.body.value(f"icmp ne i8 {self.body.value('load i8, ptr %flag, align 1')}, 0")


def move(body: Body, name: str, target: str, source: str, nbytes: Number) -> None:
    """A copy by a call of the driver, in order with all before; none of nothing."""
    function = body.value(f"load ptr, ptr {word(Words.FIRST + driver.CALLS.index(name))}, align 8")
    arguments = f"ptr {function}, ptr {target}, ptr {source}, i64 {nbytes}"
    test(body, body.value(f"call i32 @tessera.move({arguments})"), "undo")


def _operands(entries: Sequence[Entry], codes: Sequence[Code]) -> tuple[int, int]:
    """How many parameters and how many tensor maps the widest launch has."""
    launches = [
        (step, code.target.kernels[step.kernel])
        for entry, code in zip(entries, codes, strict=True)
        for step in entry.plan.steps
        if isinstance(step, Launch)
    ]
    slots = max((len(step.args) + len(kernel.maps) for step, kernel in launches), default=0)
    return slots, max((len(kernel.maps) for _, kernel in launches), default=0)


def _bytes(slots: int, maps: int) -> int:
    return -(-16 * slots // 64) * 64 + _MAP * maps + 64  # the last: the caller's memory need not be aligned


def _workspace(entry: Entry, entries: Sequence[Entry], codes: Sequence[Code]) -> str:
    parameters, body = symbols_of(entry)
    check_symbols(body, f"i64 -{CODES['SHAPE'][0]}")
    faults = []
    for mine, code in zip(entries, codes, strict=True):
        body.fault = "false"
        layout_of(body, mine, code.target.kernels, _ALIGN)
        faults.append(body.fault)
    every = faults[0]
    for other in faults[1:]:  # sizes that some target can have are no error yet
        every = body.value(f"and i1 {every}, {other}")
    body.leave(every, f"i64 -{CODES['RANGE'][0]}")
    body.line(f"ret i64 {_bytes(*_operands(entries, codes))}")
    return define(f"{entry.name}_workspace", "i64", parameters, body)


def _entry(entry: Entry, entries: Sequence[Entry], codes: Sequence[Code]) -> str:
    """What does not need a GPU is held first; then the plan of the target that the GPU takes."""
    parameters, body = run_parameters(entry)
    check_arguments(body, entry)
    needed = _bytes(*_operands(entries, codes))
    short = body.value(f"icmp slt i64 %workspace_bytes, {needed}")
    missing = body.value("icmp eq ptr %workspace, null")
    body.leave(body.value(f"or i1 {short}, {missing}"), f"i32 {CODES['WORKSPACE'][0]}")
    opened = body.value("call i32 @tessera.open()")
    body.leave(body.value(f"icmp ne i32 {opened}, 0"), f"i32 {opened}")
    target = body.value(f"load i64, ptr {word(Words.TARGET)}, align 8")
    cases = " ".join(f"i64 {number}, label %target.{number}" for number in range(len(codes)))
    body.line(f"switch i64 {target}, label %none [ {cases} ]")
    for number in range(len(codes)):
        body.line(f"target.{number}:")
        body.line(f"ret i32 {body.value(f'call i32 @plan.{number}.{entry.name}(' + ', '.join(parameters) + ')')}")
    body.line("none:")
    body.line("unreachable")
    return define(entry.name, "i32", parameters, body)


def _plan(entry: Entry, kernels: Sequence[Kernel], weights: Mapping[str, int], number: int) -> str:
    parameters, body = run_parameters(entry)
    bits = check_arguments(body, entry)
    layout = layout_of(body, entry, kernels, _ALIGN)
    steps = _GpuSteps(body, entry.plan.steps, kernels, layout.nbytes, bits)
    steps.prepare()
    offsets = dict(layout.offsets)
    end: Number = layout.scratch  # of the temporaries
    for index, buffer in enumerate(entry.plan.buffers):
        if buffer.kind in ("input", "output"):
            offsets[index] = end
            rounded = body.operate("mul", body.operate("ceildiv", layout.nbytes[index], _ALIGN), _ALIGN)
            end = body.operate("add", end, rounded)
    total = body.operate("max", end, _ALIGN)
    body.leave(body.fault, f"i32 {CODES['RANGE'][0]}")
    _frame(body, entry, kernels)
    context = body.value(f"load ptr, ptr {word(Words.CONTEXT)}, align 8")
    pushed = call(body, "cuCtxPushCurrent_v2", f"ptr {context}")
    body.leave(body.value(f"icmp ne i32 {pushed}, 0"), f"i32 {body.value(f'call i32 @tessera.code(i32 {pushed})')}")
    test(body, call(body, "cuMemAlloc_v2", f"ptr %block, i64 {total}"), "pop")
    base = body.value("load ptr, ptr %block, align 8")
    constants = body.value(f"load ptr, ptr {word(Words.CONSTANTS)}, align 8") if weights else ""
    pointers: dict[int, str] = {}
    for index, buffer in enumerate(entry.plan.buffers):
        if buffer.kind == "constant":
            pointers[index] = body.value(f"getelementptr i8, ptr {constants}, i64 {weights[buffer.ref]}")
        elif index in offsets:
            pointers[index] = body.value(f"getelementptr i8, ptr {base}, i64 {offsets[index]}")
    steps.pointers = pointers
    for index, buffer in enumerate(entry.plan.buffers):
        if buffer.kind == "input":
            move(body, "cuMemcpyHtoD_v2", pointers[index], f"%i_{buffer.ref}", layout.nbytes[index])
    steps.run()
    test(body, call(body, "cuCtxSynchronize", ""), "undo")
    written = _written(entry, kernels)
    for index, buffer in enumerate(entry.plan.buffers):
        if buffer.kind in ("input", "output") and index in written:
            host = {"input": "%i_", "output": "%o_"}[buffer.kind] + buffer.ref
            move(body, "cuMemcpyDtoH_v2", host, pointers[index], layout.nbytes[index])
    body.line("br label %undo")
    body.line("undo:")  # %status has the code; freeing waits for what still runs
    call(body, "cuMemFree_v2", f"ptr {body.value('load ptr, ptr %block, align 8')}")
    body.line("br label %pop")
    body.line("pop:")
    call(body, "cuCtxPopCurrent_v2", "ptr %block")
    body.line(f"ret i32 {body.value('load i32, ptr %status, align 4')}")
    return define(f"plan.{number}.{entry.name}", "i32", parameters, body).replace("define ", "define internal ", 1)


def _frame(body: Body, entry: Entry, kernels: Sequence[Kernel]) -> None:
    """The parts of the workspace, and what is on the stack."""
    launches = [step for step in entry.plan.steps if isinstance(step, Launch)]
    slots = max((len(step.args) + len(kernels[step.kernel].maps) for step in launches), default=0)
    base = aligned(body)
    for name, offset in (("args", 0), ("params", 8 * slots), ("maps", -(-16 * slots // 64) * 64)):
        body.line(f"%{name} = getelementptr i8, ptr {base}, i64 {offset}")
    body.line("%status = alloca i32, align 4")
    body.line("%block = alloca ptr, align 8")
    body.line("%flag = alloca i8, align 1")
    body.line("%extents = alloca [10 x i64], align 8")
    body.line("%box = alloca [10 x i32], align 4")


def _written(entry: Entry, kernels: Sequence[Kernel]) -> set[int]:
    """The buffers that some step may write."""
    found = {step.dst for step in entry.plan.steps if isinstance(step, (Copy, Take, Put))}
    for step in entry.plan.steps:
        if isinstance(step, Launch):
            params = kernels[step.kernel].params
            both = zip(step.args, params, strict=True)
            found |= {arg.buffer for arg, param in both if arg.buffer is not None and param.access != "read"}
    return found

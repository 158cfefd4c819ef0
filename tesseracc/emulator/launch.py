"""`launch`: run one kernel of a module over a grid, on memory, and report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tesseracc.emulator import operations  # fills the table of instructions
from tesseracc.emulator.asynchronous import AsyncEngine
from tesseracc.emulator.barriers import Barriers
from tesseracc.emulator.clusters import ClusterBarriers
from tesseracc.emulator.counters import Counters
from tesseracc.emulator.decode import Decoder
from tesseracc.emulator.findings import EmulatorError, FindingLog, Report, StopLaunch
from tesseracc.emulator.flags import Flags
from tesseracc.emulator.layout import Layout, cluster_order, granules, polls, uses_async_proxy, uses_tensor_memory
from tesseracc.emulator.limits import check_memory, check_shape
from tesseracc.emulator.memory import GlobalMemory, Known, Segment
from tesseracc.emulator.operations.wgmma import WarpgroupState
from tesseracc.emulator.parser import parse_ptx
from tesseracc.emulator.program import JUMP, Program, lay_out
from tesseracc.emulator.ptx import Module, Param
from tesseracc.emulator.races import RaceDetector, Shadow
from tesseracc.emulator.registers_in_flight import watched
from tesseracc.emulator.remote import RemoteAccesses
from tesseracc.emulator.table import UNFIT, Step, build_step, not_modelled
from tesseracc.emulator.tensor_fences import TensorFences
from tesseracc.emulator.tensor_memory import TENSOR_MEMORY_BYTES, TensorMemory
from tesseracc.emulator.types import Array
from tesseracc.emulator.warpgroup_order import unfenced
from tesseracc.emulator.wave import Wave

__all__ = ["Emulator", "Launch", "launch"]

_ = operations
_BATCH_LANES = 1 << 16
_BATCH_BYTES = 1 << 26
_FLOATS = ("f16", "f32", "f64")


@dataclass(slots=True)
class _Prepared:
    """A program ready to run while its variables stay at `addresses`; `names` are "" where layout inserted a jump."""

    addresses: tuple[tuple[str, int], ...]
    strict: bool
    names: list[str]
    steps: list[Step]
    granule: dict[str, int]
    uses_async_proxy: bool
    uses_tensor_memory: bool
    polls: bool
    unfenced: dict[int, int | None]


def _prepare(program: Program, symbols: dict[str, tuple[str, int]], strict: bool) -> _Prepared:
    """Steps of all instructions, remembered between launches."""
    addresses = tuple(symbols.values())
    known: _Prepared | None = program.prepared
    if known is None or (known.addresses, known.strict) != (addresses, strict):
        decoder = Decoder(program, symbols)
        names = ["" if i.opcode == JUMP else i.text for i in program.code]
        steps = watched(program, decoder, [build_step(i, decoder) for i in program.code])
        known = program.prepared = _Prepared(
            addresses, strict, names, steps, granules(program), uses_async_proxy(program), uses_tensor_memory(program),
            polls(program), unfenced(program, strict),
        )  # fmt: skip
    return known


class Launch:
    """Everything that lives for one launch: the laid-out program, memory, and per batch the state in shared memory."""

    def __init__(self, module: Module, kernel: str, grid: Sequence[int], block: Sequence[int], memory: GlobalMemory,
                 dynamic_shared: int, seed: int, detect: bool, counting: bool, max_steps: int,
                 cluster: Sequence[int] | None, strict: bool = False, halt: bool = False) -> None:  # fmt: skip
        self.strict = strict
        self.program = lay_out(module, kernel)
        self.memory, self.seed, self.detect, self.counting, self.max_steps = memory, seed, detect, counting, max_steps
        self.grid, self.block = _dims(grid, "grid"), _dims(block, "block")
        self.cluster = _dims(cluster or self.program.kernel.cluster or (1, 1, 1), "cluster")
        check_shape(self.program.kernel, self.grid, self.block, self.cluster)
        self.cluster_size = int(np.prod(self.cluster))
        self.threads = int(np.prod(self.block))
        self.warps_per_cta = -(-self.threads // 32)
        self.dynamic_shared = dynamic_shared
        self.log = FindingLog(halt)
        self.counters = Counters()
        self.printed: list[str] = []
        self.layout = Layout(self.program, memory, dynamic_shared)
        self.shared_size, self.local_size = self.layout.shared_size, self.layout.local_size
        self.shared_stride = -(-self.shared_size // 128) * 128 + 128
        self.local_stride = -(-self.local_size // 16) * 16
        self.const = self.layout.const
        self.params = Segment.new(0, sum(p.size for p in self.program.kernel.params[-1:]) + max(
            (p.offset for p in self.program.kernel.params), default=0))  # fmt: skip
        self.prepared = _prepare(self.program, self.layout.symbols, strict)
        self.steps, self.granule = self.prepared.steps, self.prepared.granule
        self.uses_async_proxy = self.prepared.uses_async_proxy
        self.unfenced = self.prepared.unfenced
        self.warp_counts = [0] * len(self.steps)
        self.thread_counts = [0] * len(self.steps)
        ctas = int(np.prod(self.grid))
        self.shadows: dict[tuple[str, int], Shadow] = {}
        self.released = np.zeros(ctas * self.warps_per_cta + 1, np.int64)
        self.acquired = np.zeros(ctas + 1, np.bool_)

    # --- batches -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run the grid in batches of CTAs; kernels that poll memory run in one batch: CTAs may wait for others."""
        order = cluster_order(self.grid, self.cluster)
        if not len(order):
            return
        lanes = self.warps_per_cta * 32
        limit = 16 * _BATCH_LANES if self.prepared.polls else _BATCH_LANES
        per_cta = max(1, (self.shared_stride if self.shared_size else 0) + lanes * self.local_stride)
        per_cta += TENSOR_MEMORY_BYTES if self.prepared.uses_tensor_memory else 0
        count = max(1, min(limit // lanes, _BATCH_BYTES * (16 if limit > _BATCH_LANES else 1) // per_cta))
        count = max(self.cluster_size, count // self.cluster_size * self.cluster_size)
        with np.errstate(all="ignore"):
            try:
                for first in range(0, len(order), count):
                    self._batch(Wave(self, order[first : first + count], first * lanes))
            except StopLaunch:
                pass
        self._count()

    def _batch(self, wave: Wave) -> None:
        try:
            wave.run()
            self.asynchronous.finish(wave)
            self.tensor_memory.finish(wave)
        except UNFIT as error:
            raise not_modelled(self.program.code[wave.pc], error) from error

    def attach(self, w: Wave, first_thread: int) -> None:
        """Give a new batch its shared and local memory, barriers, clocks."""
        self.shadows.pop(("shared", 0), None)
        self.shared = Segment.new(0, w.ctas * self.shared_stride if self.shared_size else 0)
        self.local = Segment.new(0, w.size * self.local_stride)
        self.written = {"shared": np.zeros_like(self.shared.data), "local": np.zeros_like(self.local.data)}
        for offset, data in self.layout.shared_init:
            for cta in range(w.ctas):
                self.shared.data[cta * self.shared_stride + offset :][: len(data)] = np.frombuffer(data, np.uint8)
        self.known = Known(self.written["shared"], self.shared_stride)
        self.barriers = Barriers(self)
        self.cluster_barriers = ClusterBarriers(self)
        self.remote = RemoteAccesses(self)
        self.asynchronous = AsyncEngine(self, w)
        self.warpgroups = WarpgroupState(self)
        self.tensor_memory = TensorMemory(self, w)
        self.races = RaceDetector(
            self.program.code, self.log, w.size >> 5, w.warps_per_cta * self.cluster_size, first_thread,
            self.released, self.acquired, w.warps_per_cta,
        )  # fmt: skip
        if self.strict:
            self.races.tensor_fences = TensorFences(self.races)
        self.flags = Flags(self.races)

    def _count(self) -> None:
        for name, warps, threads in zip(self.prepared.names, self.warp_counts, self.thread_counts):
            if warps and name:
                self.counters.instructions[name] += warps
                self.counters.threads[name] += threads

    # --- words for messages ------------------------------------------------------------------------------------------

    def who(self, w: Wave, lane: int) -> str:
        """`thread 3 of CTA 7`, by linear numbers."""
        return f"thread {int(w.thread[lane])} of CTA {int(w.cta_number[w.cta[lane]])}"

    def space_size(self, space: str) -> int:
        """Bytes of a windowed state space."""
        sizes = {"shared": self.shared_size, "local": self.local_size, "const": self.const.size}
        return sizes.get(space, self.params.size)

    def windowed(self, space: str) -> Segment:
        """The data of shared or local memory."""
        return self.shared if space == "shared" else self.local

    def stride(self, space: str) -> int:
        """Distance between the copies of a per-CTA or per-thread space."""
        return self.shared_stride if space == "shared" else self.local_stride

    def nearest(self, address: int) -> str:
        """Where `address` lies relative to the closest allocation below it."""
        for segment in reversed(self.memory.segments):
            if segment.base <= address:
                past = address - segment.base
                return f", {past} bytes into an allocation of {segment.size} bytes"
        return ""


def _dims(values: Sequence[int], what: str) -> tuple[int, int, int]:
    dims = (*(int(v) for v in values), 1, 1, 1)[:3]
    if min(dims) < (0 if what == "grid" else 1):
        raise EmulatorError("E942", f"{what} {tuple(values)} has a dimension that is not positive")
    return dims[0], dims[1], dims[2]


def launch(
    module: Module | str, kernel: str, grid: Sequence[int], block: Sequence[int], args: Sequence[Any] = (),
    dynamic_shared: int = 0, seed: int = 0, detect: bool = True, memory: GlobalMemory | None = None, *,
    counting: bool = True, max_steps: int = 20_000_000, cluster: Sequence[int] | None = None,
    strict: bool = False, halt: bool = False,
) -> Report:  # fmt: skip
    """Run `kernel` and return findings and counters.

    An array argument is a buffer: copied to a fresh allocation and back in place (unless it is read-only). Scalars,
    ints, floats take the parameter's width; bytes fill a parameter of the same size; a uint64 is an address for the
    given `memory`. `detect` turns checks of races and initialisation on, `counting` traffic counters; `seed` chooses
    the order in which asynchronous copies land; `cluster` overrides the kernel's own cluster shape; `strict`
    demands fences that the PTX ISA wants and that programs seen elsewhere lack: see specs/emulator.md; `halt`
    ends the launch with the first finding.
    """
    if isinstance(module, str):
        module = parse_ptx(module)
    memory = memory if memory is not None else GlobalMemory()
    state = Launch(module, kernel, grid, block, memory, dynamic_shared, seed, detect, counting, max_steps, cluster,
                   strict, halt)  # fmt: skip
    params = state.program.kernel.params
    if len(args) != len(params):
        wanted = ", ".join(f"{param.name} .{param.type}" for param in params)
        raise EmulatorError(
            "E942", f"`{kernel}` takes {len(params)} arguments, got {len(args)}", help=f"in order: {wanted}"
        )
    buffers: list[tuple[Array, int]] = []
    try:
        check_memory(state.program.module.target, state.shared_size, state.local_size)
        for param, arg in zip(params, args):
            if isinstance(arg, np.ndarray) and arg.ndim != 0:
                if param.size != 8 or param.type in _FLOATS:
                    words = f"parameter `{param.name}` is .{param.type}: no address of a buffer fits"
                    raise EmulatorError("E942", words)
                buffers.append((arg, memory.alloc(arg.nbytes)))
                memory.write(buffers[-1][1], arg)
                arg = np.uint64(buffers[-1][1])
            raw = np.frombuffer(_param_bytes(param, arg), np.uint8)
            state.params.data[param.offset : param.offset + param.size] = raw
        state.run()
        for array, address in buffers:
            if array.flags.writeable and array.size:
                array[...] = np.frombuffer(memory.read(address, array.nbytes), array.dtype).reshape(array.shape)
    finally:
        for _, address in buffers:
            memory.free(address)
        state.layout.release(memory)
    return Report(list(state.log.found.values()), state.counters, "".join(state.printed))


def _param_bytes(param: Param, arg: Any) -> bytes:
    """The bytes of a by-value argument. E942 where its kind, its width or its value does not fit the parameter."""
    if isinstance(arg, np.ndarray) and arg.ndim == 0:
        arg = arg[()]
    if isinstance(arg, (bytes, bytearray, memoryview)):
        raw = bytes(arg)
    elif isinstance(arg, np.generic) and not isinstance(arg, (np.integer, np.bool_)):
        if param.type[0] in "su":
            raise EmulatorError("E942", f"parameter `{param.name}` is .{param.type}, the argument {arg.dtype}")
        raw = arg.tobytes()
    elif isinstance(arg, float) or (isinstance(arg, int) and param.type in _FLOATS):
        if param.size not in (2, 4, 8) or param.type[0] in "su":
            raise EmulatorError("E942", f"a float does not fit parameter `{param.name}`, .{param.type}")
        raw = np.dtype(f"f{param.size}").type(arg).tobytes()
    elif isinstance(arg, (int, np.integer, np.bool_)):
        value, bits = int(arg), 8 * param.size
        if param.type in _FLOATS:
            raise EmulatorError("E942", f"parameter `{param.name}` is .{param.type}, the argument {type(arg).__name__}")
        if not -(1 << bits - 1) <= value < 1 << bits:
            raise EmulatorError("E942", f"{value} does not fit parameter `{param.name}` of {param.size} bytes")
        raw = (value & (1 << bits) - 1).to_bytes(param.size, "little")
    else:
        raise EmulatorError("E942", f"argument for `{param.name}` is a {type(arg).__name__}")
    if len(raw) != param.size:
        raise EmulatorError("E942", f"parameter `{param.name}` has {param.size} bytes, the argument {len(raw)}")
    return raw


class Emulator:
    """A device: parsed modules and memory that lives between launches."""

    def __init__(self, seed: int = 0, detect: bool = True) -> None:
        self.memory = GlobalMemory()
        self.seed, self.detect = seed, detect

    def launch(self, module: Module, kernel: str, grid: Sequence[int], block: Sequence[int], args: Sequence[Any] = (),
               dynamic_shared: int = 0, cluster: Sequence[int] | None = None) -> Report:  # fmt: skip
        """`launch` on this device's memory."""
        return launch(module, kernel, grid, block, args, dynamic_shared, self.seed, self.detect, self.memory,
                      cluster=cluster)  # fmt: skip

"""Compiles Tile IR kernels for this machine's CPU levels and calls them through their C interface."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, get_args

import numpy as np
from llvmlite import binding as llvm

from tessera_runtime.devices.cpu import amx_permission
from tesseracc.arch.arch import Arch, load
from tesseracc.codegen.host import compile_cpu
from tesseracc.codegen.llvm import llvm_text
from tesseracc.codegen.pool import Request, compile_many
from tesseracc.interpret.binding import evaluate_dim
from tesseracc.interpret.target import Memory, bits, run_kernel
from tesseracc.ir.parser import parse_module
from tesseracc.ir.pipeline import Context, parse_pipeline, run_pipeline
from tesseracc.ir.value import Func, Module
from tesseracc.passes.target import expand_fma, expand_narrow, lower_cpu  # noqa: F401 - registers the passes
from tests.guarded import Side, guarded

_FLAGS = {
    "x86-64-v2": {"sse4.2", "popcnt"},
    "x86-64-v3": {"avx2", "fma", "bmi2", "f16c"},
    "x86-64-v4": {"avx512f", "avx512vl", "avx512bw", "avx512dq"},
    "x86-64-v4-bf16": {"avx512bf16", "clzero"},
    "x86-64-v4-amx": {"amx-tile", "amx-bf16", "amx-int8"},
    "aarch64": {"neon"},
}


@cache
def levels(*more: str) -> tuple[str, ...]:
    """The CPU levels that this machine runs: those that bundles hold by default, and of `more`."""
    host = {name for name, on in llvm.get_host_cpu_features().items() if on}
    if "amx-tile" in host and not amx_permission():
        host.remove("amx-tile")
    return tuple(name for name, need in _FLAGS.items() if need <= host and (load(name).default or name in more))


class Native:
    """Machine code of the kernels of a module for one CPU level."""

    def __init__(self, text: str | Module, level: str, passes: str = "tile-to-cpu", opt: int = 1) -> None:
        module = parse_module(text) if isinstance(text, str) else text
        self.arch: Arch = load(level)
        self.kernels: dict[str, Func] = {f.name: f for f in module.of_kind("tile.kernel")}
        self.module = run_pipeline(parse_pipeline(passes), module, Context(self.arch))
        self.ir = llvm_text(self.module.of_kind("target.func"), self.arch)
        self.engine = jit(self.ir, self.arch, opt)

    def __call__(
        self, kernel: str, args: list[Any], symbols: dict[str, int], ranges: list[tuple[int, int]] | None = None
    ) -> None:
        """Runs the whole grid, or the given ranges of groups in order. Arrays are changed in place.

        It runs on copies that begin behind a page without access, then on copies that end at one: an access outside
        of them ends the process, and the bits must not depend on where the arrays lie.
        """
        arrays = [arg for arg in args if isinstance(arg, np.ndarray)]
        runs = []
        for side in get_args(Side):
            runs.append(copies := guarded(arrays, side))
            given = iter(copies)
            placed = [next(given) if isinstance(arg, np.ndarray) else arg for arg in args]
            self.in_place(kernel, placed, symbols, ranges, side)
        for array, *copies in zip(arrays, *runs, strict=True):
            assert copies[0].tobytes() == copies[1].tobytes(), f"the results of {kernel} depend on alignment"
            array[...] = copies[0]

    def in_place(
        self, kernel: str, args: list[Any], symbols: dict[str, int], ranges: list[tuple[int, int]] | None = None,
        side: Side = "above",
    ) -> None:  # fmt: skip
        """The same, once and on the arrays where they are; the scratch memory has its guard page."""
        func, target = self.kernels[kernel], self.module.func(kernel)
        slots = [_slot(arg) for arg in args] + [symbols[name] for name in func.attrs["symbols"]]
        packed = (ctypes.c_int64 * max(len(slots), 1))(*slots)
        total = int(np.prod([evaluate_dim(size, symbols) for size in func.attrs["grid"]]))
        # as the runtime reserves it: whole lines of 64 bytes
        (scratch,) = guarded([np.full(-(-int(target.attrs["scratch"]) // 64) * 64, 0xAB, np.uint8)], side)
        run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(
            self.engine.get_function_address(kernel)
        )
        for begin, end in [(0, total)] if ranges is None else ranges:
            run(ctypes.addressof(packed), begin, end, scratch.ctypes.data)

    def groups(self, kernel: str, symbols: dict[str, int]) -> int:
        return int(np.prod([evaluate_dim(size, symbols) for size in self.kernels[kernel].attrs["grid"]]))


def _slot(arg: Any) -> int:
    if isinstance(arg, np.ndarray):
        assert arg.flags.c_contiguous
        return int(arg.ctypes.data)
    return bits(arg)


@cache
def _initialise() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


def jit(ir: str, arch: Arch, opt: int = 1) -> Any:
    """An engine that holds the object which the compiler would ship.

    Code finds its constants by offsets of 32 bits. LLVM's own memory manager places sections wherever there is room,
    in a process of more than 2 GiB too far apart; llvmlite's reserves one block for all of them.
    """
    _initialise()
    code = compile_cpu(ir, arch, opt=opt)
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine, use_lmm=True)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine


def assembly(ir: str, arch: Arch, opt: int = 1) -> str:
    """The object as text."""
    tool = arch.toolchain
    return compile_many([Request(ir, tool.triple, tool.cpu, tool.features, "assembly", opt)])[0].data.decode()


class Interpreted:
    """The same kernels, run by the interpreter of Target IR: on any machine, for any CPU level."""

    def __init__(self, text: str | Module, level: str, passes: str = "tile-to-cpu") -> None:
        module = parse_module(text) if isinstance(text, str) else text
        self.kernels: dict[str, Func] = {f.name: f for f in module.of_kind("tile.kernel")}
        self.module = run_pipeline(parse_pipeline(passes), module, Context(load(level)))

    def __call__(self, kernel: str, args: list[Any], symbols: dict[str, int]) -> None:
        """Runs the whole grid. Arrays are changed in place."""
        func, memory = self.kernels[kernel], Memory()
        slots = [memory.add(arg) if isinstance(arg, np.ndarray) else bits(arg) for arg in args]
        slots += [symbols[name] for name in func.attrs["symbols"]]
        total = int(np.prod([evaluate_dim(size, symbols) for size in func.attrs["grid"]]))
        run_kernel(self.module.func(kernel), memory, slots, 0, total)

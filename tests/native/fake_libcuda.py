"""A libcuda that is no driver: a library of our own ELF writer whose functions go through a table of callbacks."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from tessera_runtime.devices.cpu import machine
from tesseracc.arch.arch import resolve
from tesseracc.codegen.elf import Wants, link_image
from tesseracc.codegen.pool import compile_many
from tesseracc.native.library import plain

#: the driver's documented parameters: i 32 bits, p a pointer or 64 bits
CALLS = {
    "cuInit": "i", "cuDeviceGet": "pi", "cuDeviceGetAttribute": "pii", "cuDevicePrimaryCtxRetain": "pi",
    "cuDevicePrimaryCtxRelease_v2": "i", "cuCtxPushCurrent_v2": "p", "cuCtxPopCurrent_v2": "p", "cuCtxSynchronize": "",
    "cuModuleLoadData": "pp", "cuModuleUnload": "p", "cuModuleGetFunction": "ppp", "cuFuncSetAttribute": "pii",
    "cuMemAlloc_v2": "pp", "cuMemFree_v2": "p", "cuMemcpyHtoD_v2": "ppp", "cuMemcpyDtoH_v2": "ppp",
    "cuMemcpyDtoD_v2": "ppp", "cuLaunchKernel": "piiiiiiippp", "cuTensorMapEncodeTiled": "piipppppiiii",
}  # fmt: skip
HOST = min((a for a in resolve(["cpu"]) if a.toolchain.machine == machine()), key=lambda a: a.preference)


def build(path: Path, leave_out: str = "") -> None:
    """Write the library; `table` gives the address of its callbacks, in the order of CALLS."""
    parts = ["@tessera.block = external hidden global i8, align 64", "define ptr @table() { ret ptr @tessera.block }"]
    names = [name for name in CALLS if name != leave_out]
    for name in names:
        kinds = ["i64" if kind == "p" else "i32" for kind in CALLS[name]]
        given = ", ".join(f"{kind} %a{n}" for n, kind in enumerate(kinds))
        parts.append(f"define i32 @{name}({given}) {{\n"
                     f"  %f = load ptr, ptr getelementptr (i64, ptr @tessera.block, i64 {list(CALLS).index(name)})\n"
                     f"  %r = call i32 %f({given})\n  ret i32 %r\n}}")  # fmt: skip
    (made,) = compile_many([plain("\n".join(parts), HOST)])
    wants = Wants(nbytes=8 * len(CALLS))
    path.write_bytes(link_image([made.data], HOST.toolchain.machine, exports={"table", *names}, wants=wants))


class FakeCuda:
    """Records calls; the device's memory is the host's. `fail` gives the result of a call, `flags` what bools are."""

    def __init__(self, path: Path, capability: tuple[int, int] = (9, 0)) -> None:
        self.capability, self.fail, self.flags = capability, dict[str, int](), list[int]()
        self.calls: list[tuple[Any, ...]] = []
        self.images: list[bytes] = []
        self.slots: dict[str, str] = {}  # of each kernel: i, p or f by parameter, for reading what a launch gives
        self.memory: dict[int, Any] = {}
        self.contexts = self.modules = self.depth = self.ordinal = 0
        self.names: dict[int, str] = {}
        self.library = ctypes.CDLL(str(path))
        self.library.table.restype = ctypes.c_void_p
        table = (ctypes.c_void_p * len(CALLS)).from_address(self.library.table())
        self._kept = []
        for number, (name, kinds) in enumerate(CALLS.items()):
            types = [ctypes.c_uint64 if kind == "p" else ctypes.c_uint32 for kind in kinds]
            callback = ctypes.CFUNCTYPE(ctypes.c_int32, *types)(self._call(name))
            self._kept.append(callback)
            table[number] = ctypes.cast(callback, ctypes.c_void_p).value

    def _call(self, name: str) -> Any:
        act = getattr(self, name.removesuffix("_v2"))

        def called(*arguments: int) -> int:
            if name in self.fail:
                self.calls.append((name,))
                return self.fail[name]
            self.calls.append((name, *(act(*arguments) or ())))
            return 0

        return called

    def cuInit(self, flags: int) -> None:
        assert flags == 0

    def cuDeviceGet(self, device: int, ordinal: int) -> None:
        self.ordinal = ordinal
        ctypes.c_int32.from_address(device).value = 40 + ordinal

    def cuDeviceGetAttribute(self, value: int, attribute: int, device: int) -> None:
        assert device in (40, 41)
        ctypes.c_int32.from_address(value).value = self.capability[attribute - 75]

    def cuDevicePrimaryCtxRetain(self, context: int, device: int) -> None:
        self.contexts += 1
        ctypes.c_uint64.from_address(context).value = 0xC0DE

    def cuDevicePrimaryCtxRelease(self, device: int) -> None:
        assert device == 40 + self.ordinal
        self.contexts -= 1

    def cuCtxPushCurrent(self, context: int) -> None:
        assert context == 0xC0DE
        self.depth += 1

    def cuCtxPopCurrent(self, context: int) -> None:
        assert self.depth > 0
        self.depth -= 1

    def cuCtxSynchronize(self) -> None:
        assert self.depth > 0

    def cuModuleLoadData(self, module: int, image: int) -> None:
        self.modules += 1
        self.images.append(ctypes.string_at(image, 64))
        ctypes.c_uint64.from_address(module).value = 0xB0D

    def cuModuleUnload(self, module: int) -> None:
        assert module == 0xB0D
        self.modules -= 1

    def cuModuleGetFunction(self, function: int, module: int, name: int) -> tuple[str]:
        assert module == 0xB0D
        text = ctypes.string_at(name).decode()
        ctypes.c_uint64.from_address(function).value = key = 0xF000 + len(self.names)
        self.names[key] = text
        return (text,)

    def cuFuncSetAttribute(self, function: int, attribute: int, value: int) -> tuple[str, int]:
        assert attribute == 8
        return self.names[function], value

    def cuMemAlloc(self, pointer: int, nbytes: int) -> tuple[int]:
        block = ctypes.create_string_buffer(nbytes + 256)
        address = -(-ctypes.addressof(block) // 256) * 256
        self.memory[address] = block
        ctypes.c_uint64.from_address(pointer).value = address
        return (nbytes,)

    def cuMemFree(self, pointer: int) -> None:
        del self.memory[pointer]

    def _inside(self, pointer: int, nbytes: int) -> None:
        assert any(start <= pointer and pointer + nbytes <= start + len(b) for start, b in self.memory.items())

    def cuMemcpyHtoD(self, pointer: int, address: int, nbytes: int) -> tuple[int, int]:
        self._inside(pointer, nbytes)
        ctypes.memmove(pointer, address, nbytes)
        return pointer, nbytes

    def cuMemcpyDtoH(self, address: int, pointer: int, nbytes: int) -> tuple[int, int]:
        self._inside(pointer, nbytes)
        if nbytes == 1 and self.flags:
            ctypes.c_uint8.from_address(pointer).value = self.flags.pop(0)
        ctypes.memmove(address, pointer, nbytes)
        return pointer, nbytes

    def cuMemcpyDtoD(self, target: int, source: int, nbytes: int) -> tuple[int, int, int]:
        self._inside(target, nbytes)
        self._inside(source, nbytes)
        ctypes.memmove(target, source, nbytes)
        return target, source, nbytes

    def cuLaunchKernel(self, function: int, *given: int) -> tuple[Any, ...]:
        assert self.depth > 0
        assert given[7] == 0 == given[9]
        name = self.names[function]
        addresses = (ctypes.c_uint64 * len(self.slots[name])).from_address(given[8])
        values = tuple(
            ctypes.string_at(at, 128) if kind == "m" else ctypes.c_uint64.from_address(at).value
            for at, kind in zip(addresses, self.slots[name], strict=True)
        )
        return name, given[:3], given[3:6], given[6], values

    def cuTensorMapEncodeTiled(self, at: int, kind: int, rank: int, pointer: int, *given: int) -> tuple[Any, ...]:
        assert at % 64 == 0
        ctypes.memset(at, 0, 128)
        ctypes.c_uint64.from_address(at).value = pointer
        wide = [tuple((ctypes.c_uint64 * n).from_address(a)) for a, n in zip(given, (rank, rank - 1), strict=False)]
        narrow = [tuple((ctypes.c_uint32 * rank).from_address(a)) for a in given[2:4]]
        return kind, pointer, *wide, *narrow, given[4:]

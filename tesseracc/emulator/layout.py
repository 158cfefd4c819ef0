"""Where a program's variables live, the order of CTAs, and what the program says about itself before it runs."""

from __future__ import annotations

import numpy as np

from tesseracc.emulator.findings import EmulatorError
from tesseracc.emulator.memory import BASES, GlobalMemory, Segment
from tesseracc.emulator.program import Program
from tesseracc.emulator.ptx import Symbol
from tesseracc.emulator.types import TYPES, Array

__all__ = ["Layout", "cluster_order", "granules", "polls", "uses_async_proxy", "uses_tensor_memory"]


_CONST = 64 << 10


class Layout:
    """Addresses of variables: `symbols[name] = (state space, address in that space)`.

    Static shared memory comes first, then dynamic shared memory at the alignment its symbols ask for. Parameters of
    `.func`s and of call sites live in local memory, like everything that each thread has of its own.
    """

    def __init__(self, program: Program, memory: GlobalMemory, dynamic_shared: int) -> None:
        self.symbols: dict[str, tuple[str, int]] = {}
        self.shared_size = 0
        self.local_size = 0
        self.shared_init: list[tuple[int, bytes]] = []
        self._globals: list[int] = []
        self._const: list[tuple[int, Symbol]] = []
        self._initialised: list[tuple[Symbol, int]] = []
        const_size = 0
        dynamic: list[Symbol] = []
        used = {s.name: s for f in program.functions for s in f.symbols.values()}
        for symbol in (*program.module.symbols.values(), *used.values()):
            if symbol.space == "shared" and symbol.extern and symbol.size == 0:
                dynamic.append(symbol)
            elif symbol.space == "shared":
                self.symbols[symbol.name] = ("shared", self._take_shared(symbol.size, symbol.align))
            elif symbol.space in ("local", "param"):
                self.symbols[symbol.name] = ("local", self._take_local(symbol.size, symbol.align))
            elif symbol.space == "global":
                address = memory.alloc(max(symbol.size, 1), symbol.align)
                self._globals.append(address)
                self.symbols[symbol.name] = ("global", address)
                self._initialised.append((symbol, address))
            else:
                const_size = -(-const_size // symbol.align) * symbol.align
                self.symbols[symbol.name] = ("const", const_size)
                self._const.append((const_size, symbol))
                const_size += symbol.size
        start = max((s.align for s in dynamic), default=1)
        start = -(-self.shared_size // start) * start
        for symbol in dynamic:
            self.symbols[symbol.name] = ("shared", start)
        if dynamic or dynamic_shared:
            self.shared_size = start + dynamic_shared
        if const_size > _CONST:
            raise EmulatorError("E942", f"{const_size} bytes of constants: at most {_CONST}")
        self.const = Segment.new(0, const_size)
        for function in program.functions:
            for param in (*function.params, *function.returns):
                if function.is_entry:
                    self.symbols[param.name] = ("param", param.offset)
                else:
                    self.symbols[param.name] = ("local", self._take_local(param.size, max(param.align, 16)))
        for function in program.module.functions.values():
            self.symbols.setdefault(function.name, ("function", program.entry_of.get(function.name, 0)))
        self._fill(memory)

    def _take_shared(self, size: int, align: int) -> int:
        at = -(-self.shared_size // align) * align
        self.shared_size = at + size
        return at

    def _take_local(self, size: int, align: int) -> int:
        at = -(-self.local_size // align) * align
        self.local_size = at + size
        return at

    def _fill(self, memory: GlobalMemory) -> None:
        for symbol, address in self._initialised:
            if symbol.init is not None:
                memory.write(address, self._bytes(symbol))
        for offset, symbol in self._const:
            if symbol.init is not None:
                data = np.frombuffer(self._bytes(symbol), np.uint8)
                self.const.data[offset : offset + len(data)] = data

    def _bytes(self, symbol: Symbol) -> bytes:
        data = bytearray(symbol.init or b"")
        for offset, width, name, addend in symbol.relocations:
            target = name.removeprefix("generic ")
            if target not in self.symbols:
                raise EmulatorError("E940", f"initialiser of `{symbol.name}` names the unknown `{target}`")
            space, address = self.symbols[target]
            if target != name:
                address += BASES.get(space, 0)
            data[offset : offset + width] = (address + addend).to_bytes(width, "little")
        return bytes(data)

    def release(self, memory: GlobalMemory) -> None:
        """Free what the module's own variables took."""
        for address in self._globals:
            memory.free(address)


def cluster_order(grid: tuple[int, int, int], cluster: tuple[int, int, int]) -> Array:
    """Linear CTA numbers, clusters contiguous, ranks ascending inside a cluster."""
    x, y, z = np.meshgrid(*(np.arange(g) for g in grid), indexing="ij")
    number = (x + grid[0] * (y + grid[1] * z)).transpose(2, 1, 0).reshape(-1)
    if cluster == (1, 1, 1):
        return number
    x, y, z = (a.transpose(2, 1, 0).reshape(-1) for a in (x, y, z))
    cx, cy, cz = cluster
    home = x // cx + (grid[0] // cx) * (y // cy + (grid[1] // cy) * (z // cz))
    rank = x % cx + cx * (y % cy + cy * (z % cz))
    return number[np.argsort(home * (cx * cy * cz) + rank, kind="stable")]


def granules(program: Program) -> dict[str, int]:
    """Bytes per race-detection granule of shared and global memory: the narrowest access that the program makes."""
    out = {"shared": 16, "global": 16, "local": 16}
    for i in program.code:
        if i.opcode not in ("ld", "st", "atom", "red", "ldu"):
            if i.opcode in ("cp", "mbarrier", "ldmatrix", "stmatrix", "wmma"):
                out["shared"], out["global"] = min(out["shared"], 4), min(out["global"], 4)
            continue
        width = next((TYPES[m].bytes for m in reversed(i.mods) if m in TYPES), 1)
        spaces = {m.split("::")[0] for m in i.mods} & {"shared", "global", "local", "const", "param"}
        for space in spaces or set(out):
            if space in out:
                out[space] = min(out[space], width)
    return out


def uses_async_proxy(program: Program) -> bool:
    """Whether bulk copies or matrix units may read shared memory, so that ordinary stores need a proxy fence."""
    return any(i.opcode in ("wgmma", "tcgen05") or (i.opcode == "cp" and "bulk" in i.mods) for i in program.code)


def uses_tensor_memory(program: Program) -> bool:
    """Whether there are instructions of the fifth generation of tensor cores."""
    return any(i.opcode == "tcgen05" for i in program.code)


def polls(program: Program) -> bool:
    """Whether threads may wait for global memory that another CTA writes."""
    for i in program.code:
        words = set(i.mods)
        shared = any(m.startswith("shared") for m in words)
        if i.opcode == "ld" and words & {"volatile", "acquire", "relaxed"} and not shared:
            return True
        if i.opcode == "atom" and words & {"cas", "exch", "acquire", "acq_rel"} and not shared:
            return True
    return False

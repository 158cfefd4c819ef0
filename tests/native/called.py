"""Libraries called through ctypes, with types taken from the manifest's function, not from the header."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tessera_runtime.core.dtypes import np_dtype, storage_dtype
from tessera_runtime.core.manifest import Function
from tesseracc.arch.arch import load
from tesseracc.bundle import plan
from tesseracc.driver import Build, front
from tesseracc.native.library import Library, library

_C = {"f32": ctypes.c_float, "f64": ctypes.c_double}


class Called:
    """The functions of a library: `called.f({"x": x}, N=3)` gives a code and the results by name."""

    def __init__(
        self, folder: Path, entries: dict[str, Any], arch: str = "x86-64-v2", stem: str = "m",
        variants: Sequence[Mapping[str, int]] = (),
    ) -> None:  # fmt: skip
        self.build = Build(front(entries, variants=variants), (load(arch),))
        target = self.build.archs[0]
        tile = self.build.tile(target)
        self.made: Library = library(stem, self.build.target(target), tile, target, "a test")
        path = folder / f"lib{stem}.so"
        path.write_bytes(self.made.image)
        self.stem = stem
        self.c = ctypes.CDLL(str(path))
        self.functions: dict[str, Function] = {f.name: f for f in plan.functions(tile)}
        getattr(self.c, f"{stem}_message").restype = ctypes.c_char_p

    def message(self, code: int) -> str:
        found: bytes = getattr(self.c, f"{self.stem}_message")(code)
        return found.decode()

    def workspace(self, name: str, **sizes: int) -> int:
        asked = self.c[f"{self.stem}_{name}_workspace"]
        asked.restype = ctypes.c_int64
        return int(asked(*(ctypes.c_int64(sizes[s.name]) for s in self.functions[name].symbols)))

    def shape(self, name: str, output: str, rank: int, **sizes: int) -> tuple[int, tuple[int, ...]]:
        extents = (ctypes.c_int64 * max(rank, 1))()
        numbers = [ctypes.c_int64(sizes[s.name]) for s in self.functions[name].symbols]
        code = self.c[f"{self.stem}_{name}_{output}_shape"](*numbers, extents)
        return code, tuple(extents)[:rank]

    def __call__(
        self, name: str, inputs: dict[str, Any], *, short: int = 0, shift: int = 0, **sizes: int
    ) -> tuple[int, dict[str, np.ndarray]]:
        """`short` bytes less workspace than asked for; `shift` moves it off its alignment."""
        function = self.functions[name]
        arguments: list[Any] = []
        results: dict[str, np.ndarray] = {}
        for item in function.inputs:
            value = inputs[item.name]
            if item.kind == "tensor":
                arguments.append(ctypes.c_void_p(value.ctypes.data))
            elif item.dtype in _C:
                arguments.append(_C[item.dtype](value))
            else:
                raw = np.array(value, np_dtype(item.dtype)).view(storage_dtype(item.dtype))
                # Bits above the type are the caller's dirt: a C caller need not clear them.
                arguments.append(ctypes.c_uint64(int.from_bytes(raw.tobytes(), "little") | 0x5A5A << 8 * raw.itemsize))
        for output in function.outputs:
            if output.alias is not None:
                results[output.name] = inputs[output.alias]
                continue
            code, extents = self.shape(name, output.name, len(output.shape), **sizes)
            found = np.full(extents if code == 0 else (1,), 0, np_dtype(output.dtype))
            results[output.name] = found
            arguments.append(ctypes.c_void_p(found.ctypes.data))
        needed = self.workspace(name, **sizes)
        memory = np.full(max(needed, 0) + shift + 64, 0xA5, np.uint8)
        arguments += [ctypes.c_int64(sizes[s.name]) for s in function.symbols]
        arguments += [ctypes.c_void_p(memory.ctypes.data + shift), ctypes.c_int64(needed - short)]
        code = self.c[f"{self.stem}_{name}"](*arguments)
        assert (memory[max(needed, 0) + shift :] == 0xA5).all(), "nothing beyond the workspace is written"
        return code, results

"""Launches kernels of Triton's compiler by its calling convention; checks matrix products and attention."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np

from tesseracc.emulator import GlobalMemory, Report
from tests.emulator.outside.support import HERE, program, run, tensor_map, within

BF16: Any = ml_dtypes.bfloat16
E4M3: Any = ml_dtypes.float8_e4m3fn
TYPES: dict[str, Any] = {"f16": np.float16, "bf16": BF16, "tf32": np.float32, "e4m3": E4M3}
MAP_TYPES = {6: "f16", 10: "bf16"}  # elem_type of Triton's descriptors
SWIZZLES = (0, 32, 64, 128)


@cache
def launches() -> dict[str, Any]:
    """What Triton says about each kernel: its name, shared bytes, descriptors."""
    loaded: dict[str, Any] = json.loads((HERE / "triton/launches.json").read_text())
    return loaded


def raw(array: Any) -> Any:
    """The emulator takes narrow floats as their bits."""
    return array.view({1: np.uint8, 2: np.uint16}[array.dtype.itemsize]) if array.dtype in (BF16, E4M3) else array


class Described:
    """A matrix that the kernel sees through a tensor descriptor."""

    def __init__(self, array: Any) -> None:
        self.array = array


def triton(name: str, grid: Sequence[int], args: Sequence[Any], seed: int = 0) -> Report:
    """Launch with Triton's calling convention: a descriptor is followed by its shape and strides; two scratch areas."""
    info = launches()[name]
    memory = GlobalMemory()
    passed: list[Any] = []
    back: list[tuple[Any, int]] = []
    descriptors = iter(info.get("descriptors", ()))
    for arg in args:
        if isinstance(arg, Described):
            meta, a = next(descriptors), arg.array
            box = tuple(reversed(meta["block_size"]))
            encoded, address = tensor_map(memory, raw(a), MAP_TYPES[meta["elem_type"]], box, SWIZZLES[meta["swizzle"]])
            passed += [encoded, *a.shape, *(s // a.itemsize for s in a.strides)]
            back.append((a, address))
        else:
            passed.append(raw(arg) if isinstance(arg, np.ndarray) else arg)
    scratch = [memory.alloc(info["scratch"] * int(np.prod(grid))), memory.alloc(0)]
    module = program(f"triton/{name}")
    threads = module.functions[info["kernel"]].reqntid
    assert threads is not None
    report = run(module, info["kernel"], grid, threads, [*passed, *(np.uint64(s) for s in scratch)], memory=memory,
                 dynamic_shared=info["shared"], seed=seed)  # fmt: skip
    for a, address in back:
        a.reshape(-1).view(np.uint8)[:] = np.frombuffer(memory.read(address, a.nbytes), np.uint8)
    return report


def check_product(name: str, sizes: tuple[int, int, int], seed: int) -> Report:
    """C = A B (or A B^T) on random numbers. `name` says type and architecture, or that it uses descriptors (bf16)."""
    m, n, k = sizes
    rng = np.random.default_rng(100 + seed)
    kind, arch = name.split("_")[1:]
    by_descriptor = kind not in TYPES
    transposed = kind in ("e4m3", "persistent") or (kind == "tf32" and arch != "80")
    a, b = (rng.normal(size=s).astype(TYPES.get(kind, BF16)) for s in ((m, k), (n, k) if transposed else (k, n)))
    x, y = a.astype(np.float64), b.astype(np.float64)
    y = y.T if transposed else y
    want = x @ y
    # Products are exact and f32 sums round once a step; tf32 operands lose 13 bits each.
    bound = np.abs(x) @ np.abs(y) * (k * 2.0**-24 + (2.0**-9 if kind == "tf32" else 0.0))
    c = np.full((m, n), np.nan, BF16 if by_descriptor else np.float32)
    if by_descriptor:
        rows = launches()[name]["descriptors"][0]["block_size"][0]
        grid: tuple[int, ...] = (2,) if kind == "persistent" else (-(-m // rows), -(-n // 64))
        report = triton(name, grid, [Described(a), Described(b), Described(c), m, n, k], seed)
        bound += np.abs(want) * 2.0**-8
    else:
        grid = (-(-m // 64), -(-n // (32 if arch == "80" else 64)))
        report = triton(name, grid, [a, b, c, m, n, k], seed)
    within(c.astype(np.float64), want, bound)
    return report


def _attend(q: Any, k: Any, v: Any, causal: bool) -> Any:
    s = q.astype(np.float64) @ k.astype(np.float64).swapaxes(-1, -2) * 0.125
    if causal:
        s = np.where(np.arange(s.shape[-1])[None] <= np.arange(s.shape[-2])[:, None], s, -np.inf)
    p = np.exp(s - s.max(axis=-1, keepdims=True))
    return (p / p.sum(axis=-1, keepdims=True)) @ v.astype(np.float64)


def check_attention(name: str, seed: int) -> None:
    """Two heads of ragged length; f16 in, f32 out."""
    heads, length, d = 2, 150, 64
    rng = np.random.default_rng(200 + seed)
    q, k, v = (rng.normal(size=(heads, length, d)).astype(np.float16) for _ in range(3))
    out = np.full((heads, length, d), np.nan, np.float32)
    triton(name, (3, heads), [q, k, v, out, length, length, np.float32(0.125)], seed)
    # Probabilities are rounded to f16: half an ulp each, relative to the values they weigh.
    within(out, _attend(q, k, v, "causal" in name), 2.0**-11 * np.abs(v.astype(np.float64)).max() + 2.0**-14)


def check_described_attention(name: str, seed: int) -> None:
    """One head, through tensor descriptors; f16 in and out; three blocks of keys."""
    queries, keys, d = 100, 192, 64
    rng = np.random.default_rng(300 + seed)
    q, k, v = (rng.normal(size=(n, d)).astype(np.float16) for n in (queries, keys, keys))
    out = np.full((queries, d), np.nan, np.float16)
    args = [Described(q), Described(k), Described(v), Described(out), queries, keys, np.float32(0.125)]
    triton(name, (2,), args, seed)
    want = _attend(q, k, v, False)
    within(out, want, np.abs(want) * 2.0**-11 + 2.0**-11 * np.abs(v.astype(np.float64)).max() + 2.0**-14)

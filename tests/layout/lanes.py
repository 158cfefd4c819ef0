"""Runs kernels on the emulator whose registers are filled and read by a layout, lane by lane."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from tesseracc.layout import LinearLayout
from tests.emulator.harness import run_text

DTYPES: dict[str, Any] = {
    "f16": np.float16, "bf16": ml_dtypes.bfloat16, "tf32": np.float32, "f32": np.float32, "f64": np.float64,
    "i8": np.int8, "u8": np.uint8, "i32": np.int32, "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
}  # fmt: skip
PTX = {"i8": "s8", "i32": "s32", "fp8_e4m3": "e4m3", "fp8_e5m2": "e5m2"}


def ptx(dtype: str) -> str:
    return PTX.get(dtype, dtype)


def random_matrix(dtype: str, shape: tuple[int, ...], seed: int) -> Any:
    """Values whose products sum exactly in f32 for any order, so that the comparison is exact."""
    rng = np.random.default_rng(seed)
    if dtype in ("i8", "u8"):
        return rng.integers(-128 if dtype == "i8" else 0, 128, shape).astype(DTYPES[dtype])
    if dtype == "fp8_e5m2":
        return (rng.integers(-7, 8, shape) / 4).astype(DTYPES[dtype])
    return (rng.integers(-15, 16, shape) / 8).astype(DTYPES[dtype])


def scatter(matrix: Any, layout: LinearLayout, threads: int, registers: int | None = None) -> Any:
    """[threads, words]: the registers of every thread, filled with elements of the matrix; NaN-free zero outside."""
    place = {name: layout.in_size(name) for name, _ in layout.ins}
    count = registers or place["register"]
    thread, register = np.meshgrid(np.arange(threads), np.arange(count), indexing="ij")
    where = layout.apply({"register": register, "lane": thread % 32, "warp": thread // 32 % place["warp"]})
    padded = np.zeros(layout.shape, matrix.dtype)
    padded[tuple(slice(0, size) for size in matrix.shape)] = matrix
    values = np.ascontiguousarray(padded[where["dim0"], where["dim1"]])
    return values.view(np.uint64 if matrix.dtype.itemsize == 8 else np.uint32)


def gather(words: Any, dtype: Any, layout: LinearLayout, shape: tuple[int, int]) -> Any:
    """The matrix that the registers of all threads hold; every element must be held, and alike wherever it is."""
    values = words.view(dtype)
    threads, count = values.shape
    thread, register = np.meshgrid(np.arange(threads), np.arange(count), indexing="ij")
    where = layout.apply({"register": register, "lane": thread % 32, "warp": thread // 32})
    out = np.zeros(layout.shape, dtype)
    held = np.zeros(layout.shape, bool)
    out[where["dim0"], where["dim1"]] = values
    held[where["dim0"], where["dim1"]] = True
    inside = tuple(slice(0, size) for size in shape)
    assert held[inside].all() and held.sum() == shape[0] * shape[1]
    assert np.array_equal(out[where["dim0"], where["dim1"]].astype(np.float64), values.astype(np.float64))
    return out[inside]


def group(name: str, count: int) -> str:
    return "{" + ", ".join(f"%{name}{r}" for r in range(count)) + "}"


def register_code(counts: dict[str, int], wide: dict[str, bool]) -> tuple[str, str]:
    """(loads of the registers %name0.. of each operand from parameter p0.., stores of %d..)."""
    text = ".reg .b32 %i; mov.u32 %i, %tid.x;\n"
    store = ""
    for p, (name, count) in enumerate(counts.items()):
        bits = 64 if wide[name] else 32
        text += f".reg .b{bits} %{name}<{count}>; .reg .b64 %p{name};\n"
        text += f"ld.param.u64 %p{name}, [p{p}]; mad.wide.u32 %p{name}, %i, {count * bits // 8}, %p{name};\n"
        for r in range(count):
            at = f"[%p{name}+{r * bits // 8}]"
            if name == "d":
                store += f"st.global.b{bits} {at}, %d{r};\n"
            else:
                text += f"ld.global.b{bits} %{name}{r}, {at};\n"
    return text, store


def run_registers(instruction: str, operands: dict[str, Any], result: Any, threads: int, **options: Any) -> Any:
    """Run `instruction` on registers %a.., %b.., %c.. of operands [threads, words]; %d.. is returned, like `result`."""
    arrays = {**operands, "d": result}
    counts = {name: array.shape[1] for name, array in arrays.items()}
    load, store = register_code(counts, {name: array.itemsize == 8 for name, array in arrays.items()})
    report = run_text(load + instruction + store + "ret;", list(arrays.values()), block=(threads,), **options)
    assert not report.findings, report.findings[0].render()
    return report

"""Runs single instructions over arrays: each thread loads its operands, executes the text, stores the result."""

from __future__ import annotations

from typing import Any

import numpy as np

from tesseracc.emulator import Report, launch, parse_ptx

_RAW = {1: np.uint8, 8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}


def bits_of(array: Any) -> int:
    return int(np.asarray(array).dtype.itemsize * 8)


def lanewise(text: str, *inputs: Any, out: Any = np.uint32, outs: int = 1, target: str = "sm_90a") -> Any:
    """`text` uses %0, %1, ... for inputs and %d (%d0, %d1, ...) for results; `out` is the NumPy type of each result.

    `out=bool` reads predicate results. Any number of elements; they run as CTAs of 64 threads with a ragged end.
    """
    arrays = [np.ascontiguousarray(a) for a in inputs]
    n = len(arrays[0])
    lines, stores = [], []
    predicate = out is bool
    width = 32 if predicate else bits_of(np.zeros(1, out))
    for k, a in enumerate(arrays):
        bits = bits_of(a)
        reg = "b16" if bits == 8 else f"b{bits}"
        lines.append(f".reg .{reg} %in{k}; .reg .b64 %pa{k};")
        lines.append(f"ld.param.u64 %pa{k}, [p{k}]; mad.wide.u32 %pa{k}, %i, {bits // 8}, %pa{k};")
        lines.append(f"ld.global.{'u8' if bits == 8 else f'b{bits}'} %in{k}, [%pa{k}];")
        text = text.replace(f"%{k}", f"%in{k}")
    for k in range(outs):
        name = f"%out{k}"
        kind = "pred" if predicate else "b16" if width == 8 else f"b{width}"
        lines.append(f".reg .{kind} {name}; .reg .b64 %po{k};")
        text = text.replace(f"%d{k}", name)
        stores.append(f"ld.param.u64 %po{k}, [o{k}]; mad.wide.u32 %po{k}, %i, {width // 8}, %po{k};")
        if predicate:
            stores.append(f".reg .b32 %sel{k}; selp.b32 %sel{k}, 1, 0, {name}; st.global.b32 [%po{k}], %sel{k};")
        else:
            stores.append(f"st.global.{'u8' if width == 8 else f'b{width}'} [%po{k}], {name};")
    text = text.replace("%d", "%out0")
    params = ", ".join([f".param .u64 p{k}" for k in range(len(arrays))] + [f".param .u64 o{k}" for k in range(outs)])
    ptx = f""".version 8.8
.target {target}
.address_size 64
.visible .entry k({params}, .param .u32 n)
{{
.reg .b32 %i, %t0, %n; .reg .pred %end;
mov.u32 %i, %ctaid.x; mov.u32 %t0, %tid.x; mad.lo.u32 %i, %i, 64, %t0;
ld.param.u32 %n, [n]; setp.ge.u32 %end, %i, %n; @%end exit;
{chr(10).join(lines)}
{text}
{chr(10).join(stores)}
ret;
}}
"""
    results = [np.zeros(n, np.uint32 if predicate else out) for _ in range(outs)]
    raw = [a.view(_RAW[bits_of(a)]) for a in arrays]
    report = launch(parse_ptx(ptx), "k", (-(-n // 64),), (64,), [*raw, *results, n])
    assert not report.findings, report.findings[0].render()
    values = [r.astype(bool) for r in results] if predicate else results
    return values[0] if outs == 1 else values


def run_text(body: str, args: list[Any], grid: Any = (1,), block: Any = (32,), params: str | None = None,
             module: str = "", **options: Any) -> Report:  # fmt: skip
    """Run a kernel given as the text of its body; every argument is a buffer in parameters p0, p1, ..."""
    if params is None:
        params = ", ".join(
            f".param .u64 p{k}" if isinstance(a, np.ndarray) else f".param .u32 p{k}" for k, a in enumerate(args)
        )
    ptx = f".version 8.8\n.target sm_90a\n.address_size 64\n{module}\n.visible .entry k({params})\n{{\n{body}\n}}\n"
    return launch(parse_ptx(ptx), "k", grid, block, args, **options)


def same_bits(got: Any, want: Any) -> None:
    """Equal patterns, NaN payloads and signs of zero included; the message shows the first difference."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.dtype == want.dtype and got.shape == want.shape, (got.dtype, want.dtype)
    raw = _RAW[bits_of(got)] if got.dtype != np.bool_ else np.bool_
    differ = np.flatnonzero(got.view(raw) != want.view(raw))
    assert not len(differ), (
        f"{len(differ)} differ, first at {differ[0]}: got {got[differ[0]]!r}, want {want[differ[0]]!r}"
    )

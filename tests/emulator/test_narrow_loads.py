"""A load into a wider register extends by sign for s types and by zero for u and b types (PTX ISA, operand size)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tesseracc.emulator import launch, parse_ptx

KINDS: list[tuple[str, Any, str, Any]] = [
    (kind, dtype, register, wide)
    for kind, dtype, sizes in (
        ("s8", np.int8, (16, 32, 64)), ("u8", np.uint8, (16, 32, 64)), ("b8", np.uint8, (16, 32)),
        ("s16", np.int16, (32, 64)), ("u16", np.uint16, (32, 64)), ("s32", np.int32, (64,)), ("u32", np.uint32, (64,)),
    )
    for register in map(str, sizes)
    for wide in [np.dtype(f"{'int' if kind[0] == 's' else 'uint'}{register}").type]
]  # fmt: skip


@pytest.mark.parametrize(("kind", "dtype", "register", "wide"), KINDS)
def test_extension(kind: str, dtype: Any, register: str, wide: Any) -> None:
    x = np.random.default_rng(5).integers(np.iinfo(dtype).min, np.iinfo(dtype).max, 64, dtype=dtype, endpoint=True)
    x[:2] = np.iinfo(dtype).min, np.iinfo(dtype).max
    out = np.zeros(64, wide)
    text = f""".version 8.8
.target sm_90a
.address_size 64
.visible .entry k(.param .u64 x, .param .u64 y)
{{
.reg .b{register} %v; .reg .b32 %i; .reg .b64 %p, %q;
mov.u32 %i, %tid.x;
ld.param.u64 %p, [x]; mad.wide.u32 %p, %i, {dtype().itemsize}, %p;
ld.param.u64 %q, [y]; mad.wide.u32 %q, %i, {int(register) // 8}, %q;
ld.global.{kind} %v, [%p];
st.global.b{register} [%q], %v;
ret;
}}
"""
    report = launch(parse_ptx(text), "k", (1, 1, 1), (64, 1, 1), [x, out])
    assert not report.findings
    np.testing.assert_array_equal(out, x.astype(wide))

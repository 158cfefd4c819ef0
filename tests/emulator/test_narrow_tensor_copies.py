"""Tensor copies of elements narrower than a byte, packed in global memory, padded to 16 bytes in shared memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tesseracc.emulator import GlobalMemory, Report, TensorMap
from tests.emulator.harness import run_text
from tests.emulator.warp_products import word

BITS = {"b4x16": 4, "b4x16_p64": 4, "b6x16_p32": 6}
ROWS, COLUMNS, TALL = 5, 256, 4


def load(
    dtype: str, at: tuple[int, int], swizzle: int = 0, box: int = 128, store: bool = False
) -> tuple[Any, Any, Report, Any]:
    """The elements, the shared bytes of a box at column and row `at`, the report, and the global bytes afterwards."""
    bits = BITS[dtype]
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (ROWS, COLUMNS))
    raw = b"".join(word(list(row), bits).to_bytes(COLUMNS * bits // 8, "little") for row in codes)
    memory = GlobalMemory()
    address = memory.alloc(len(raw), 64)
    memory.write(address, np.frombuffer(raw, np.uint8).copy())
    tensor = TensorMap(dtype, address, (COLUMNS, ROWS), (COLUMNS * bits // 8,), (box, TALL), swizzle=swizzle)
    assert TensorMap.decode(tensor.encode()) == tensor
    size = TALL * box * (8 if dtype != "b4x16" else 4) // 8
    back = f"""fence.proxy.async.shared::cta; @%q cp.async.bulk.tensor.2d.global.shared::cta.bulk_group
[%m, {{{at[0]}, {at[1]}}}], [%s]; @%q cp.async.bulk.commit_group; @%q cp.async.bulk.wait_group 0;"""
    body = f"""
.reg .b32 %t, %s, %w; .reg .b64 %m, %p; .reg .pred %q, %e; .reg .pred %more;
mov.u32 %t, %tid.x; setp.eq.u32 %q, %t, 0; mov.u32 %s, s; mov.b64 %m, p0; cvta.param.u64 %m, %m;
@%q mbarrier.init.shared::cta.b64 [full], 1; bar.sync 0;
@%q mbarrier.arrive.expect_tx.shared::cta.b64 _, [full], {size};
@%q cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%s],
[%m, {{{at[0]}, {at[1]}}}], [full];
WAIT: mbarrier.try_wait.parity.shared::cta.b64 %e, [full], 0; @!%e bra WAIT;
ld.param.u64 %p, [p1]; mad.wide.u32 %p, %t, 4, %p; mad.lo.u32 %s, %t, 4, %s;
SAVE: ld.shared.u32 %w, [%s]; st.global.u32 [%p], %w; add.u32 %s, %s, 128; add.u64 %p, %p, 128; add.u32 %t, %t, 32;
setp.lt.u32 %more, %t, {size // 4}; @%more bra SAVE;
mov.u32 %s, s; {back if store else ""}
ret;"""
    out = np.zeros(size // 4, np.uint32)
    params = ".param .align 64 .b8 p0[128], .param .u64 p1"
    report = run_text(body, [tensor.encode(), out], params=params, memory=memory,
                      module=".shared .align 1024 .b8 s[1024]; .shared .align 8 .b64 full;")  # fmt: skip
    return codes, out.view(np.uint8).reshape(TALL, -1), report, memory.read(address, len(raw))


@pytest.mark.parametrize("swizzle", [0, 128])
@pytest.mark.parametrize("at", [(0, 0), (128, 1), (128, 3), (0, -2), (256, 0), (-128, 0)])
@pytest.mark.parametrize("dtype", ["b4x16_p64", "b6x16_p32"])
def test_padded_loads(dtype: str, at: tuple[int, int], swizzle: int) -> None:
    codes, got, report, _ = load(dtype, at, swizzle)
    assert not report.findings, report.findings[0].render()
    used = 2 * BITS[dtype]
    for row in range(TALL):
        for group in range(8):
            inside = 0 <= row + at[1] < ROWS and 0 <= at[0] + 16 * group < COLUMNS
            elements = codes[row + at[1], at[0] + 16 * group :][:16] if inside else np.zeros(16, int)
            chunk = group ^ row if swizzle else group  # rows of 128 bytes
            want = word(list(elements), BITS[dtype]).to_bytes(used, "little")
            assert got[row, 16 * chunk : 16 * chunk + used].tobytes() == want


def test_packed_elements_go_both_ways() -> None:
    codes, got, report, after = load("b4x16", (32, 2), box=64, store=True)
    assert not report.findings, report.findings[0].render()
    for row in range(TALL - 1):
        assert got[row].tobytes() == word(list(codes[row + 2, 32:96]), 4).to_bytes(32, "little")
    assert not got[3].any()  # beyond the last row
    raw = b"".join(word(list(row), 4).to_bytes(128, "little") for row in codes)
    assert bytes(after) == raw


def test_what_cannot_be_is_reported() -> None:
    _, _, report, _ = load("b4x16_p64", (64, 0))
    assert [f.code for f in report.findings] == ["E951"] and "no multiple of 128" in report.findings[0].message
    _, _, report, _ = load("b6x16_p32", (0, 0), store=True)
    assert [f.code for f in report.findings] == ["E951"] and "cannot be stored" in report.findings[0].message
    for arguments in (("b4x16_p64", 0, (192, 4), (96,), (128, 4)), ("b4x16_p64", 0, (256, 4), (128,), (64, 4)),
                      ("b6x16_p32", 16, (128, 4), (96,), (128, 4)), ("b4x16", 0, (33, 4), (32,), (32, 4))):  # fmt: skip
        with pytest.raises(ValueError, match="multiples"):
            TensorMap(*arguments)

"""wgmma.mma_async of single bits: how many are set in both, in rows of A and of B."""

from __future__ import annotations

import numpy as np
import pytest

from tests.emulator import warp_products as wp
from tests.emulator.harness import run_text
from tests.emulator.test_sparse_wgmma import placed


@pytest.mark.parametrize(("shared", "pitch"), [(False, 0), (True, 0), (False, 64), (True, 128)])
@pytest.mark.parametrize("n", [8, 48])
def test_products(n: int, shared: bool, pitch: int) -> None:
    rng = np.random.default_rng(n + pitch)
    a, b = rng.integers(0, 2, (64, 256)), rng.integers(0, 2, (n, 256))
    rows = [np.packbits(x, axis=1, bitorder="little") for x in (a, b)]
    image_a, desc_a = placed(rows[0], pitch)
    image_b, desc_b = placed(rows[1], pitch)
    registers = np.zeros((128, 4), np.uint32)
    for thread in range(128):
        warp, lane = divmod(thread, 32)
        registers[thread] = wp.a_fragment(a[16 * warp : 16 * warp + 16], 1)[lane]
    left = "%da" if shared else "{%a0, %a1, %a2, %a3}"
    named = ", ".join(f"%d{r}" for r in range(n // 2))
    product = f"wgmma.mma_async.sync.aligned.m64n{n}k256.s32.b1.b1.and.popc {{{named}}}, {left}, %db, %t;"
    text = f"""
.reg .b32 %i, %s, %w, %a<4>; .reg .b64 %p, %q, %da, %db; .reg .b32 %d<{n // 2}>; .reg .pred %t;
mov.u32 %i, %tid.x; mov.u32 %s, s; ld.param.u64 %p, [p0]; mad.wide.u32 %p, %i, 4, %p; mad.lo.u32 %s, %i, 4, %s;
LOOP: ld.global.u32 %w, [%p]; st.shared.u32 [%s], %w; add.u64 %p, %p, 512; add.u32 %s, %s, 512; add.u32 %i, %i, 128;
setp.lt.u32 %t, %i, 8192; @%t bra LOOP;
mov.u32 %i, %tid.x; ld.param.u64 %p, [p2]; mad.wide.u32 %p, %i, 16, %p;
{"".join(f"ld.global.u32 %a{r}, [%p+{4 * r}]; " for r in range(4))}
fence.proxy.async.shared::cta; bar.sync 0;
mov.u32 %s, s; shr.u32 %s, %s, 4; cvt.u64.u32 %da, %s; add.u64 %db, %da, 1024;
or.b64 %da, %da, {desc_a}; or.b64 %db, %db, {desc_b};
{"".join(f"mov.b32 %d{r}, 1000; " for r in range(n // 2))} setp.eq.u32 %t, 0, 0;
wgmma.fence.sync.aligned;
{product}
wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;
ld.param.u64 %q, [p1]; mad.wide.u32 %q, %i, {2 * n}, %q;
{"".join(f"st.global.b32 [%q+{4 * r}], %d{r};" for r in range(n // 2))}
ret;"""
    out = np.zeros((128, n // 2), np.int32)
    image = np.concatenate([image_a, image_b]).view(np.uint32)
    report = run_text(text, [image, out.view(np.uint32), registers], block=(128,),
                      module=".shared .align 1024 .b8 s[32768];")  # fmt: skip
    assert not report.findings, report.findings[0].render()
    got = np.zeros((64, n), np.int64)
    for thread in range(128):
        for j in range(n // 2):
            row = thread // 32 * 16 + thread % 32 // 4 + 8 * (j // 2 % 2)
            got[row, j // 4 * 8 + thread % 4 * 2 + j % 2] = out[thread, j]
    np.testing.assert_array_equal(got, (a[:, None] & b[None]).sum(axis=2) + 1000)
    declared = f".reg .b64 %da, %db; .reg .b32 %a<4>, %d<{n // 2}>; .reg .pred %t;\n"
    wp.check_text(declared + product, "sm_90a")

"""cp.async and bulk copies by themselves: ragged sources, reductions into shared memory."""

from __future__ import annotations

import numpy as np
import pytest

from tests.emulator.harness import run_text

SHARED = ".shared .align 128 .b8 buffer[4096];\n.shared .align 8 .b64 full;"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [4, 8, 16])
def test_any_number_of_source_bytes(size: int, seed: int) -> None:
    """Lane l copies l mod (size + 1) bytes; the rest of its place is filled with zeros."""
    x = np.random.default_rng(size).integers(1, 256, (32, size)).astype(np.uint8)
    y = np.full_like(x, 255)
    load, values = {4: ("b32", "%x0"), 8: ("b64", "%d0"), 16: ("v2.b64", "{%d0, %d1}")}[size]
    move = f"ld.shared.{load} {values}, [%s]; st.global.{load} [%q], {values};"
    body = f"""
.reg .b32 %t, %s, %n, %x0; .reg .b64 %p, %q, %d<2>;
mov.u32 %t, %tid.x; ld.param.u64 %p, [p0]; ld.param.u64 %q, [p1]; mov.u32 %s, buffer;
mad.wide.u32 %p, %t, {size}, %p; mad.wide.u32 %q, %t, {size}, %q; mad.lo.u32 %s, %t, {size}, %s;
rem.u32 %n, %t, {size + 1};
cp.async.ca.shared.global [%s], [%p], {size}, %n;
cp.async.wait_all;
{move} ret;"""
    report = run_text(body, [x.reshape(-1), y.reshape(-1)], module=SHARED, seed=seed)
    assert not report.findings, report.findings[0].render()
    keep = np.arange(size)[None] < (np.arange(32) % (size + 1))[:, None]
    np.testing.assert_array_equal(y, np.where(keep, x, 0))


def test_a_source_longer_than_the_copy() -> None:
    body = """.reg .b32 %s; .reg .b64 %p; ld.param.u64 %p, [p0]; mov.u32 %s, buffer;
cp.async.ca.shared.global [%s], [%p], 4, 5; cp.async.wait_all; ret;"""
    report = run_text(body, [np.zeros(8, np.uint32)], block=(1,), module=SHARED)
    assert [f.code for f in report.findings] == ["E960"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("operation", "reduce"), [("add.u32", np.add), ("max.s32", np.maximum), ("xor.b32", np.bitwise_xor)]
)
def test_reductions_into_a_neighbour(operation: str, reduce: np.ufunc, seed: int) -> None:
    """Two CTAs of a cluster reduce their tiles into the first one's, which waits for both on its mbarrier."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-1000, 1000, (3, 32)).astype(np.int32)
    y = np.zeros(32, np.int32)
    body = f"""
.reg .b32 %t, %r, %s, %u, %m, %x0; .reg .b64 %p, %q; .reg .pred %first, %zero, %done;
mov.u32 %t, %tid.x; mov.u32 %r, %cluster_ctarank; setp.eq.u32 %first, %t, 0; setp.eq.u32 %zero, %r, 0;
ld.param.u64 %p, [p0]; ld.param.u64 %q, [p1]; mov.u32 %s, buffer; mov.u32 %m, full;
mad.wide.u32 %p, %t, 4, %p; mad.wide.u32 %q, %t, 4, %q; mad.lo.u32 %u, %t, 4, %s;
@%zero ld.global.u32 %x0, [%p]; @%zero st.shared.u32 [%u], %x0;
mad.wide.u32 %p, %r, 128, %p; ld.global.u32 %x0, [%p+128]; st.shared.u32 [%u+128], %x0;
@%first mbarrier.init.shared::cta.b64 [full], 1;
fence.mbarrier_init.release.cluster; fence.proxy.async.shared::cta;
bar.sync 0;
@%first mbarrier.arrive.expect_tx.shared::cta.b64 _, [full], 256;
barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
add.u32 %u, %s, 128; mapa.shared::cluster.u32 %s, %s, 0; mapa.shared::cluster.u32 %m, %m, 0;
@%first cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.{operation} [%s], [%u], 128, [%m];
@!%zero bra END;
WAIT: mbarrier.try_wait.parity.shared::cta.b64 %done, [full], 0; @!%done bra WAIT;
mov.u32 %s, buffer; mad.lo.u32 %u, %t, 4, %s; ld.shared.u32 %x0, [%u]; st.global.u32 [%q], %x0;
END: barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned; ret;"""
    report = run_text(body, [x.reshape(-1), y], (2,), (32,), module=SHARED, cluster=(2, 1, 1), seed=seed)
    assert not report.findings, report.findings[0].render()
    np.testing.assert_array_equal(y, reduce(reduce(x[0], x[1]), x[2]))

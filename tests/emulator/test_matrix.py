"""Matrix instructions of every element type and every shared-memory layout, against matrix products.

Fragments are addressed by the element tables of the PTX documentation, written out here a second time as loops over
lanes; layouts of wgmma operands by placing one element after the other as the documentation's drawings show.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.emulator.harness import run_text

BF16: Any = ml_dtypes.bfloat16
DTYPES: dict[str, Any] = {
    "f16": np.float16, "bf16": BF16, "tf32": np.float32, "f64": np.float64, "s8": np.int8, "u8": np.uint8,
    "e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2,
}  # fmt: skip


def sample(kind: str, shape: tuple[int, int], seed: int) -> Any:
    rng = np.random.default_rng(seed)
    if kind in ("s8", "u8"):
        return rng.integers(-128 if kind == "s8" else 0, 128, shape).astype(DTYPES[kind])
    if kind == "tf32":  # exactly representable in ten fraction bits
        return (rng.integers(-1023, 1024, shape) / 64).astype(np.float32)
    return rng.normal(size=shape).astype(DTYPES[kind])


def a_index(lane: int, i: int, k: int, per: int, rows: int) -> tuple[int, int]:
    """(row, column) of element i of lane: `mma` fragment tables, per = elements in a register."""
    register, inside = divmod(i, per)
    if rows == 8:
        return lane >> 2, register * 4 * per + (lane % 4) * per + inside
    row = (lane >> 2) + (8 if register in (1, 3) else 0)
    return row, (lane % 4) * per + inside + (4 * per if register >= 2 else 0)


def pack(elements: list[Any], dtype: Any) -> Any:
    raw = np.array(elements, dtype)
    return raw.view(np.uint64 if raw.itemsize == 8 else np.uint32)


SHAPES = [
    ("f16", "f32", 16, 16), ("f16", "f32", 16, 8), ("f16", "f16", 16, 16), ("bf16", "f32", 16, 16),
    ("bf16", "f32", 16, 8),
    ("tf32", "f32", 16, 8), ("tf32", "f32", 16, 4), ("s8", "s32", 16, 32), ("u8", "s32", 16, 16), ("s8", "s32", 8, 16),
    ("e4m3", "f32", 16, 32), ("e5m2", "f32", 16, 32), ("f64", "f64", 8, 4),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "acc", "m", "k"), SHAPES)
def test_mma(kind: str, acc: str, m: int, k: int) -> None:
    a, b = sample(kind, (m, k), 1), sample(kind, (k, 8), 2)
    c = np.random.default_rng(3).integers(-8, 9, (m, 8)).astype(np.float64)
    dtype = DTYPES[kind]
    size = np.dtype(dtype).itemsize
    per = max(1, 4 // size)
    na, nb = m * k // 32, 8 * k // 32
    fa = [pack([a[a_index(lane, i, k, per, m)] for i in range(na)], dtype) for lane in range(32)]
    fb = []
    for lane in range(32):
        places = [a_index(lane, i, k, per, 8) for i in range(nb)]
        fb.append(pack([b[column, row] for row, column in places], dtype))
    rows = [[((lane >> 2) + 8 * (i >> 1), (lane % 4) * 2 + (i & 1)) for i in range(m * 8 // 32)] for lane in range(32)]
    cd = {"f32": np.float32, "f16": np.float16, "s32": np.int32, "f64": np.float64}[acc]
    fc = [pack([c[p] for p in places], cd) for places in rows]
    ra, rb, rc = len(fa[0]), len(fb[0]), len(fc[0])
    wide = 8 if kind == "f64" else 4
    reg = f".b{8 * wide}"
    text = ".reg .b32 %i; .reg .b64 %pa, %pb, %pc, %pd; mov.u32 %i, %tid.x;\n"
    text += f".reg {reg} %a<{ra}>, %b<{rb}>, %c<{rc}>, %d<{rc}>;\n"
    for p, (name, count) in enumerate((("pa", ra), ("pb", rb), ("pc", rc), ("pd", rc))):
        text += f"ld.param.u64 %{name}, [p{p}]; mad.wide.u32 %{name}, %i, {count * wide}, %{name};\n"
    for name, count in (("a", ra), ("b", rb), ("c", rc)):
        for r in range(count):
            text += f"ld.global{reg} %{name}{r}, [%p{name}+{r * wide}];\n"

    def group(name: str, count: int) -> str:
        return "{" + ", ".join(f"%{name}{r}" for r in range(count)) + "}"

    text += f"mma.sync.aligned.m{m}n8k{k}.row.col.{acc}.{kind}.{kind}.{acc} {group('d', rc)}, {group('a', ra)}, "
    text += f"{group('b', rb)}, {group('c', rc)};\n"
    text += "".join(f"st.global{reg} [%pd+{r * wide}], %d{r};\n" for r in range(rc)) + "ret;"
    out = np.zeros((32, rc), np.uint64 if wide == 8 else np.uint32)
    report = run_text(text, [np.array(fa), np.array(fb), np.array(fc), out])
    assert not report.findings, report.findings[0].render()
    d = np.zeros((m, 8))
    for lane in range(32):
        for place, value in zip(rows[lane], out[lane].view(cd)):
            d[place] = value
    exact = a.astype(np.float64) @ b.astype(np.float64) + c
    assert np.array_equal(d, exact.astype(cd).astype(np.float64))


# --- wgmma -----------------------------------------------------------------------------------------------------------


def place_operand(x: Any, major: str, swizzle: int) -> tuple[Any, int]:
    """(bytes, descriptor without its address) of an operand x [rows, 16] of 16-bit elements.

    Without swizzle: core matrices of 8 rows of 16 bytes, those of one row group one after the other. With a swizzle of
    s bytes: rows of s bytes, sixteen-byte chunk c of row r stored at chunk c xor (its 128-byte line modulo s / 16).
    """
    rows, k = x.shape
    memory = np.zeros(65536, np.uint8)
    raw = x.view(np.uint16)

    def put(offset: int, value: Any) -> None:
        if swizzle:
            line = offset // 128 % (swizzle // 16)
            offset = offset // 16 * 16 ^ line * 16 | offset % 16
        memory[offset : offset + 2] = np.array([value], np.uint16).view(np.uint8)

    if major == "k" and not swizzle:
        lead, stride = 128, 128 * (k // 8)
        for r in range(rows):
            for c in range(k):
                put(r // 8 * stride + c // 8 * lead + r % 8 * 16 + c % 8 * 2, raw[r, c])
    elif major == "k":
        lead, stride = 16, 8 * swizzle
        for r in range(rows):
            for c in range(k):
                put(r // 8 * stride + r % 8 * swizzle + c * 2, raw[r, c])
    else:
        per = swizzle // 2  # rows of the operand in one line of the swizzle
        lead, stride = 16 * swizzle, 8 * swizzle  # next block of rows; next eight of k
        for r in range(rows):
            for c in range(k):
                put(r // per * lead + c // 8 * stride + c % 8 * swizzle + r % per * 2, raw[r, c])
    mode = {0: 0, 128: 1, 64: 2, 32: 3}[swizzle]
    return memory, lead >> 4 << 16 | stride >> 4 << 32 | mode << 62


LAYOUTS = [("k", 0), ("k", 32), ("k", 64), ("k", 128), ("mn", 32), ("mn", 64), ("mn", 128)]


@pytest.mark.parametrize(("major_b", "swizzle_b"), LAYOUTS)
@pytest.mark.parametrize(("major_a", "swizzle_a"), [("k", 0), ("k", 128), ("mn", 64), ("mn", 128)])
def test_wgmma_operand_layouts(major_a: str, swizzle_a: int, major_b: str, swizzle_b: int) -> None:
    n = 64
    a, b = sample("bf16", (64, 16), 4), sample("bf16", (n, 16), 5)
    bytes_a, desc_a = place_operand(a, major_a, swizzle_a)
    bytes_b, desc_b = place_operand(b, major_b, swizzle_b)
    image = np.concatenate([bytes_a[:8192], bytes_b[:8192]])
    registers = ", ".join(f"%d{r}" for r in range(n // 2))
    flags = f"{int(major_a == 'mn')}, {int(major_b == 'mn')}"
    text = f"""
.reg .b32 %i, %s, %w; .reg .b64 %p, %q, %da, %db; .reg .f32 %d<{n // 2}>; .reg .pred %t;
mov.u32 %i, %tid.x; mov.u32 %s, s; ld.param.u64 %p, [p0]; mad.wide.u32 %p, %i, 4, %p; mad.lo.u32 %s, %i, 4, %s;
LOOP: ld.global.u32 %w, [%p]; st.shared.u32 [%s], %w; add.u64 %p, %p, 512; add.u32 %s, %s, 512; add.u32 %i, %i, 128;
setp.lt.u32 %t, %i, 4096; @%t bra LOOP;
fence.proxy.async.shared::cta; bar.sync 0;
mov.u32 %s, s; shr.u32 %s, %s, 4; cvt.u64.u32 %da, %s; add.u64 %db, %da, 512;
or.b64 %da, %da, {desc_a}; or.b64 %db, %db, {desc_b};
wgmma.fence.sync.aligned;
wgmma.mma_async.sync.aligned.m64n{n}k16.f32.bf16.bf16 {{{registers}}}, %da, %db, 0, 1, 1, {flags};
wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;
mov.u32 %i, %tid.x; ld.param.u64 %q, [p1]; mad.wide.u32 %q, %i, {2 * n}, %q;
{"".join(f"st.global.f32 [%q+{4 * r}], %d{r};" for r in range(n // 2))}
ret;"""
    out = np.zeros((128, n // 2), np.float32)
    report = run_text(text, [image, out], block=(128,), module=".shared .align 1024 .b8 s[16384];")
    assert not report.findings, report.findings[0].render()
    d = np.zeros((64, n))
    for thread in range(128):
        for r in range(n // 2):
            row = thread // 32 * 16 + thread % 32 // 4 + 8 * (r // 2 % 2)
            d[row, r // 4 * 8 + thread % 4 * 2 + r % 2] = out[thread, r]
    exact = a.astype(np.float64) @ b.astype(np.float64).T
    assert np.array_equal(d, exact.astype(np.float32))


def test_st_async_completes_on_the_remote_mbarrier() -> None:
    """Two CTAs of a cluster send each other their thread numbers."""
    body = """.reg .b32 %i, %r, %x, %s, %m; .reg .b64 %p; .reg .pred %t, %z;
mov.u32 %i, %tid.x; mov.u32 %r, %cluster_ctarank; setp.eq.u32 %z, %i, 0; mov.u32 %m, bar;
@%z mbarrier.init.shared::cta.b64 [%m], 1; @%z mbarrier.arrive.expect_tx.shared::cta.b64 _, [%m], 256;
barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
xor.b32 %x, %r, 1; mov.u32 %s, s; mad.lo.u32 %s, %i, 4, %s; mapa.shared::cluster.u32 %s, %s, %x;
mapa.shared::cluster.u32 %m, %m, %x; mad.lo.u32 %x, %r, 100, %i;
st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%s], %x, [%m];
mov.u32 %m, bar;
WAIT: mbarrier.try_wait.parity.shared::cta.b64 %t, [%m], 0; @!%t bra WAIT;
mov.u32 %s, s; mad.lo.u32 %s, %i, 4, %s; ld.shared.u32 %x, [%s];
mad.lo.u32 %i, %r, 64, %i; ld.param.u64 %p, [p0]; mad.wide.u32 %p, %i, 4, %p; st.global.u32 [%p], %x;
barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned; ret;"""
    module = ".shared .align 8 .b8 bar[8]; .shared .align 16 .b8 s[256];"
    want = np.concatenate([np.arange(64) + 100, np.arange(64)]).astype(np.uint32)
    for seed in range(3):
        out = np.zeros(128, np.uint32)
        report = run_text(body, [out], grid=(2,), block=(64,), module=module, cluster=(2,), seed=seed)
        assert not report.findings, report.findings[0].render()
        assert np.array_equal(out, want)
    late = body.replace("@!%t bra WAIT;", "")
    report = run_text(late, [np.zeros(128, np.uint32)], grid=(2,), block=(64,), module=module, cluster=(2,))
    assert report.findings[0].code == "E959"

"""Tensor memory and products of sm_100a, against layouts of the PTX documentation spelled out here, and NumPy."""

from __future__ import annotations

import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tesseracc.emulator import Report, launch, parse_ptx

HEAD = """.version 8.8
.target sm_100a
.address_size 64
.visible .entry k(.param .u64 image, .param .u64 out, .param .u32 bytes)
.reqntid 128
{
.shared .align 1024 .b8 s[49152];
.shared .align 16 .b8 place[16];
.shared .align 8 .b8 bar[8];
.reg .b32 %t, %n, %i, %a, %d, %w, %addr, %idesc, %r<256>; .reg .b64 %img, %o, %p, %da, %db, %tmp;
.reg .pred %q, %first, %add, %one;
mov.u32 %t, %tid.x; ld.param.u64 %img, [image]; ld.param.u64 %o, [out]; ld.param.u32 %n, [bytes];
shl.b32 %i, %t, 2;
COPY: setp.ge.u32 %q, %i, %n; @%q bra COPIED;
cvt.u64.u32 %p, %i; add.u64 %p, %p, %img; ld.global.u32 %r0, [%p];
mov.u32 %a, s; add.u32 %a, %a, %i; st.shared.u32 [%a], %r0;
add.u32 %i, %i, 512; bra COPY;
COPIED: setp.eq.u32 %one, %t, 0; setp.lt.u32 %first, %t, 32;
@%one mbarrier.init.shared::cta.b64 [bar], 1;
fence.proxy.async.shared::cta;
@%first tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [place], 256;
bar.sync 0;
ld.shared.u32 %d, [place];
shr.u32 %w, %t, 5; shl.b32 %w, %w, 21; add.u32 %addr, %d, %w;
"""
TAIL = """
bar.sync 0;
@%first tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;
@%first tcgen05.dealloc.cta_group::1.sync.aligned.b32 %d, 256;
ret;
}
"""
WAIT = """@%one tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [bar];
WAITING: mbarrier.try_wait.parity.shared::cta.b64 %q, [bar], 0; @!%q bra WAITING;
tcgen05.fence::after_thread_sync;
"""


def registers(count: int, first: int = 0) -> str:
    return "{" + ", ".join(f"%r{first + j}" for j in range(count)) + "}"


def run(body: str, image: Any, words: int, seed: int = 0, tail: str = TAIL) -> tuple[Any, Report, list[str]]:
    text = HEAD + body + tail
    out = np.zeros((128, words), np.uint32)
    raw = np.frombuffer(np.ascontiguousarray(image).tobytes().ljust(4, b"\0"), np.uint32)
    report = launch(parse_ptx(text), "k", (1,), (128,), [raw, out, raw.nbytes], seed=seed, max_steps=100_000)
    return out, report, text.split("\n")


def save(count: int, words: int) -> str:
    """Every thread's first registers to its row of the output."""
    lines = [f"mad.wide.u32 %p, %t, {4 * words}, %o;"]
    return "\n".join(lines + [f"st.global.u32 [%p+{4 * j}], %r{j};" for j in range(count)])


# -- loads and stores ----------------------------------------------------------------------------------------------


def documented(shape: str, repeat: int) -> dict[tuple[int, int], tuple[int, int]]:
    """(thread, register) -> (row, column), as the figures of tcgen05.ld count: row by row, registers left to right."""
    found: dict[tuple[int, int], tuple[int, int]] = {}
    if shape == "32x32b":
        for row in range(32):
            for column in range(repeat):
                found[row, column] = (row, column)
    elif shape == "16x64b":  # two columns a repetition; a row of the upper half belongs to the odd threads
        for row in range(16):
            for column in range(2 * repeat):
                found[row % 8 * 4 + column % 2 * 2 + row // 8, column // 2] = (row, column)
    elif shape == "16x128b":  # four columns, one a thread of a quad; the upper rows in the odd registers
        for row in range(16):
            for column in range(4 * repeat):
                found[row % 8 * 4 + column % 4, column // 4 * 2 + row // 8] = (row, column)
    else:  # 16x256b: eight columns, two a thread, as accumulators of mma.m16n8
        for row in range(16):
            for column in range(8 * repeat):
                found[row % 8 * 4 + column % 8 // 2, column // 8 * 4 + row // 8 * 2 + column % 2] = (row, column)
    return found


SHAPES = {"32x32b": 1, "16x64b": 1, "16x128b": 2, "16x256b": 4}


@pytest.mark.parametrize("repeat", [1, 2, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_load_shapes(shape: str, repeat: int) -> None:
    """Columns written thread by thread (32x32b), read in another shape: also the upper 16 lanes of a window."""
    count = SHAPES[shape] * repeat
    table = documented(shape, repeat)
    assert len(table) == 32 * count
    fill = "\n".join(f"shl.b32 %r{j}, %t, 8; or.b32 %r{j}, %r{j}, {j};" for j in range(32))
    for upper in (0, 16) if shape != "32x32b" else (0,):
        body = f"""{fill}
tcgen05.st.sync.aligned.32x32b.x32.b32 [%addr], {registers(32)};
tcgen05.wait::st.sync.aligned;
add.u32 %a, %addr, {upper << 16};
tcgen05.ld.sync.aligned.{shape}.x{repeat}.b32 {registers(count)}, [%a];
tcgen05.wait::ld.sync.aligned;
{save(count, count)}"""
        out, report, _ = run(body, np.zeros(1, np.uint32), count)
        assert not report.findings, report.findings[0].render()
        for (thread, register), (row, column) in table.items():
            for warp in range(4):
                assert out[warp * 32 + thread, register] == (warp * 32 + upper + row) << 8 | column


@pytest.mark.parametrize("shape", SHAPES)
def test_store_shapes(shape: str) -> None:
    count = SHAPES[shape] * 2
    fill = "\n".join(f"shl.b32 %r{j}, %t, 8; or.b32 %r{j}, %r{j}, {j};" for j in range(count))
    width = max(column for _, column in documented(shape, 2).values()) + 1
    zero = "\n".join(f"mov.b32 %r{j}, 0;" for j in range(width))
    body = f"""{zero}
tcgen05.st.sync.aligned.32x32b.x{width}.b32 [%addr], {registers(width)};
tcgen05.wait::st.sync.aligned;
{fill}
tcgen05.st.sync.aligned.{shape}.x2.b32 [%addr], {registers(count)};
tcgen05.wait::st.sync.aligned;
tcgen05.ld.sync.aligned.32x32b.x{width}.b32 {registers(width)}, [%addr];
tcgen05.wait::ld.sync.aligned;
{save(width, width)}"""
    out, report, _ = run(body, np.zeros(1, np.uint32), width)
    assert not report.findings, report.findings[0].render()
    want = np.zeros((128, width), np.uint32)
    for (thread, register), (row, column) in documented(shape, 2).items():
        for warp in range(4):
            want[warp * 32 + row, column] = (warp * 32 + thread) << 8 | register
    np.testing.assert_array_equal(out, want)


def test_halves_in_pairs_of_columns() -> None:
    """pack::16b joins the low halves of two columns; unpack::16b is its inverse."""
    body = f"""mov.b32 %r0, 0x22221111; mov.b32 %r1, 0x44443333;
tcgen05.st.sync.aligned.32x32b.x4.unpack::16b.b32 [%addr], {registers(2)};
tcgen05.wait::st.sync.aligned;
tcgen05.ld.sync.aligned.32x32b.x4.b32 {registers(4)}, [%addr];
tcgen05.ld.sync.aligned.32x32b.x4.pack::16b.b32 {registers(2, 4)}, [%addr];
tcgen05.wait::ld.sync.aligned;
{save(6, 6)}"""
    out, report, _ = run(body, np.zeros(1, np.uint32), 6)
    assert not report.findings
    assert (out == [0x1111, 0x2222, 0x3333, 0x4444, 0x22221111, 0x44443333]).all()


# -- products ------------------------------------------------------------------------------------------------------

TYPES: dict[str, tuple[str, int, Any, int]] = {  # kind, code in the descriptor, NumPy type, k
    "f16": ("f16", 0, np.float16, 16),
    "bf16": ("f16", 1, ml_dtypes.bfloat16, 16),
    "tf32": ("tf32", 2, np.float32, 8),
    "e4m3": ("f8f6f4", 0, ml_dtypes.float8_e4m3fn, 32),
    "e5m2": ("f8f6f4", 1, ml_dtypes.float8_e5m2, 32),
    "u8": ("i8", 0, np.uint8, 32),
    "s8": ("i8", 1, np.int8, 32),
}


def core_image(matrix: Any) -> Any:
    """K-major without swizzle: 8 rows of 16 bytes a core matrix, cores along k first, then down the rows."""
    raw = np.ascontiguousarray(matrix).view(np.uint8)
    rows, width = raw.shape
    image = np.zeros(rows * width, np.uint8)
    for row in range(rows):
        for byte in range(width):
            core = row // 8 * (width // 16) + byte // 16
            image[core * 128 + row % 8 * 16 + byte % 16] = raw[row, byte]
    return image


def swizzled_image(matrix: Any) -> Any:
    """K-major, 128-byte swizzle: rows of 128 bytes, chunk c of row r at c xor r mod 8."""
    raw = np.ascontiguousarray(matrix).view(np.uint8)
    image = np.zeros((raw.shape[0], 128), np.uint8)
    for row in range(raw.shape[0]):
        for chunk in range(raw.shape[1] // 16):
            image[row, (chunk ^ row % 8) * 16 :][:16] = raw[row, chunk * 16 : chunk * 16 + 16]
    return image.reshape(-1)


def descriptor(start: str, lead: int, stride: int, swizzle: int) -> str:
    """Into %tmp: fields of 16 bytes; bit 46 is set on this architecture."""
    fixed = (lead >> 4) << 16 | (stride >> 4) << 32 | 1 << 46 | swizzle << 61
    fixed -= 1 << 64 if fixed >> 63 else 0
    return f"mov.u32 %a, {start}; shr.u32 %a, %a, 4; cvt.u64.u32 %tmp, %a; or.b64 %tmp, %tmp, {fixed};\n"


def product(
    a: Any, b: Any, kind: str, *, swizzle: bool = False, steps: int = 1, extra: int = 0, d: str = "f32", seed: int = 0,
    change: Any = None,
) -> tuple[Any, Report, list[str]]:  # fmt: skip
    """D = A B^T by `steps` instructions; a: m x (k steps), b: n x (k steps)."""
    name, code, dtype, k = TYPES[kind]
    m, n = len(a), len(b)
    layout = swizzled_image if swizzle else core_image
    images = [layout(a.astype(dtype)), layout(b.astype(dtype))]
    width = k * steps * np.dtype(dtype).itemsize
    result = {"f16": 0, "f32": 1, "s32": 2}[d]
    bits = result << 4 | code << 7 | code << 10 | (n >> 3) << 17 | (m >> 4) << 24 | extra
    body = f"mov.u32 %idesc, {bits}; setp.ne.u32 %add, 0, 0;\n"
    for step in range(steps):
        offset = step * k * np.dtype(dtype).itemsize
        for register, start in (("%da", 0), ("%db", len(images[0]))):
            if swizzle:
                body += descriptor(f"s+{start + offset}", 16, 1024, 2)
            else:
                body += descriptor(f"s+{start + offset // 16 * 128}", 128, width // 16 * 128, 0)
            body += f"mov.b64 {register}, %tmp;\n"
        body += f"@%one tcgen05.mma.cta_group::1.kind::{name} [%d], %da, %db, %idesc, %add;\nsetp.eq.u32 %add, 0, 0;\n"
    body += WAIT + f"tcgen05.ld.sync.aligned.32x32b.x{n}.b32 {registers(n)}, [%addr];\ntcgen05.wait::ld.sync.aligned;\n"
    body += save(n, n)
    out, report, lines = run(change(body) if change else body, np.concatenate(images), n, seed)
    if m == 64:  # 16 lanes of each window
        out = out.reshape(4, 32, n)[:, :16].reshape(64, n)
    return out, report, lines


def random(kind: str, rows: int, columns: int, seed: int) -> Any:
    rng = np.random.default_rng([seed, rows, columns])
    if kind in ("u8", "s8"):
        return rng.integers(0 if kind == "u8" else -128, 128, (rows, columns))
    return rng.standard_normal((rows, columns))


def check(out: Any, a: Any, b: Any, kind: str) -> None:
    dtype = TYPES[kind][2]
    x, y = a.astype(dtype).astype(np.float64), b.astype(dtype).astype(np.float64)
    if kind in ("u8", "s8"):
        np.testing.assert_array_equal(out.view(np.int32), x @ y.T)
        return
    if kind == "tf32":
        x, y = (np.ascontiguousarray(v.astype(np.float32)).view(np.uint32) & 0xFFFFE000 for v in (x, y))
        x, y = x.view(np.float32).astype(np.float64), y.view(np.float32).astype(np.float64)
    np.testing.assert_allclose(out.view(np.float32), x @ y.T, rtol=0, atol=2.0**-21 * (np.abs(x) @ np.abs(y).T).max())


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("m,n", [(128, 16), (64, 8), (128, 128)])
def test_products(kind: str, m: int, n: int) -> None:
    k = TYPES[kind][3]
    a, b = random(kind, m, k, 1), random(kind, n, k, 2)
    out, report, _ = product(a, b, kind, d="s32" if kind in ("u8", "s8") else "f32")
    assert not report.findings, report.findings[0].render()
    check(out, a, b, kind)
    assert report.counters.mma == {f"tcgen05.m{m}n{n}k{k}.{kind}": 1}


@pytest.mark.parametrize("seed", range(3))
def test_steps_through_a_swizzled_row(seed: int) -> None:
    """Four instructions along 128 bytes; they are carried out in order, whenever that is."""
    a, b = random("bf16", 128, 64, seed), random("bf16", 32, 64, seed + 9)
    out, report, _ = product(a, b, "bf16", swizzle=True, steps=4, seed=seed)
    assert not report.findings, report.findings[0].render()
    check(out, a, b, "bf16")


def test_negated_operands_and_half_results() -> None:
    a, b = random("f16", 128, 16, 3), random("f16", 16, 16, 4)
    out, _, _ = product(a, b, "f16", extra=1 << 13)
    check(out, -a, b, "f16")
    out, _, _ = product(a, b, "f16", d="f16")
    want = (a.astype(np.float16).astype(np.float64) @ b.astype(np.float16).astype(np.float64).T).astype(np.float16)
    np.testing.assert_array_equal(out.astype(np.uint16).view(np.float16), want)
    assert (out >> 16 == 0).all()


def test_not_a_number_and_infinity_pass_through() -> None:
    a, b = random("bf16", 128, 16, 5), random("bf16", 16, 16, 6)
    a[3, 2], a[7, 1] = np.nan, np.inf
    found = product(a, b, "bf16")[0].view(np.float32)
    assert np.isnan(found[3]).all() and (found[7] == np.where(b[:, 1] > 0, np.inf, -np.inf)).all()
    assert np.isfinite(np.delete(found, [3, 7], axis=0)).all()


def test_left_operand_in_tensor_memory() -> None:
    """Two f16 a column: the row of thread t in lane t."""
    a, b = random("f16", 128, 16, 7).astype(np.float16), random("f16", 16, 16, 8)
    image = np.concatenate([a.view(np.uint8).reshape(-1), core_image(b.astype(np.float16))])
    bits = 1 << 4 | (16 >> 3) << 17 | (128 >> 4) << 24
    loads = "\n".join(f"ld.shared.u32 %r{j}, [%a+{4 * j}];" for j in range(8))
    body = f"""mov.u32 %a, s; mad.lo.u32 %a, %t, 32, %a;
{loads}
add.u32 %r100, %addr, 64;
tcgen05.st.sync.aligned.32x32b.x8.b32 [%r100], {registers(8)};
tcgen05.wait::st.sync.aligned;
tcgen05.fence::before_thread_sync;
bar.sync 0;
{descriptor("s+4096", 128, 256, 0)}
mov.b64 %db, %tmp; mov.u32 %idesc, {bits}; setp.ne.u32 %add, 0, 0; add.u32 %r101, %d, 64;
@%one tcgen05.mma.cta_group::1.kind::f16 [%d], [%r101], %db, %idesc, %add;
{WAIT}tcgen05.ld.sync.aligned.32x32b.x16.b32 {registers(16)}, [%addr];
tcgen05.wait::ld.sync.aligned;
{save(16, 16)}"""
    out, report, _ = run(body, image, 16)
    assert not report.findings, report.findings[0].render()
    check(out, a, b, "f16")


def test_copies_of_shared_memory() -> None:
    """128x128b: 16 bytes a lane; 32x128b to every window."""
    image = np.random.default_rng(0).integers(0, 256, 128 * 16).astype(np.uint8)
    for shape, rows in (("128x128b", 128), ("32x128b.warpx4", 32)):
        body = f"""{descriptor("s", 128, 128, 0)}
@%one tcgen05.cp.cta_group::1.{shape} [%d], %tmp;
{WAIT}tcgen05.ld.sync.aligned.32x32b.x4.b32 {registers(4)}, [%addr];
tcgen05.wait::ld.sync.aligned;
{save(4, 4)}"""
        out, report, _ = run(body, image, 4)
        assert not report.findings, report.findings[0].render()
        words = image.view(np.uint32).reshape(-1, 4)[:rows]
        np.testing.assert_array_equal(out, np.tile(words, (128 // rows, 1)))


# -- findings ------------------------------------------------------------------------------------------------------

A, B = random("bf16", 128, 16, 10), random("bf16", 16, 16, 11)


def dropped(words: str, replacement: str = "") -> Any:
    return lambda body: re.sub(words, replacement, body, count=1)


FAULTS = [
    ("no wait for the product", dropped(r"WAITING:[^\n]*"), "E959", "tcgen05.ld"),
    ("no commit", dropped(r"@%one tcgen05.commit[^\n]*"), "E957", "try_wait"),
]


@pytest.mark.parametrize("seed", range(3))
def test_a_product_must_be_waited_for(seed: int) -> None:
    for _, change, code, where in FAULTS:
        _, report, lines = product(A, B, "bf16", seed=seed, change=change)
        found = [(f.code, lines[f.ptx_line - 1]) for f in report.findings]
        # where it has landed already, the detector still sees that nothing orders it before the load
        assert any(c in (code, "E955") and where in line for c, line in found), found


def faulty(body: str, tail: str = TAIL, head: tuple[str, str] = ("", "")) -> list[tuple[str, str]]:
    text = (HEAD.replace(*head) if head[0] else HEAD) + body + tail
    out = np.zeros((128, 4), np.uint32)
    report = launch(parse_ptx(text), "k", (1,), (128,), [np.zeros(1, np.uint32), out, 4], max_steps=100_000)
    lines = text.split("\n")
    return [(f.code, lines[f.ptx_line - 1]) for f in report.findings]


STORE = f"tcgen05.st.sync.aligned.32x32b.x2.b32 [%addr], {registers(2)};\n"
LOAD = f"tcgen05.ld.sync.aligned.32x32b.x2.b32 {registers(2)}, [%addr];\ntcgen05.wait::ld.sync.aligned;\n"
WAITED = "tcgen05.wait::st.sync.aligned;\n"


def test_the_twin_has_no_finding() -> None:
    assert faulty(STORE + WAITED + LOAD) == []


@pytest.mark.parametrize(
    ("body", "code", "where"),
    [
        (STORE + LOAD, "E959", "tcgen05.ld"),
        ("add.u32 %addr, %addr, 255;\n" + STORE, "E951", "tcgen05.st"),
        (STORE.replace("[%addr]", "[%d]"), "E951", "tcgen05.st"),
        ("mov.u32 %addr, %d; @%first add.u32 %addr, %addr, 2097152;\n" + STORE, "E951", "tcgen05.st"),
        ("@%first tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [place+4], 48;\n", "E960", "tcgen05.alloc"),
        ("@%first tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [place+4], 512;\n", "E957", "tcgen05.alloc"),
        ("@%first tcgen05.dealloc.cta_group::1.sync.aligned.b32 %d, 128;\nadd.u32 %d, %d, 128;\n", "E960", "dealloc"),
    ],
)  # fmt: skip
def test_faults_of_single_warps(body: str, code: str, where: str) -> None:
    found = faulty(body)
    assert any(c == code and where in line for c, line in found), found


def test_two_warps_on_one_column() -> None:
    """Warp 4 has the window of warp 0: without a barrier its load races with the store."""
    wide = (".reqntid 128", ".reqntid 256")
    write = "setp.ge.u32 %add, %t, 128;\n@%add bra READ;\n" + STORE + WAITED + "bra JOIN;\n"
    read = "READ: and.b32 %w, %t, 96; shl.b32 %w, %w, 16; add.u32 %addr, %d, %w;\n" + LOAD
    text = HEAD + write + read + "JOIN:" + TAIL
    out = np.zeros((256, 4), np.uint32)
    report = launch(parse_ptx(text.replace(*wide)), "k", (1,), (256,), [np.zeros(1, np.uint32), out, 4])
    lines = text.split("\n")
    found = [(f.code, lines[f.ptx_line - 1].split()[0], f.other_line is not None) for f in report.findings]
    assert any(code == "E955" and words.startswith("tcgen05") and other for code, words, other in found), found


def fenced(lines: str) -> str:
    """With the fences that a barrier needs around it."""
    return lines.replace(
        "bar.sync 0;\n@%first tcgen05.relin",
        "tcgen05.fence::before_thread_sync;\nbar.sync 0;\ntcgen05.fence::after_thread_sync;\n@%first tcgen05.relin",
    )


@pytest.mark.parametrize("missing", ["", "tcgen05.fence::before_thread_sync;\n", "tcgen05.fence::after_thread_sync;\n"])
def test_fences_around_a_barrier_are_needed_where_a_launch_says_so(missing: str) -> None:
    """What all warps have loaded is freed by one of them."""
    text = (HEAD + STORE + WAITED + LOAD + fenced(TAIL)).replace(missing, "")
    for demanded in (False, True):
        out = np.zeros((128, 4), np.uint32)
        report = launch(parse_ptx(text), "k", (1,), (128,), [np.zeros(1, np.uint32), out, 4], strict=demanded)
        found = {(f.code, "dealloc" in text.split("\n")[f.ptx_line - 1]) for f in report.findings}
        assert found == ({("E955", True)} if demanded and missing else set())


def test_columns_that_are_never_freed() -> None:
    assert [(c, "alloc" in line) for c, line in faulty("", tail="\nret;\n}\n")] == [("E960", True)]


def test_registers_before_the_wait_hold_nothing_useful() -> None:
    load, wait = LOAD.strip().split("\n")
    body = f"mov.b32 %r0, 7; mov.b32 %r1, 7;\n{STORE}{WAITED}{load}\n{save(2, 2)}\n{wait}\n"
    out, _, _ = run(body, np.zeros(1, np.uint32), 2)
    assert (out != 7).all()

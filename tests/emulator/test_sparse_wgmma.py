"""wgmma.mma_async.sp against f64 products of the matrix that half of A and the metadata stand for.

Each warp has the metadata of sixteen rows, laid out as for mma.sp; A lies in registers or in shared memory, half as
wide as the rows of B.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.emulator import warp_products as wp
from tests.emulator.harness import run_text
from tests.emulator.test_sparse_mma import all_threads, draw, halves_of_a_pair, metadata, random_values, stored_fragment

#: types of A and B, accumulator, k, where metadata lie, selectors
TYPES: dict[str, tuple[str, str, str, int, Any, int]] = {
    "f16": ("f16", "f16", "f32", 32, halves_of_a_pair, 2), "half": ("f16", "f16", "f16", 32, halves_of_a_pair, 2),
    "bf16": ("bf16", "bf16", "f32", 32, halves_of_a_pair, 2), "tf32": ("tf32", "tf32", "f32", 16, halves_of_a_pair, 2),
    "fp8": ("e4m3", "e5m2", "f32", 64, all_threads, 1), "int8": ("s8", "u8", "s32", 64, all_threads, 1),
}  # fmt: skip


def placed(raw: Any, pitch: int) -> tuple[Any, int]:
    """(bytes, descriptor without its address) of rows of bytes along k. Pitch 0: core matrices of 8 rows of 16 bytes,
    those of a row group one after the other; else rows of `pitch` bytes, chunk c at c xor the 128-byte line."""
    rows, width = raw.shape
    image = np.zeros(16384, np.uint8)
    for r in range(rows):
        for c in range(width // 16):
            if pitch:
                at = r * pitch + c * 16
                at ^= at // 128 % (pitch // 16) * 16
            else:
                at = r // 8 * width * 8 + c * 128 + r % 8 * 16
            image[at : at + 16] = raw[r, 16 * c : 16 * c + 16]
    stride, mode = (8 * pitch, {128: 1, 64: 2, 32: 3}[pitch]) if pitch else (8 * width, 0)
    return image, 128 >> 4 << 16 | stride >> 4 << 32 | mode << 62


def as_bytes(values: Any, kind: str) -> Any:
    raw = values.astype(wp.DTYPES[kind])
    return np.ascontiguousarray(raw).view(np.uint8).reshape(len(values), -1)


class Case:
    """A product of 64 x n with random operands."""

    def __init__(self, name: str, n: int, seed: int) -> None:
        self.a, self.b, self.acc, self.k, self.layout, _ = TYPES[name]
        self.n = n
        self.rng = rng = np.random.default_rng(seed)
        drawn = [draw(self.a, self.k, rng, False) for _ in range(4)]
        self.dense = np.concatenate([d[0] for d in drawn])
        self.kept = [d[1] for d in drawn]
        self.entries = [d[2] for d in drawn]
        self.y = random_values(self.b, (n, self.k), rng)

    def stored(self) -> Any:
        """The half of A [64, k / 2]."""
        rows = [[column for chunk in row for column in chunk] for kept in self.kept for row in kept]
        return np.array([self.dense[r, columns] for r, columns in enumerate(rows)])

    def run(self, shared: bool, pitch_a: int, pitch_b: int, selector: int, add: bool = False, signs: str = "1, 1",
            transposed: bool = False) -> tuple[Any, Any]:  # fmt: skip
        """D [64, n] in the accumulator's type, and the findings."""
        bits = wp.element_bits(self.a)
        segments = self.layout(self.k, selector)
        e = np.concatenate([metadata(entries, self.k, segments, self.rng) for entries in self.entries])
        rows = [wp.patterns(self.dense[16 * q : 16 * q + 16], self.a) for q in range(4)]
        fragments = [stored_fragment(raw, kept, bits) for raw, kept in zip(rows, self.kept)]
        image_a, desc_a = placed(as_bytes(self.stored(), self.a), pitch_a)
        image_b, desc_b = placed(as_bytes(self.y, self.b), pitch_b)
        if transposed:
            image_b, desc_b = along_n(self.y.astype(wp.DTYPES[self.b]))
        image = np.concatenate([image_a, image_b])
        regs = self.n // (4 if self.acc == "f16" else 2)
        named = ", ".join(f"%d{r}" for r in range(regs))
        left = "%da" if shared else "{%a0, %a1, %a2, %a3}"
        ends = {"f16": f", {signs}" + (", 0" if shared else "") + f", {int(transposed)}"}
        ends |= {"bf16": ends["f16"], "s8": ""}
        shape = f"m64n{self.n}k{self.k}.{self.acc}.{self.a}.{self.b}"
        text = f"""
.reg .b32 %i, %s, %w, %e, %a<4>; .reg .b64 %p, %q, %da, %db; .reg .b32 %d<{regs}>; .reg .pred %t;
mov.u32 %i, %tid.x; mov.u32 %s, s; ld.param.u64 %p, [p0]; mad.wide.u32 %p, %i, 4, %p; mad.lo.u32 %s, %i, 4, %s;
LOOP: ld.global.u32 %w, [%p]; st.shared.u32 [%s], %w; add.u64 %p, %p, 512; add.u32 %s, %s, 512; add.u32 %i, %i, 128;
setp.lt.u32 %t, %i, 8192; @%t bra LOOP;
mov.u32 %i, %tid.x; ld.param.u64 %p, [p2]; mad.wide.u32 %p, %i, 20, %p;
{"".join(f"ld.global.u32 %a{r}, [%p+{4 * r}]; " for r in range(4))} ld.global.u32 %e, [%p+16];
fence.proxy.async.shared::cta; bar.sync 0;
mov.u32 %s, s; shr.u32 %s, %s, 4; cvt.u64.u32 %da, %s; add.u64 %db, %da, 1024;
or.b64 %da, %da, {desc_a}; or.b64 %db, %db, {desc_b};
{"".join(f"mov.b32 %d{r}, {0x40004000 if self.acc == 'f16' else 0x40000000}; " for r in range(regs))}
setp.eq.u32 %t, {int(add)}, 1;
wgmma.fence.sync.aligned;
wgmma.mma_async.sp.sync.aligned.{shape} {{{named}}}, {left}, %db, %e, {selector}, %t{ends.get(self.a, ", " + signs)};
wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;
ld.param.u64 %q, [p1]; mad.wide.u32 %q, %i, {4 * regs}, %q;
{"".join(f"st.global.b32 [%q+{4 * r}], %d{r};" for r in range(regs))}
ret;"""
        self.text = text
        out = np.zeros((128, regs), np.uint32)
        registers = np.concatenate([np.concatenate(fragments), e[:, None]], axis=1).astype(np.uint32)
        report = run_text(text, [image.view(np.uint32), out, registers], block=(128,),
                          module=".shared .align 1024 .b8 s[32768];")  # fmt: skip
        dtype = wp.DTYPES[self.acc]
        got, values = np.zeros((64, self.n), dtype), out.view(dtype)
        for thread in range(128):
            for j in range(self.n // 2):
                row = thread // 32 * 16 + thread % 32 // 4 + 8 * (j // 2 % 2)
                got[row, j // 4 * 8 + thread % 4 * 2 + j % 2] = values[thread, j]
        return got, report


def along_n(y: Any) -> tuple[Any, int]:
    """B of 16-bit elements [n, k] with n contiguous, 128-byte swizzle: blocks of 64 columns, lines of one k each."""
    raw = y.view(np.uint16)
    image = np.zeros(16384, np.uint8)
    for n in range(raw.shape[0]):
        for k in range(raw.shape[1]):
            at = n // 64 * raw.shape[1] * 128 + k * 128 + n % 64 * 2
            at ^= at // 128 % 8 * 16
            image[at : at + 2] = raw[n : n + 1, k].view(np.uint8)
    lead, stride = raw.shape[1] * 128, 1024
    return image, lead >> 4 << 16 | stride >> 4 << 32 | 1 << 62


def check(case: Case, got: Any, report: Any, start: float = 0.0, sign: float = 1.0) -> None:
    assert not report.findings, report.findings[0].render()
    exact = sign * (case.dense @ case.y.T) + start
    np.testing.assert_array_equal(got, exact.astype(wp.DTYPES[case.acc]))


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize(
    ("shared", "pitch_a", "pitch_b"), [(False, 0, 0), (False, 0, 128), (True, 32, 64), (True, 0, 128)]
)
def test_products(name: str, shared: bool, pitch_a: int, pitch_b: int) -> None:
    for selector in range(TYPES[name][5]):
        case = Case(name, 24 if name != "int8" else 16, selector)
        got, report = case.run(shared, pitch_a, pitch_b, selector)
        check(case, got, report)
        assert report.counters.mma == {f"wgmma.sp.m64n{case.n}k{case.k}.{case.a}": 1}


def test_accumulators_and_signs() -> None:
    case = Case("f16", 64, 5)
    got, report = case.run(False, 0, 64, 1, add=True)
    check(case, got, report, start=2.0)
    got, report = case.run(True, 64, 64, 0, signs="1, -1")
    check(case, got, report, sign=-1.0)


def test_operand_along_n() -> None:
    case = Case("bf16", 128, 6)
    got, report = case.run(True, 128, 0, 0, transposed=True)
    check(case, got, report)


def test_what_is_wrong_is_reported() -> None:
    """Metadata without meaning; a swizzle that is narrower than a row of B."""
    case = Case("int8", 16, 7)
    case.entries[2][5, 3] = 0b1010
    _, report = case.run(False, 0, 64, 0)
    assert [(f.code, "0b1010 of row 5, columns 12 to 15" in f.message) for f in report.findings] == [("E960", True)]
    _, report = Case("int8", 16, 8).run(False, 0, 32, 0)
    assert [(f.code, "swizzle of 32 bytes" in f.message) for f in report.findings] == [("E960", True)]


@pytest.mark.parametrize(
    ("spelling", "words"),
    [
        ("wgmma.mma_async.sp.sync.aligned.m64n8k32.f32.f16.f16 {v4}, {v4}, %q, %r, 2, %t, 1, 1, 0;", "selector 2"),
        ("wgmma.mma_async.sp.sync.aligned.m64n8k16.f32.f16.f16 {v4}, {v4}, %q, %r, 0, %t, 1, 1, 0;",
         "m64n8k16 of .f16"),
        ("wgmma.mma_async.sync.aligned.m64n8k128.s32.b1.b1.and.popc {v4}, {v4}, %q, %t;", "m64n8k128 of .b1"),
        ("wgmma.mma_async.sync.aligned.m64n8k256.s32.b1.b1 {v4}, {v4}, %q, %t;", ".and.popc"),
    ],
)  # fmt: skip
def test_what_is_not_modelled_is_refused(spelling: str, words: str) -> None:
    text = spelling.format(v4="{%r, %r, %r, %r}")
    with pytest.raises(Exception, match="E941") as raised:
        run_text(f".reg .b32 %r; .reg .b64 %q; .reg .pred %t;\n{text}\nret;", [np.zeros(1, np.uint32)])
    assert words in str(raised.value) and "PTX line 8" in str(raised.value)


def test_the_assembler_knows_these_forms() -> None:
    lines = []
    for a, b, acc, k, _, selectors in TYPES.values():
        regs = 4 if acc == "f16" else 8
        named = ", ".join(f"%d{r}" for r in range(regs))
        for left in ("%x0", "{%a0, %a1, %a2, %a3}"):
            tail = {"f16": ", 1, -1", "bf16": ", 1, -1", "s8": ""}.get(a, ", 1, 1")
            tail += {"f16": ", 0" * (2 if left[0] == "%" else 1)}.get(a.replace("bf16", "f16"), "")
            product = f"wgmma.mma_async.sp.sync.aligned.m64n16k{k}.{acc}.{a}.{b}"
            lines.append(f"{product} {{{named}}}, {left}, %x1, %e0, {selectors - 1}, %t{tail};")
    wp.check_text(".reg .pred %t; .reg .b64 %x<2>; .reg .b32 %d<8>, %a<4>, %e<1>;\n" + "\n".join(lines), "sm_90a")

"""Instructions that move values between the lanes of a warp, and atomics."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.emulator.harness import run_text, same_bits

HEAD = """.reg .b32 %i, %x, %y, %z; .reg .b64 %a, %b; .reg .pred %p, %q; .reg .f32 %f;
mov.u32 %i, %tid.x; ld.param.u64 %a, [p0]; mad.wide.u32 %a, %i, 4, %a; ld.global.u32 %x, [%a];
ld.param.u64 %b, [p1]; mad.wide.u32 %b, %i, 4, %b;
"""
TAIL = "st.global.b32 [%b], %y; ret;"


def warp(text: str, x: Any, block: int = 64) -> Any:
    out = np.zeros(block, np.uint32)
    report = run_text(HEAD + text + TAIL, [x, out], block=(block,))
    assert not report.findings, report.findings[0].render()
    return out


@pytest.fixture
def x() -> Any:
    return np.random.default_rng(1).integers(0, 2**32, 64, dtype=np.uint32)


def shfl_source(mode: str, lane: int, b: int, c: int) -> tuple[int, bool]:
    """The loop of the PTX ISA's semantics section."""
    bval, cval, mask = b & 31, c & 31, c >> 8 & 31
    high = (lane & mask) | (cval & ~mask)
    low = lane & mask
    if mode == "up":
        j, p = lane - bval, lane - bval >= high
    elif mode == "down":
        j, p = lane + bval, lane + bval <= high
    elif mode == "bfly":
        j, p = lane ^ bval, (lane ^ bval) <= high
    else:
        j = low | (bval & ~mask)
        p = j <= high
    return (j if p else lane), p


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
@pytest.mark.parametrize("c", [31, 0, 0x181F, 0x1C1F, 0x1807])
def test_shuffle(x: Any, mode: str, c: int) -> None:
    if mode == "up":
        c &= ~0x1F
    for b in (0, 1, 5, 16, 31):
        got = warp(f"shfl.sync.{mode}.b32 %y|%p, %x, {b}, {c}, -1; @!%p not.b32 %y, %y;", x)
        want = []
        for lane in range(64):
            source, p = shfl_source(mode, lane & 31, b, c)
            value = int(x[lane // 32 * 32 + source])
            want.append(value if p else value ^ 0xFFFFFFFF)
        same_bits(got, np.array(want, np.uint32))


def test_votes(x: Any) -> None:
    odd = (x & 1).reshape(2, 32).astype(bool)
    predicate = "and.b32 %y, %x, 1; setp.eq.u32 %p, %y, 1; "
    ballot = [int(sum(int(v) << k for k, v in enumerate(row))) for row in odd]
    same_bits(warp(predicate + "vote.sync.ballot.b32 %y, %p, -1;", x), np.repeat(np.array(ballot, np.uint32), 32))
    for data in (x, x | 1, x & ~np.uint32(1)):
        truth = (data & 1).reshape(2, 32).astype(bool)
        for mode, fn in (("all", np.all), ("any", np.any), ("uni", lambda r: r.all() or not r.any())):
            got = warp(predicate + f"vote.sync.{mode}.pred %q, %p, -1; selp.b32 %y, 1, 0, %q;", data)
            same_bits(got, np.repeat(np.array([fn(r) for r in truth], np.uint32), 32))


def test_votes_of_half_warps(x: Any) -> None:
    """Both halves of a diverged warp vote with their own member masks."""
    text = """and.b32 %y, %x, 1; setp.eq.u32 %p, %y, 1; and.b32 %z, %i, 16; setp.eq.u32 %q, %z, 0;
@%q bra LOW; vote.sync.ballot.b32 %y, %p, 0xFFFF0000; bra JOIN; LOW: vote.sync.ballot.b32 %y, %p, 0xFFFF; JOIN: """
    odd = (x & 1).reshape(2, 32)
    want = []
    for row in odd:
        bits = sum(int(v) << k for k, v in enumerate(row))
        want += [bits & 0xFFFF] * 16 + [bits & 0xFFFF0000] * 16
    same_bits(warp(text, x), np.array(want, np.uint32))


def test_match(x: Any) -> None:
    small = x % 5
    want = [sum(1 << j for j in range(32) if small[k // 32 * 32 + j] == small[k]) for k in range(64)]
    same_bits(warp("match.any.sync.b32 %y, %x, -1;", small), np.array(want, np.uint32))
    same_bits(warp("match.all.sync.b32 %y|%p, %x, -1; @!%p mov.u32 %y, 7;", small), np.full(64, 7, np.uint32))
    same_bits(warp("match.all.sync.b32 %y|%p, %x, -1;", small * 0 + 3), np.full(64, 0xFFFFFFFF, np.uint32))


@pytest.mark.parametrize("op", ["add", "min", "max", "and", "or", "xor"])
def test_redux(x: Any, op: str) -> None:
    table: dict[str, Any] = {"add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and,
                             "or": np.bitwise_or, "xor": np.bitwise_xor}  # fmt: skip
    kind = "s32" if op in ("min", "max") else "u32" if op == "add" else "b32"
    data = x.view(np.int32) if kind == "s32" else x
    want = np.repeat(table[op].reduce(data.reshape(2, 32), axis=1, dtype=data.dtype), 32)
    same_bits(warp(f"redux.sync.{op}.{kind} %y, %x, -1;", x), want.view(np.uint32))


def test_elect_and_activemask(x: Any) -> None:
    same_bits(warp("elect.sync %y|%p, -1; selp.b32 %y, 1, 0, %p;", x), (np.arange(64) % 32 == 0).astype(np.uint32))
    text = "setp.gt.u32 %p, %i, 7; mov.u32 %y, 0; @%p bra SKIP; activemask.b32 %y; SKIP:"
    same_bits(warp(text, x, 32)[:32], np.where(np.arange(32) < 8, 0xFF, 0).astype(np.uint32))


def test_special_registers(x: Any) -> None:
    lane = np.arange(64, dtype=np.uint32) % 32
    same_bits(warp("mov.u32 %y, %laneid;", x), lane)
    same_bits(warp("mov.u32 %y, %warpid;", x), np.arange(64, dtype=np.uint32) // 32)
    one = np.uint64(1) << lane.astype(np.uint64)
    for name, mask in (("eq", one), ("lt", one - 1), ("le", 2 * one - 1), ("gt", 2**32 - 2 * one), ("ge", 2**32 - one)):
        same_bits(warp(f"mov.u32 %y, %lanemask_{name};", x), mask.astype(np.uint32))


def test_three_dimensional_indices() -> None:
    body = """.reg .b32 %r<12>; .reg .b64 %a; mov.u32 %r0, %ctaid.x; mov.u32 %r1, %ctaid.y; mov.u32 %r2, %ctaid.z;
mov.u32 %r3, %tid.x; mov.u32 %r4, %tid.y; mov.u32 %r5, %tid.z; mov.u32 %r6, %nctaid.x; mov.u32 %r7, %nctaid.y;
mad.lo.u32 %r8, %r2, %r7, %r1; mad.lo.u32 %r8, %r8, %r6, %r0; mad.lo.u32 %r9, %r5, 3, %r4; mad.lo.u32 %r9, %r9, 5, %r3;
mad.lo.u32 %r8, %r8, 30, %r9; ld.param.u64 %a, [p0]; mad.wide.u32 %a, %r8, 4, %a; add.u32 %r8, %r8, 1;
st.global.u32 [%a], %r8; ret;"""
    out = np.zeros(2 * 3 * 4 * 30, np.uint32)
    assert not run_text(body, [out], grid=(2, 3, 4), block=(5, 3, 2)).findings
    same_bits(out, np.arange(1, len(out) + 1, dtype=np.uint32))


ATOMIC = """.reg .b32 %i, %x, %y, %k; .reg .b64 %a, %b, %c, %d; mov.u32 %i, %tid.x; mov.u32 %k, %ctaid.x;
mad.lo.u32 %i, %k, 64, %i; ld.param.u64 %a, [p0]; mad.wide.u32 %a, %i, 4, %a; ld.global.u32 %x, [%a];
ld.param.u64 %c, [p2]; mad.wide.u32 %d, %i, 4, %c; ld.param.u64 %b, [p1]; and.b32 %y, %i, 3; mad.wide.u32 %b, %y, 4, %b;
"""


@pytest.mark.parametrize(
    ("op", "fn"),
    [
        ("add.u32", lambda m, x: (m + x) & 0xFFFFFFFF), ("and.b32", lambda m, x: m & x), ("or.b32", lambda m, x: m | x),
        ("xor.b32", lambda m, x: m ^ x), ("exch.b32", lambda m, x: x), ("min.u32", min), ("max.u32", max),
        ("inc.u32", lambda m, x: 0 if m >= x else m + 1), ("dec.u32", lambda m, x: x if m == 0 or m > x else m - 1),
    ],
)  # fmt: skip
def test_atomics_are_applied_one_after_the_other(op: str, fn: Any) -> None:
    rng = np.random.default_rng(2)
    x = rng.integers(0, 2**32 if op[:3] not in ("inc", "dec") else 9, 128, dtype=np.uint32)
    cells = rng.integers(0, 2**31, 4, dtype=np.uint32)
    memory = [int(v) for v in cells]
    old = []
    for k, v in enumerate(x):
        old.append(memory[k & 3])
        memory[k & 3] = fn(memory[k & 3], int(v))
    out = np.zeros(128, np.uint32)
    body = ATOMIC + f"atom.global.{op} %y, [%b], %x; st.global.b32 [%d], %y; ret;"
    got = cells.copy()
    assert not run_text(body, [x, got, out], grid=(2,), block=(64,)).findings
    same_bits(got, np.array(memory, np.uint32))
    same_bits(out, np.array(old, np.uint32))
    if op[:3] not in ("exc",):
        again = cells.copy()
        run_text(ATOMIC + f"red.global.{op} [%b], %x; ret;", [x, again, out], grid=(2,), block=(64,))
        same_bits(again, np.array(memory, np.uint32))


def test_compare_and_swap_builds_a_float_maximum() -> None:
    """The usual CAS loop: reads, computes, retries until nobody else came between."""
    body = """.reg .b32 %i, %x, %old, %new, %seen; .reg .b64 %a, %b; .reg .pred %p; .reg .f32 %f, %g;
mov.u32 %i, %tid.x; ld.param.u64 %a, [p0]; mad.wide.u32 %a, %i, 4, %a; ld.global.f32 %f, [%a]; ld.param.u64 %b, [p1];
ld.volatile.global.u32 %old, [%b];
LOOP: mov.b32 %g, %old; max.f32 %g, %g, %f; mov.b32 %new, %g; atom.global.cas.b32 %seen, [%b], %old, %new;
setp.ne.u32 %p, %seen, %old; mov.u32 %old, %seen; @%p bra LOOP; ret;"""
    x = np.random.default_rng(3).normal(size=256).astype(np.float32)
    cell = np.full(1, -100, np.float32)
    assert not run_text(body, [x, cell], block=(256,)).findings
    assert cell[0] == x.max()


def test_float_atomics() -> None:
    x = np.random.default_rng(4).normal(size=128).astype(np.float32)
    cells, out = np.zeros(4, np.float32), np.zeros(128, np.float32)
    run_text(ATOMIC + "atom.global.add.f32 %y, [%b], %x; st.global.b32 [%d], %y; ret;", [x, cells, out],
             grid=(2,), block=(64,))  # fmt: skip
    running = np.zeros(4, np.float32)
    for k, v in enumerate(x):
        assert out[k] == running[k & 3]
        running[k & 3] = running[k & 3] + v
    same_bits(cells, running)


@pytest.mark.parametrize(("kind", "dtype"), [("f16x2", np.float16), ("bf16x2", ml_dtypes.bfloat16)])
def test_packed_float_atomics(kind: str, dtype: Any) -> None:
    x = np.random.default_rng(5).normal(size=256).astype(dtype)
    cells = np.zeros(8, dtype)
    run_text(ATOMIC + f"red.global.add.noftz.{kind} [%b], %x; ret;",
             [x.view(np.uint32), cells.view(np.uint32), np.zeros(1)],
             grid=(2,), block=(64,))  # fmt: skip
    want = np.zeros(8, dtype)
    for k in range(128):
        for h in range(2):
            want[(k & 3) * 2 + h] = dtype(float(want[(k & 3) * 2 + h]) + float(x[2 * k + h]))
    assert np.array_equal(cells.view(np.uint16), want.view(np.uint16))


def test_instructions_without_an_effect_here() -> None:
    """Launch dependencies are met, registers never run out, hints are hints."""
    y = np.zeros(128, np.uint32)
    body = """.reg .b32 %t; .reg .b64 %p, %h; mov.u32 %t, %tid.x; ld.param.u64 %p, [p0]; mad.wide.u32 %p, %t, 4, %p;
griddepcontrol.wait; setmaxnreg.inc.sync.aligned.u32 232; prefetch.global.L2 [%p]; pmevent 3;
createpolicy.fractional.L2::evict_first.b64 %h, 0.5; st.global.L2::cache_hint.u32 [%p], %t, %h;
griddepcontrol.launch_dependents; setmaxnreg.dec.sync.aligned.u32 40; nanosleep.u32 100; ret;"""
    assert not run_text(body, [y], block=(128,)).findings
    assert (y == np.arange(128)).all()

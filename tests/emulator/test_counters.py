"""Counters of small kernels, compared with counts made by hand. The comment beside each case derives it.

A sector is 32 bytes, a bank one of 32 columns of 4-byte words. A warp's shared access of 8 bytes a lane is served by
half warps, one of 16 bytes by quarters; each part takes as many wavefronts as the fullest bank has distinct words.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tesseracc.emulator import Counters, GlobalMemory, TensorMap
from tests.emulator.harness import run_text

REGISTERS = """.reg .b32 %t, %n, %a, %x<16>; .reg .b64 %p, %q, %d<8>; .reg .f32 %f<16>; .reg .pred %c, %e;
mov.u32 %t, %tid.x; ld.param.u64 %p, [p0];
"""
STORAGE = ".shared .align 1024 .b8 buffer[16384];\n.shared .align 8 .b64 full;"


def count(body: str, args: list[Any], block: int = 32, grid: int = 1, **options: Any) -> Counters:
    report = run_text(REGISTERS + body + "\nret;", args, (grid,), (block,), module=STORAGE, **options)
    assert not report.findings, report.findings[0].render()
    return report.counters


# -- global memory -----------------------------------------------------------------------------------------------------

GLOBAL = [  # type, bytes from lane to lane, bytes before lane 0, block, sectors of all requests, efficiency
    ("f32", 4, 0, 32, 4, 1.0),  # 128 bytes in a row: 4 sectors
    ("f32", 8, 0, 32, 8, 0.5),  # every second word: 256 bytes are touched for 128
    ("f32", 32, 0, 32, 32, 1 / 8),  # a sector for each lane, of which 4 bytes serve
    ("f32", 132, 0, 32, 32, 1 / 8),  # a column of a padded matrix: still one sector a lane
    ("f32", 0, 0, 32, 1, 1.0),  # one word for everybody: 4 bytes, which take a sector when packed
    ("f32", 4, 4, 32, 5, 0.8),  # 128 bytes from byte 4 on reach into a fifth sector
    ("f32", 4, 28, 32, 5, 0.8),  # one word in the first sector, 31 in the next four
    ("f32", 4, 0, 7, 1, 1.0),  # 28 bytes
    ("f32", 4, 16, 7, 2, 0.5),  # 28 bytes from byte 16 on: two sectors for what would fill one
    ("f32", 4, 0, 40, 5, 1.0),  # a warp of 4 sectors, and 8 lanes: 1
    ("f32", 4, 0, 80, 10, 1.0),  # 4 + 4, and 16 lanes: 2
    ("u8", 1, 0, 32, 1, 1.0),
    ("u8", 1, 24, 32, 2, 0.5),
    ("u8", 3, 0, 32, 3, 1 / 3),  # the last lane reads byte 93
    ("b16", 2, 0, 32, 2, 1.0),
    ("f64", 8, 0, 32, 8, 1.0),
    ("f64", 8, 8, 32, 9, 8 / 9),
    ("v2.f32", 8, 0, 32, 8, 1.0),  # one request of 256 bytes
    ("v4.f32", 16, 0, 32, 16, 1.0),
    ("v4.f32", 16, 16, 32, 17, 16 / 17),
    ("v4.f32", 64, 0, 32, 32, 0.5),  # half a sector serves each lane
]
REGISTER = {"u8": "%x0", "b16": "%x0", "f32": "%f0", "f64": "%d0", "v2.f32": "{%f0, %f1}",
            "v4.f32": "{%f0, %f1, %f2, %f3}"}  # fmt: skip
BYTES = {"u8": 1, "b16": 2, "f32": 4, "f64": 8, "v2.f32": 8, "v4.f32": 16}


@pytest.mark.parametrize("store", [False, True])
@pytest.mark.parametrize(("kind", "step", "first", "block", "sectors", "efficiency"), GLOBAL)
def test_global_accesses(
    kind: str, step: int, first: int, block: int, sectors: int, efficiency: float, store: bool
) -> None:
    data = np.random.default_rng(step).integers(0, 256, 16384).astype(np.uint8)
    register, place = REGISTER[kind].replace("%d0", "%d1"), f"[%q+{first}]"
    access = f"st.global.{kind} {place}, {register};" if store else f"ld.global.{kind} {register}, {place};"
    if store:  # one value for all lanes, so that stores to one place agree
        access = "mov.b32 %x0, 7; mov.b64 %d1, 7;" + "".join(f"mov.f32 %f{k}, 0f40000000;" for k in range(4)) + access
    got = count(f"mad.wide.u32 %q, %t, {step}, %p;\n{access}", [data], block)
    assert got.global_requests == -(-block // 32)
    assert got.global_sectors == sectors
    assert got.coalescing_efficiency == pytest.approx(efficiency, abs=1e-12)
    moved = {"global": block * BYTES[kind]}
    assert (got.bytes_written, got.bytes_read) == ((moved, {}) if store else ({}, moved))


def test_scattered_lanes_and_atomics() -> None:
    """Lanes in reverse are as good as in order; lanes switched off do not count; an atomic is a read and a write."""
    data = np.zeros(1024, np.uint32)
    back = count("sub.u32 %x0, 31, %t; mad.wide.u32 %q, %x0, 4, %p; ld.global.u32 %x1, [%q];", [data])
    assert (back.global_requests, back.global_sectors, back.coalescing_efficiency) == (1, 4, 1.0)
    # lanes 0, 8, 16, 24 of two warps: each in a sector of its own, 16 of 128 bytes serve (half a sector when packed)
    few = "and.b32 %x0, %t, 7; setp.eq.u32 %c, %x0, 0; mad.wide.u32 %q, %t, 4, %p; @%c ld.global.u32 %x1, [%q];"
    got = count(few, [data], block=64)
    assert (got.global_requests, got.global_sectors, got.coalescing_efficiency) == (2, 8, 0.25)
    # 32 lanes in 4 words, 8 bytes apart: one sector, and four words would fill half of it
    atomic = "and.b32 %x0, %t, 3; mad.wide.u32 %q, %x0, 8, %p; red.global.add.u32 [%q], 1;"
    got = count(atomic, [data])
    assert (got.global_requests, got.global_sectors) == (1, 1)
    assert got.bytes_read["global"] == got.bytes_written["global"] == 128
    # no lane at all: no request
    none = count("setp.eq.u32 %c, %t, 99; mad.wide.u32 %q, %t, 4, %p; @%c ld.global.u32 %x1, [%q];", [data])
    assert (none.global_requests, none.global_sectors, none.coalescing_efficiency) == (0, 0, 1.0)


# -- shared memory -----------------------------------------------------------------------------------------------------

SHARED = [  # type, bytes from lane to lane, block, wavefronts, conflicts
    ("f32", 4, 32, 1, 0),
    ("f32", 8, 32, 2, 1),  # lanes l and l + 16 in one bank
    ("f32", 128, 32, 32, 31),  # a column of a 32 x 32 tile: all in one bank
    ("f32", 132, 32, 1, 0),  # the same with a row pitch of 33 words
    ("f32", 0, 32, 1, 0),  # one word for everybody is a broadcast
    ("f32", 12, 32, 1, 0),  # 3 is odd: all banks differ
    ("f32", 24, 32, 2, 1),  # 6 l mod 32 repeats after 16 lanes
    ("f32", 128, 20, 20, 19),  # 20 lanes of one bank
    ("f32", 4, 48, 2, 0),  # a warp and a half
    ("u8", 1, 32, 1, 0),  # four lanes share a word
    ("b16", 2, 32, 1, 0),
    ("b16", 128, 32, 32, 31),
    ("f64", 8, 32, 2, 0),  # half a warp fills the banks
    ("f64", 16, 32, 4, 2),  # words 4 l, 4 l + 1 of 16 lanes: banks repeat after 8, so each half takes 2
    ("f64", 0, 32, 2, 0),
    ("v2.f32", 8, 32, 2, 0),
    ("v4.f32", 16, 32, 4, 0),  # a quarter fills the banks
    ("v4.f32", 32, 32, 8, 4),  # words 8 l .. 8 l + 3 of 8 lanes: lanes l and l + 4 collide
    ("v4.f32", 128, 32, 32, 28),  # eight lanes of each quarter in the same four banks
    ("v4.f32", 144, 32, 4, 0),  # the same, rows padded by 16 bytes
    ("v4.f32", 0, 32, 4, 0),
    ("v4.f32", 16, 8, 1, 0),  # one quarter of a warp
]


@pytest.mark.parametrize("store", [False, True])
@pytest.mark.parametrize(("kind", "step", "block", "wavefronts", "conflicts"), SHARED)
def test_shared_accesses(kind: str, step: int, block: int, wavefronts: int, conflicts: int, store: bool) -> None:
    register = REGISTER[kind].replace("%d0", "%d1")
    access = f"st.shared.{kind} [%a], {register};" if store else f"ld.shared.{kind} {register}, [%a];"
    values = "mov.b32 %x0, 7; mov.b64 %d1, 7;" + "".join(f"mov.f32 %f{k}, 0f40000000;" for k in range(4))
    body = f"{values}\nmov.u32 %a, buffer; mad.lo.u32 %a, %t, {step}, %a;\n{access}"
    got = count(body, [np.zeros(1, np.uint32)], block, detect=store)  # nobody has written what is read here
    assert got.shared_requests == -(-block // 32)
    assert (got.shared_wavefronts, got.bank_conflicts) == (wavefronts, conflicts)
    assert (got.bytes_written if store else got.bytes_read)["shared"] == block * BYTES[kind]


def test_pairs_of_lanes_on_one_word_and_atomics() -> None:
    # lane l at word 16 (l / 2): even words of the tile share bank 0 or 16, 8 distinct words in each
    pairs = (
        "shr.u32 %x0, %t, 1; mov.u32 %a, buffer; mad.lo.u32 %a, %x0, 64, %a; mov.b32 %x1, 5; st.shared.b32 [%a], %x1;"
    )
    assert count(pairs, [np.zeros(1, np.uint32)]).shared_wavefronts == 8
    # an atomic by all lanes on one word is one request of one word
    atomic = (
        "mov.u32 %a, buffer; mov.b32 %x1, 5; st.shared.b32 [%a], %x1; bar.sync 0; atom.shared.add.u32 %x2, [%a], 1;"
    )
    got = count(atomic, [np.zeros(1, np.uint32)])
    assert (got.shared_requests, got.shared_wavefronts) == (2, 2)


@pytest.mark.parametrize(
    ("form", "pitch", "wavefronts"),
    [
        ("x1", 16, 1),  # 8 rows of 16 bytes in a row fill the banks once
        ("x2", 16, 2),
        ("x4", 16, 4),  # a wavefront a matrix
        ("x4", 128, 32),  # rows of 128 bytes: the 8 rows of each matrix meet in four banks
        ("x4", 144, 4),  # padded by 16 bytes
        ("x2", 64, 8),  # rows of 64 bytes: 4 rows of each matrix meet
        ("x1", 128, 8),
    ],
)
def test_ldmatrix(form: str, pitch: int, wavefronts: int) -> None:
    matrices = int(form[1:])
    to = "{" + ", ".join(f"%x{4 + k}" for k in range(matrices)) + "}"
    body = (
        f"mov.u32 %a, buffer; mad.lo.u32 %a, %t, {pitch}, %a; ldmatrix.sync.aligned.m8n8.{form}.shared.b16 {to}, [%a];"
    )
    got = count(body, [np.zeros(1, np.uint32)], detect=False)
    assert (got.shared_requests, got.shared_wavefronts) == (1, wavefronts)
    assert got.bank_conflicts == wavefronts - matrices
    assert got.bytes_read["shared"] == 128 * matrices


# -- instructions, bytes per memory, barriers --------------------------------------------------------------------------


def test_instructions_and_threads() -> None:
    # two blocks of 48 threads: 2 warps each, 96 threads. The loop runs 5 times; lanes below 8 of each block take the
    # branch: one warp of each block, 8 threads; the others of that warp and the second warp go the other way
    body = """mov.u32 %n, 0;
LOOP: add.u32 %n, %n, 1; setp.lt.u32 %c, %n, 5; @%c bra LOOP;
setp.lt.u32 %e, %t, 8; @%e bra LOW;
mul.lo.u32 %x0, %n, 3; bra JOIN;
LOW: shl.b32 %x0, %n, 1;
JOIN: not.b32 %x1, %x0; @%e xor.b32 %x1, %x1, %x0;"""
    got = count(body, [np.zeros(1, np.uint32)], block=48, grid=2)
    assert (got.instructions["add.u32"], got.threads["add.u32"]) == (2 * 2 * 5, 96 * 5)
    assert (got.instructions["mul.lo.u32"], got.threads["mul.lo.u32"]) == (4, 2 * 40)
    assert (got.instructions["shl.b32"], got.threads["shl.b32"]) == (2, 2 * 8)
    assert (got.instructions["not.b32"], got.threads["not.b32"]) == (4, 96)
    assert got.instructions["xor.b32"] == 4  # a predicated instruction is issued whatever its guard says
    # mov tid, ld.param, mov n; add setp bra five times; setp bra; mul bra (both warps) or shl (the first); not xor ret
    assert got.warp_instructions == 4 * (3 + 15 + 2 + 2 + 3) + 2


def test_bytes_of_every_memory() -> None:
    body = """.local .align 16 .b8 own[16]; mad.wide.u32 %q, %t, 8, %p; ld.global.v2.u32 {%x0, %x1}, [%q];
mov.u32 %a, buffer; mad.lo.u32 %a, %t, 2, %a; st.shared.u16 [%a], %x0; ld.shared.u8 %x2, [%a];
mov.u64 %d0, own; st.local.v4.u32 [%d0], {%x0, %x1, %x0, %x1}; ld.local.u64 %d1, [%d0+8];
and.b32 %x3, %t, 1; mov.u64 %d2, table; mad.wide.u32 %d2, %x3, 4, %d2; ld.const.u32 %x4, [%d2];
st.global.u64 [%q], %d1;"""
    report = run_text(REGISTERS + body + "ret;", [np.arange(192, dtype=np.uint32)], (1,), (96,),
                      module=STORAGE + "\n.const .u32 table[2] = {3, 4};")  # fmt: skip
    assert not report.findings
    # 96 threads; kernel parameters are no memory
    assert report.counters.bytes_read == {"global": 96 * 8, "shared": 96, "local": 96 * 8, "const": 96 * 4}
    assert report.counters.bytes_written == {"shared": 96 * 2, "local": 96 * 16, "global": 96 * 8}


def test_mma_per_warp() -> None:
    body = """mov.f32 %f0, 0f00000000; mov.f32 %f1, %f0; mov.f32 %f2, %f0; mov.f32 %f3, %f0;
mov.b32 %x0, 0; mov.b32 %x1, 0; mov.b32 %x2, 0; mov.b32 %x3, 0; mov.b32 %x4, 0; mov.b32 %x5, 0; mov.u32 %n, 0;
LOOP:
mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f0,%f1,%f2,%f3}, {%x0,%x1,%x2,%x3}, {%x4,%x5}, {%f0,%f1,%f2,%f3};
add.u32 %n, %n, 1; setp.lt.u32 %c, %n, 3; @%c bra LOOP;
setp.ge.u32 %e, %t, 64; @%e bra END;
mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%f0,%f1,%f2,%f3}, {%x0,%x1}, {%x4}, {%f0,%f1,%f2,%f3};
END:"""
    got = count(body, [np.zeros(1, np.uint32)], block=128, grid=2)
    # two blocks of four warps, three rounds; the second kind by two warps of each block
    assert got.mma == {"mma.m16n8k16.f16": 24, "mma.m16n8k8.bf16": 4}


def test_barriers() -> None:
    # three blocks of 80 threads, 3 warps: two barriers of everybody; warps 0 and 1 meet twice at barrier 1, where warp
    # 2 only arrives in between at barrier 2, at which warp 0 waits for it
    body = """bar.sync 0; bar.sync 0; setp.lt.u32 %c, %t, 64; setp.lt.u32 %e, %t, 32;
@!%c bra THIRD;
bar.sync 1, 64; bar.sync 1, 64;
@!%e bra END; bar.sync 2, 64; bra END;
THIRD: barrier.arrive 2, 64;
END:"""
    got = count(body.replace("80", "96"), [np.zeros(1, np.uint32)], block=96, grid=3)
    assert got.barriers == 3 * (2 + 2 + 1)
    assert got.barrier_waits == 3 * (2 * 3 + 2 * 2 + 1)  # arriving is not waiting


def test_cluster_barriers() -> None:
    body = """barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned; barrier.cluster.arrive.aligned;
barrier.cluster.wait.aligned;"""
    got = count(body, [np.zeros(1, np.uint32)], block=64, grid=4, cluster=(2, 1, 1))
    assert got.barriers == 2 * 2 and got.barrier_waits == 2 * 4 * 2  # two clusters; eight warps


def test_mbarrier_arrivals() -> None:
    body = """setp.eq.u32 %c, %t, 0; @%c mbarrier.init.shared::cta.b64 [full], 64; bar.sync 0;
mbarrier.arrive.shared::cta.b64 _, [full];
WAIT: mbarrier.try_wait.parity.shared::cta.b64 %e, [full], 0; @!%e bra WAIT;"""
    got = count(body, [np.zeros(1, np.uint32)], block=64, grid=2)
    assert got.mbarrier_arrivals == 128
    assert got.mbarrier_polls >= 4  # each of the four warps at least once; more depends on the order of the simulation


# -- asynchronous copies -----------------------------------------------------------------------------------------------


def test_cp_async() -> None:
    # 48 threads: 16 bytes each by two warps, then 4 bytes each by lanes below 16, of which 1 byte is filled with zero
    body = """mad.wide.u32 %q, %t, 16, %p; mov.u32 %a, buffer; mad.lo.u32 %x0, %t, 16, %a;
cp.async.cg.shared.global [%x0], [%q], 16;
setp.lt.u32 %c, %t, 16; @%c cp.async.ca.shared.global [%x0+2048], [%q], 4, 3;
cp.async.commit_group; cp.async.wait_group 0;"""
    got = count(body, [np.arange(256, dtype=np.uint32)], block=48)
    assert got.async_copies == {"cp.async": 3} and got.async_bytes == {"cp.async": 48 * 16 + 16 * 4}
    assert got.bytes_written["shared"] == 48 * 16 + 16 * 4 and got.bytes_read["global"] == 48 * 16 + 16 * 3


BULK = """setp.eq.u32 %c, %t, 0; @%c mbarrier.init.shared::cta.b64 [full], 1; bar.sync 0; @!%c bra WAIT;
mov.u32 %a, buffer; ld.param.u64 %d0, [p0]; mbarrier.arrive.expect_tx.shared::cta.b64 _, [full], 768;
cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%a], [%d0], 512, [full];
cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%a+512], [%d0+1024], 256, [full];
WAIT: mbarrier.try_wait.parity.shared::cta.b64 %e, [full], 0; @!%e bra WAIT;
@!%c bra END; cp.async.bulk.global.shared::cta.bulk_group [%d0+2048], [%a], 128;
cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%d0+2176], [%a], 64;
cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;
END:"""


def test_bulk_copies() -> None:
    got = count(BULK, [np.arange(1024, dtype=np.uint32)], block=64, grid=1)
    assert got.async_copies == {"cp.async.bulk.shared::cluster.global": 2, "cp.async.bulk.global.shared::cta": 1,
                                "cp.reduce.async.bulk.global.shared::cta": 1}  # fmt: skip
    assert got.async_bytes == {"to shared": 768, "to global": 192}
    assert got.bytes_read["global"] == 768 and got.bytes_written["global"] == 192
    assert got.bytes_written["shared"] == 768 and got.bytes_read["shared"] == 192


def test_tensor_copies() -> None:
    """Boxes of 8 x 16 floats over a matrix of 10 x 20: 512 bytes land of every box; only what is inside is moved."""
    memory, data = GlobalMemory(), np.random.default_rng(5).normal(size=(10, 20)).astype(np.float32)
    address = memory.alloc(data.nbytes)
    memory.write(address, data)
    tensor = TensorMap("f32", address, (20, 10), (80,), (16, 8)).encode()
    body = """setp.eq.u32 %c, %t, 0; @%c mbarrier.init.shared::cta.b64 [full], 1; bar.sync 0; @!%c bra WAIT;
mov.u32 %a, buffer; mov.b64 %d0, p0; cvta.param.u64 %d0, %d0; mbarrier.arrive.expect_tx.shared::cta.b64 _, [full], 1536;
cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%a], [%d0, {0, 0}], [full];
cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%a+512], [%d0, {16, 8}], [full];
cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%a+1024], [%d0, {32, 0}], [full];
WAIT: mbarrier.try_wait.parity.shared::cta.b64 %e, [full], 0; @!%e bra WAIT;
@!%c bra END; cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%d0, {12, 4}], [%a];
cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;
END:"""
    head = REGISTERS.replace("ld.param.u64 %p, [p0];", "")
    report = run_text(
        head + body + "ret;", [tensor], (1,), (32,), ".param .align 64 .b8 p0[128]", STORAGE, memory=memory
    )
    assert not report.findings, report.findings[0].render()
    got = report.counters
    assert got.async_bytes == {"to shared": 3 * 512, "to global": 512}
    assert got.async_copies == {"cp.async.bulk.tensor.2d.shared::cluster.global": 3,
                                "cp.async.bulk.tensor.2d.global.shared::cta": 1}  # fmt: skip
    # inside: all of the first box, columns 16-19 of rows 8-9, nothing; stored: columns 12-19 of rows 4-9
    assert got.bytes_read["global"] == 512 + 4 * 2 * 4 and got.bytes_written["global"] == 8 * 6 * 4


def test_sums_over_launches() -> None:
    one = count("mad.wide.u32 %q, %t, 4, %p; ld.global.u32 %x0, [%q];", [np.zeros(32, np.uint32)])
    two = count("mad.wide.u32 %q, %t, 64, %p; ld.global.u32 %x0, [%q];", [np.zeros(512, np.uint32)])
    both = one + two
    assert both.global_sectors == 4 + 32 and both.coalescing_efficiency == (4 + 4) / (4 + 32)
    assert both.instructions["ld.global.u32"] == 2 and both.to_json()["warp_instructions"] == one.warp_instructions * 2

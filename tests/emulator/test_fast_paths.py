"""What the emulator does at once for many lanes, held against the same thing done one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tesseracc.emulator import GlobalMemory, TensorMap, launch, parse_ptx
from tesseracc.emulator.counters import Counters
from tesseracc.emulator.findings import EmulatorError, FindingLog
from tesseracc.emulator.lexer import tokenize
from tesseracc.emulator.memory import Known
from tesseracc.emulator.operations.wgmma import lanes_of, to_matrix, to_registers
from tesseracc.emulator.ptx import Instruction
from tesseracc.emulator.races import RaceDetector, Shadow
from tesseracc.emulator.tensor_cores import c_places

# --- counters --------------------------------------------------------------------------------------------------------


def _lanes(rng: Any, pattern: str) -> Any:
    return np.arange(128) if pattern == "all" else np.sort(rng.choice(np.arange(256), 77, replace=False))


def _offsets(rng: Any, lanes: Any, width: int, kind: str) -> Any:
    warp = lanes >> 5
    within = {"dense": lanes & 31, "strided": (lanes & 31) * 17, "same": 0 * lanes, "swizzled": lanes & 31 ^ 5}
    place = (
        rng.integers(0, 500, len(lanes)) if kind == "random" else within[kind] + warp * (64 if kind != "dense" else 32)
    )
    return (place * width).astype(np.int64)


@pytest.mark.parametrize("width", [1, 4, 8, 16])
@pytest.mark.parametrize("kind", ["dense", "strided", "same", "swizzled", "random"])
@pytest.mark.parametrize("pattern", ["all", "some"])
def test_counters_one_by_one(width: int, kind: str, pattern: str) -> None:
    rng = np.random.default_rng(width)
    lanes = _lanes(rng, pattern)
    offset = _offsets(rng, lanes, width, kind)
    counters = Counters()
    dense = bool((np.diff(offset) == width).all())
    counters.count_global(lanes, offset, width, dense)
    counters.count_shared(lanes, offset, width)
    sectors = wavefronts = requests = 0
    group = max(8, 32 // max(1, width // 4))
    for warp in np.unique(lanes >> 5):
        mine = offset[lanes >> 5 == warp]
        sectors += len({int(a) // 32 for a in mine})
        requests += 1
        for part in range(0, 32, group):
            served = [
                int(a) for lane, a in zip(lanes, offset) if lane >> 5 == warp and part <= lane & 31 < part + group
            ]
            words = {a // 4 + k for a in served for k in range(max(1, width // 4))}
            wavefronts += max((sum(w % 32 == bank for w in words) for bank in range(32)), default=0)
    assert counters.global_sectors == sectors
    assert counters.global_requests == counters.shared_requests == requests
    assert counters.shared_wavefronts == wavefronts


# --- races -----------------------------------------------------------------------------------------------------------


class Eager:
    """The rule of the race detector, one lane and one granule at a time, nothing put off: shared memory of one CTA."""

    def __init__(self) -> None:
        self.write: dict[int, tuple[int, int]] = {}
        self.reads: dict[int, list[tuple[int, int]]] = {}
        self.epoch = 0
        self.races = 0

    def _unordered(self, lane: int, before: tuple[int, int] | None) -> bool:
        return before is not None and before[0] != lane and before[1] == self.epoch

    def access(self, lanes: Any, granules: Any, write: bool) -> None:
        for lane, granule in zip(lanes.tolist(), granules.tolist()):
            if write:
                self.races += sum(self._unordered(lane, r) for r in self.reads.get(granule, [])[-2:])
            self.races += self._unordered(lane, self.write.get(granule))
        for lane, granule in zip(lanes.tolist(), granules.tolist()):
            now = (lane, self.epoch)
            if write:
                self.write[granule] = now
                continue
            kept = [r for r in self.reads.get(granule, []) if r[0] >> 5 != lane >> 5][-1:]
            self.reads[granule] = [*kept, now]


@pytest.mark.parametrize("seed", range(8))
def test_races_put_off_and_at_once(seed: int) -> None:
    """Random accesses of two warps; granules of one step are distinct, so that the order of lanes does not matter."""
    rng = np.random.default_rng(seed)
    log, eager = FindingLog(), Eager()
    code = [Instruction("ld", (), (), None, k, None, k) for k in range(200)]
    detector = RaceDetector(code, log, 2, 2, 0, np.zeros(3, np.int64), np.zeros(2, np.bool_), 2)
    shadow = Shadow(64)
    for pc in range(200):
        action = rng.choice(["read", "read", "write", "barrier"], p=[0.5, 0.2, 0.2, 0.1])
        if action == "barrier":
            detector.join_all(2)
            eager.epoch += 1
            continue
        n = int(rng.integers(1, 9))
        lanes, granules = np.sort(rng.choice(64, n, replace=False)), rng.choice(48, n, replace=False)
        if action == "read":
            detector.read(shadow, granules, lanes, pc, False, "shared")
        else:
            detector.write(shadow, granules, lanes, pc, False, "shared", None)
        eager.access(lanes, granules, action == "write")
    assert sum(f.count for f in log.found.values()) == eager.races > 0


def test_known_ranges_never_claim_what_is_unwritten() -> None:
    rng = np.random.default_rng(1)
    written = np.zeros(3 * 256 + 16, np.uint8)
    known = Known(written, 256)
    for _ in range(300):
        low = int(rng.integers(0, 250))
        high = int(rng.integers(low + 1, 257))
        rows = written[: 3 * 256].reshape(3, 256)
        if rng.random() < 0.3:
            rows[:, low:high] = 1
        if rows[:, low:high].all():
            known.explore((low, high), 3 * (high - low))
        for a, b in known.ranges:
            assert rows[:, a:b].all()
    assert known.ranges == [(0, 256)] or written[: 3 * 256].reshape(3, 256).all(axis=0).sum() < 256
    assert not known.covers(None)


# --- matrices and boxes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("n", [8, 24, 256])
def test_accumulators_follow_the_fragment_table(bits: int, n: int) -> None:
    rng = np.random.default_rng(n)
    slots = n // (4 if bits == 16 else 2)
    registers = [rng.integers(0, 1 << 32, 256).astype(np.uint32) for _ in range(slots)]
    matrix = to_matrix(registers, bits)
    row, column = c_places(16, n)
    for group in range(2):
        for lane in range(128):
            flat = np.array([r[group * 128 + lane] for r in registers]).view(np.uint16 if bits == 16 else np.uint32)
            tile = matrix[group, lane // 32 * 16 : lane // 32 * 16 + 16]
            assert np.array_equal(tile[row[lane % 32], column[lane % 32]], flat)
    assert np.array_equal(np.stack(registers), to_registers(matrix))


def test_lanes_of_warpgroups() -> None:
    assert lanes_of(np.array([1, 2])) == slice(128, 384)
    assert np.array_equal(lanes_of(np.array([0, 3])), [*range(128), *range(384, 512)])


@pytest.mark.parametrize("steps", [(1, 1, 1), (2, 1, 3)])
@pytest.mark.parametrize("corner", [(0, 0, 0), (-5, 2, -1), (9, -3, 3), (40, 0, 0)])
def test_boxes_element_by_element(steps: tuple[int, ...], corner: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    memory = GlobalMemory()
    shape = (5, 7, 20)  # outermost first; rows have a pitch of 24 elements
    data = rng.integers(1, 1 << 16, (5, 7, 24)).astype(np.uint16)
    address = memory.alloc(data.nbytes)
    memory.write(address, data)
    tensor = TensorMap("u16", address, shape[::-1], (48, 48 * 7), (16, 4, 3), steps)
    complaints: list[str] = []
    got = tensor.read_box(memory, list(corner), complaints.append).view(np.uint16).reshape(3, 4, 16)
    new = rng.integers(1, 1 << 16, (3, 4, 16)).astype(np.uint16)
    tensor.write_box(memory, list(corner), new.view(np.uint8).reshape(-1), None, complaints.append)
    want = data.copy()
    for place in np.ndindex(3, 4, 16):
        at = tuple(corner[2 - axis] + place[axis] * steps[2 - axis] for axis in range(3))
        inside = all(0 <= x < size for x, size in zip(at, shape))
        assert got[place] == (data[at] if inside else 0)
        if inside:
            want[at] = new[place]
    assert np.array_equal(np.frombuffer(memory.read(address, data.nbytes), np.uint16).reshape(data.shape), want)
    assert not complaints


# --- programs that are remembered ------------------------------------------------------------------------------------

KERNEL = """.version 8.8
.target sm_90a
.address_size 64
.global .align 4 .u32 total = 5;
.visible .entry k(.param .u64 out)
{
.reg .b64 %p; .reg .b32 %r<3>;
ld.param.u64 %p, [out];
ld.global.u32 %r1, [total];
add.u32 %r2, %r1, 7;
st.global.u32 [total], %r2;
st.global.u32 [%p], %r2;
ret;
}
"""


def test_a_module_is_launched_again_and_edited() -> None:
    """Each launch initialises its own variables; an edited body is not mistaken for the one that was decoded."""
    module = parse_ptx(KERNEL)
    out = np.zeros(1, np.uint32)
    for _ in range(2):
        assert not launch(module, "k", (1,), (1,), [out]).findings
        assert out[0] == 12
    body = module.functions["k"].body
    at = next(k for k, i in enumerate(body) if i.opcode == "add")
    body[at] = replace(body[at], opcode="sub")
    launch(module, "k", (1,), (1,), [out])
    assert out.view(np.int32)[0] == -2


def test_tokens_know_their_lines() -> None:
    tokens = tokenize("a.b::c 0f3F800000 /* x\ny */ 1.5e3 // z\n 0x1fU/2 %r1;")
    assert [(t.kind, t.text, t.line) for t in tokens[:-2]] == [
        ("id", "a", 1), ("dot", ".b::c", 1), ("hexfloat", "0f3F800000", 1), ("float", "1.5e3", 2), ("num", "0x1fU", 3),
        ("op", "/", 3), ("num", "2", 3), ("id", "%r1", 3), ("op", ";", 3),
    ]  # fmt: skip
    with pytest.raises(EmulatorError, match="line 2: unexpected character '`'"):
        tokenize("mov\n  ` ;")

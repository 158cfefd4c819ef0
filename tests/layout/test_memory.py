"""Accesses to shared memory: what the algebra predicts is what the emulator counts, and data arrive."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tesseracc.layout import LinearLayout, parse_layout
from tesseracc.layout import build as b
from tesseracc.layout import fragments as fr
from tesseracc.layout import shared as sh
from tesseracc.layout.access import (
    aligned_limit,
    global_offsets,
    joint_vectors,
    offsets,
    sectors,
    shared_access,
    vectors,
)
from tesseracc.layout.matrix_load import matrix_move
from tesseracc.layout.swizzle import Pattern, hardware_swizzle, matrix_pattern, pattern_of, staging, swizzle_for
from tests.emulator.harness import run_text
from tests.layout.shared_memory import RAW, accesses, fill
from tests.layout.strategies import register_layouts

FEW = settings(max_examples=25)


def access_kernel(places: LinearLayout, bits: int, access: Any, load: bool) -> tuple[str, str]:
    """(text, module) of one warp that moves all its registers between shared memory and parameter 0.

    Addresses come from a table, parameter 1: the byte offset of every (lane, instruction).
    """
    size, groups = access.bytes, access.vectors.groups
    unit = min(size, 4)
    count = size // unit
    suffix = {1: "", 2: ".v2", 4: ".v4"}[count]
    regs = "{" + ", ".join(f"%v{i}" for i in range(count)) + "}" if count > 1 else "%v0"
    kind = f"{'u' if unit == 1 else 'b'}{8 * unit}"
    text = f""".reg .b32 %i, %s, %o; .reg .b64 %p, %q; .reg .b{max(16, 8 * unit)} %v<{count}>;
mov.u32 %i, %tid.x; ld.param.u64 %p, [p0]; ld.param.u64 %q, [p1];
mad.wide.u32 %p, %i, {size * len(groups)}, %p; mad.wide.u32 %q, %i, {4 * len(groups)}, %q; mov.u32 %s, s;
"""
    for g in range(len(groups)):
        text += f"ld.global.u32 %o, [%q+{4 * g}]; add.u32 %o, %o, %s;\n"
        here, there = f"[%p+{size * g}]", "[%o]"
        first, second = ("shared", "global") if load else ("global", "shared")
        source, sink = (there, here) if load else (here, there)
        text += f"ld.{first}{suffix}.{kind} {regs}, {source}; st.{second}{suffix}.{kind} {sink}, {regs};\n"
    return text, f".shared .align 128 .b8 s[{(1 << places.out_bits) * bits // 8}];"


def byte_offsets(places: LinearLayout, bits: int, groups: Any) -> Any:
    """[lanes, instructions]: where each vector starts."""
    lane, first = np.meshgrid(np.arange(32), [group[0] for group in groups], indexing="ij")
    return (places.apply({"lane": lane, "register": first})["offset"] * bits // 8).astype(np.uint32)


@FEW
@given(accesses(), st.booleans())
def test_conflicts_are_what_the_emulator_counts(case: tuple[LinearLayout, LinearLayout, int], load: bool) -> None:
    registers, memory, bits = case
    places = offsets(registers, memory)
    access = shared_access(registers, memory, bits)
    width = access.vectors.width
    assert sorted(r for group in access.vectors.groups for r in group) == list(range(8))
    tile = np.random.default_rng(7).integers(0, 1 << min(bits, 62), 256).astype(RAW[bits])
    starts = byte_offsets(places, bits, access.vectors.groups)
    text, module = access_kernel(places, bits, access, load)
    held = np.zeros((32, 8), RAW[bits])  # the registers, in the order of vectors
    order = [r for group in access.vectors.groups for r in group]
    lane, register = np.meshgrid(np.arange(32), order, indexing="ij")
    at = registers.apply({"lane": lane, "register": register})
    elements = tile.reshape(8, 32)[at["dim0"], at["dim1"]]
    if load:
        image = tile[memory.table()]
        args = [held, starts, image.view(np.uint32)]
        report = run_text(fill(len(image) * bits // 32) + text + "ret;", args, module=module)
        assert np.array_equal(held, elements)
        filled = 256 * bits // 8 // 128
    else:
        out = np.zeros_like(tile)
        words = out.view(np.uint32)
        text += f""".reg .b64 %r; ld.param.u64 %r, [p2]; mad.wide.u32 %r, %i, 4, %r; mad.lo.u32 %s, %i, 4, %s;
bar.warp.sync -1;
{"".join(f"ld.shared.u32 %o, [%s+{128 * k}]; st.global.u32 [%r+{128 * k}], %o;" for k in range(len(words) // 32))}"""
        report = run_text(text + "ret;", [elements, starts, words], module=module)
        assert np.array_equal(out, tile[memory.table()])
        filled = len(words) // 32
    assert not report.findings, report.findings[0].render()
    assert report.counters.shared_wavefronts - filled == access.total
    assert report.counters.bank_conflicts == access.conflicts
    assert len(access.vectors.groups) * width == 8


@FEW
@given(accesses())
def test_vectors_are_aligned_and_widest(case: tuple[LinearLayout, LinearLayout, int]) -> None:
    registers, memory, bits = case
    places = offsets(registers, memory)
    found = vectors(places, bits)
    for lane in (0, 1, 13, 31):
        for group in found.groups:
            at = [places.at(lane=lane, register=r)[0] for r in group]
            assert at == list(range(at[0], at[0] + found.width)) and at[0] % found.width == 0
    wider = found.width * 2
    if wider * bits <= 128:  # no lane holds such a vector in an order of registers that all lanes share
        reachable = {frozenset(places.at(lane=0, register=r)[0] // wider for r in range(8))}
        held = [sorted(places.at(lane=lane, register=r)[0] for r in range(8)) for lane in range(32)]
        whole = all(len({o // wider for o in row}) * wider == 8 for row in held)
        lows = {places.at(lane=lane)[0] % wider for lane in range(32)}
        assert reachable and not (whole and lows == {0})


@FEW
@given(accesses(), accesses())
def test_vectors_of_two_memories(first: Any, second: Any) -> None:
    registers, memory, bits = first
    places = [offsets(registers, memory), offsets(registers, second[1])]
    found = joint_vectors(places, bits)
    assert found.width <= min(vectors(p, bits).width for p in places)
    assert sorted(r for group in found.groups for r in group) == list(range(8))
    for one in places:
        for lane in (0, 17):
            for group in found.groups:
                at = [one.at(lane=lane, register=r)[0] for r in group]
                assert at == list(range(at[0], at[0] + found.width)) and at[0] % found.width == 0
    assert joint_vectors([places[0], places[0]], bits) == vectors(places[0], bits)


def test_vectors_of_an_asynchronous_copy() -> None:
    """Rows of 64 f16 into a tile whose 16-byte chunks are permuted, or whose 4-byte words are."""
    layout = b.coalesced((64, 64), 16, 4)
    source = global_offsets(layout, 1)
    assert joint_vectors([source, offsets(layout, sh.swizzled((64, 64), 16, 128))], 16).width == 8
    assert joint_vectors([source, offsets(layout, sh.xor_swizzle((64, 64), 2, 1, 8))], 16).width == 2
    assert joint_vectors([source, offsets(layout, sh.linear((64, 64), (0, 1)))], 16).width == 1


def test_alignment_limits_vectors() -> None:
    assert aligned_limit(128, 256, 200) == 64  # rows of 200 bytes
    assert aligned_limit(128, 16, 0, 4096) == 128 and aligned_limit(256, 512) == 256
    assert aligned_limit(128, 256, 6) == 16 and aligned_limit(128, 7) == 8 and aligned_limit(128, 0) == 128
    places = global_offsets(b.coalesced((64, 64), 16, 4), 1)
    assert vectors(places, 16, aligned_limit(128, 256, 200)).width == 4


def test_vectors_leave_out_copies() -> None:
    places = LinearLayout.make({"register": [[1], [0], [2], [3]], "lane": [[4], [8]]})
    assert vectors(places.rename(outs={"dim0": "offset"}), 32).groups == ((0, 1, 4, 5),)


@settings(max_examples=40)
@given(st.data(), st.sampled_from([8, 16, 32, 64]), st.booleans())
def test_staging_is_free_of_conflicts(data: Any, bits: int, unit: bool) -> None:
    """Whatever two bijective layouts do: an access of the staging layout never has a conflict."""
    if unit:  # coordinates in any order, the usual case
        columns = [1 << bit for bit in range(11)]
        write, read = (
            LinearLayout((("register", 4), ("lane", 5), ("warp", 2)), (("dim0", 5), ("dim1", 6)),
                         data.draw(st.permutations(columns)))
            for _ in range(2)
        )  # fmt: skip
    else:
        write, read = (data.draw(register_layouts((32, 64), 4, warps=2)) for _ in range(2))
    memory = staging(write, read, bits)
    assert memory.is_bijective() and memory.shape == (32, 64)
    for layout in (write, read):
        access = shared_access(layout, memory, bits)
        assert access.conflicts == 0
    # At least the vectors that both sides have in common are used by both.
    plain = [shared_access(layout, sh.linear((32, 64)), bits).total for layout in (write, read)]
    assert sum(shared_access(layout, memory, bits).total for layout in (write, read)) <= sum(plain)


def test_staging_takes_part_of_a_vector_where_warps_touch_its_inside() -> None:
    inner = "register=[[0,1],[0,2],[0,4],[0,8]], lane=[[0,16],[0,32],[1,0],[2,0],[4,0]]"
    write, read = (parse_layout(f"#layout<{inner}, warp=[[8,0],{warp}]>") for warp in ("[16,0]", "[17,40]"))
    accesses = [shared_access(layout, staging(write, read, 8), 8) for layout in (write, read)]
    assert [(access.bytes, access.conflicts) for access in accesses] == [(8, 0), (8, 0)]


def test_staging_of_known_pairs() -> None:
    rows, columns = b.coalesced((64, 64), 32, 4), b.coalesced((64, 64), 32, 4, (0, 1))
    memory = staging(rows, columns, 32)
    accesses = [shared_access(layout, memory, 32) for layout in (rows, columns)]
    assert [a.conflicts for a in accesses] == [0, 0]
    assert {a.bytes for a in accesses} == {4, 16}  # of two layouts without conflicts the one with fewer instructions
    same = staging(rows, rows, 16)
    assert shared_access(rows, same, 16).vectors.width == 8 and shared_access(rows, same, 16).conflicts == 0
    fragment = fr.mma_c(16, 64) * LinearLayout.identity(4, "warp", "dim0")
    memory = staging(fragment, b.coalesced((64, 64), 16, 4), 16)
    assert shared_access(fragment, memory, 16).conflicts == 0
    assert shared_access(fragment, memory, 16).total == 32 * 2 * 32 // 128  # bytes of a warp over 128 a wavefront


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("columns", [32, 64, 128])
def test_a_tile_for_wide_copies_and_ldmatrix(bits: int, columns: int) -> None:
    """Written in 16-byte pieces along rows, read by ldmatrix: both without conflicts, and a wide chunk stays whole."""
    shape = (64, columns)
    write = b.coalesced(shape, bits, 4)
    memory = swizzle_for(shape, [pattern_of(write), matrix_pattern(shape, bits)], bits)
    assert shared_access(write, memory, bits).conflicts == 0
    assert shared_access(write, memory, bits).bytes == 16
    a = b.fit(fr.mma_a(16, 32 * 8 // bits, bits), shape)
    move = matrix_move(a, memory, bits)
    assert move is not None and move.count == 4 and move.wavefronts == move.ideal == 4


def test_hardware_swizzles_that_fit() -> None:
    """For operands of tensor copies: the widest span, along the axis that is read in pieces."""
    shape = (128, 64)
    assert hardware_swizzle(shape, [matrix_pattern(shape, 16)], 16) == sh.swizzled(shape, 16, 128)
    assert hardware_swizzle(shape, [matrix_pattern(shape, 16, 0)], 16) == sh.swizzled(shape, 16, 128, (0, 1))
    narrow = (64, 16)
    assert hardware_swizzle(narrow, [matrix_pattern(narrow, 16)], 16) == sh.swizzled(narrow, 16, 32)
    accumulators = fr.wgmma_c(64)
    found = hardware_swizzle((64, 64), [pattern_of(accumulators)], 16, [(1, 0)])
    assert shared_access(accumulators, found, 16).conflicts == 0


def test_three_patterns() -> None:
    shape = (32, 32)
    row = Pattern((1, 2), (4, 8, 16, 32, 64))
    column = Pattern((32, 64), (128, 256, 512, 1, 2))
    diagonal = Pattern((33, 66), (4, 8, 16, 128, 256))
    memory = swizzle_for(shape, [row, column, diagonal], 32)
    assert memory.is_bijective()


# --- swizzles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("span", [32, 64, 128])
@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("order", [(1, 0), (0, 1)])
def test_hardware_swizzles(span: int, bits: int, order: tuple[int, int]) -> None:
    """Against the byte formula: chunk bits 4.. of an address are xored with its bits 7.. ."""
    inner = span * 8 // bits
    shape = (16, 2 * inner) if order == (1, 0) else (2 * inner, 16)
    layout = sh.swizzled(shape, bits, span, order)
    inverse = layout.inverse()
    size = bits // 8
    for slow in range(16):
        for fast in range(2 * inner):
            box, column = divmod(fast, inner)
            address = box * 16 * span + slow * span + column * size
            address ^= (address >> 7) % (span // 16) << 4
            place = {f"dim{order[0]}": fast, f"dim{order[1]}": slow}
            assert inverse.apply(place)["offset"] == address // size
    if order == (1, 0):
        assert parse_layout(f"#shared.{span}b.{bits}.16x{2 * inner}") == layout
    with pytest.raises(ValueError, match="do not fill"):
        sh.swizzled((16, inner // 2) if order == (1, 0) else (inner // 2, 16), bits, span, order)


@pytest.mark.parametrize(("vec", "per", "most"), [(8, 1, 8), (8, 2, 4), (4, 4, 2), (1, 1, 16)])
def test_xor_swizzle(vec: int, per: int, most: int) -> None:
    layout = sh.xor_swizzle((32, 64), vec, per, most)
    for row in range(32):
        for column in range(64):
            assert layout.at(offset=row * 64 + column) == (row, column ^ row // per % most * vec)
    turned = sh.xor_swizzle((64, 32), vec, per, most, (0, 1))
    assert b.transpose(turned, (1, 0)) == layout


def test_core_matrices() -> None:
    layout = sh.core_matrices((16, 32), 16)
    for row in range(16):
        for column in range(32):
            at = row // 8 * 256 + column // 8 * 64 + row % 8 * 8 + column % 8
            assert layout.at(offset=at) == (row, column)


def test_swizzled_tiles_read_without_conflicts() -> None:
    """What TMA writes with 128 bytes of swizzle is read by ldmatrix without conflicts; the dense tile is not."""
    for bits in (8, 16, 32):
        columns = 1024 // bits
        a = b.fit(fr.mma_a(16, 256 // bits, bits), (64, columns))
        move = matrix_move(a, sh.swizzled((64, columns), bits, 128), bits)
        assert move is not None and move.wavefronts == move.ideal
        plain = matrix_move(a, sh.linear((64, columns)), bits)
        assert plain is not None and plain.wavefronts == 8 * plain.ideal


# --- global memory ----------------------------------------------------------------------------------------------------


@FEW
@given(accesses(), st.integers(0, 1))
def test_sectors_are_what_the_emulator_counts(case: tuple[LinearLayout, LinearLayout, int], fastest: int) -> None:
    registers, _, bits = case
    places = global_offsets(registers, fastest)
    found = vectors(places, bits)
    size = found.width * bits // 8
    unit = min(size, 4)
    suffix = {1: "", 2: ".v2", 4: ".v4"}[size // unit]
    regs = "{" + ", ".join(f"%v{i}" for i in range(size // unit)) + "}" if size > unit else "%v0"
    kind = f"{'u' if unit == 1 else 'b'}{8 * unit}"
    text = f""".reg .b32 %i, %s, %o; .reg .b64 %p, %q, %a; .reg .b{max(16, 8 * unit)} %v<{size // unit}>;
mov.u32 %i, %tid.x; ld.param.u64 %p, [p0]; ld.param.u64 %q, [p1]; mov.u32 %s, s;
mad.lo.u32 %s, %i, {4 * len(found.groups)}, %s;
mad.wide.u32 %q, %i, {4 * len(found.groups)}, %q;
"""
    for g in range(len(found.groups)):
        text += f"ld.global.u32 %o, [%q+{4 * g}]; st.shared.u32 [%s+{4 * g}], %o;\n"
    starts = byte_offsets(places, bits, found.groups)
    tile = np.zeros(256, RAW[bits])
    module = f".shared .align 16 .b8 s[{starts.nbytes}];"
    before = run_text(text + "ret;", [tile, starts], module=module).counters.global_sectors
    for g in range(len(found.groups)):
        text += f"ld.shared.u32 %o, [%s+{4 * g}]; cvt.u64.u32 %a, %o; add.u64 %a, %a, %p;\n"
        text += f"ld.global{suffix}.{kind} {regs}, [%a];\n"
    report = run_text(text + "ret;", [tile, starts], module=module)
    assert not report.findings, report.findings[0].render()
    touched, least = sectors(places, bits, found.width)
    assert report.counters.global_sectors - before == touched * len(found.groups)
    assert touched >= least


def test_global_vectors_and_sectors() -> None:
    for bits in (8, 16, 32, 64):
        for order in ((1, 0), (0, 1)):
            layout = b.coalesced((128, 128), bits, 4, order)
            places = global_offsets(layout, order[0])
            assert vectors(places, bits).width == 128 // bits
            assert vectors(places, bits, 32 if bits < 32 else bits).width == max(1, 32 // bits)
            assert sectors(places, bits, 128 // bits) == (16, 16)
            across = global_offsets(layout, order[1])
            assert vectors(across, bits).width == 1
    fragment = fr.mma_c(16)
    places = global_offsets(fragment, 1)
    assert vectors(places, 32).width == 2 and sectors(places, 32, 2) == (8, 8)
    assert sectors(global_offsets(fragment, 0), 32, 1)[0] == 4

"""Conversions and reductions, executed lane by lane on random data."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tesseracc.layout import LinearLayout, parse_layout
from tesseracc.layout import build as b
from tesseracc.layout import fragments as fr
from tesseracc.layout.convert import Conversion, Means, convert, locate
from tesseracc.layout.gf2 import combine
from tesseracc.layout.reduce import fold_steps, reduction
from tests.layout.strategies import hold, register_layouts

PLACES = ("register", "lane", "warp")


def shuffled(conversion: Conversion, held: Any, registers: int) -> Any:
    """The rounds, with each lane's offer and each shuffle done as the hardware would."""
    plan = conversion.shuffles
    assert plan is not None
    held = held[:, :, list(conversion.sources)]
    warps, lanes, _ = held.shape
    out = np.full((warps, lanes, registers), -1, held.dtype)
    carried = range(1 << len(plan.packs))
    for w in range(warps):
        for round_ in plan.rounds:
            for pack in carried:
                along = combine([p[0] for p in plan.packs], pack)
                into = combine([p[1] for p in plan.packs], pack)
                offered = [held[w, lane, round_.offer ^ combine(plan.offers, lane) ^ along] for lane in range(lanes)]
                for lane in range(lanes):
                    place = lane | w << 5
                    if combine(plan.guards, place) != round_.guard:
                        continue
                    received = offered[round_.lane ^ combine(plan.lanes, place)]
                    register = round_.target ^ combine(plan.targets, place) ^ into
                    assert out[w, lane, register] == -1, "a register received twice"
                    out[w, lane, register] = received
    return out


def staged(conversion: Conversion, held: Any, source: LinearLayout, target: LinearLayout) -> Any:
    """Through a shared memory, by the vectors of both accesses."""
    plan = conversion.staging
    assert plan is not None
    memory = np.full(1 << plan.memory.in_bits, -1, held.dtype)
    source, target = b.unique_registers(source)[0], b.unique_registers(target)[0]
    held = held[:, :, list(conversion.sources)]
    into, out_of = (plan.memory.solve(layout) for layout in (source, target))
    for w in range(held.shape[0]):
        for lane in range(32):
            for group in plan.store.access.vectors.groups:
                first = into.at(register=group[0], lane=lane, warp=w)[0]
                memory[first : first + len(group)] = held[w, lane, list(group)]
    out = np.zeros((target.in_size("warp"), 32, target.in_size("register")), held.dtype)
    for w in range(out.shape[0]):
        for lane in range(32):
            for group in plan.load.access.vectors.groups:
                first = out_of.at(register=group[0], lane=lane, warp=w)[0]
                out[w, lane, list(group)] = memory[first : first + len(group)]
    return out


def turned(conversion: Conversion, held: Any, registers: int) -> Any:
    """movmatrix of each pair of words: lane t gets row t / 4 of the transpose."""
    plan = conversion.turns
    assert plan is not None
    held = held[:, :, list(conversion.sources)]
    out = np.full((*held.shape[:2], registers), -1, held.dtype)
    for w in range(held.shape[0]):
        for source, target in plan.words:
            matrix = held[w][:, list(source)].reshape(8, 8)
            out[w][:, list(target)] = matrix.T.reshape(32, 2)
    return out


def execute(conversion: Conversion, held: Any, source: LinearLayout, target: LinearLayout) -> Any:
    if conversion.kind in ("none", "registers"):
        got = held
    elif conversion.kind in ("shuffle", "turn"):
        run = shuffled if conversion.kind == "shuffle" else turned
        got = run(conversion, held, b.unique_registers(target)[0].in_size("register"))
    else:
        got = staged(conversion, held, source, target)
    return got[:, :, list(conversion.copies)]


def check(source: LinearLayout, target: LinearLayout, bits: int, movmatrix: bool = False) -> Conversion:
    tile = np.random.default_rng(3).permutation(1 << source.out_bits)
    conversion = convert(source, target, bits, Means(movmatrix=movmatrix))
    assert np.array_equal(execute(conversion, hold(tile, source), source, target), hold(tile, target))
    return conversion


SEEN: Counter[str] = Counter()


@settings(max_examples=60)
@given(st.data(), st.sampled_from([8, 16, 32, 64]), st.booleans(), st.sampled_from(["any", "warp", "thread"]))
def test_random_conversions(data: Any, bits: int, copies: bool, near: str) -> None:
    registers = 4 if copies else 3
    source = data.draw(register_layouts((16, 32), registers, warps=1, copies=copies))
    if near == "any":
        target = data.draw(register_layouts((16, 32), registers, warps=1, copies=copies))
    else:  # other places of the same warp, or thread
        end = registers + (5 if near == "warp" else 0)
        columns = [*data.draw(st.permutations(source.columns[:end])), *source.columns[end:]]
        for _ in range(data.draw(st.integers(0, 3))):
            x, y = data.draw(st.integers(0, end - 1)), data.draw(st.integers(0, end - 1))
            columns[x] ^= columns[y] if x != y else 0
        target = LinearLayout(source.ins, source.outs, columns)
    conversion = check(source, target, bits)
    if near == "thread":
        assert conversion.kind in ("none", "registers")
    SEEN[conversion.kind] += 1
    if conversion.kind == "shared" and not copies:
        assert conversion.staging is not None
        assert conversion.staging.store.conflicts == conversion.staging.load.conflicts == 0


def test_every_kind_of_conversion_occurred() -> None:
    if not SEEN:
        test_random_conversions()
    assert set(SEEN) == {"none", "registers", "shuffle", "shared"}, SEEN


def test_known_conversions() -> None:
    c = parse_layout("#mma.m16n8k16.c")
    assert check(c, c, 32).kind == "none" and check(c, c, 32).cost == 0
    swapped = LinearLayout(c.ins, c.outs, [c.columns[1], c.columns[0], *c.columns[2:]])
    assert check(c, swapped, 32).kind == "registers"
    # The accumulator of a product is the left operand of the next one: only registers move.
    wide = b.fit(fr.mma_c(16, 16), (16, 16))
    chained = check(wide, fr.mma_a(16, 16, 16), 16)
    assert chained.kind == "none" and wide == fr.mma_a(16, 16, 16)
    # For 8-bit operands a lane needs what its neighbours hold: shuffles.
    narrow = check(b.fit(fr.mma_c(16, 32), (16, 32)), fr.mma_a(16, 32, 8), 8)
    assert narrow.kind == "shuffle" and narrow.shuffles is not None
    assert len(narrow.shuffles.rounds) == 4 and len(narrow.shuffles.packs) == 2  # sixteen bytes of each lane
    assert check(fr.wgmma_c(32), fr.wgmma_a(32, 8), 8).kind == "shuffle"
    across = check(fr.wgmma_c(64), b.coalesced((64, 64), 32, 4), 32)
    assert 0 < narrow.cost < across.cost
    assert across.kind == "shared" and across.staging is not None and across.staging.store.conflicts == 0
    # A row of results to every lane that needs it: held several times, found in the own thread.
    rows = b.drop_axis(fr.mma_c(16), 1)
    kept = check(rows, rows, 32)
    assert kept.kind == "none"
    lean, _ = b.unique_registers(rows)
    assert check(lean, rows, 32).kind == "registers"


def test_a_transpose_of_quads_takes_as_few_rounds_as_registers() -> None:
    source = LinearLayout.make({"register": [[1], [2]], "lane": [[4], [8], [16], [32], [64]], "warp": [[128]]})
    target = LinearLayout.make({"register": [[4], [8]], "lane": [[1], [2], [16], [32], [64]], "warp": [[128]]})
    conversion = check(source, target, 32)
    assert conversion.kind == "shuffle" and conversion.shuffles is not None and len(conversion.shuffles.rounds) == 4


@pytest.mark.parametrize("warps", [1, 4])
def test_transposed_accumulators_are_operands(warps: int) -> None:
    """dV = P^T dO: the transpose of what a product left is the left operand of the next, by movmatrix."""
    wider = LinearLayout.identity(warps, "warp", "dim0")
    source = b.transpose(fr.mma_c(16, 32), (1, 0)) * wider
    target = fr.mma_a(16, 16, 16) * LinearLayout.identity(2, "register", "dim0") * wider
    conversion = check(source, target, 16, movmatrix=True)
    assert conversion.kind == "turn" and conversion.turns is not None and len(conversion.turns.words) == 8
    assert check(source, target, 16).kind == "shuffle"
    mixed = LinearLayout(source.ins, source.outs, [source.columns[i] for i in (2, 0, 3, 1, *range(4, 9 + warps // 2))])
    assert check(mixed, target, 16, movmatrix=True).kind == "turn"
    assert check(source, source, 16, movmatrix=True).kind == "none"
    assert check(b.transpose(fr.mma_c(16, 16), (1, 0)), fr.mma_a(16, 16, 32), 32, movmatrix=True).kind == "shuffle"


def test_registers_that_depend_on_the_lane() -> None:
    """All elements are in the own thread, but not in the same register of all lanes: a selection, not a renumbering."""
    source = LinearLayout.make({"register": [[1]], "lane": [[1], [1], [0], [1], [1]], "warp": [[0]]}, [2])
    target = LinearLayout.make({"register": [[0]], "lane": [[1], [0], [1], [1], [1]], "warp": [[1]]}, [2])
    assert check(source, target, 16).kind == "shuffle"


@settings(max_examples=40)
@given(st.data(), st.sampled_from([(1, 2), (4, 4), (2, 64), (16, 16)]), st.integers(0, 2))
def test_small_tiles_that_many_threads_hold(data: Any, shape: tuple[int, int], warps: int) -> None:
    registers = max(1, (shape[0] * shape[1]).bit_length() - 1 - 5)
    source, target = (data.draw(register_layouts(shape, registers, warps, copies=True)) for _ in range(2))
    check(source, target, 32)


def test_blocks_keep_their_elements() -> None:
    """Layouts over a cluster: conversions inside of blocks work, between blocks they are refused."""
    block = LinearLayout.identity(2, "block", "dim0")
    source, target = fr.mma_c(16, 32) * block, fr.mma_a(16, 32, 8) * block
    conversion = convert(source, target, 8)
    assert conversion.kind == "shuffle"
    swapped = [*source.columns[:3], source.columns[-1], *source.columns[4:-1], source.columns[3]]
    rows = LinearLayout(source.ins, source.outs, swapped)
    with pytest.raises(ValueError, match="other blocks"):
        convert(source, rows, 8)


def test_elements_that_are_missing() -> None:
    source = LinearLayout.make({"register": [[1]], "lane": [[0]] * 5, "warp": []}, [4])
    with pytest.raises(ValueError, match="does not hold"):
        locate(source, LinearLayout.make({"register": [[2]], "lane": [[0]] * 5, "warp": []}, [4]))


# --- reductions -------------------------------------------------------------------------------------------------------


def reduced(layout: LinearLayout, axis: int, tile: Any) -> tuple[Any, LinearLayout]:
    """Carries out the plan with sums: [warps, lanes, partial results]."""
    plan = reduction(layout, axis)
    held = hold(tile.reshape(-1), layout)
    partial = np.stack([held[:, :, list(group)].sum(axis=2) for group in plan.groups], axis=2)
    for step in (*plan.lanes, *plan.warps):
        w, lane, r = np.meshgrid(*(np.arange(n) for n in partial.shape), indexing="ij")
        partial = partial + partial[w ^ step.warp, lane ^ step.lane, r ^ step.register]
    return partial, plan.result


@settings(max_examples=60)
@given(st.data(), st.booleans(), st.integers(0, 1), st.booleans())
def test_random_reductions(data: Any, copies: bool, axis: int, unit: bool) -> None:
    if unit:
        columns = [1 << bit for bit in range(9)] + [0]
        ins = (("register", 4), ("lane", 5), ("warp", 1))
        layout = LinearLayout(ins, (("dim0", 4), ("dim1", 5)), data.draw(st.permutations(columns)))
    else:
        layout = data.draw(register_layouts((16, 32), 4, warps=2, copies=copies))
    tile = np.random.default_rng(11).integers(0, 1 << 20, (16, 32))
    partial, result = reduced(layout, axis, tile)
    assert np.array_equal(partial, hold(tile.sum(axis=axis), result))
    assert result.shape == (tile.shape[1 - axis],) and result.is_surjective()


@settings(max_examples=40)
@given(st.data(), st.booleans(), st.integers(0, 1))
def test_folds_have_one_order(data: Any, copies: bool, axis: int) -> None:
    """In f32, bit for bit: halves of the axis, whatever the layout."""
    layout = data.draw(register_layouts((16, 32), 4 if copies else 3, warps=1, copies=copies))
    tile = np.random.default_rng(2).normal(size=(16, 32)).astype(np.float32)
    held = hold(tile.reshape(-1), layout)
    w, lane, r = np.meshgrid(*(np.arange(n) for n in held.shape), indexing="ij")
    for step in fold_steps(layout, axis):
        held = held + held[w ^ step.warp, lane ^ step.lane, r ^ step.register]
    want = np.moveaxis(tile, axis, 0)
    while len(want) > 1:
        want = want[: len(want) // 2] + want[len(want) // 2 :]
    assert np.array_equal(held, hold(want[0], b.drop_axis(layout, axis)))
    with pytest.raises(ValueError, match="does not hold"):
        fold_steps(LinearLayout.make({"register": [[0, 1]]}, (2, 2)), 0)


def test_known_reductions() -> None:
    plan = reduction(fr.wgmma_c(64), 1)
    assert plan.groups == tuple(
        tuple(row * 2 + column % 2 + column // 2 * 4 for column in range(16)) for row in range(2)
    ) and [(s.lane, s.register, s.warp) for s in plan.lanes] == [(1, 0, 0), (2, 0, 0)] and not plan.warps  # fmt: skip
    assert plan.result.at(register=1, lane=4, warp=2) == (41,)
    columns = reduction(fr.wgmma_c(64), 0)
    assert [s.lane for s in columns.lanes] == [4, 8, 16] and [s.warp for s in columns.warps] == [1, 2]
    assert len(columns.groups) == 16 and all(len(group) == 2 for group in columns.groups)
    with pytest.raises(ValueError, match="register, lane and warp"):
        reduction(LinearLayout.make({"lane": [[1, 0]]}), 0)

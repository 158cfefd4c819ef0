"""The algebra of layouts, against their tables of values."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera_runtime.core.errors import TesseraError
from tesseracc.layout import LinearLayout, gf2, parse_layout
from tesseracc.layout import build as b
from tesseracc.layout.names import EXAMPLES, named
from tests.layout.strategies import layouts, register_layouts

FEW = settings(max_examples=30)

vectors = st.lists(st.integers(0, 255), max_size=7)


def span_of(items: list[int]) -> set[int]:
    found = {0}
    for item in items:
        found |= {item ^ x for x in found}
    return found


@FEW
@given(vectors, vectors)
def test_subspaces(left: list[int], right: list[int]) -> None:
    both = span_of(left) & span_of(right)
    common = gf2.intersection(left, right)
    assert span_of(common) == both and 1 << len(common) == len(both)
    assert 1 << gf2.rank(left) == len(span_of(left))
    for combination in gf2.kernel(left):
        assert gf2.combine(left, combination) == 0
    assert len(gf2.kernel(left)) + gf2.rank(left) == len(left)
    missing = gf2.complement(left, 8)
    assert len(span_of(left + missing)) == 256 and len(missing) + gf2.rank(left) == 8
    span = gf2.Span(left)
    for x in (*right, 0, 255):
        found = span.solve(x)
        assert (found is not None) == (x in span_of(left)) == (x in span)
        assert found is None or gf2.combine(left, found) == x
        assert {span.residue(x ^ y) for y in span_of(left)} == {span.residue(x)}


@FEW
@given(layouts(), layouts(ins=("q", "p"), outs=("s", "t"), most=4), layouts(ins=("t", "s"), outs=("z",), most=6))
def test_composition(first: LinearLayout, second: LinearLayout, third: LinearLayout) -> None:
    second = widened(second, first)
    third = widened(third, second)
    both = first.then(second)
    for place in first.places():
        assert both.apply(place) == second.apply(first.apply(place))
    assert first.then(second).then(third) == first.then(second.then(third))


def widened(layout: LinearLayout, inner: LinearLayout) -> LinearLayout:
    """The layout with inputs exactly as large as the outputs of `inner`; added bits go to 0."""
    ins = tuple((name, dict(inner.outs)[name]) for name, _ in layout.ins)
    columns = []
    for name, bits in ins:
        old = layout.bases(name)
        columns += [old[bit] if bit < len(old) else 0 for bit in range(bits)]
    return LinearLayout(ins, layout.outs, columns)


@FEW
@given(layouts())
def test_tables_and_linearity(layout: LinearLayout) -> None:
    table = layout.table()
    flats = [layout.flat(i) for i in range(1 << layout.in_bits)]
    assert table.tolist() == flats
    for index, place in enumerate(layout.places()):
        assert layout.coordinate(flats[index]) == layout.at(**place)
        assert flats[index ^ 1 if layout.in_bits else 0] == flats[index] ^ (layout.columns[0] if layout.in_bits else 0)
    values = {name: np.array([p[name] for p in layout.places()]) for name, _ in layout.ins}
    out = layout.apply(values)
    for name, _ in layout.outs:
        assert np.array_equal(np.broadcast_to(out[name], table.shape), [layout.apply(p)[name] for p in layout.places()])
    image = set(flats)
    assert layout.is_surjective() == (len(image) == 1 << layout.out_bits)
    assert layout.is_injective() == (len(image) == len(flats))
    assert layout.is_bijective() == (layout.is_surjective() and layout.is_injective())
    assert 1 << layout.rank == len(image)


@FEW
@given(layouts())
def test_inverses(layout: LinearLayout) -> None:
    inverse = layout.pseudo_inverse()
    assert layout.then(inverse).then(layout) == layout
    if layout.is_surjective():
        assert layout.right_inverse().then(layout).is_identity()
    else:
        with pytest.raises(ValueError, match="surjective"):
            layout.right_inverse()
    if layout.is_injective():
        assert layout.then(layout.left_inverse()).is_identity()
    if layout.is_bijective():
        assert layout.inverse().inverse() == layout
        assert all(layout.flat(layout.inverse().flat(x)) == x for x in range(1 << layout.out_bits))
    else:
        with pytest.raises(ValueError, match="bijective"):
            layout.inverse()


@FEW
@given(layouts(), st.randoms(use_true_random=False))
def test_solve(layout: LinearLayout, random: Any) -> None:
    columns = [layout.flat(random.randrange(1 << layout.in_bits)) for _ in range(4)]
    target = LinearLayout((("u", 4),), layout.outs, columns)
    assert layout.solve(target).then(layout) == target
    if not layout.is_surjective():
        outside = next(x for x in range(1 << layout.out_bits) if x not in set(layout.table().tolist()))
        with pytest.raises(ValueError, match="has no place"):
            layout.solve(LinearLayout((("u", 1),), layout.outs, [outside]))


@FEW
@given(layouts(most=3), layouts(ins=("y", "z"), outs=("q", "r"), most=3))
def test_product(left: LinearLayout, right: LinearLayout) -> None:
    both = left * right
    for i in range(1 << left.in_bits):
        x = dict(zip((n for n, _ in left.ins), list(left.places())[i].values()))
        for y in right.places():
            place = {name: x.get(name, 0) + (y.get(name, 0) << dict(left.ins).get(name, 0)) for name, _ in both.ins}
            low, high = left.apply(x), right.apply(y)
            want = {n: low.get(n, 0) + (high.get(n, 0) << dict(left.outs).get(n, 0)) for n, _ in both.outs}
            assert both.apply(place) == want
    assert both.divide(left) is not None
    assert left * both.divide(left) == both
    assert LinearLayout.empty() * left == left == left * LinearLayout.empty()


def test_divide_refuses() -> None:
    layout = LinearLayout.make({"x": [[2], [1]]})
    assert layout.divide(LinearLayout.identity(2, "x", "dim0")) is None
    assert layout.divide(LinearLayout.identity(2, "y", "dim0")) is None
    assert layout.divide(LinearLayout.identity(8, "x", "dim0")) is None


@FEW
@given(layouts(ins=("x",), outs=("p",)), layouts(ins=("y",), outs=("p",)))
def test_concatenation(left: LinearLayout, right: LinearLayout) -> None:
    width = max(left.out_bits, right.out_bits)
    left, right = (LinearLayout(x.ins, (("p", width),), x.columns) for x in (left, right))
    both = left.concat_ins(right)
    for x in left.places():
        for y in right.places():
            assert both.at(**x, **y)[0] == left.at(**x)[0] ^ right.at(**y)[0]
    same = LinearLayout(left.ins, (("r", width),), left.columns[::-1])
    assert left.concat_outs(same).at(x=1 if left.in_bits else 0) == (
        *left.at(x=1 if left.in_bits else 0), *same.at(x=1 if left.in_bits else 0))  # fmt: skip
    if left.in_bits != right.in_bits:
        with pytest.raises(ValueError, match="differ"):
            left.concat_outs(right.rename(ins={"y": "x"}))


@FEW
@given(layouts(ins=("register", "lane", "warp"), outs=("dim0", "dim1")))
def test_text_round_trip(layout: LinearLayout) -> None:
    text = str(layout)
    assert parse_layout(text) == layout and str(layout) == text
    assert str(parse_layout(text.replace(", ", " ,  "))) == text
    other = layout.rename(ins={"lane": "offset"}, outs={"dim0": "row", "dim1": "column"})
    assert parse_layout(str(other)) == other
    assert pickle.loads(pickle.dumps(layout)) == layout and hash(parse_layout(text)) == hash(layout)


def test_names_and_text() -> None:
    for name in EXAMPLES:
        layout = parse_layout("#" + name)
        assert named(name) == layout == parse_layout(str(layout))
    small = "#layout<register=[[0,1]], lane=[[0,2],[0,4],[1,0],[2,0],[4,0]], warp=[]>"
    assert str(parse_layout("#mma.m8n8k4.c")) == small
    assert parse_layout("#layout<register=[[0,1],[8,0]]>").shape == (16, 2)
    assert str(LinearLayout.make({"offset": []}, [1, 4])) == "#layout<offset=[] -> [1, 4]>"


WRONG = [
    "", "#mma", "#mma.m17n8k16.c", "#mma.m16n8k16.a", "#mma.m16n8k2.a16", "#wgmma.m64n257.c", "#wgmma.m64k16.a8",
    "#ldmatrix.x3", "#tcgen05.64x.x1", "#shared.16b.16.8x8", "#shared.128b.16.8x7", "#layout<", "#layout<>x",
    "#layout<register=[[0,1],[1]]>", "#layout<register=[0]>", "#layout<register=[[0]], register=[]>",
    "#layout<register=[[-1]]>", "#layout<register=[[4]] -> [4]>", "#layout<register=[[1]] -> [3]>",
    "#layout<register=[[1]] -> (a=2, a=2)>", "#layout<register=[[1]] -> [2] extra>", "#layout<1=[[1]]>",
    "#layout<lane=[[99999999999999999999]]>", "#layout<lane=[[281474976710656,281474976710656]]>",
]  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_wrong_text(text: str) -> None:
    with pytest.raises(TesseraError) as caught:
        parse_layout(text)
    assert caught.value.code == "E403" and caught.value.exit_code == 3


def test_layouts_do_not_change() -> None:
    layout = LinearLayout.identity(4, "x", "p")
    with pytest.raises(AttributeError):
        layout.columns = ()  # type: ignore[misc]
    with pytest.raises(ValueError, match="outside"):
        layout.apply({"x": 4})
    with pytest.raises(ValueError, match="no input"):
        layout.apply({"y": 0})
    with pytest.raises(ValueError, match="not a power of two"):
        LinearLayout.identity(3, "x", "p")
    with pytest.raises(ValueError, match="repeat a name"):
        LinearLayout((("x", 1), ("x", 1)), (("p", 1),), (0, 1))
    with pytest.raises(ValueError, match="do not map"):
        LinearLayout((("x", 1),), (("p", 1),), (2,))


@FEW
@given(register_layouts((16, 32), 4, warps=2, copies=True))
def test_free_variables_and_unique_registers(layout: LinearLayout) -> None:
    free = layout.free_variables()
    kept = [p for p in layout.places() if all(not p[name] & mask for name, mask in free.items())]
    assert len({layout.at(**p) for p in kept}) == len(kept) == 512
    lean, old = b.unique_registers(layout)
    assert lean.sublayout(["register"]).is_injective()
    for new, number in enumerate(old):
        assert lean.at(register=new, lane=5, warp=1) == layout.at(register=number, lane=5, warp=1)
    every = set(layout.sublayout(["register"]).table().tolist())
    assert every == set(lean.sublayout(["register"]).table().tolist())


def test_blocked_layouts() -> None:
    layout = b.blocked((16, 64), (1, 4), (4, 8), (2, 1))
    assert layout.at(register=3) == (0, 3) and layout.at(lane=1) == (0, 4) and layout.at(lane=8) == (1, 0)
    assert layout.at(warp=1) == (4, 0) and layout.at(register=4) == (0, 32) and layout.at(register=8) == (8, 0)
    assert layout.is_bijective()
    column_major = b.blocked((16, 64), (4, 1), (4, 8), (1, 2), order=(0, 1))
    assert column_major.at(register=1) == (1, 0) and column_major.at(lane=1) == (4, 0)
    small = b.blocked((2, 8), (1, 4), (4, 8), (2, 1))
    assert small.shape == (2, 8) and small.is_surjective() and small.at(lane=16) == (0, 0)


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize("shape", [(64, 64), (128, 32), (1, 256), (8, 8), (256, 1), (2, 4)])
@pytest.mark.parametrize("order", [(1, 0), (0, 1)])
def test_coalesced_layouts(shape: tuple[int, int], bits: int, order: tuple[int, int]) -> None:
    layout = b.coalesced(shape, bits, 4, order)
    assert layout.is_surjective() and layout.shape == shape
    assert layout.in_size("lane") == 32 and layout.in_size("warp") == 4
    assert layout.in_size("register") == max(1, shape[0] * shape[1] // 128)
    pitch = shape[1] if order == (1, 0) else shape[0]
    steps = layout.vectors("register")
    if pitch * bits >= 128 and shape[0] * shape[1] * bits >= 128 * 128:  # every thread has a whole vector
        for bit in range((128 // bits).bit_length() - 1):
            assert steps[bit][order[0]] == 1 << bit


@settings(max_examples=8)
@given(register_layouts((8, 32), 3, warps=0))
def test_shape_operations(layout: LinearLayout) -> None:
    tile = np.arange(256).reshape(8, 32)
    places = list(layout.places())

    def same(moved: LinearLayout, array: Any) -> None:
        assert moved.shape == array.shape
        for p in places:
            assert array[moved.at(**p)] == tile[layout.at(**p)]

    same(b.transpose(layout, (1, 0)), tile.T)
    same(b.reshape(layout, (4, 2, 2, 16)), tile.reshape(4, 2, 2, 16))
    same(b.add_axis(layout, 1), tile[:, None, :])
    same(b.add_axis(layout, 2), tile[:, :, None])
    wide = b.broadcast(b.add_axis(layout, 1), 1, 4)
    assert wide.shape == (8, 4, 32)
    assert all(wide.at(register=p["register"] + 16, lane=p["lane"])[1] == 2 for p in places)
    with pytest.raises(ValueError, match="not 1"):
        b.broadcast(layout, 1, 4)
    dropped = b.drop_axis(layout, 1)
    assert all(dropped.at(**p) == layout.at(**p)[:1] for p in places)
    joined = b.join(layout)
    for p in places:
        for half in range(2):
            assert joined.at(register=p["register"] * 2 + half, lane=p["lane"]) == (*layout.at(**p), half)
    assert b.split(joined) == (layout, 0)
    with pytest.raises(ValueError, match="last axis"):
        b.split(layout)


def test_split_needs_a_register() -> None:
    layout = LinearLayout.make({"register": [[1, 0]], "lane": [[0, 1]]})
    with pytest.raises(ValueError, match="not one bit of the register"):
        b.split(layout)
    held = b.replicated((4, 2), 2)
    assert b.split(held) == (b.replicated((4,), 2), 0)
    assert held.in_size("register") == 8 and held.at(lane=31, warp=1) == (0, 0)


@FEW
@given(layouts(), st.integers(0, 7))
def test_renaming_and_cutting(layout: LinearLayout, at: int) -> None:
    swapped = layout.transpose_outs(("q", "p"))
    assert all(swapped.apply(p) == layout.apply(p) for p in layout.places())
    one = layout.reshape_ins({"all": 1 << layout.in_bits}).reshape_outs({"flat": 1 << layout.out_bits})
    assert one.columns == layout.columns
    cut = min(at, layout.in_bits)
    again = one.reshape_ins({"a": 1 << cut, "b": 1 << layout.in_bits - cut})
    assert again.table().tolist() == layout.table().tolist()
    part = layout.sublayout(["y"], ["q"])
    for y in range(1 << dict(layout.ins)["y"]):
        assert part.at(y=y)[0] == layout.apply({"y": y})["q"]
    with pytest.raises(ValueError, match="no order"):
        layout.transpose_outs(("q",))
    with pytest.raises(ValueError, match="elements"):
        layout.reshape_outs([1 << layout.out_bits + 1])

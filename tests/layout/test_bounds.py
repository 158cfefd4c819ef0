"""Lower bounds of accesses and conversions: nothing is below them, and searches that end at them find the minimum."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tesseracc.layout import exchange, swizzle
from tesseracc.layout.build import blocked
from tesseracc.layout.convert import Means, convert, least_cost
from tesseracc.layout.exchange import least_slots, room
from tests.layout.strategies import register_layouts

MEANS = Means(movmatrix=True, stmatrix=True, ldmatrix=True)


@st.composite
def pairs(draw: Any) -> Any:
    """Two layouts of one tile over two warps, the first maybe with copies; bits of an element."""
    bits = draw(st.sampled_from([8, 16, 32]))
    source = draw(register_layouts((16, 32), 4, copies=True))
    return source, draw(register_layouts((16, 32), 3)), bits


@settings(max_examples=30)
@given(pairs())
def test_no_way_costs_less_than_its_bound(drawn: Any) -> None:
    source, target, bits = drawn
    _, store, load = room(source, target, bits, True, True)
    assert store.slots >= least_slots(source, bits)
    assert load.slots >= least_slots(target, bits)
    assert convert(source, target, bits, MEANS).cost >= least_cost(source, target, bits, MEANS)


@settings(max_examples=10)
@given(pairs())
def test_the_first_at_the_bound_is_the_first_of_all_that_are_least(drawn: Any) -> None:
    """Without bounds every candidate is looked at: the same one is found."""
    room.cache_clear()
    found = room(*drawn, True, True)
    real = swizzle.first_least

    def thorough(items: Any, cost: Any, bound: Any) -> Any:
        candidates = list(items)
        assert all(cost(item) >= bound for item in candidates)
        return min(candidates, key=cost)

    exchange.first_least = swizzle.first_least = thorough
    try:
        room.cache_clear()
        assert room(*drawn, True, True) == found
    finally:
        exchange.first_least = swizzle.first_least = real
        room.cache_clear()


def test_a_conversion_inside_of_a_warp_has_no_bound() -> None:
    layout = blocked((16, 16), (1, 2), (4, 8), (2, 1), (1, 0))
    assert least_cost(layout, layout, 16, MEANS) == 0

"""Words made of elements are used where they were made: one region does not see what another has computed."""

from tesseracc.ir.builder import Numbering
from tesseracc.layout.linear import LinearLayout
from tesseracc.passes.target.gpu_spread import Spread


def test_words_belong_to_the_region_that_made_them() -> None:
    outer = Numbering()
    first, second = Numbering(outer=outer), Numbering(outer=outer)
    elements = [outer.const(float(i), "f16") for i in range(4)]
    layout = LinearLayout.identity(4, "register", "column")
    tile = Spread(layout, (4,), "f16", elements=elements)
    made = tile.as_words(first)
    assert tile.as_words(first) == made == tile.as_words(Numbering(outer=first))
    again = tile.as_words(second)
    results = {value for op in second.ops for value in op.results}
    assert len(again) == len(made) == 2 and results.issuperset(again)
    assert tile.as_elements(second) is elements

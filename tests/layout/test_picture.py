"""Pictures of layouts say what the layouts say."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings

from tesseracc.layout import LinearLayout, parse_layout
from tesseracc.layout.names import EXAMPLES
from tesseracc.layout.picture import picture
from tests.cli.run import Runner
from tests.layout.strategies import layouts

COPIES = """\
#layout<register=[[0,1]], lane=[[1,0],[0,0]] -> [4, 2]>
2 registers x 4 lanes -> 4 x 2: every element 2 times, 4 of 8 elements

       0      1
0  0:0+1  0:1+1
1  1:0+1  1:1+1
2      .      .
3      .      .

cell = lane:register
"""


def test_a_small_picture() -> None:
    assert picture(parse_layout("#layout<register=[[0,1]], lane=[[1,0],[0,0]] -> [4, 2]>")) == COPIES
    cube = picture(LinearLayout.make({"register": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}))
    assert "[0, :, :]\n   0  1\n0  0  4\n1  2  6\n" in cube and "[1, :, :]\n   0  1\n0  1  5\n1  3  7\n" in cube
    assert "too large" in picture(LinearLayout.identity(1 << 18, "offset", "dim0"))
    assert "one place -> one element" in picture(LinearLayout.empty())


def test_pictures_of_names() -> None:
    for name in EXAMPLES:
        text = picture(parse_layout("#" + name))
        assert all(len(line) <= 400 for line in text.splitlines()) and text.endswith("\n")
    lines = picture(parse_layout("#mma.m16n8k16.c")).splitlines()
    assert lines[-1] == "cell = lane:register" and lines[4].split()[:5] == ["0", "0:0", "0:1", "1:0", "1:1"]
    wide = picture(parse_layout("#wgmma.m64n256.c")).splitlines()
    assert wide[-1] == "cell = warp:lane:register" and max(map(len, wide[3:])) <= 160
    assert sum(line.startswith("63 ") for line in wide) > 1  # drawn in strips


@settings(max_examples=30)
@given(layouts(ins=("register", "lane"), outs=("dim0", "dim1"), most=3))
def test_every_cell(layout: LinearLayout) -> None:
    lines = picture(layout).splitlines()[4:-2]
    table = layout.table().tolist()
    names = [name for name in ("lane", "register") if dict(layout.ins)[name]] or ["register"]
    for row, line in enumerate(lines):
        for column, cell in enumerate(line.split()[1:]):
            flat = row * layout.shape[1] + column
            holders = [place for value, place in zip(table, layout.places()) if value == flat]
            if not holders:
                assert cell == "."
                continue
            place, _, more = cell.partition("+")
            assert int(more or 0) == len(holders) - 1
            assert layout.flat(0) == 0 and dict(zip(names, map(int, place.split(":")))) in [
                {name: holder[name] for name in names} for holder in holders
            ]


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    tesseracc = Runner(capsys)
    said = tesseracc("inspect", "--layout", "#layout<register=[[0,1]], lane=[[1,0],[0,0]] -> [4, 2]>")
    assert (said.code, said.out) == (0, COPIES)
    named = tesseracc("inspect", "--layout", "mma.m16n8k16.c")
    assert named.code == 0 and named.out == tesseracc("inspect", "--layout", "#mma.m16n8k16.c").out
    sizes = json.loads(tesseracc("inspect", "--layout", "shared.128b.16.64x64", "--json").out)
    assert sizes["in"] == {"offset": 4096} and sizes["out"] == {"dim0": 64, "dim1": 64}
    assert parse_layout(sizes["layout"]) == parse_layout("#shared.128b.16.64x64")
    wrong = tesseracc("inspect", "--layout", "mma.m16n8k16.q")
    assert wrong.code == 3 and "E403" in wrong.err
    for arguments in ((), ("--layout", "mma.m16n8k16.c", "m.tsb"), ("--layout", "mma.m16n8k16.c", "--html", "x.html")):
        assert "E801" in tesseracc("inspect", *arguments).err

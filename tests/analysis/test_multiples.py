"""What divides sizes and indices: against all small sizes that the facts allow."""

from __future__ import annotations

import pytest

from tessera.shapes import parse_dim, substitute
from tesseracc.analysis.multiples import ALL, Multiples, is_ragged, of_size, times
from tesseracc.ir.parser import parse_module

SIZES = ["D", "3*D", "4*D", "D*E + 8", "2*D*E + 4*D", "D + E", "16*(D//16)", "6*D + 12", "5", "0"]
FACTS = [(), (("D", 8),), (("D", 8), ("E", 2)), (("3*D", 4),)]


@pytest.mark.parametrize("facts", FACTS, ids=str)
@pytest.mark.parametrize("text", SIZES)
def test_what_divides_a_size(text: str, facts: tuple[tuple[str, int], ...]) -> None:
    known = [(parse_dim(dim), number) for dim, number in facts]
    size = parse_dim(text)
    found = of_size(size, known)
    for d in range(1, 49):
        for e in range(1, 9):
            env = {"D": d, "E": e}
            if all(substitute(dim, env) % number == 0 for dim, number in known):
                assert substitute(size, env) % found == 0
    assert found & (found - 1) == 0
    if text == "4*D":
        assert found == (32 if ("D", 8) in facts else 4)


def test_multiples_of_a_size() -> None:
    assert times(parse_dim("4*D"), parse_dim("2*D")) == 2
    assert times(parse_dim("4*D + 2*E"), parse_dim("2*D + E")) == 2
    assert times(parse_dim("4*D + E"), parse_dim("2*D + E")) is None
    assert times(12, 4) == 3 and times(12, 8) is None and times(parse_dim("D"), 1) is None
    assert is_ragged(parse_dim("3*D"), 8, (parse_dim("D"), 8))
    assert not is_ragged(parse_dim("4*D"), 8, (parse_dim("D"), 8))
    assert not is_ragged(parse_dim("D"), 4, (parse_dim("D"), 8))


KERNEL = """
tile.kernel @k(%out: buf<i64[8], global>) {access = ["write"], grid = [4], group = 32, symbols = ["D"],
    multiples = [[<D>, 8]]} {
  %d = tile.dim {expr = <3*D>} : i64
  %g = tile.group_id {axis = 0} : i64
  %c = arith.constant {value = 48} : i64
  %zero = arith.constant {value = 0} : i64
  %start = arith.mul %g, %c : i64
  %left = arith.sub %d, %start : i64
  scf.for %zero, %d, %c, [] (%i: i64) {
    %place = arith.add %i, %left : i64
    tile.store %place, %out, [%zero]
  }
}
"""


def test_what_divides_the_indices_of_a_kernel() -> None:
    kernel = parse_module(KERNEL.replace(",\n    multiples", ", multiples")).funcs[0]
    known = Multiples(kernel)
    values = [v for op in kernel.walk() for v in (*op.results, *(arg for r in op.regions for arg in r.args))]
    by_name = {value.name: known.of(value) for value in values}
    assert by_name == {"d": 8, "g": 1, "c": 16, "zero": ALL, "start": 16, "left": 8, "i": 16, "place": 8}

"""The promotion rules of specs/language.md, over all pairs of element types, against a second statement of them."""

import itertools
import re
from pathlib import Path

import pytest

import tessera as ts
from tessera.dtypes import DTYPES, DType, promote

SPEC = (Path(__file__).parents[2] / "specs" / "language.md").read_text()
# name -> (class, width): what a type is, apart from how the language describes it
FLOATS = {"f64": 64, "f32": 32, "f16": 16, "bf16": 16, "fp8_e4m3": 8, "fp8_e5m2": 8, "fp8_e8m0": 8, "fp6_e2m3": 6,
          "fp6_e3m2": 6, "fp4_e2m1": 4}
SIGNED, UNSIGNED = ({f"{kind}{bits}": bits for bits in (4, 8, 16, 32, 64)} for kind in "iu")


def expected(a: str, b: str) -> str:
    """By sets of values for ints, by width for floats."""
    if a == b:
        return a
    if "bool" in (a, b):
        return a if b == "bool" else b
    if a in FLOATS and b in FLOATS:
        widest = max((a, b), key=FLOATS.__getitem__)
        return "f32" if FLOATS[a] == FLOATS[b] or widest == "fp8_e8m0" else widest
    if a in FLOATS or b in FLOATS:
        return a if a in FLOATS else b

    def span(name: str) -> tuple[int, int]:
        bits = int(name[1:])
        return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if name in SIGNED else (0, 2**bits - 1)

    low, high = min(span(a)[0], span(b)[0]), max(span(a)[1], span(b)[1])
    same = SIGNED if a in SIGNED and b in SIGNED else UNSIGNED if a in UNSIGNED and b in UNSIGNED else SIGNED
    holding = [name for name in same if span(name)[0] <= low and span(name)[1] >= high]
    return holding[0] if holding else "i64"


def test_the_types_are_all_there() -> None:
    assert {*FLOATS, *SIGNED, *UNSIGNED, "bool"} == set(DTYPES)


@pytest.mark.parametrize("a", sorted(DTYPES))
def test_every_pair(a: str) -> None:
    for b in DTYPES:
        assert promote(DType(a), DType(b)).name == expected(a, b), b
        assert promote(DType(a) @ ts.stochastic_round, DType(b)).name == expected(a, b)


@pytest.mark.parametrize("a", sorted(DTYPES))
def test_operators_give_the_promoted_type(a: str) -> None:
    """Eagerly, where the arrays decide, and not only in what `promote` says."""
    x = ts.ones(2, dtype=a)
    for b in DTYPES:
        y = ts.ones(2, dtype=b)
        assert ts.where(ts.tensor([True, False]), x, y).dtype.name == expected(a, b)
        if "bool" not in (a, b):
            assert (x * y).dtype.name == expected(a, b)
            assert (x == y).tolist() == [True, True]


def test_three_types_promote_in_any_order_but_where_the_specification_says() -> None:
    """Two floats of one width give f32, so the order of three can matter only among floats."""
    names = [name for name in DTYPES if name not in FLOATS]
    for triple in itertools.combinations(names, 3):
        found = {promote(*map(DType, order)).name for order in itertools.permutations(triple)}
        assert len(found) == 1 or "u64" in triple, triple


def test_the_table_of_the_specification() -> None:
    """Each row of the table is true of all pairs that it speaks of, in its order: the first that fits decides."""
    section = SPEC[SPEC.index("## Promotion") : SPEC.index("## Sizes")]
    rows = [tuple(cell.strip() for cell in row) for row in re.findall(r"^\| (.+?) \| (.+?) \|$", section, re.M)][1:]
    width = {**FLOATS, **SIGNED, **UNSIGNED, "bool": 1}
    fits = {
        "the same": lambda a, b: a == b,
        "bool with another": lambda a, b: "bool" in (a, b),
        "an int with a float": lambda a, b: (a in FLOATS) != (b in FLOATS),
        "fp8_e8m0 with a float of 8 bits or fewer": lambda a, b: (
            "fp8_e8m0" in (a, b) and a in FLOATS and b in FLOATS and max(width[a], width[b]) == 8),
        "two floats of different width": lambda a, b: a in FLOATS and b in FLOATS and width[a] != width[b],
        "two different floats of one width": lambda a, b: a in FLOATS and b in FLOATS,
        "two ints of one signedness": lambda a, b: (a in SIGNED) == (b in SIGNED),
        "signed and unsigned": lambda a, b: True,
    }
    gives = {
        "that type": lambda a, b: a, "the other": lambda a, b: a if b == "bool" else b,
        "the float": lambda a, b: a if a in FLOATS else b, "the wider": lambda a, b: max(a, b, key=width.__getitem__),
        "f32": lambda a, b: "f32",
        "the signed type that holds both, i64 at most": lambda a, b: next(
            (s for s in SIGNED if SIGNED[s] > max(width[n] for n in (a, b) if n in UNSIGNED)
             and SIGNED[s] >= max(width[n] for n in (a, b) if n in SIGNED)), "i64"),
    }  # fmt: skip
    assert [operands for operands, _ in rows] == list(fits)
    for a, b in itertools.product(DTYPES, repeat=2):
        result = next(result for operands, result in rows if fits[operands](a, b))
        assert gives[result](a, b) == promote(DType(a), DType(b)).name, (a, b)


def test_python_numbers_are_weak() -> None:
    for name in DTYPES:
        x, some = ts.ones(2, dtype=name), ts.tensor([True, False])
        assert ts.where(some, x, True).dtype.name == name
        assert ts.where(some, x, 1).dtype.name == ("i64" if name == "bool" else name)
        assert ts.where(some, x, 0.5).dtype.name == (name if name in FLOATS else "f32")
    with pytest.raises(ts.SourceError) as caught:
        ts.ones(2, dtype=ts.i4) + 8
    assert caught.value.code == "E303"

"""Uses and dead code in nested regions, against their definitions over all operations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tesseracc.ir.builder import Builder
from tesseracc.ir.rewrite import remove_dead, uses
from tesseracc.ir.types import I64
from tesseracc.ir.value import Func, Op, Region, Value


def program(rng: np.random.Generator, b: Builder, known: list[Value], depth: int) -> list[Value]:
    """Random arithmetic in loops in loops; some results are used by later operations or loops, most by none."""
    for _ in range(int(rng.integers(3, 8))):
        if depth and rng.random() < 0.4:
            low, high = rng.choice(len(known), 2)

            def body(
                inner: Builder, index: Value, sums: Sequence[Value], around: tuple[Value, ...] = tuple(known)
            ) -> list[Value]:
                made = program(rng, inner, [*around, index, *sums], depth - 1)
                return [made[-1]]

            known = [*known, *b.for_(known[low], known[high], b.const(1), [known[0]], body)]
        else:
            left, right = rng.choice(len(known), 2)
            known = [*known, b.op("arith.add", known[left], known[right])]
    return known


def everything(region: Region) -> list[Op]:
    return [found for op in region.ops for found in (op, *(o for r in op.regions for o in everything(r)))]


def used_in(region: Region) -> Counter[Value]:
    ops = everything(region)
    regions = [region, *(r for op in ops for r in op.regions)]
    return Counter([v for op in ops for v in op.operands] + [v for r in regions for v in r.yields])


def test_nothing_dead_stays_and_nothing_alive_goes() -> None:
    rng = np.random.default_rng(11)
    sizes = []
    for _ in range(30):
        b = Builder()
        params = [Value(I64), Value(I64)]
        values = program(rng, b, params, 3)
        region = b.region(params, [values[-1]])
        assert uses(region) == used_in(region)
        left = remove_dead(region)
        counts = used_in(left)
        assert all(any(counts[result] for result in op.results) for op in everything(left))
        # one operation at a time, until none is dead: the slow way to the same
        slow = region
        while dead := {result for op in everything(slow) for result in op.results} - used_in(slow).keys():
            slow = without(slow, dead)
        assert [op.results for op in everything(left)] == [op.results for op in everything(slow)]
        assert left.yields == region.yields and Func("target.func", "f", left, {}).params == tuple(params)
        sizes.append((len(everything(left)), len(everything(region))))
    assert any(few < many for few, many in sizes) and any(few > 3 for few, _ in sizes)


def without(region: Region, dead: set[Value]) -> Region:
    ops = [op for op in region.ops if not op.results or not dead.issuperset(op.results)]
    kept = [replace(op, regions=tuple(without(r, dead) for r in op.regions)) for op in ops]
    return Region(region.args, tuple(kept), region.yields)

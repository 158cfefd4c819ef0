"""`scf`: structured control flow with uniform conditions, shared by the Schedule, Tile and Target levels."""

from __future__ import annotations

from tesseracc.ir.define import define
from tesseracc.ir.types import BOOL
from tesseracc.ir.value import Op


def carried(op: Op, inits: tuple[object, ...], region: int, skip: int) -> str | None:
    """A loop's carried values keep their types: initial value = region argument = yield = result."""
    body = op.regions[region]
    types = [r.type for r in op.results]
    if [v.type for v in op.group("inits")] != types:
        return "initial values and results differ in type"
    if [a.type for a in body.args[skip:]] != types:
        return "region arguments and results differ in type"
    if [v.type for v in body.yields] != types:
        return "yielded values and results differ in type"
    return None


def _check_for(op: Op) -> str | None:
    bounds = {v.type for v in op.operands[:3]}
    if len(bounds) != 1 or op.regions[0].args[:1] == () or op.regions[0].args[0].type not in bounds:
        return "bounds, step and index must have one integer type"
    return carried(op, (), 0, 1)


def check_if(op: Op) -> str | None:
    types = [r.type for r in op.results]
    for region in op.regions:
        if region.args:
            return "branches take no arguments"
        if [v.type for v in region.yields] != types:
            return "both branches must yield the result types"
    return None


def _check_uniform_if(op: Op) -> str | None:
    return "the condition must be a bool" if op["cond"].type != BOOL else check_if(op)


def _check_while(op: Op) -> str | None:
    types = [r.type for r in op.results]
    cond = op.regions[0]
    if [a.type for a in cond.args] != types or [v.type for v in cond.yields] != [BOOL]:
        return "the first region takes the carried values and yields one bool"
    return carried(op, (), 1, 0)


define(
    "scf.for",
    "lo hi step inits*",
    regions=1,
    effect="nest",
    verify=_check_for,
    doc="for i in lo, lo+step, .. below hi (step > 0): region(i, carried) yields the next carried values.",
)
define("scf.if", "cond", regions=2, effect="nest", verify=_check_uniform_if, doc="Then-region or else-region.")
define(
    "scf.while",
    "inits*",
    regions=2,
    effect="nest",
    verify=_check_while,
    doc="While region 0 (carried) yields true: carried = region 1 (carried).",
)

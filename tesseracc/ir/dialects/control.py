"""Control flow that data decides, the same at the Graph and the Schedule level: `cond`, `while`, `scan`.

Their regions are closed: they see nothing but their arguments, so that every pass runs on them as on functions. What a
region uses from outside is an operand (`consts`). At the Tile level a program branches and loops over its steps:
`tile.branch`, `tile.repeat`, `tile.loop`, with buffers in place of values.
"""

from __future__ import annotations

from collections.abc import Sequence

from tessera.shapes import Dim
from tesseracc.ir.define import define
from tesseracc.ir.rewrite import captured
from tesseracc.ir.types import BufType, TensorType, Type
from tesseracc.ir.value import Op, Region, Value


def _closed(op: Op) -> str | None:
    return "a region uses a value of the outside" if any(captured(r) for r in op.regions) else None


def _types(values: Sequence[Value]) -> list[Type]:
    return [v.type for v in values]


def _is_flag(value: Value) -> bool:
    return isinstance(value.type, TensorType | BufType) and value.type.dims == () and value.type.dtype == "bool"


def _takes(region: Region, expected: Sequence[Type], what: str) -> str | None:
    return None if _types(region.args) == list(expected) else f"the arguments of {what} differ from the operands"


def _check_cond(op: Op) -> str | None:
    if not _is_flag(op["pred"]):
        return "the condition must be tensor<bool[]>"
    for region in op.regions:
        if _types(region.yields) != _types(op.results):
            return "both branches must yield the result types"
    inputs = _types(op.group("inputs"))
    return _closed(op) or _takes(op.regions[0], inputs, "a branch") or _takes(op.regions[1], inputs, "a branch")


def _check_while(op: Op) -> str | None:
    state = _types(op.group("carried"))
    test, body = op.regions
    if len(test.yields) != 1 or not _is_flag(test.yields[0]):
        return "the first region must yield tensor<bool[]>"
    if _types(op.results) != state or _types(body.yields) != state:
        return "carried values must keep their types"
    given = _types(op.operands)
    return _closed(op) or _takes(test, given, "the test") or _takes(body, given, "the body")


def _row(type_: Type, length: Dim) -> Type | None:
    if not isinstance(type_, TensorType) or not type_.dims or type_.dims[0] != length:
        return None
    return TensorType(type_.dims[1:], type_.dtype)


def _check_scan(op: Op) -> str | None:
    state, length = _types(op.group("carried")), op.attrs["length"]
    rows = [_row(t, length) for t in _types(op.group("rows"))]
    results = _types(op.results)
    ys = [_row(t, length) for t in results[len(state) :]]
    if None in rows or None in ys:
        return f"stacked operands and results must have {length} rows"
    body = op.regions[0]
    if results[: len(state)] != state or _types(body.yields) != [*state, *ys]:
        return "carried values must keep their types, and rows must be yielded"
    given = [*_types(op.group("consts")), *state, *(r for r in rows if r is not None)]
    return _closed(op) or _takes(body, given, "the body")


for _level in ("graph", "schedule"):
    define(
        f"{_level}.cond",
        "pred inputs*",
        regions=2,
        closed=True,
        verify=_check_cond,
        doc="Region 0 (inputs) if pred holds, else region 1 (inputs).",
    )
    define(
        f"{_level}.while",
        "consts* carried*",
        regions=2,
        closed=True,
        verify=_check_while,
        doc="While region 0 (consts, carried) yields true: carried = region 1 (consts, carried).",
    )
    define(
        f"{_level}.scan",
        "consts* carried* rows*",
        "length:dim reverse:bool=false",
        regions=1,
        closed=True,
        verify=_check_scan,
        doc=(
            "For each of `length` rows, in order or reversed: carried, row = region (consts, carried, rows). Gives the "
            "last carried values and the yielded rows, stacked."
        ),
    )


def _check_branch(op: Op) -> str | None:
    on = op.optional("on")
    return None if on is None or _is_flag(on) else "the condition must be buf<bool[]>"


def _check_row(op: Op) -> str | None:
    whole, row = (op["src"], op["dst"]) if op.name == "tile.take" else (op["dst"], op["src"])
    a, b = whole.type, row.type
    if not isinstance(a, BufType) or not isinstance(b, BufType) or (a.dims[1:], a.dtype) != (b.dims, b.dtype):
        return "the row must have the buffer's type without its first axis"
    return None if a.dims else "a scalar has no rows"


define(
    "tile.branch",
    "on",
    regions=2,
    effect="write",
    verify=_check_branch,
    doc="(program) Runs the steps of region 0 if the buffer holds true, else those of region 1.",
)
define(
    "tile.repeat",
    attrs="count:dim",
    regions=1,
    effect="write",
    doc="(program) Runs the steps of the region `count` times.",
)
define(
    "tile.loop",
    "on",
    regions=2,
    effect="write",
    verify=_check_branch,
    doc="(program) Runs region 0, and while the buffer holds true then, region 1 and region 0 again.",
)
define(
    "tile.when",
    attrs="bind:tuple unless:int|dim",
    regions=2,
    effect="write",
    doc=(
        "(program) Runs the steps of region 0 if `unless` is 0, else those of region 1. `bind`: pairs of a symbol of "
        "region 0 and its value."
    ),
)
define(
    "tile.take",
    "src dst",
    "reverse:bool=false",
    effect="write",
    verify=_check_row,
    doc="(program, in tile.repeat) dst = row i of src in step i; with `reverse`, row count - 1 - i.",
)
define(
    "tile.put",
    "src dst",
    "reverse:bool=false",
    effect="write",
    verify=_check_row,
    doc="(program, in tile.repeat) row i of dst = src in step i; with `reverse`, row count - 1 - i.",
)

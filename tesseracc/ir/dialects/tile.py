"""`tile`: programs of groups. A `tile.kernel` runs once per group of a grid; a `tile.program` launches kernels.

A group has `group` lanes (an attribute of the kernel). Scalar types are *uniform*: one value for the group.
`lanes<T>` is *varying*: one element per lane. `buf` is memory. `tile<T[m, n]>` is a matrix that the group holds.
All lanes run in step: an operation on lanes is complete for every lane before the next one starts (so program
order is the memory order inside a group), except that conflicting element accesses of different lanes to one address
inside one barrier interval are an error.
A `tile.if` with a varying condition and a `tile.for`/`tile.while` with varying bounds run their region for the
lanes that take part; the others keep their values and cause no access.

Kernel attributes: group:int, grid:tuple of dims (1 to 3, groups per axis), symbols:tuple of str (dims used),
access:tuple of str ("read" | "write" | "readwrite" | "value") per parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tessera_runtime.core.errors import TesseraError
from tesseracc.ir.define import define
from tesseracc.ir.dialects.scf import carried, check_if
from tesseracc.ir.types import BOOL, I64, BufType, LanesType, ScalarType, TileType, Type, element
from tesseracc.ir.value import Attr, Op, Value

LANES_I64 = LanesType("i64")
LANES_BOOL = LanesType("bool")
REDUCTIONS = ("add", "mul", "max", "min", "and", "or")
#: kinds of atomic updates, and the element types of what they change
UPDATES = ("add", "max", "min", "and", "or", "xor")
UPDATED = ("i32", "u32", "i64", "u64")


def _load(operands: Sequence[Value], attrs: Mapping[str, Attr]) -> tuple[Type, ...]:
    buf = operands[0].type
    if not isinstance(buf, BufType):
        raise TesseraError("E404", "needs a buffer")
    varying = buf.space == "local" or any(isinstance(v.type, LanesType) for v in operands[1:])
    return (LanesType(buf.dtype) if varying else ScalarType(buf.dtype),)


def _check_access(op: Op) -> str | None:
    buf = op["buf"].type
    if not isinstance(buf, BufType):
        return "needs a buffer"
    indices = op.group("indices")
    if len(indices) != len(buf.dims):
        return f"{len(indices)} indices for rank {len(buf.dims)}"
    if any(v.type not in (I64, LANES_I64) for v in indices):
        return "indices must be i64 or lanes<i64>"
    where = op.optional("where")
    if where is not None and where.type not in (BOOL, LANES_BOOL):
        return "`where` must be a bool"
    return None


def _check_store(op: Op) -> str | None:
    problem = _check_access(op)
    if problem:
        return problem
    if element(op["value"].type) != element(op["buf"].type):
        return f"stores {op['value'].type} into {op['buf'].type}"
    return None


def no_update(op: Op) -> str | None:
    """Why an atomic update, of an element or of a block, is none."""
    if op.attrs["kind"] in UPDATES and element(op["buf"].type) in UPDATED:
        return None
    return f"no atomic {op.attrs['kind']} of {element(op['buf'].type)}"


def _check_update(op: Op) -> str | None:
    return no_update(op) or _check_store(op)


def _check_if(op: Op) -> str | None:
    return "the condition must be lanes<bool>" if op["cond"].type != LANES_BOOL else check_if(op)


def _check_for(op: Op) -> str | None:
    index = op.regions[0].args[0] if op.regions[0].args else None
    if index is None or not isinstance(index.type, LanesType):
        return "the index is a lanes value"
    return carried(op, (), 0, 1)


def _check_while(op: Op) -> str | None:
    cond = op.regions[0]
    if [a.type for a in cond.args] != [r.type for r in op.results] or [v.type for v in cond.yields] != [LANES_BOOL]:
        return "the first region takes the carried values and yields one lanes<bool>"
    return carried(op, (), 1, 0)


def _check_map(op: Op) -> str | None:
    shape = op.attrs["shape"]
    rank = len(shape)
    if len(op.group("extents")) != rank:
        return f"needs {rank} extents"
    for value in (*op.group("tiles"), *op.results):
        if not isinstance(value.type, TileType) or value.type.shape != tuple(shape):
            return f"tiles must have shape {shape}"
    expected = [LANES_I64] * rank + [LanesType(element(t.type)) for t in op.group("tiles")]
    region = op.regions[0]
    if [a.type for a in region.args] != expected:
        return "the region takes one coordinate per axis and one element per tile"
    if [v.type for v in region.yields] != [LanesType(element(r.type)) for r in op.results]:
        return "the region yields one element per result"
    return None


def _check_mma(op: Op) -> str | None:
    a, b, acc = (v.type for v in op.operands[:3])
    if not (isinstance(a, TileType) and isinstance(b, TileType) and isinstance(acc, TileType)):
        return "needs three tiles"
    (m, k), (k2, n) = a.shape, b.shape
    if k != k2 or acc.shape != (m, n):
        return f"shapes do not agree: {a} x {b} -> {acc}"
    return None


def _lanes(dtype: str) -> tuple[Type, ...]:
    return (LanesType(dtype),)


define("tile.group_id", attrs="axis:int=0", infer=lambda v, a: (I64,), doc="This group's index along a grid axis.")
define("tile.group_count", attrs="axis:int=0", infer=lambda v, a: (I64,), doc="How many groups run along a grid axis.")
define(
    "tile.group_span",
    "limit",
    infer=lambda v, a: (I64,),
    verify=lambda op: None if op["limit"].type == I64 else f"the limit is {op['limit'].type}, not i64",
    doc="How many groups, from this one on in a grid of one axis, this one does the work of: 1 .. limit, as the target "
    "likes. The others do not run.",
)
define("tile.local_id", infer=lambda v, a: _lanes("i64"), doc="The lane's index in its group, 0 .. group-1.")
define("tile.linear_id", infer=lambda v, a: _lanes("i64"), doc="group_id(0) * group + local_id.")
define("tile.lane_id", infer=lambda v, a: _lanes("i64"), doc="local_id mod 32.")
define("tile.dim", attrs="expr:int|dim", infer=lambda v, a: (I64,), doc="The value of a dim expression.")
define("tile.splat", "a", infer=lambda v, a: _lanes(element(v[0].type)), doc="A uniform value in every lane.")
define(
    "tile.load",
    "buf indices* where?",
    infer=_load,
    effect="read",
    verify=_check_access,
    doc="Elements of a buffer; lanes where any index or `where` is. Where `where` is false: 0, no access.",
)
define(
    "tile.store",
    "value buf indices* where?",
    effect="write",
    verify=_check_store,
    doc="Stores elements; a uniform store (value, indices and `where` uniform) happens once per group.",
)
define(
    "tile.update",
    "value buf indices* where?",
    "kind:str",
    effect="write",
    verify=_check_update,
    doc=(
        "buf[indices] = kind(buf[indices], value), atomically, of integers; kind: add, min, max, and, or, xor. "
        "A uniform one (value, indices and `where` uniform) happens once per group."
    ),
)
define(
    "tile.alloc",
    attrs='swizzle:str=""',
    effect="write",
    doc=(
        "A fresh buffer of the group (`shared`) or of each lane (`local`); contents undefined. `swizzle`: `xor` or "
        "`none` where the program says how rows lie, else the compiler's choice."
    ),
)
define("tile.barrier", effect="sync", doc="Group barrier; only in uniform control flow.")
define(
    "tile.reduce",
    "a",
    "kind:str",
    infer=lambda v, a: (ScalarType(element(v[0].type)),),
    effect="sync",
    doc="Uniform reduction over all lanes: lane l with lane l + group/2, halving. Uniform control flow only.",
)
define("tile.if", "cond", regions=2, effect="nest", verify=_check_if, doc="Per lane: then-region or else-region.")
define(
    "tile.for",
    "lo hi step inits*",
    regions=1,
    effect="nest",
    verify=_check_for,
    doc="Per lane: i = lo, lo+step, .. below hi. Any bound may be uniform or varying; the index is varying.",
)
define("tile.while", "inits*", regions=2, effect="nest", verify=_check_while, doc="Per lane: while region 0, region 1.")
define("tile.zeros", doc="A tile of zeros.")
define(
    "tile.map",
    "extents* tiles*",
    "shape:tuple",
    regions=1,
    effect="nest",
    verify=_check_map,
    doc=(
        "For every coordinate of `shape` below `extents`: region(coordinates, elements of tiles) yields the elements "
        "of the results; elsewhere results are 0 and nothing is accessed."
    ),
)
define(
    "tile.mma",
    "a b acc extents*",
    "units:str=",
    infer=lambda v, a: (v[2].type,),
    verify=_check_mma,
    doc=(
        "acc + a x b; a: m x k, b: k x n. Elements are widened to the accumulator's type; the sum over k is "
        "sequential in k per element, one fma a step where operands are f32 or f64. `extents` (m, n, k: i64, optional) "
        "bound what is not 0. `units`: a narrower element type that holds all elements of a and b."
    ),
)
define("tile.temp", doc="(program) A temporary buffer with symbolic dims, undefined contents.")
define("tile.constant", attrs="name:str", doc="(program) A named array of the module.")
define("tile.view", "buf", doc="(program) The same memory under another shape, row-major.")
define(
    "tile.launch",
    "args*",
    "kernel:str",
    effect="write",
    doc="(program) Runs a kernel on its grid with these buffers and scalars.",
)
define("tile.copy", "src dst", effect="write", doc="(program) Copies a whole buffer to another of the same type.")

"""`tile`: what a group does with whole tiles. All of it happens in uniform control flow and in program order.

A tile is a value: it has no address and no layout here. `arith` works on tiles element by element. Blocks of buffers
become tiles by `tile.read` and go back by `tile.write`; an axis of the block runs along the buffer's axis that `axes`
names, every other axis of the buffer is indexed by one number. Elements outside of the buffer read as 0 and are not
written, so a ragged edge needs no code of its own.

`tile.copy_async` starts a copy that has happened when a `tile.wait` says so: copies started since the last
`tile.commit` form one group of copies, and `tile.wait` lets at most `pending` groups be unfinished. A `tile.barrier`
finishes all of them. Before that, the destination must not be touched.

Order of a fold: the axis, padded to a power of two by the identity, is halved again and again, element i with
element i + n/2. Every target keeps this order, so sums have the same bits everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tessera_runtime.core.errors import TesseraError
from tesseracc.ir.define import define
from tesseracc.ir.dialects.scf import carried
from tesseracc.ir.dialects.tile import LANES_I64, REDUCTIONS, no_update
from tesseracc.ir.types import I64, BufType, LanesType, ScalarType, TileType, Type, element
from tesseracc.ir.value import Attr, Op, Value

#: what changes memory: its second operand
WRITERS = frozenset({"tile.store", "tile.write", "tile.copy_async", "tile.update", "tile.update_block"})
#: what accesses single elements, whose order the program's barriers say
ELEMENTS = frozenset({"tile.load", "tile.store", "tile.update", "tile.map"})


def _tile(type_: Type) -> TileType:
    if not isinstance(type_, TileType):
        raise TesseraError("E404", f"needs a tile, got {type_}")
    return type_


def _block(buf: Type, shape: Sequence[int], axes: Sequence[int], indices: Sequence[Value]) -> str | None:
    """Whether a block of this shape along these axes fits a buffer and its indices."""
    if not isinstance(buf, BufType) or buf.space == "local":
        return f"needs a buffer of the group, got {buf}"
    if len(axes) != len(shape) or len(set(axes)) != len(axes) or not all(0 <= a < len(buf.dims) for a in axes):
        return f"axes {tuple(axes)} do not say where the {len(shape)} axes of the block lie in {buf}"
    if len(indices) != len(buf.dims):
        return f"{len(indices)} indices for rank {len(buf.dims)}"
    if any(v.type != I64 for v in indices):
        return "indices must be i64"
    return None


def _check_full(op: Op) -> str | None:
    type_ = _tile(op.result.type)
    return None if op["a"].type == ScalarType(type_.dtype) else f"{op['a'].type} in every element of {type_}"


def _check_coordinate(op: Op) -> str | None:
    type_ = _tile(op.result.type)
    if type_.dtype not in ("i32", "i64") or not 0 <= op.attrs["axis"] < len(type_.shape):
        return f"no coordinates along axis {op.attrs['axis']} in {type_}"
    return None


def _check_broadcast(op: Op) -> str | None:
    source, target, axes = _tile(op["a"].type), _tile(op.result.type), op.attrs["axes"]
    if source.dtype != target.dtype:
        return f"changes the element type from {source.dtype} to {target.dtype}"
    if len(axes) != len(source.shape) or list(axes) != sorted(set(axes)):
        return "axes must rise, one for each of the operand"
    if not all(0 <= a < len(target.shape) and n in (1, target.shape[a]) for n, a in zip(source.shape, axes)):
        return f"{source} does not extend to {target} along {tuple(axes)}"
    return None


def _transpose(operands: Sequence[Value], attrs: Mapping[str, Attr]) -> tuple[Type, ...]:
    type_, perm = _tile(operands[0].type), attrs["perm"]
    if sorted(perm) != list(range(len(type_.shape))):
        raise TesseraError("E404", f"{tuple(perm)} is no permutation of the axes of {type_}")
    return (TileType(tuple(type_.shape[p] for p in perm), type_.dtype),)


def _fold(operands: Sequence[Value], attrs: Mapping[str, Attr]) -> tuple[Type, ...]:
    type_, axis = _tile(operands[0].type), attrs["axis"]
    if not 0 <= axis < len(type_.shape) or attrs["kind"] not in REDUCTIONS:
        raise TesseraError("E404", f"cannot fold axis {axis} of {type_} by {attrs['kind']}")
    rest = (*type_.shape[:axis], *type_.shape[axis + 1 :])
    return (TileType(rest, type_.dtype) if rest else ScalarType(type_.dtype),)


def _check_read(op: Op) -> str | None:
    type_ = _tile(op.result.type)
    problem = _block(op["buf"].type, type_.shape, op.attrs["axes"], op.group("indices"))
    return problem or (None if element(op["buf"].type) == type_.dtype else f"reads {type_} from {op['buf'].type}")


def _check_write(op: Op) -> str | None:
    type_ = _tile(op["value"].type)
    problem = _block(op["buf"].type, type_.shape, op.attrs["axes"], op.group("indices"))
    counts = op.group("counts")
    if counts and (len(counts) != len(type_.shape) or any(v.type != I64 for v in counts)):
        return f"needs one i64 count for each axis of {type_}"
    return problem or (None if element(op["buf"].type) == type_.dtype else f"writes {type_} to {op['buf'].type}")


def _check_update(op: Op) -> str | None:
    return no_update(op) or _check_write(op)


def _check_copy(op: Op) -> str | None:
    shape = op.attrs["shape"]
    for name in ("src", "dst"):
        problem = _block(op[name].type, shape, op.attrs[f"{name}_axes"], op.group(f"{name}_at"))
        if problem:
            return problem
    src, dst = op["src"].type, op["dst"].type
    assert isinstance(src, BufType) and isinstance(dst, BufType)
    if (src.space, dst.space) != ("global", "shared") or src.dtype != dst.dtype:
        return f"copies from global to shared memory, without conversion; got {src} to {dst}"
    return None


def _check_pipeline(op: Op) -> str | None:
    fill, use = op.regions
    bounds = op.operands[:3]
    if any(v.type != I64 for v in bounds) or op.attrs["stages"] < 2:
        return "needs i64 bounds and at least 2 stages"
    if [a.type for a in fill.args] != [I64, I64] or fill.yields:
        return "the first region takes the index and the slot, and yields nothing"
    if [a.type for a in use.args[:2]] != [I64, I64]:
        return "the second region takes the index, the slot, and the carried values"
    if any(inner.defn.effect != "pure" and inner.name != "tile.copy_async" for inner in fill.ops):
        return "the first region does nothing but copy"
    rings = op.group("rings")
    copies = [inner for inner in fill.ops if inner.name == "tile.copy_async"]
    if any(copy["dst"] not in rings or copy.group("dst_at")[0] is not fill.args[1] for copy in copies):
        return "copies go to this iteration's slot of a ring"
    if any(not isinstance(r.type, BufType) or r.type.dims[0] != op.attrs["stages"] for r in rings):
        return f"a ring has {op.attrs['stages']} slots along its first axis"
    return carried(op, (), 1, 2)


def _check_element(op: Op) -> str | None:
    type_ = _tile(op["tile"].type)
    if len(op.group("indices")) != len(type_.shape) or any(v.type not in (I64, LANES_I64) for v in op.group("indices")):
        return f"needs {len(type_.shape)} indices for {type_}"
    return None


define("tile.full", "a", verify=_check_full, doc="A tile with the scalar in every element.")
define("tile.coordinate", attrs="axis:int", verify=_check_coordinate, doc="Every element's index along an axis.")
define(
    "tile.broadcast",
    "a",
    "axes:tuple",
    verify=_check_broadcast,
    doc="Axis i of the operand becomes axis axes[i]; along new axes and those of size 1 elements repeat.",
)
define("tile.transpose", "a", "perm:tuple", infer=_transpose, doc="Axis i of the result is the operand's axis perm[i].")
define("tile.fold", "a", "axis:int kind:str", infer=_fold, doc="Reduces an axis, by halving it; see the module.")
define(
    "tile.read",
    "buf indices*",
    "axes:tuple",
    effect="read",
    verify=_check_read,
    doc="The block of a buffer that begins at `indices`; 0 outside of the buffer.",
)
define(
    "tile.write",
    "value buf indices* counts*",
    "axes:tuple",
    effect="write",
    verify=_check_write,
    doc=(
        "Stores a tile as the block of a buffer that begins at `indices`; what lies outside of the buffer is dropped, "
        "and what is not below `counts` (one per axis of the tile, or none)."
    ),
)
define(
    "tile.update_block",
    "value buf indices* counts*",
    "axes:tuple kind:str",
    effect="write",
    verify=_check_update,
    doc="`tile.update` for every element of a block; where `tile.write` would write nothing, it changes nothing.",
)
define(
    "tile.copy_async",
    "src dst src_at* dst_at*",
    "shape:tuple src_axes:tuple dst_axes:tuple blocks:int=1",
    effect="write",
    verify=_check_copy,
    doc=(
        "Starts a copy of a block from global to shared memory; elements outside of the source become 0. So many "
        "`blocks` of a cluster copy the same: each may bring a part to all."
    ),
)
define("tile.commit", effect="sync", doc="Closes the group of the copies started since the last commit.")
define("tile.wait", attrs="pending:int", effect="sync", doc="Goes on when at most `pending` groups of copies remain.")
define(
    "tile.pipeline",
    "lo hi step rings* inits*",
    "stages:int",
    regions=2,
    effect="nest",
    verify=_check_pipeline,
    doc=(
        "for i in lo, lo+step, .. below hi (step > 0), with slot = iteration mod stages: region 0 (i, slot) starts "
        "copies to the slot of each ring; when they have happened region 1 (i, slot, carried) reads it. Region 0 may "
        "run up to stages - 1 iterations ahead. Nothing else touches the rings; region 1 does not write what is copied."
    ),
)
define(
    "tile.element",
    "tile indices*",
    infer=lambda v, a: (LanesType(element(v[0].type)),),
    verify=_check_element,
    doc="(in tile.map) An element of a tile for each coordinate; the indices are within the tile.",
)

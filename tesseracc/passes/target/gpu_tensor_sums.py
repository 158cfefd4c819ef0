"""Which sums of products lie in tensor memory while a loop adds them up, and where.

A pipeline that does nothing with what it carries but add products of operands in shared memory needs no registers:
a single thread issues all its instructions, and the group sees the sums when the loop is over. What else a loop does
with a sum (an online softmax scales it) takes it to registers in every iteration, and is left to other instructions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tesseracc.analysis.products import multiplied
from tesseracc.analysis.tensor_copies import pipelines
from tesseracc.arch.arch import Arch
from tesseracc.ir.dialects.target_tensor_memory import COLUMNS
from tesseracc.ir.rewrite import uses
from tesseracc.ir.types import TileType, size_of
from tesseracc.ir.value import Func, Op, Region, Value
from tesseracc.layout.fragments import TMEM_SHAPES, next_power, tmem_load
from tesseracc.layout.linear import LinearLayout
from tesseracc.layout.select import Choice, candidates
from tesseracc.layout.tiling import tile_product
from tesseracc.passes.target.gpu_fragments import pair
from tesseracc.passes.target.gpu_placed import Placed
from tesseracc.passes.target.gpu_spread import padded, registers
from tesseracc.passes.target.gpu_warpgroup import MOST_REGISTERS, descriptor_of

WINDOWS = 4  # of 32 lanes: warps of a group that load the whole of a column together
_OPERANDS = frozenset({"tile.read", "tile.transpose"})


@dataclass(frozen=True, slots=True)
class Sum:
    """The `number`-th tile that a pipeline carries: products, one behind the other, each with its instruction.

    `place` takes (dim1, dim0) to the lane and column, counted from `column`; `shape` is that of the loads.
    """

    number: int
    products: tuple[Op, ...]
    choices: tuple[Choice, ...]
    place: LinearLayout
    shape: str
    column: int

    @property
    def columns(self) -> int:
        return self.place.out_size("column")

    def end(self) -> int:
        return self.column + self.columns


# -- places ------------------------------------------------------------------------------------------------------------


def in_tensor_memory(choice: Choice) -> bool:
    """Whether an instruction puts its sums there."""
    sums = choice.layout("c")
    return sums is not None and set(dict(sums.outs)) == {"lane", "column"}


def load_shape(place: LinearLayout) -> str:
    """The shape of loads: whole windows where all lanes are in use, else the widest of half a window."""
    high = 16 * place.out_size("column")  # lane 16
    return TMEM_SHAPES[0] if any(column & high for column in place.columns) else TMEM_SHAPES[-1]


def load_layout(place: LinearLayout, shape: str, warps: int) -> LinearLayout | None:
    """The registers that hold a matrix after loads by all warps: four share the lanes, fours of warps the columns.

    None where there are more warps than parts of the columns.
    """
    units = warps // WINDOWS
    own = place.out_size("column") // units
    width = tmem_load(shape, 1).out_size("dim1")
    if own < width:
        return None
    loaded = tmem_load(shape, own // width) * LinearLayout.identity(units, "warp", "dim1")
    found = loaded.rename(outs={"dim0": "lane", "dim1": "column"}).then(place.pseudo_inverse())
    return found.transpose_outs(("dim0", "dim1"))


# -- choosing ----------------------------------------------------------------------------------------------------------


def sums_in_tensor_memory(
    kernel: Func, arch: Arch, warps: int, placed: dict[Value, Placed]
) -> dict[Op, tuple[Sum, ...]]:
    """The sums of every pipeline whose products a single thread can issue."""
    found: dict[Op, tuple[Sum, ...]] = {}
    if not kernel.attrs.get("tensor_copies") or not warps or warps % WINDOWS:
        return found
    column = 0
    for pipeline in pipelines(kernel.body):
        sums = _sums(pipeline, arch, warps, placed, column)
        if sums and sums[-1].end() <= COLUMNS:
            found[pipeline] = sums
            column = sums[-1].end()
    return found


def left_to_others(kernel: Func, arch: Arch, sums: dict[Op, tuple[Sum, ...]]) -> Iterator[tuple[Op, str]]:
    """Products whose types have a unit that adds in tensor memory, and why they are made by other instructions."""
    issued = {op for parts in sums.values() for part in parts for op in part.products}
    rows = {(row.a, row.b, row.acc) for row in arch.mma if row.c_layout.startswith("tmem")}
    inside = {op: pipeline for pipeline in pipelines(kernel.body) for op in pipeline.regions[1].ops}
    for op in kernel.walk():
        if op.name != "tile.mma" or op in issued:
            continue
        a, b, acc = multiplied(op)
        if (a.dtype, b.dtype, acc.dtype) not in rows:
            continue
        if not kernel.attrs.get("tensor_copies") or op not in inside:
            yield op, "their operands do not come by tensor copies"
        elif not _only_adds(inside[op].regions[1]):
            yield op, "the loop uses sums between products"
        else:
            yield op, "no instruction fits their shape and where their operands lie"


def _only_adds(body: Region) -> bool:
    """Whether a loop does nothing with what it carries but add products."""
    chains = list(_chains(body))
    products = [op for op in body.ops if op.name == "tile.mma"]
    others = [op for op in body.ops if op.name != "tile.mma"]
    return sum(map(len, chains)) == len(products) and all(chains) and all(_by_one_thread(op) for op in others)


def _by_one_thread(op: Op) -> bool:
    """Whether an operation beside products is one for the thread that issues them: operands in place, and numbers."""
    numbers = op.defn.effect == "pure" and not op.regions and not any(isinstance(r.type, TileType) for r in op.results)
    return numbers or op.name in _OPERANDS


def _sums(pipeline: Op, arch: Arch, warps: int, placed: dict[Value, Placed], column: int) -> tuple[Sum, ...]:
    body = pipeline.regions[1]
    if not _only_adds(body):
        return ()
    found: list[Sum] = []
    for number, chain in enumerate(_chains(body)):
        choices = [_choice(op, arch, warps, placed) for op in chain]
        m, n = pair(chain[0].result.type.shape)  # type: ignore[union-attr]
        places = [tile_product(c, (m, n, c.row.k), (1, 1)).c for c in choices if c is not None]
        if None in choices or any(place != places[0] for place in places) or places[0] is None:
            return ()
        found.append(Sum(number, chain, tuple(c for c in choices if c), places[0], load_shape(places[0]), column))
        column = found[-1].end()
    return tuple(found)


def _chains(body: Region) -> Iterator[tuple[Op, ...]]:
    """For every carried value the products that it runs through; empty where something else looks at it."""
    counts = uses(body)
    adds = {op["acc"]: op for op in body.ops if op.name == "tile.mma"}
    for value, last in zip(body.args[2:], body.yields, strict=True):
        chain: list[Op] = []
        while value is not last and value in adds and counts[value] == 1:
            chain.append(adds[value])
            value = adds[value].result
        yield tuple(chain) if value is last and counts[last] == 1 else ()


def _choice(op: Op, arch: Arch, warps: int, placed: dict[Value, Placed]) -> Choice | None:
    a, b, acc = multiplied(op)
    where = [placed.get(op[side]) for side in "ab"]
    if size_of(acc.dtype) != 4 or any(padded(t.shape) != tuple(t.shape) for t in (a, b, acc)):
        return None
    m, k, n = *a.shape, b.shape[1]
    for choice in candidates(arch, a.dtype, b.dtype, acc.dtype, (m, n, k)):
        if not in_tensor_memory(choice) or (choice.a_type, choice.b_type) != (a.dtype, b.dtype):
            continue
        place = tile_product(choice, (m, n, choice.row.k), (1, 1)).c
        assert place is not None
        layout = load_layout(place, load_shape(place), warps)
        if layout is None or registers(layout) > MOST_REGISTERS:
            continue
        found = [descriptor_of(choice, side, p) if p else None for side, p in zip("ab", where, strict=True)]
        if all(d is not None and d.major in choice.row.majors for d in found):
            return choice
    return None


def columns_of(sums: dict[Op, tuple[Sum, ...]]) -> int:
    """What a kernel allocates: a power of two from 32 on."""
    return max(32, next_power(max(s.end() for part in sums.values() for s in part)))

"""Whether a producer is worth moving into its readers: the rules of `fuse`, as functions of the program alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tessera.shapes import Dim, known_equal, product
from tesseracc.analysis.access import dependence, is_contraction
from tesseracc.analysis.indices import walk_with_loops
from tesseracc.ir.dialects.arith import TRANSCENDENTAL
from tesseracc.ir.types import TensorType, element, size_of
from tesseracc.ir.value import Op, Value
from tesseracc.passes.schedule.groups import reads_of, tensors_read
from tesseracc.passes.schedule.inline import inline, nest, point_of, pulled_value
from tesseracc.passes.schedule.tidy import tidy

COSTLY = TRANSCENDENTAL | {"sqrt", "rsqrt", "div", "floordiv", "mod"}
#: operations on one tensor's elements (and on smaller ones broadcast to it) that are cheaper to repeat than to store
#: and load
CHEAP_OPS = 3
#: cheap operations that a decoding may take: what reads narrow elements and gives wide ones, such as dequantisation
DECODE_OPS = 16
#: element operations that a contraction's term may hold before nothing more is repeated in it
TERM_OPS = 12
#: places at which a costly function may be computed twice (as exp in softmax)
COSTLY_PLACES = 2
#: elements that one group may go over alone, where there is no outer axis to run in parallel
SERIAL_ELEMENTS = 16384


@dataclass(frozen=True, slots=True)
class Move:
    """Move the producer into all its readers (`everywhere`), or into `reader`, the first of them as it is to be then
    (perhaps cut into rows); `site` is the read in it at which the result is also written, if it must exist."""

    everywhere: bool = False
    reader: Op | None = None
    site: Op | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What one element takes: costly functions, cheap operations, tensors of the result's size read, whether
    it holds loops; and whether it reads narrow elements, of half the result's bytes or fewer, and no wide tensor of the
    result's size."""

    costly: int
    cheap: int
    tensors: int
    loops: bool
    narrow: bool = False

    @property
    def is_view(self) -> bool:
        return not (self.costly or self.cheap or self.loops)

    @property
    def is_free(self) -> bool:
        return self.is_view or (not (self.costly or self.loops) and self.cheap <= CHEAP_OPS and self.tensors <= 1)

    @property
    def is_light(self) -> bool:
        return not (self.costly or self.loops) and self.cheap <= DECODE_OPS

    @property
    def is_decoding(self) -> bool:
        return self.narrow and self.is_light


def cost_of(group: Op) -> Cost:
    """The cost of a group in pull form; index arithmetic and conditions of reads are not counted."""
    made = {result: op for op in group.walk() for result in op.results}
    value = pulled_value(group)
    pending = [value] if value is not None else []
    seen: set[Value] = set()
    costly = cheap = 0
    points = product(group.attrs["domain"])
    tensors: set[Value] = set()
    half = size_of(element(value.type)) // 2 if value is not None else 0
    narrow = wide = loops = False
    while pending:
        current = pending.pop()
        op = made.get(current)
        if op is None or current in seen:
            continue
        seen.add(current)
        name = op.name.removeprefix("arith.")
        if op.name == "schedule.read":
            type_ = op["tensor"].type
            if isinstance(type_, TensorType) and known_equal(product(type_.dims), points):
                tensors.add(op["tensor"])
                wide |= size_of(element(type_)) > half
            narrow |= size_of(element(type_)) <= max(half, 1)  # bytes are as narrow as storage gets, packed or not
        elif op.regions:
            loops = True
        elif name in COSTLY:
            costly += 1
        elif op.defn.dialect == "arith" and name not in ("constant", "select"):
            cheap += 1
        if op.name == "arith.select":
            pending += op.operands[1:]
        elif op.name != "schedule.read":
            pending += op.operands
    return Cost(costly, cheap, len(tensors), loops, narrow and not wide)


def places(reader: Op, tensor: Value) -> list[tuple[Op, tuple[Value, ...], bool]]:
    """Every read of a tensor: the operation, the loops around it, and whether they read some elements several times."""
    depends = dependence(reader)
    sizes = extents(reader)
    found = []
    for op, loops in walk_with_loops(reader):
        if op.name == "schedule.read" and op["tensor"] is tensor:
            used: frozenset[Value] = frozenset().union(*(depends.get(v, frozenset()) for v in op.group("indices")))
            found.append((op, loops, any(loop not in used and sizes[loop] != 1 for loop in loops)))
    return found


def dims_of(tensor: Value) -> tuple[Dim, ...]:
    assert isinstance(tensor.type, TensorType)
    return tensor.type.dims


def extents(group: Op) -> dict[Value, Dim]:
    """The extent of every loop in a group."""
    found: dict[Value, Dim] = dict(zip(group.regions[0].args, group.attrs["domain"], strict=True))
    for op in group.walk():
        if op.regions and op is not group:
            found.update(zip(op.regions[0].args, op.attrs["sizes"], strict=True))
    return found


def decide(
    producer: Op,
    readers: Sequence[Op],
    stays: bool,
    made_here: Collection[Value],
    contractions: Collection[Value],
    sole: Collection[Value],
    whole: Op,
) -> Move | None:
    """How to move a producer, or None. `stays`: its tensor must exist; `made_here`: tensors that
    groups produce, `contractions`: those of them that are contractions, `sole`: tensors
    that the producer alone reads and that end in a loop. `whole` is the producer with the
    pointwise groups that nothing else reads."""
    tensor = producer.result
    if pulled_value(producer) is None or len(producer.attrs["domain"]) != len(dims_of(tensor)):
        return None
    cost = cost_of(producer)
    if not cost.is_view and not cost.loops and any(_is_epilogue(producer, reader, sole) for reader in readers):
        return None
    if stays and not cost.is_view and not cost.loops:
        # it is stored anyway: if its first reader can do that, the others read it
        move = _move_pointwise(producer, cost, readers[0], True)
        if move is not None:
            return move
    if cost.is_free and all(_may_repeat(producer, cost, reader, tensor, made_here) for reader in readers):
        return Move(everywhere=True)
    if not stays and cost_of(whole).is_decoding and all(_in_load(producer, reader) for reader in readers):
        return Move(everywhere=True)
    must_write = stays or len(readers) > 1
    if cost.loops:
        return _move_to_point(producer, readers[0], must_write, contractions)
    # a function of row values (rsqrt of a variance) is like a reduction: wanted once per row, not per element
    return _move_pointwise(producer, cost, readers[0], must_write) or _move_to_point(
        producer, readers[0], must_write, contractions
    )


def _is_epilogue(producer: Op, reader: Op, sole: Collection[Value]) -> bool:
    """Whether the producer had better wait for a reduction or contraction of its own size, that it alone
    reads, to move into
    it: its reader has it in an inner loop, where that could not follow."""
    size = product(producer.attrs["domain"])
    if not any(tensor in sole and known_equal(product(dims_of(tensor)), size) for tensor in tensors_read(producer)):
        return False
    inner = len(reader.regions[0].args)
    return any(len(loops) > inner for _, loops, _ in places(reader, producer.result))


def _may_repeat(producer: Op, cost: Cost, reader: Op, tensor: Value, made_here: Collection[Value]) -> bool:
    """Whether a free producer may be read where loops repeat it: always for views; else not if it can be the
    epilogue of
    the group that makes its operand, and not in a term that is long already."""
    if cost.is_view or not any(repeated for _, _, repeated in places(reader, tensor)):
        return True
    operations = sum(op.defn.dialect == "arith" and op.name != "arith.constant" for op in reader.walk())
    return operations <= TERM_OPS and not any(source in made_here for source in tensors_read(producer))


def _in_load(producer: Op, reader: Op) -> bool:
    """Whether the reader is a contraction, and is one still when it decodes its operand where it loads it: a tile of
    it is decoded once for all products, and the wide copy is not stored."""
    return is_contraction(reader) is not None and is_contraction(tidy(inline(producer, reader))) is not None


def _move_pointwise(producer: Op, cost: Cost, reader: Op, must_write: bool) -> Move | None:
    found = places(reader, producer.result)
    if any(repeated for _, _, repeated in found) or (cost.costly and len(found) > COSTLY_PLACES):
        return None
    if not must_write:
        return Move(reader=reader)
    site = _site(producer, reader)
    return Move(reader=reader, site=site) if site is not None else None


def _site(producer: Op, reader: Op) -> Op | None:
    """A read that goes over the producer's points one to one, in the group's region or an inner loop."""
    dims = producer.attrs["domain"]
    sizes = extents(reader)
    reduced = {arg for op in reader.walk() if op.name == "schedule.reduce" for arg in op.regions[0].args}
    for op, loops, _ in places(reader, producer.result):
        point = point_of(reader, op, dims)
        if point is None or op.optional("where") is not None or reduced & set(loops):
            continue
        if {loop for loop in loops if sizes[loop] != 1} <= set(point) and _same_extents(point, sizes, dims):
            return op
    return None


def _same_extents(point: Sequence[Value], sizes: dict[Value, Dim], dims: Sequence[Dim]) -> bool:
    long = [size for size in dims if size != 1]
    used = [sizes[arg] for arg in point if sizes[arg] != 1]
    return len(long) == len(used) and all(known_equal(a, b) for a, b in zip(long, used, strict=True))


def _move_to_point(producer: Op, reader: Op, must_write: bool, contractions: Collection[Value]) -> Move | None:
    """The `point` rule: the producer's element is computed once per point of the reader, cut into rows if need be."""
    contraction = is_contraction(producer) is not None
    loops = [op for op in reader.regions[0].ops if op.regions]
    if is_contraction(reader) is not None or (contraction and loops):
        return None
    domain = reader.attrs["domain"]
    axes = _needed_axes(reader, producer.result)
    if axes is None:
        return None
    full = tuple(axis for axis, size in enumerate(domain) if size != 1)
    if not axes and full and not cost_of(producer).loops:
        return None
    if not known_equal(product(domain[axis] for axis in axes), product(producer.attrs["domain"])):
        return None
    if axes != full:
        if contraction or loops or not _worth_rows(domain, axes, full):
            return None
        if any(tensor in contractions and _needed_axes(reader, tensor) == full for tensor in tensors_read(reader)):
            return None  # it is rather the epilogue of that contraction
        reader = tidy(nest(reader, axes))
    if contraction and not _is_thin(producer) and not _same_tiles(producer, tidy(inline(producer, reader))):
        return None
    found = reads_of(reader, producer.result)
    if len(found) != 1 or found[0] not in reader.regions[0].ops or found[0].optional("where") is not None:
        return None
    if not must_write:
        return Move(reader=reader)
    site = _site(producer, reader)
    return Move(reader=reader, site=site) if site is not None else None


def _is_thin(producer: Op) -> bool:
    """Whether a contraction has one row or one column: it runs as any sum does, without tiles."""
    found = is_contraction(producer)
    domain = producer.attrs["domain"]
    return found is not None and any(product(domain[axis] for axis in axes) == 1 for axes in (found.m, found.n))


def _same_tiles(before: Op, after: Op) -> bool:
    """Whether both are contractions with as many rows and as many columns: a domain that counts the points otherwise
    may have rows and columns in one axis, which is then one of the batch."""
    a, b = is_contraction(before), is_contraction(after)
    if a is None or b is None:
        return False
    sides = ((x.group.attrs["domain"], axes) for x in (a, b) for axes in (x.m, x.n))
    m, n, new_m, new_n = (product(domain[axis] for axis in axes) for domain, axes in sides)
    return known_equal(m, new_m) and known_equal(n, new_n)


def _needed_axes(reader: Op, tensor: Value) -> tuple[int, ...] | None:
    """The domain axes (longer than 1) that all reads of a tensor depend on; None if they differ or depend on
    inner loops."""
    depends = dependence(reader)
    args, domain = reader.regions[0].args, reader.attrs["domain"]
    sets = set()
    for read in reads_of(reader, tensor):
        used: frozenset[Value] = frozenset().union(*(depends.get(v, frozenset()) for v in read.group("indices")))
        if not used <= set(args):
            return None
        sets.add(tuple(axis for axis, arg in enumerate(args) if arg in used and domain[axis] != 1))
    return sets.pop() if len(sets) == 1 else None


def _worth_rows(domain: Sequence[Dim], axes: tuple[int, ...], full: tuple[int, ...]) -> bool:
    """Rows run in parallel, so there must be an outer axis; without one, only few elements may be left to one group."""
    if axes:
        return axes[0] == full[0]
    total = product(domain)
    return isinstance(total, int) and total <= SERIAL_ELEMENTS

"""How many floating-point operations a kernel needs, as sizes over its symbols, by the units that do them.

An addition, multiplication, division, maximum, minimum or function of floats is one operation, a fused multiply-add
two; casts, comparisons, selections, signs and integers are none. Units are the rates of the target: `f32`, or
`mma.bf16` where a kernel multiplies tiles.

Of a group of loops (`of_group`) it is the least number: equal values over the same loops count once, and no value more
often than it can differ, whatever is kept or computed again. Of a kernel on tiles (`of_kernel`) it is what was written:
every element of a tile counts, whether or not it lies inside of the tensors.

    group:   sum over distinct operations of  product of the extents of the loops whose indices it depends on
    kernel:  sum over operations of  elements * trips of the loops around it * groups

None stands for a number that sizes do not decide: loops and branches over values of tensors.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable, Mapping, Sequence

from tessera.shapes import Dim, Expr, ceildiv, dim_max, dim_min, product, substitute, symbol, symbols_of
from tesseracc.analysis.indices import RING
from tesseracc.arch.arch import Arch
from tesseracc.ir.dialects.arith import BINARY, UNARY
from tesseracc.ir.types import I64, LanesType, TileType, Type, element, kind_of
from tesseracc.ir.value import Func, Op, Region, Value

__all__ = ["Counts", "counted", "of_group", "of_kernel"]

Counts = dict[str, Dim]

_FREE = {"neg", "abs", "floor", "ceil", "round", "trunc"}
_OPERATIONS = {f"arith.{name}": 1 for name in (*BINARY, *UNARY) if name not in _FREE} | {"arith.fma": 2}
_FOLDS = ("add", "mul", "max", "min")
_ARITHMETIC = {
    **RING, "arith.floordiv": operator.floordiv, "arith.mod": operator.mod, "arith.max": dim_max, "arith.min": dim_min,
}  # fmt: skip


def counted(kernel: Func, counts: Counts | None, arch: Arch) -> Func:
    """The kernel with the attribute `flops`: (count, rate) for each unit, the rate in operations per cycle; empty
    where the numbers are not known, and where there is nothing to count."""
    total: dict[int, Dim] = {}
    for unit, count in (counts or {}).items():
        rate = arch.throughput.per_cycle(unit)
        total[rate] = total.get(rate, 0) + count
    known = set(kernel.attrs["symbols"])
    found = tuple((total[rate], rate) for rate in sorted(total, reverse=True) if total[rate] != 0)
    if not all(symbols_of(count) <= known for count, _ in found):
        found = ()
    return kernel.with_(attrs={**kernel.attrs, "flops": found})


def _operations(op: Op) -> int:
    """Of one element of an elementwise operation."""
    if not op.results or kind_of(element(op.results[0].type)) != "f":
        return 0
    return _OPERATIONS.get(op.name, 0)


def _unit(dtype: str) -> str:
    return "f64" if dtype == "f64" else "f32"


def _add(counts: Counts, unit: str, count: Dim) -> None:
    counts[unit] = counts.get(unit, 0) + count


# -- groups of loops ---------------------------------------------------------------------------------------------------


def of_group(group: Op, kernel: Func) -> Counts | None:
    """Of a `schedule.group` and the kernel that was made of it."""
    products = [op for op in kernel.walk() if op.name == "tile.mma"]
    streams = group.attrs["plan"] == "stream"
    if streams and any(op.name == "scf.for" and not _plain(op["hi"], kernel) for op in kernel.walk()):
        return None  # it stops early, where masks let it
    matrix = f"mma.{element(products[0]['a'].type)}" if products else ""
    counter = _Group(matrix)
    counter.region(group.regions[0], group.attrs["domain"])
    return counter.counts


def _plain(value: Value, kernel: Func) -> bool:
    """Whether a value is a size."""
    return any(value in op.results and op.name in ("tile.dim", "arith.constant") for op in kernel.walk())


Index = tuple[int, Dim]  # a loop's depth and extent: loops of equal extents one beside the other are one


class _Group:
    """Counts distinct values, each once for every point of the loops that it depends on."""

    def __init__(self, matrix: str) -> None:
        self.matrix = matrix
        self.counts: Counts = {}
        self.keys: dict[Value, Hashable] = {}  # equal for values that are equal
        self.indices: dict[Value, frozenset[Index]] = {}  # that a value depends on
        self.numbers: dict[Hashable, int] = {}  # short names for keys, which would grow with the depth of expressions
        self.products: set[Value] = set()  # what a sum of products adds up

    def region(self, region: Region, box: Sequence[Dim], depth: int = 0) -> frozenset[Index]:
        own = [(depth + axis, extent) for axis, extent in enumerate(box)]
        for arg, index in zip(region.args, own, strict=True):
            self.keys[arg], self.indices[arg] = index, frozenset([index])
        if self.matrix:
            self.products |= {op.result for op in region.ops if op.name == "arith.mul" and op.result in region.yields}
        for op in region.ops:
            self.op(op, depth + len(own))
        return frozenset(own)

    def op(self, op: Op, depth: int) -> None:
        own: frozenset[Index] = frozenset()
        for region in op.regions:
            own = self.region(region, op.attrs["sizes"], depth)
        if not op.results:
            return
        inputs = (*op.operands, *(value for region in op.regions for value in region.yields))
        needs = frozenset().union(*(self.indices.get(value, frozenset()) for value in inputs), own)
        attrs = tuple(sorted((name, str(value)) for name, value in op.attrs.items()))
        key = (op.name, attrs, tuple(self.keys.get(value, value) for value in inputs))
        known = key in self.numbers
        number = self.numbers.setdefault(key, len(self.numbers))
        for result in op.results:
            self.keys[result], self.indices[result] = ("value", number), needs - own
        operations = _operations(op)
        if op.name == "schedule.reduce" and op.attrs["kind"] in _FOLDS:
            operations = 1 if kind_of(element(op.result.type)) == "f" else 0
        if operations and not known:
            of_product = op.results[0] in self.products or any(v in self.products for v in inputs if op.regions)
            unit = self.matrix if of_product else _unit(element(op.results[0].type))
            _add(self.counts, unit, operations * product(extent for _, extent in needs))


# -- kernels on tiles --------------------------------------------------------------------------------------------------


class _Unknown(Exception):
    """The number depends on values."""


def of_kernel(kernel: Func) -> Counts | None:
    """Of a `tile.kernel` as it was written."""
    groups: tuple[Dim, ...] = kernel.attrs["grid"]
    counter = _Tiles(int(kernel.attrs["group"]))
    try:
        counter.region(kernel.body, 1)
        return {unit: _over_groups(count, groups) for unit, count in counter.counts.items()}
    except _Unknown:
        return None


def _over_groups(count: Dim, groups: Sequence[Dim]) -> Dim:
    """The sum over the grid of a count that may be linear in the group's place along one axis."""
    places = [axis for axis in range(len(groups)) if f"__group{axis}" in symbols_of(count)]
    total = product(groups)
    if not places:
        return total * count
    name = f"__group{places[0]}"
    assert isinstance(count, Expr)
    inside = any(name in symbols_of(atom) for atom in _atoms(count))
    powers = [power for mono, _ in count.terms for factor, power in mono if factor == name]
    if len(places) > 1 or inside or max(powers, default=1) > 1:
        raise _Unknown
    # Gauss: places 0 .. n - 1 have the first and the last one's mean
    ends = substitute(count, {name: 0}) + substitute(count, {name: groups[places[0]] - 1})
    return total * ends // 2


def _atoms(count: Expr) -> list[Dim]:
    """What operators are applied to, outermost first."""
    return [arg for atom in count.atoms for arg in getattr(atom, "args", ())]


class _Tiles:
    """Counts what the groups do in turn; `sizes` are the integers that sizes decide."""

    def __init__(self, group: int) -> None:
        self.group = group
        self.counts: Counts = {}
        self.sizes: dict[Value, Dim] = {}

    def region(self, region: Region, times: Dim, lanes: int | None = None) -> None:
        """`lanes`: how often an operation on lanes is done, if not once by each."""
        for op in region.ops:
            self.op(op, times, self.group if lanes is None else lanes)

    def op(self, op: Op, times: Dim, lanes: int) -> None:
        if op.regions:
            self.nest(op, times, lanes)
            return
        if op.name == "tile.mma":
            (m, k), (_, n) = _shape(op["a"].type), _shape(op["b"].type)
            dtype = element(op["a"].type)
            if kind_of(dtype) == "f":
                _add(self.counts, f"mma.{dtype}", times * (2 * m * n * k))
        elif op.name in ("tile.fold", "tile.reduce"):
            dtype = element(op["a"].type)
            if kind_of(dtype) == "f" and op.attrs["kind"] in _FOLDS:
                _add(self.counts, _unit(dtype), times * self.elements(op["a"].type, lanes))
        elif (operations := _operations(op)) != 0:
            type_ = op.results[0].type
            _add(self.counts, _unit(element(type_)), times * (self.elements(type_, lanes) * operations))
        else:
            self.size(op)

    @staticmethod
    def elements(type_: Type, lanes: int) -> int:
        if isinstance(type_, TileType):
            found = 1
            for extent in type_.shape:
                found *= extent
            return found
        return lanes if isinstance(type_, LanesType) else 1

    def size(self, op: Op) -> None:
        """The value of an integer that sizes and the group's place decide; of lanes, the first one's."""
        if len(op.results) != 1 or op.results[0].type not in (I64, LanesType("i64")):
            return
        known = [self.sizes.get(value) for value in op.operands]
        found = _value(op, [value for value in known if value is not None] if None not in known else None)
        if found is not None:
            self.sizes[op.results[0]] = found

    def nest(self, op: Op, times: Dim, lanes: int) -> None:
        if op.name in ("scf.for", "tile.for"):
            lo, hi, step = (self.sizes.get(op[name]) for name in ("lo", "hi", "step"))
            if lo is None or hi is None or not isinstance(step, int) or step <= 0:
                self.unknown(op)
            else:
                self.region(op.regions[0], times * ceildiv(hi - lo, step), lanes)
        elif op.name == "tile.map":
            shape = op.attrs["shape"]
            limits = [self.sizes.get(value) for value in op.group("extents")]
            extents = [full if limit is None else dim_min(full, limit) for full, limit in zip(shape, limits)]
            self.region(op.regions[0], times * product(extents or shape), 1)
        else:
            self.unknown(op)

    def unknown(self, op: Op) -> None:
        """A nest that values decide, which is known only to do nothing that counts."""
        before, self.counts = self.counts, {}
        for region in op.regions:
            self.region(region, 1)
        if self.counts:
            raise _Unknown
        self.counts = before


def _shape(type_: Type) -> tuple[int, ...]:
    assert isinstance(type_, TileType)
    return type_.shape


def _value(op: Op, known: list[Dim] | None) -> Dim | None:
    attrs: Mapping[str, object] = op.attrs
    if op.name == "tile.group_id":
        return symbol(f"__group{attrs['axis']}")
    if op.name in ("tile.dim", "arith.constant"):
        value = op.attrs["expr" if op.name == "tile.dim" else "value"]
        return value if isinstance(value, (int, Expr)) else None
    if op.name in ("tile.local_id", "tile.lane_id"):
        return 0
    if op.name == "tile.group_span":  # then every group does its own work
        return 1
    if not known:
        return None
    if op.name == "tile.splat":
        return known[0]
    if len(known) != 2:
        return None
    a, b = known
    if op.name in ("arith.floordiv", "arith.mod") and b == 0:
        return None
    return _ARITHMETIC[op.name](a, b) if op.name in _ARITHMETIC else None

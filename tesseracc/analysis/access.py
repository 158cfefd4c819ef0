"""How a group touches tensors, and whether it is a contraction.

`accesses(group)` gives every read and write with each index in affine form over the loop indices around it (the
group's, a reduction's, an inner loop's). `is_contraction(group)` recognises sums of products.
"""

from __future__ import annotations

from dataclasses import dataclass

from tessera.shapes import Dim
from tesseracc.analysis.indices import Affine, Indices, walk_with_loops
from tesseracc.ir.types import ScalarType, Type, bits_of, element, kind_of
from tesseracc.ir.value import Op, Region, Value


@dataclass(frozen=True, slots=True, eq=False)
class Access:
    """One read or write. `indices[d]` is None where the index is not affine with dims as coefficients.

    `loops` are the loop indices around the operation, outermost first. `result` is the number of the group's result for
    a write, None for a read; `tensor` is the tensor read, None for a write.
    """

    op: Op
    tensor: Value | None
    result: int | None
    dims: tuple[Dim, ...]
    indices: tuple[Affine | None, ...]
    loops: tuple[Value, ...]

    @property
    def is_write(self) -> bool:
        return self.result is not None

    def stride(self, loop: Value) -> Dim | None:
        """Elements between the accesses of neighbouring iterations of a loop; None where an index is not affine."""
        total: Dim = 0
        for index, size in zip(self.indices, self.dims, strict=True):
            if index is None:
                return None
            total = total * size + index.terms.get(loop, 0)
        return total


def accesses(group: Op) -> list[Access]:
    """All reads and writes of a group, in order."""
    indices = Indices(group)
    found: list[Access] = []
    for op, loops in walk_with_loops(group):
        if op.name not in ("schedule.read", "schedule.write"):
            continue
        read = op.name == "schedule.read"
        type_: Type = op["tensor"].type if read else group.results[op.attrs["result"]].type
        affine = tuple(indices.affine(indices.of(v)) for v in op.group("indices"))
        dims = type_.dims  # type: ignore[union-attr]
        found.append(
            Access(op, op["tensor"] if read else None, None if read else op.attrs["result"], dims, affine, loops)
        )
    return found


def dependence(group: Op) -> dict[Value, frozenset[Value]]:
    """For every value inside a group: the loop indices in scope that it depends on."""
    found: dict[Value, frozenset[Value]] = {}

    def region(inside: Region) -> None:
        found.update({arg: frozenset({arg}) for arg in inside.args})
        for op in inside.ops:
            base: frozenset[Value] = frozenset().union(*(found.get(v, frozenset()) for v in op.operands))
            for nested in op.regions:
                region(nested)
                base |= _outside(nested, found)
            found.update(dict.fromkeys(op.results, base))

    def _outside(nested: Region, known: dict[Value, frozenset[Value]]) -> frozenset[Value]:
        used: frozenset[Value] = frozenset().union(*(known.get(v, frozenset()) for v in nested.yields))
        for op in nested.ops:
            used |= frozenset().union(*(known.get(v, frozenset()) for v in op.operands))
            for inner in op.regions:
                used |= _outside(inner, known)
        return used - frozenset(nested.args)

    for outer in group.regions:
        region(outer)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Contraction:
    """A group that is sum_k a * b at every point of its domain, and elements computed from that sum.

    `batch`, `m`, `n` are domain axes (positions, ascending): `a` depends on batch and m, `b` on batch and n;
    together they are all axes. Neither `m` nor `n` is empty, and `n` holds the last of their axes.
    `reduce` is the sum, over one axis k; `a` and `b` are the two factors before any cast that only widens a float or
    int to the accumulator's type. `swapped` tells that `a` was the second factor in the text.
    """

    group: Op
    reduce: Op
    batch: tuple[int, ...]
    m: tuple[int, ...]
    n: tuple[int, ...]
    a: Value
    b: Value
    swapped: bool

    @property
    def k(self) -> Value:
        """The reduction's loop index."""
        return self.reduce.regions[0].args[0]

    @property
    def k_size(self) -> Dim:
        size: Dim = self.reduce.attrs["sizes"][0]
        return size

    def operand_ops(self, value: Value) -> list[Op]:
        """The operations that `value` (`a` or `b`) is made of, in order: of the reduction's region and of the
        group's."""
        inside = [*self.group.regions[0].ops, *self.reduce.regions[0].ops]
        made = {result: op for op in inside if op is not self.reduce for result in op.results}
        needed: set[int] = set()
        pending = [value]
        while pending:
            op = made.get(pending.pop())
            if op is not None and id(op) not in needed:
                needed.add(id(op))
                pending += op.operands
        return [op for op in inside if id(op) in needed]

    def prologue_ops(self) -> list[Op]:
        """Operations of the group's region before the sum that the epilogue may need too (all but the sum, in
        order)."""
        return [op for op in self.group.regions[0].ops if op is not self.reduce]


def is_contraction(group: Op) -> Contraction | None:
    """The contraction that a group computes, or None.

    It has exactly one `schedule.reduce`, of kind add over one axis k, directly in its region, and no
    `schedule.each`; the term is a product of two factors that both depend on k, each independent of some axis that
    the other depends on, and no axis is in neither factor. Factors hold no reductions.
    """
    loops = [op for op in group.regions[0].ops if op.regions]
    if len(loops) != 1:
        return None
    (reduce,) = loops
    if reduce.name != "schedule.reduce" or reduce.attrs["kind"] != "add" or len(reduce.attrs["sizes"]) != 1:
        return None
    body = reduce.regions[0]
    if any(op.regions for op in body.ops):
        return None
    made = {result: op for op in body.ops for result in op.results}
    product = made.get(body.yields[0])
    if product is None or product.name != "arith.mul" or product.result.type == ScalarType("bool"):
        return None
    depends = dependence(group)
    args = group.regions[0].args
    first, second = product.operands
    left, right = depends.get(first, frozenset()), depends.get(second, frozenset())
    k = body.args[0]
    if k not in left or k not in right:
        return None
    batch = tuple(i for i, arg in enumerate(args) if arg in left and arg in right)
    only_left = tuple(i for i, arg in enumerate(args) if arg in left and arg not in right)
    only_right = tuple(i for i, arg in enumerate(args) if arg in right and arg not in left)
    if len(batch) + len(only_left) + len(only_right) != len(args) or not (only_left and only_right):
        return None
    swapped = max(only_left) > max(only_right)
    a, b, m, n = (second, first, only_right, only_left) if swapped else (first, second, only_left, only_right)
    return Contraction(group, reduce, batch, m, n, unwidened(a, made), unwidened(b, made), swapped)


def unwidened(value: Value, made: dict[Value, Op]) -> Value:
    """The value before a cast that changes no number: a narrow float or int to a wider one of its kind."""
    op = made.get(value)
    if op is None or op.name != "arith.cast":
        return value
    source, target = element(op["a"].type), op.attrs["to"]
    exact = kind_of(source) == kind_of(target) and kind_of(source) in "fiu" and bits_of(source) < bits_of(target)
    return op["a"] if exact else value


__all__ = ["Access", "Affine", "Contraction", "accesses", "dependence", "is_contraction", "unwidened"]

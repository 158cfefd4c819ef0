"""`simplify-indices`: index arithmetic in canonical form, so that accesses stay affine through reshapes and slices.

Every index of a read or write is written anew from its polynomial (see analysis/indices.py), and a comparison of
indices that ranges decide becomes a constant.
"""

from __future__ import annotations

from dataclasses import replace

from tessera.shapes import Dim, symbol, symbols_of
from tesseracc.analysis.indices import Indices, at_least_zero, term, terms_of
from tesseracc.ir.builder import Builder
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import map_ops, remove_dead
from tesseracc.ir.types import I64
from tesseracc.ir.value import Module, Op, Value
from tesseracc.passes.schedule.groups import map_groups


class Emitter:
    """Writes polynomials as operations."""

    def __init__(self, indices: Indices, b: Builder) -> None:
        self.indices = indices
        self.b = b

    def emit(self, value: Dim) -> Value:
        known = self.indices
        if known.is_dim(value):
            return self.b.const(value) if isinstance(value, int) else self.b.op("schedule.dim", expr=value)
        remainders, rest = known.remainders(value)
        parts = [(self.b.op("arith.mod", self.emit(a), self.emit(size)), c) for c, a, size in remainders]
        for name in sorted(symbols_of(rest)):
            if not known.is_local(name):
                continue
            factor = known.coefficient(rest, name)
            if factor is None or not known.is_dim(factor):
                continue
            parts.append((self._atom(name), factor))
            rest = rest - factor * symbol(name)
        for mono, coeff in terms_of(rest):  # products of several indices
            inner = tuple((key, power) for key, power in mono if known.is_local(key))
            if not inner:
                continue
            atoms = [self._atom(key) for key, power in inner for _ in range(power)]
            found = atoms[0]
            for atom in atoms[1:]:
                found = self.b.op("arith.mul", found, atom)
            parts.append((found, term(tuple(pair for pair in mono if pair not in inner), coeff)))
            rest = rest - term(mono, coeff)
        return self._sum(parts, rest)

    def _atom(self, name: str) -> Value:
        known = self.indices
        if name in known.extents:
            return known.args[name]
        if name in known.opaque:
            return known.opaque[name]
        quotient = known.quotients[name]
        return self.b.op("arith.floordiv", self.emit(quotient.a), self.emit(quotient.b))

    def _sum(self, parts: list[tuple[Value, Dim]], offset: Dim) -> Value:
        total: Value | None = None
        for value, factor in sorted(parts, key=lambda part: part[1] == -1):
            if total is not None and factor == -1:
                total = self.b.op("arith.sub", total, value)
                continue
            scaled = value if factor == 1 else self.b.op("arith.mul", value, self.emit(factor))
            total = scaled if total is None else self.b.op("arith.add", total, scaled)
        assert total is not None
        if offset == 0:
            return total
        if isinstance(offset, int) and offset < 0:
            return self.b.op("arith.sub", total, self.b.const(-offset))
        return self.b.op("arith.add", total, self.emit(offset))


def decide(indices: Indices, op: Op) -> bool | None:
    """The value of a comparison of indices where ranges decide it."""
    a, b = (indices.of(v) for v in op.operands)
    if indices.is_opaque(a - b):
        return None
    low, high = indices.lower(a - b), indices.upper(a - b)
    below = high is not None and at_least_zero(-1 - high)  # a < b always
    at_most = high is not None and at_least_zero(0 - high)
    above = low is not None and at_least_zero(low - 1)
    no_less = low is not None and at_least_zero(low)
    match op.attrs["pred"]:
        case "lt":
            return True if below else False if no_less else None
        case "ge":
            return False if below else True if no_less else None
        case "le":
            return True if at_most else False if above else None
        case "gt":
            return False if at_most else True if above else None
        case "eq":
            return True if a == b else False if below or above else None
        case _:
            return False if a == b else True if below or above else None


def simplify_indices(group: Op) -> Op:
    """The group with canonical indices."""
    indices = Indices(group)
    divided: set[Value] = set()  # what comes of quotients and remainders
    for op in group.walk():
        sums = op.name in ("arith.add", "arith.sub", "arith.mul") and not divided.isdisjoint(op.operands)
        if sums or op.name in ("arith.mod", "arith.floordiv"):
            divided.add(op.result)

    def visit(op: Op) -> list[Op] | None:
        if op.name == "arith.cmp" and op.operands[0].type == I64:
            known = decide(indices, op)
            b = Builder(op.loc)
            if known is None and divided.isdisjoint(op.operands):
                return None
            if known is None:
                emitter = Emitter(indices, b)
                places = tuple(emitter.emit(indices.of(v)) for v in op.operands)
                return [*b.ops, replace(op, operands=places)]
            constant = b.emit("arith.constant", types=op.result.type, value=known)
            return [replace(constant, results=op.results)]
        if op.name not in ("schedule.read", "schedule.write") or not op.group("indices"):
            return None
        b = Builder(op.loc)
        emitter = Emitter(indices, b)
        subst = [emitter.emit(indices.of(v)) for v in op.group("indices")]
        operands = list(op.operands)
        operands[1 : 1 + len(subst)] = subst
        return [*b.ops, replace(op, operands=tuple(operands))]

    return replace(group, regions=(remove_dead(map_ops(group.regions[0], visit)),))


@register("simplify-indices", level="schedule")
def run(module: Module, context: Context) -> Module:
    """Writes every index in canonical form."""
    return map_groups(module, simplify_indices)

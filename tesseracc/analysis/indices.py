"""Index arithmetic inside one group, as polynomials over dims and loop indices, with ranges.

Every i64 value becomes a `Dim` in which loop indices are symbols of their own. A remainder is kept as
`a - b * (a // b)`, so that taking an index apart and putting it together cancels:

    (i // C) * C + i % C  =  (i // C) * C + i - C * (i // C)  =  i

A quotient that ranges do not resolve is an atom, one symbol per (a, b). Anything else (an element of a tensor, say) is
an opaque atom without a known range.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tessera.shapes import Dim, Expr, symbol, symbols_of
from tesseracc.ir.types import I64
from tesseracc.ir.value import Op, Region, Value

#: operations on sizes that give polynomials
RING: dict[str, Callable[[Dim, Dim], Dim]] = {
    "arith.add": operator.add, "arith.sub": operator.sub, "arith.mul": operator.mul,
}  # fmt: skip


def terms_of(value: Dim) -> tuple[tuple[tuple[tuple[str, int], ...], int], ...]:
    """((monomial, coefficient), ...) of an int too."""
    if isinstance(value, Expr):
        return value.terms
    return (((), value),) if value else ()


def at_least_zero(value: Dim) -> bool:
    """Known to be >= 0 for every value of its symbols (all of which are)."""
    return value >= 0 if isinstance(value, int) else value.is_nonnegative


def divides(b: Dim, mono: Dim) -> Dim | None:
    """mono / b where that is exact for every value of the symbols (b taken as positive), else None."""
    if b == 0:
        return None
    if isinstance(b, int):
        terms = terms_of(mono)
        return mono // b if all(c % b == 0 for _, c in terms) else None
    if isinstance(mono, int):
        return 0 if mono == 0 else None
    quotient = mono // b
    return quotient if quotient * b == mono else None


@dataclass(frozen=True, slots=True)
class Quotient:
    """The atom a // b, b > 0."""

    a: Dim
    b: Dim


class Indices:
    """The polynomials of the i64 values of one group (or of any nest of regions)."""

    def __init__(self, op: Op) -> None:
        self.values: dict[Value, Dim] = {}
        self.args: dict[str, Value] = {}  # symbol -> loop index
        self.extents: dict[str, Dim] = {}  # symbol of a loop index -> extent of the loop
        self.quotients: dict[str, Quotient] = {}
        self._quotient_names: dict[tuple[Dim, Dim], str] = {}
        self.opaque: dict[str, Value] = {}
        self._visit(op)

    # -- reading the program -------------------------------------------------------------------------------------

    def _visit(self, op: Op) -> None:
        sizes: Sequence[Dim] = op.attrs.get("sizes", op.attrs.get("domain", ())) if op.regions else ()
        for region in op.regions:
            self._enter(region, sizes)
            for inner in region.ops:
                self._visit(inner)
        if len(op.results) == 1 and op.result.type == I64:
            self.values[op.result] = self._evaluate(op)

    def _enter(self, region: Region, sizes: Sequence[Dim]) -> None:
        for arg, size in zip(region.args, sizes, strict=False):
            name = f"__i{len(self.args)}"
            self.args[name] = arg
            self.extents[name] = size
            self.values[arg] = symbol(name)

    def _evaluate(self, op: Op) -> Dim:
        match op.name:
            case "arith.constant":
                return int(op.attrs["value"])
            case "schedule.dim":
                expr: Dim = op.attrs["expr"]
                return expr
            case name if name in RING:
                return RING[name](*(self.of(v) for v in op.operands))
            case "arith.floordiv" | "arith.mod":
                resolve = self.floordiv if op.name == "arith.floordiv" else self.mod
                found = resolve(*(self.of(v) for v in op.operands))
                if found is not None:
                    return found
        return self._opaque(op.result)

    def _opaque(self, value: Value) -> Dim:
        name = f"__v{len(self.opaque)}"
        self.opaque[name] = value
        return symbol(name)

    def of(self, value: Value) -> Dim:
        """The polynomial of an i64 value (an opaque atom if it was defined outside)."""
        if value not in self.values:
            self.values[value] = self._opaque(value)
        return self.values[value]

    # -- arithmetic ----------------------------------------------------------------------------------------------

    def floordiv(self, a: Dim, b: Dim) -> Dim | None:
        """a // b, resolved as far as ranges allow; None where the divisor may not be positive or `a` has no range."""
        if self.is_opaque(a) or not self.is_dim(b) or b == 0 or not at_least_zero(b):
            return None
        if self.is_dim(a):
            return a // b
        whole, rest = _divide(a, b)
        if rest == 0 or self.within(rest, b):
            return whole
        for factor in _factors(b):  # (x * g + y) // (b * g) = x // b for 0 <= y < g
            outer, inner = _divide(rest, factor)
            smaller = divides(factor, b)
            if outer != 0 and smaller is not None and (inner == 0 or self.within(inner, factor)):
                found = self.floordiv(outer, smaller)
                return None if found is None else whole + found
        name = str(rest)
        if name in self.quotients:  # (x // y) // b = x // (y * b)
            nested = self.quotients[name]
            return whole + self._quotient(nested.a, nested.b * b)
        return whole + self._quotient(rest, b)

    def _quotient(self, a: Dim, b: Dim) -> Dim:
        key = (a, b)
        if key not in self._quotient_names:
            name = f"__q{len(self.quotients)}"
            self._quotient_names[key] = name
            self.quotients[name] = Quotient(a, b)
        return symbol(self._quotient_names[key])

    def mod(self, a: Dim, b: Dim) -> Dim | None:
        quotient = self.floordiv(a, b)
        return None if quotient is None else a - b * quotient

    # -- ranges --------------------------------------------------------------------------------------------------

    def is_dim(self, value: Dim) -> bool:
        """Made of dims alone: no loop index, no quotient, nothing opaque."""
        return not any(self.is_local(name) for name in symbols_of(value))

    def is_opaque(self, value: Dim) -> bool:
        return any(name in self.opaque for name in symbols_of(value))

    def is_local(self, name: str) -> bool:
        """A loop index, a quotient or an opaque atom; else a dim."""
        return name in self.extents or name in self.quotients or name in self.opaque

    def remainders(self, value: Dim) -> tuple[list[tuple[Dim, Dim, Dim]], Dim]:
        """value = sum of c * (a mod b) + rest: the remainders that its quotients stand for."""
        found: list[tuple[Dim, Dim, Dim]] = []
        for name in sorted(symbols_of(value) & self.quotients.keys()):
            quotient = self.quotients[name]
            coefficient = self.coefficient(value, name)
            if coefficient is None or coefficient == 0:
                continue
            c = divides(quotient.b, 0 - coefficient)
            if c is None or (not isinstance(c, int) and not c.is_nonnegative):
                continue
            rest = value - c * (quotient.a - quotient.b * symbol(name))
            if len(terms_of(rest)) < len(terms_of(value)):
                found.append((c, quotient.a, quotient.b))
                value = rest
        return found, value

    def coefficient(self, value: Dim, name: str) -> Dim | None:
        """The factor of an atom in which `value` is linear; None where it is not."""
        total: Dim = 0
        for mono, coeff in terms_of(value):
            power = dict(mono).get(name, 0)
            if power > 1:
                return None
            if power:
                total = total + term(tuple((k, p) for k, p in mono if k != name), coeff)
        return total

    def upper(self, value: Dim) -> Dim | None:
        """A dim expression that `value` does not exceed while the loops run; None where none is known."""
        return self._bound(value, True)

    def lower(self, value: Dim) -> Dim | None:
        return self._bound(value, False)

    def _bound(self, value: Dim, top: bool) -> Dim | None:
        if self.is_opaque(value):
            return None
        found, rest = self.remainders(value)
        total: Dim = 0
        for c, _, b in found:
            if top == at_least_zero(c):  # 0 <= a mod b <= b - 1, and <= a
                total = total + c * (b - 1)
        for mono, coeff in terms_of(rest):
            piece: Dim = coeff
            for key, power in mono:
                factor = self._extreme(key, top == (coeff > 0))
                if factor is None:
                    return None
                for _ in range(power):
                    piece = piece * factor
            total = total + piece
        return total

    def _extreme(self, name: str, top: bool) -> Dim | None:
        if name in self.extents:
            return self.extents[name] - 1 if top else 0
        if name in self.quotients:
            quotient = self.quotients[name]
            if top:
                above = self.upper(quotient.a)
                return None if above is None else above // quotient.b
            below = self.lower(quotient.a)
            return None if below is None or not at_least_zero(below) else 0
        # a dim, or an opaque atom of dims whose text is its name
        return _atom(name)

    def within(self, value: Dim, size: Dim) -> bool:
        """Known: 0 <= value < size, whenever the loops around run at all."""
        low, high = self.lower(value), self.upper(value)
        return low is not None and high is not None and at_least_zero(low) and at_least_zero(size - 1 - high)

    # -- affine forms --------------------------------------------------------------------------------------------

    def affine(self, value: Dim) -> Affine | None:
        """The affine form over loop indices with dims as factors; None where there is none."""
        terms: dict[Value, Dim] = {}
        for name in sorted(symbols_of(value)):
            if name in self.quotients or name in self.opaque:
                return None
            if name in self.extents:
                coefficient = self.coefficient(value, name)
                if coefficient is None or not self.is_dim(coefficient):
                    return None
                terms[self.args[name]] = coefficient
                value = value - coefficient * symbol(name)
        return Affine(terms, value)

    def name_of(self, arg: Value) -> str:
        """The symbol of a loop index."""
        return str(self.values[arg])

    def depends(self, value: Dim) -> frozenset[Value]:
        """The loop indices in a polynomial without opaque atoms, through quotients."""
        found: set[Value] = set()
        for name in symbols_of(value):
            if name in self.extents:
                found.add(self.args[name])
            elif name in self.quotients:
                found |= self.depends(self.quotients[name].a)
        return frozenset(found)


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """offset + sum of coefficient * loop index; coefficients and offset are made of dims alone."""

    terms: dict[Value, Dim]
    offset: Dim

    def __str__(self) -> str:
        parts = [f"{coefficient}*%{arg.name}" for arg, coefficient in self.terms.items()]
        return " + ".join([*parts, str(self.offset)])


@lru_cache(maxsize=4096)
def _atom(name: str) -> Dim:
    """The dim of an atom's text: a symbol, or an opaque application such as `(N//2)`."""
    from tessera.shapes import parse_dim

    return symbol(name) if name.isidentifier() else parse_dim(name)


def term(mono: tuple[tuple[str, int], ...], coeff: int) -> Dim:
    """The polynomial of one monomial."""
    product: Dim = coeff
    for key, power in mono:
        for _ in range(power):
            product = product * _atom(key)
    return product


def _factors(value: Dim) -> list[Dim]:
    """The proper factors that a single term shows: its atoms, and its number."""
    if isinstance(value, int) or len(value.terms) != 1:
        return []
    ((mono, coeff),) = value.terms
    found: list[Dim] = [_atom(key) for key, _ in mono]
    if coeff > 1:
        found.append(coeff)
    return [factor for factor in found if factor != value]


def _divide(a: Dim, b: Dim) -> tuple[Dim, Dim]:
    """(q, r) with a = q * b + r, where q takes every term that it can cancel whole."""
    whole: Dim = 0
    rest = a
    (lead, factor), *more = terms_of(b)
    for mono, coeff in terms_of(a):
        quotient = divides(term(lead, factor), term(mono, coeff))
        if quotient is None or quotient == 0:
            continue
        left = rest - quotient * b
        # without this, x + y by D + 1 would take terms out of `a` and leave new ones in their place
        if not more or len(terms_of(left)) < len(terms_of(rest)):
            whole, rest = whole + quotient, left
    return whole, rest


def linear(indices: Sequence[Dim], dims: Sequence[Dim]) -> Dim:
    """The row-major offset, in elements, of an access."""
    total: Dim = 0
    for index, size in zip(indices, dims, strict=True):
        total = total * size + index
    return total


def walk_with_loops(op: Op, loops: tuple[Value, ...] = ()) -> Iterator[tuple[Op, tuple[Value, ...]]]:
    """Every operation inside, outer first, with the loop indices around it (the group's own included)."""
    for region in op.regions:
        inside = (*loops, *region.args)
        for inner in region.ops:
            yield inner, inside
            yield from walk_with_loops(inner, inside)


__all__ = ["RING", "Affine", "Indices", "at_least_zero", "divides", "linear", "term", "terms_of", "walk_with_loops"]

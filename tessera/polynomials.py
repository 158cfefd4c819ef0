"""Integer polynomials over named dims, in one canonical form: what a symbolic size is made of.

A size (`Dim`) is an `int` or an `Expr`. An `Expr` is a sum of terms `c * a1^k1 * a2^k2 ...` where `c` is an integer and
each atom `ai` is a symbol (a dim's name) or an opaque application of floordiv, ceildiv, mod, min or max. Two sizes
are known to be equal exactly when their canonical forms are the same, so `==` and `hash` are structural and cheap.

Invariants: every symbol stands for an integer >= 0; terms are sorted and have non-zero coefficients; an expression
without symbols is always a plain `int`, never an `Expr`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from tessera.errors import dim_is_symbolic

__all__ = [
    "OPERATORS", "Atom", "Dim", "Expr", "Opaque", "Symbol", "atom_expr", "ceildiv", "dim_max", "dim_min", "is_symbol",
    "operand", "parts", "substitute", "symbol", "symbols_of",
]


class Symbol:
    """An atom that is a dim's name."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def key(self) -> str:
        return self.name


class Opaque:
    """An atom that is an operator the polynomial form cannot look into: floordiv, ceildiv, mod, min, max."""

    __slots__ = ("args", "key", "op")

    def __init__(self, op: str, args: tuple[Dim, ...]) -> None:
        self.op = op
        self.args = args
        if op in ("floordiv", "mod"):
            sign = "//" if op == "floordiv" else "%"
            self.key = f"({operand(args[0])}{sign}{operand(args[1])})"
        else:
            self.key = f"{op}({', '.join(str(a) for a in args)})"


Atom = Symbol | Opaque
# A monomial is a sorted tuple of (atom key, power); the atoms themselves are looked up by key in `Expr.atoms`.
Mono = tuple[tuple[str, int], ...]


class Expr:
    """An immutable size expression. Build it with `symbol` and arithmetic, not by the constructor."""

    __slots__ = ("_atoms", "_terms", "_text")

    def __init__(self, terms: Mapping[Mono, int], atoms: Mapping[str, Atom]) -> None:
        # Higher degree first, then by name: the order in which people write polynomials.
        order = sorted(terms, key=lambda m: (-sum(p for _, p in m), m)) if len(terms) > 1 else list(terms)
        self._terms: tuple[tuple[Mono, int], ...] = tuple((m, terms[m]) for m in order)
        used = {key for m in order for key, _ in m}
        self._atoms: dict[str, Atom] = {key: atoms[key] for key in sorted(used)}
        self._text: str | None = None

    # Identity ---------------------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expr) and self._terms == other._terms

    def __hash__(self) -> int:
        return hash(self._terms)

    def __str__(self) -> str:
        if self._text is None:  # most are steps of a calculation, which nobody reads
            self._text = _render(self._terms)
        return self._text

    def __repr__(self) -> str:
        return f"Dim({self!s})"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def symbols(self) -> frozenset[str]:
        """The names of all dims that the value depends on."""
        names: set[str] = set()
        for atom in self._atoms.values():
            if isinstance(atom, Symbol):
                names.add(atom.name)
            else:
                for arg in atom.args:
                    names |= symbols_of(arg)
        return frozenset(names)

    @property
    def terms(self) -> tuple[tuple[Mono, int], ...]:
        """((monomial, coefficient), ...) in canonical order; a monomial is ((atom text, power), ...)."""
        return self._terms

    @property
    def atoms(self) -> tuple[Atom, ...]:
        """The atoms, sorted by their text."""
        return tuple(self._atoms.values())

    @property
    def constant(self) -> int:
        """The constant term."""
        return next((c for m, c in self._terms if not m), 0)

    @property
    def is_symbol(self) -> bool:
        """True for a bare dim name."""
        return any(self._terms == ((((key, 1),), 1),) and isinstance(atom, Symbol) for key, atom in self._atoms.items())

    @property
    def is_nonnegative(self) -> bool:
        """True when the form shows that the value is >= 0 (every symbol is)."""
        return all(c >= 0 for _, c in self._terms) and all(_atom_nonnegative(a) for a in self._atoms.values())

    # Arithmetic -------------------------------------------------------------------------------------------------

    def __add__(self, other: Dim) -> Dim:
        return _add(self, other, 1) if isinstance(other, (int, Expr)) else NotImplemented

    __radd__ = __add__

    def __sub__(self, other: Dim) -> Dim:
        return _add(self, other, -1) if isinstance(other, (int, Expr)) else NotImplemented

    def __rsub__(self, other: Dim) -> Dim:
        return _add(_mul(self, -1), other, 1) if isinstance(other, (int, Expr)) else NotImplemented

    def __mul__(self, other: Dim) -> Dim:
        return _mul(self, other) if isinstance(other, (int, Expr)) else NotImplemented

    __rmul__ = __mul__

    def __neg__(self) -> Dim:
        return _mul(self, -1)

    def __floordiv__(self, other: Dim) -> Dim:
        return _floordiv(self, other) if isinstance(other, (int, Expr)) else NotImplemented

    def __rfloordiv__(self, other: Dim) -> Dim:
        return _floordiv(other, self) if isinstance(other, (int, Expr)) else NotImplemented

    def __mod__(self, other: Dim) -> Dim:
        return _mod(self, other) if isinstance(other, (int, Expr)) else NotImplemented

    def __rmod__(self, other: Dim) -> Dim:
        return _mod(other, self) if isinstance(other, (int, Expr)) else NotImplemented

    # A symbolic size has no value while tracing: asking for one is an error that says so.

    def __bool__(self) -> bool:
        raise dim_is_symbolic(str(self), "decide a condition")

    def __int__(self) -> int:
        raise dim_is_symbolic(str(self), "become an int")

    def __float__(self) -> float:
        raise dim_is_symbolic(str(self), "become a float")

    def __index__(self) -> int:
        raise dim_is_symbolic(str(self), "be used as an index or a range")

    def __lt__(self, other: object) -> bool:
        raise dim_is_symbolic(str(self), "be compared")

    __le__ = __gt__ = __ge__ = __lt__

    # Use --------------------------------------------------------------------------------------------------------

    def substitute(self, env: Mapping[str, Dim]) -> Dim:
        """The value with every symbol named in `env` replaced; an int when nothing symbolic is left.

        Raises ZeroDivisionError when a divisor becomes 0.
        """
        total: Dim = 0
        for mono, coeff in self._terms:
            term: Dim = coeff
            for key, power in mono:
                atom = self._atoms[key]
                if isinstance(atom, Symbol):
                    value = env.get(atom.name)
                    base: Dim = atom_expr(atom) if value is None else value
                else:
                    base = OPERATORS[atom.op](*(substitute(a, env) for a in atom.args))
                for _ in range(power):
                    term = term * base
            total = total + term
        return total

    def to_postfix(self) -> list[int | str]:
        """The serialised form of tessera_runtime.core.shapeexpr: operands first, then the operator's name."""
        out: list[int | str] = []
        for position, (mono, coeff) in enumerate(self._terms):
            factors = [key for key, power in mono for _ in range(power)]
            magnitude = abs(coeff) if position else coeff
            pushed = False
            if magnitude != 1 or not factors:
                out.append(magnitude)
                pushed = True
            for key in factors:
                atom = self._atoms[key]
                if isinstance(atom, Symbol):
                    out.append(atom.name)
                else:
                    out += [*_postfix(atom.args[0]), *_postfix(atom.args[1]), atom.op]
                if pushed:
                    out.append("mul")
                pushed = True
            if position:
                out.append("sub" if coeff < 0 else "add")
        return out


Dim: TypeAlias = int | Expr


# Construction and canonical arithmetic --------------------------------------------------------------------------------


def atom_expr(atom: Atom) -> Expr:
    """The atom alone as an expression."""
    return Expr({((atom.key, 1),): 1}, {atom.key: atom})


def symbol(name: str) -> Expr:
    """The dim called `name` (a Python identifier)."""
    if not name.isidentifier():
        raise ValueError(f"{name!r} is not a name for a dim")
    return atom_expr(Symbol(name))


def parts(value: Dim) -> tuple[dict[Mono, int], dict[str, Atom]]:
    """(coefficient of each monomial, atoms by their text)."""
    if isinstance(value, Expr):
        return dict(value._terms), value._atoms
    return ({(): int(value)} if value else {}), {}


def _build(terms: dict[Mono, int], atoms: Mapping[str, Atom]) -> Dim:
    terms = {m: c for m, c in terms.items() if c}
    if not terms:
        return 0
    if len(terms) == 1 and () in terms:
        return terms[()]
    return Expr(terms, atoms)


def _add(a: Dim, b: Dim, sign: int) -> Dim:
    terms, atoms = parts(a)
    other, more = parts(b)
    for mono, coeff in other.items():
        terms[mono] = terms.get(mono, 0) + sign * coeff
    return _build(terms, {**atoms, **more})


def _mul(a: Dim, b: Dim) -> Dim:
    left, atoms = parts(a)
    right, more = parts(b)
    terms: dict[Mono, int] = {}
    for m, c in left.items():
        for n, d in right.items():
            powers = dict(m)
            for key, power in n:
                powers[key] = powers.get(key, 0) + power
            mono = tuple(sorted(powers.items()))
            terms[mono] = terms.get(mono, 0) + c * d
    return _build(terms, {**atoms, **more})


def split_by(a: Dim, k: int) -> tuple[Dim, Dim]:
    """(q, r) with a == q*k + r, where r keeps coefficients in [0, k) (for k < 0: in (k, 0])."""
    terms, atoms = parts(a)
    quotient = {m: c // k for m, c in terms.items()}
    rest = {m: c % k for m, c in terms.items()}
    return _build(quotient, atoms), _build(rest, atoms)


def _lowest(a: Expr, k: int) -> tuple[Dim, Dim]:
    """The fraction a / k in lowest terms."""
    common = math.gcd(k, *(c for _, c in a.terms))
    return split_by(a, common)[0], k // common


def _exact(a: Dim, b: Dim) -> Dim | None:
    """a / b when the division of polynomials by the single term b leaves nothing (b is then taken to be non-zero)."""
    divisor, _ = parts(b)
    if a == b:
        return 1
    if len(divisor) != 1:
        return None
    (dmono, dcoeff), = divisor.items()
    terms, atoms = parts(a)
    out: dict[Mono, int] = {}
    for mono, coeff in terms.items():
        powers = dict(mono)
        for key, power in dmono:
            powers[key] = powers.get(key, 0) - power
        if coeff % dcoeff or any(p < 0 for p in powers.values()):
            return None
        out[tuple(sorted((key, p) for key, p in powers.items() if p))] = coeff // dcoeff
    return _build(out, atoms)


def _floordiv(a: Dim, b: Dim) -> Dim:
    if isinstance(b, int):
        if b == 0:
            raise ZeroDivisionError(f"({a}) // 0")
        quotient, rest = split_by(a, b)
        # (q*k + r) // k == q + r // k for every integer q, and (c*r) // (c*k) == r // k.
        return quotient + (rest // b if isinstance(rest, int) else atom_expr(Opaque("floordiv", _lowest(rest, b))))
    if a == 0:
        return 0
    exact = _exact(a, b)
    return exact if exact is not None else atom_expr(Opaque("floordiv", (a, b)))


def _mod(a: Dim, b: Dim) -> Dim:
    if isinstance(b, int):
        if b == 0:
            raise ZeroDivisionError(f"({a}) % 0")
        _, rest = split_by(a, b)
        return rest % b if isinstance(rest, int) else atom_expr(Opaque("mod", (rest, b)))
    if a == 0 or _exact(a, b) is not None:
        return 0
    return atom_expr(Opaque("mod", (a, b)))


def ceildiv(a: Dim, b: Dim) -> Dim:
    """a / b rounded up."""
    if isinstance(b, int):
        if b == 0:
            raise ZeroDivisionError(f"ceildiv({a}, 0)")
        quotient, rest = split_by(a, b)
        return quotient + (
            -(-rest // b) if isinstance(rest, int) else atom_expr(Opaque("ceildiv", _lowest(rest, b))))
    if a == 0:
        return 0
    exact = _exact(a, b)
    return exact if exact is not None else atom_expr(Opaque("ceildiv", (a, b)))


def _extremum(kind: str, a: Dim, b: Dim) -> Dim:
    pick: Callable[[int, int], int] = min if kind == "min" else max
    if isinstance(a, int) and isinstance(b, int):
        return pick(a, b)
    difference = a - b
    # A difference of known sign decides: a - b >= 0 means a is the larger.
    if _nonnegative(difference):
        return a if kind == "max" else b
    if _nonnegative(0 - difference):
        return b if kind == "max" else a
    return atom_expr(Opaque(kind, tuple(sorted((a, b), key=lambda d: (isinstance(d, int), str(d))))))


def dim_min(a: Dim, b: Dim) -> Dim:
    """The smaller of two sizes."""
    return _extremum("min", a, b)


def dim_max(a: Dim, b: Dim) -> Dim:
    """The larger of two sizes."""
    return _extremum("max", a, b)


def _nonnegative(value: Dim) -> bool:
    if isinstance(value, int):
        return value >= 0
    if value.is_nonnegative:
        return True
    # a // k <= a / k for a >= 0: with the atom q = a // k at coefficient c < 0, k*value >= k*(value - c*q) + c*a.
    for mono, coeff in value.terms:
        if coeff < 0 and len(mono) == 1 and mono[0][1] == 1:
            atom = value._atoms[mono[0][0]]
            if isinstance(atom, Opaque) and atom.op == "floordiv" and isinstance(atom.args[1], int):
                a, k = atom.args
                if k > 0 and _nonnegative(a):
                    return _nonnegative((value - atom_expr(atom) * coeff) * k + a * coeff)
    return False


def _atom_nonnegative(atom: Atom) -> bool:
    if isinstance(atom, Symbol):
        return True
    if atom.op == "max":
        return any(_nonnegative(a) for a in atom.args)
    if atom.op == "mod":
        return _nonnegative(atom.args[1])
    return all(_nonnegative(a) for a in atom.args)


OPERATORS: dict[str, Callable[[Dim, Dim], Dim]] = {
    "floordiv": lambda a, b: a // b, "ceildiv": ceildiv, "mod": lambda a, b: a % b, "min": dim_min, "max": dim_max,
}


# Text -----------------------------------------------------------------------------------------------------------------


def _render(terms: Sequence[tuple[Mono, int]]) -> str:
    out = ""
    for mono, coeff in terms:
        factors = [key for key, power in mono for _ in range(power)]
        magnitude = abs(coeff)
        if magnitude != 1 or not factors:
            factors.insert(0, str(magnitude))
        text = "*".join(factors)
        if not out:
            out = f"-{text}" if coeff < 0 else text
        else:
            out += f" - {text}" if coeff < 0 else f" + {text}"
    # One opaque atom alone reads better without its brackets: "N//2", not "(N//2)".
    alone = len(terms) == 1 and terms[0][1] == 1 and len(terms[0][0]) == 1 and terms[0][0][0][1] == 1
    return out[1:-1] if alone and out.startswith("(") else out


def operand(value: Dim) -> str:
    """The text of a size as an operand: in brackets unless it is a name or a number."""
    text = str(value)
    return text if text.isidentifier() or text.isdigit() else f"({text})"


def _postfix(value: Dim) -> list[int | str]:
    return value.to_postfix() if isinstance(value, Expr) else [value]


def symbols_of(value: Dim) -> frozenset[str]:
    """The dim names in `value`; empty for an int."""
    return value.symbols() if isinstance(value, Expr) else frozenset()


def substitute(value: Dim, env: Mapping[str, Dim]) -> Dim:
    """`value` with the symbols of `env` replaced (ints pass through)."""
    return value.substitute(env) if isinstance(value, Expr) else value


def is_symbol(value: Dim) -> bool:
    """Whether the size is a bare dim name."""
    return isinstance(value, Expr) and value.is_symbol

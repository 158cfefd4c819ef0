"""What operators assume of symbolic sizes: that one divides another. A compiler turns assumptions into guards."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tessera.polynomials import Dim, Expr, Opaque, Symbol, atom_expr, is_symbol, operand

__all__ = ["Divisible", "assume", "collect_assumptions", "equal_if_divisible"]


@dataclass(frozen=True)
class Divisible:
    """The assumption that `divisor` divides `value`."""

    value: Dim
    divisor: Dim

    def __str__(self) -> str:
        return f"{operand(self.value)} % {operand(self.divisor)} == 0"


def equal_if_divisible(a: Dim, b: Dim) -> tuple[Divisible, ...] | None:
    """The divisibility assumptions under which the sizes are equal: () when they always are, None when none suffices.

    16 * (D // 16) equals D if 16 divides D.
    """
    if a == b:
        return ()
    needed: list[Divisible] = []
    difference = a - b
    for _ in range(16):
        if not isinstance(difference, Expr):
            break
        atom = next((x for x in difference.atoms if isinstance(x, Opaque) and x.op == "floordiv"
                     and is_symbol(x.args[0])), None)
        if atom is None:
            break
        numerator, divisor = atom.args
        # With D = k*q the quotient D // k is q; `_q` cannot clash, for it is not an identifier.
        quotient = atom_expr(Symbol(f"{atom.key}'"))
        needed.append(Divisible(numerator, divisor))
        difference = difference.substitute({str(numerator): divisor * quotient})
    return tuple(needed) if difference == 0 else None


class _Collectors(threading.local):
    def __init__(self) -> None:
        self.stack: list[list[Divisible]] = []


_COLLECTORS = _Collectors()


@contextmanager
def collect_assumptions() -> Iterator[list[Divisible]]:
    """Collects, while active, what operators assume of symbolic sizes; a compiler turns it into guards."""
    found: list[Divisible] = []
    _COLLECTORS.stack.append(found)
    try:
        yield found
    finally:
        _COLLECTORS.stack.remove(found)


def assume(assumptions: Iterable[Divisible]) -> None:
    """Record assumptions with the innermost collector, each once; without a collector they are dropped."""
    if _COLLECTORS.stack:
        found = _COLLECTORS.stack[-1]
        found.extend(a for a in assumptions if a not in found)

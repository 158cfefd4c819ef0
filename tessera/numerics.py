"""Numeric policies as types: `bf16 @ accum(f32) @ stochastic_round`.

A policy is a small immutable value that a DType carries. Policies of one type are order-free: they are kept sorted by
name, and each kind may occur once. The text form, "bf16 @accum(f32)", reads and prints the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tessera.errors import SourceError, did_you_mean

if TYPE_CHECKING:
    from tessera.dtypes import DType

__all__ = ["Accum", "LossScale", "Policy", "StochasticRound", "accum", "loss_scale", "stochastic_round"]


@dataclass(frozen=True)
class Accum:
    """Sums and contractions of the type are accumulated in `dtype` (the name of a float or int type)."""

    dtype: str

    kind = "accum"

    def __str__(self) -> str:
        return f"@accum({self.dtype})"


@dataclass(frozen=True)
class LossScale:
    """The seed cotangent of a loss is multiplied by `factor`, and gradients are divided by it."""

    factor: float

    kind = "loss_scale"

    def __str__(self) -> str:
        return f"@loss_scale({self.factor!r})"


@dataclass(frozen=True)
class StochasticRound:
    """Rounding to the type picks one of the two neighbours, with probabilities that make the mean exact."""

    kind = "stochastic_round"

    def __str__(self) -> str:
        return "@stochastic_round"


Policy = Accum | LossScale | StochasticRound

stochastic_round = StochasticRound()


def accum(dtype: DType | str) -> Accum:
    """Policy: accumulate in `dtype`, as in `ts.bf16 @ ts.accum(ts.f32)`."""
    from tessera.dtypes import as_dtype

    base = as_dtype(dtype)
    if base.kind == "bool":
        raise SourceError("E301", "accum(bool) is not a type to accumulate in", help="use f32, f64, i32 or i64")
    return Accum(base.name)


def loss_scale(factor: float) -> LossScale:
    """Policy: scale the loss by `factor` (finite, > 0) before differentiating, and gradients back afterwards."""
    if not (math.isfinite(factor) and factor > 0):
        raise SourceError("E301", f"loss_scale({factor!r}) is not a positive finite number")
    return LossScale(float(factor))


def combine(policies: tuple[Policy, ...], more: Policy) -> tuple[Policy, ...]:
    """`policies` with `more` added, in canonical order; two different policies of one kind are an error."""
    for policy in policies:
        if policy.kind == more.kind and policy != more:
            raise SourceError("E301", f"policy {more} contradicts {policy}")
    return tuple(sorted({*policies, more}, key=lambda p: p.kind))


def parse_policy(text: str, column: int, whole: str) -> Policy:
    """Read one policy ("accum(f32)") that starts at `column` of `whole`."""
    name, bracket, rest = text.partition("(")
    name = name.strip()
    argument = rest.rstrip()
    if bracket and not argument.endswith(")"):
        raise bad_text(whole, column + len(text.rstrip()), "')' is missing")
    argument = argument[:-1].strip()
    inside = column + text.index("(") + 1 if bracket else column
    if name == "stochastic_round" and not argument:
        return stochastic_round
    try:
        if name == "accum" and bracket:
            return accum(argument)
        if name == "loss_scale" and bracket:
            return loss_scale(float(argument))
    except (SourceError, ValueError):
        raise bad_text(whole, inside, f"{argument!r} is not an argument of {name}") from None
    hint = did_you_mean(name, ["accum", "loss_scale", "stochastic_round"])
    raise bad_text(whole, column, f"no policy {name!r}" if name else "a policy is missing", hint)


def bad_text(whole: str, column: int, why: str, help: str | None = None) -> SourceError:
    """E301 for a dtype string, with the column (from 1) where reading stopped."""
    return SourceError("E301", f"bad dtype {whole!r} at column {column + 1}: {why}",
                       help=help or "write for example 'bf16 @accum(f32) @stochastic_round'")

"""Numeric policies as types: `bf16 @ accum(f32) @ stochastic_round`.

A policy is a small immutable value that a DType carries. Policies of one type are order-free: they are kept sorted by
name, and each kind may occur once. The text form, "bf16 @accum(f32)", reads and prints the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tessera.errors import SourceError, did_you_mean

if TYPE_CHECKING:
    from tessera.dtypes import DType

__all__ = ["Accum", "Compute", "LossScale", "Policy", "StochasticRound", "accum", "compute", "loss_scale",
           "stochastic_round", "tf32"]

tf32 = "tf32"
"""The compute mode `f32 @ compute(tf32)`; it is no element type."""

COMPUTE_MODES = ("tf32", "bf16")


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


@dataclass(frozen=True)
class Compute:
    """Operands of matrix products are rounded to nearest, ties to even, to `mode`: tf32 (10 bits) or bf16 (7 bits)."""

    mode: str

    kind = "compute"

    def __str__(self) -> str:
        return f"@compute({self.mode})"


Policy = Accum | Compute | LossScale | StochasticRound

stochastic_round = StochasticRound()


def compute(mode: DType | str) -> Compute:
    """Policy: products of f32 take their operands in this precision, as in `ts.f32 @ ts.compute(ts.tf32)`."""
    name = getattr(mode, "name", mode)
    if name not in COMPUTE_MODES:
        raise SourceError("E301", f"compute({name}) is not a mode to compute in",
                          help=f"modes are {', '.join(COMPUTE_MODES)}")
    return Compute(str(name))


def accum(dtype: DType | str) -> Accum:
    """Policy: accumulate in `dtype`, as in `ts.bf16 @ ts.accum(ts.f32)`."""
    from tessera.dtypes import as_dtype

    base = as_dtype(dtype)
    if base.name not in ("f32", "f64", "i32", "i64"):
        raise SourceError("E301", f"accum({base.name}) is not a type to accumulate in", help="use f32, f64, i32 or i64")
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


def travelling(chains: Iterable[tuple[Policy, ...]]) -> tuple[Policy, ...]:
    """The policies of a result, by those of the operands: all but `loss_scale`; of two accumulation types the wider,
    of two compute modes the more precise."""
    found: dict[str, Policy] = {}
    for chain in chains:
        for policy in chain:
            other = found.get(policy.kind)
            if not isinstance(policy, LossScale) and (other is None or _width(policy) > _width(other)):
                found[policy.kind] = policy
    return tuple(found[kind] for kind in sorted(found))


def renewed(old: tuple[Policy, ...], new: tuple[Policy, ...]) -> tuple[Policy, ...]:
    """`new`, and those of `old` that are of other kinds."""
    found = {policy.kind: policy for policy in (*old, *new)}
    return tuple(found[kind] for kind in sorted(found))


def _width(policy: Policy) -> int:
    name = policy.dtype if isinstance(policy, Accum) else policy.mode if isinstance(policy, Compute) else "0"
    return {"tf32": 19, "bf16": 16}.get(name) or int(name.lstrip("fi"))


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
        if name == "compute" and bracket:
            return compute(argument)
        if name == "loss_scale" and bracket:
            return loss_scale(float(argument))
    except (SourceError, ValueError):
        raise bad_text(whole, inside, f"{argument!r} is not an argument of {name}") from None
    hint = did_you_mean(name, ["accum", "compute", "loss_scale", "stochastic_round"])
    raise bad_text(whole, column, f"no policy {name!r}" if name else "a policy is missing", hint)


def bad_text(whole: str, column: int, why: str, help: str | None = None) -> SourceError:
    """E301 for a dtype string, with the column (from 1) where reading stopped."""
    return SourceError("E301", f"bad dtype {whole!r} at column {column + 1}: {why}",
                       help=help or "write for example 'bf16 @accum(f32) @stochastic_round'")

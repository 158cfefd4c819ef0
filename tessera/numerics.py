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

__all__ = ["Accum", "Compute", "LossScale", "Policy", "Scale", "StochasticRound", "accum", "compute", "loss_scale",
           "scale", "stochastic_round", "tf32"]

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


@dataclass(frozen=True)
class Scale:
    """Elements are stored divided by a scale of their own type: one for the tensor, for each index of `axis`, or for
    each run of `block` elements along `axis` (the last one by default). With `tensor` these scales are themselves
    divided by one of the tensor, in f32."""

    axis: int | None = None
    block: int | None = None
    dtype: str = "f32"
    tensor: bool = False

    kind = "scale"

    def __str__(self) -> str:
        given = [f"axis={self.axis}"] if self.axis is not None else []
        given += [f"block={self.block}"] if self.block is not None else []
        given += [f"dtype={self.dtype}"] if self.dtype != "f32" else []
        given += ["tensor"] if self.tensor else []
        return f"@scale({', '.join(given)})"


Policy = Accum | Compute | LossScale | Scale | StochasticRound

stochastic_round = StochasticRound()


def scale(
    axis: int | None = None, block: int | None = None, dtype: DType | str = "f32", tensor: bool = False
) -> Scale:
    """Policy: elements with scales, as in `ts.fp8_e4m3 @ ts.scale(axis=0)`; see ts.quantize."""
    from tessera.dtypes import as_dtype

    base = as_dtype(dtype)
    if not base.is_float or base.name == "f64" or base.name.startswith(("fp4", "fp6")):
        raise SourceError("E301", f"{base.name} is not a type for scales",
                          help="scales are f32, f16, bf16 or a type of 8 bits such as fp8_e8m0")
    if block is not None and block < 2:
        raise SourceError("E301", f"scale(block={block}) is no block of elements", help="a block has 2 or more")
    if tensor and ((axis is None and block is None) or base.name not in ("fp8_e4m3", "fp8_e5m2")):
        raise SourceError("E301", "a scale of the tensor goes with scales of blocks or of an axis, of type fp8",
                          help="write for example ts.scale(block=16, dtype=ts.fp8_e4m3, tensor=True)")
    return Scale(axis, block, base.name, tensor)


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
        raise SourceError("E301", f"loss_scale({factor!r}) is not a positive finite number",
                          help="a power of two such as 1024.0 changes no mantissa")
    return LossScale(float(factor))


def combine(policies: tuple[Policy, ...], more: Policy) -> tuple[Policy, ...]:
    """`policies` with `more` added, in canonical order; two different policies of one kind are an error."""
    for policy in policies:
        if policy.kind == more.kind and policy != more:
            raise SourceError("E301", f"policy {more} contradicts {policy}")
    return tuple(sorted({*policies, more}, key=lambda p: p.kind))


def travelling(chains: Iterable[tuple[Policy, ...]]) -> tuple[Policy, ...]:
    """The policies of a result, by those of the operands: all but `loss_scale` and `scale`; of two accumulation types
    the wider, of two compute modes the more precise."""
    found: dict[str, Policy] = {}
    for chain in chains:
        for policy in chain:
            other = found.get(policy.kind)
            if not isinstance(policy, (LossScale, Scale)) and (other is None or _width(policy) > _width(other)):
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
    if name == "scale":
        return _parse_scale(argument, inside, whole)
    try:
        if name == "accum" and bracket:
            return accum(argument)
        if name == "compute" and bracket:
            return compute(argument)
        if name == "loss_scale" and bracket:
            return loss_scale(float(argument))
    except (SourceError, ValueError):
        raise bad_text(whole, inside, f"{argument!r} is not an argument of {name}") from None
    hint = did_you_mean(name, ["accum", "compute", "loss_scale", "scale", "stochastic_round"])
    raise bad_text(whole, column, f"no policy {name!r}" if name else "a policy is missing", hint)


def _parse_scale(text: str, column: int, whole: str) -> Scale:
    """Read what stands between the brackets of "scale(axis=0, block=32, dtype=fp8_e8m0)"."""
    given: dict[str, str] = {}
    for part in text.split(",") if text.strip() else []:
        name, equals, value = (word.strip() for word in part.partition("="))
        fits = name in ("axis", "block", "dtype") if equals else name == "tensor"
        if not fits or name in given:
            raise bad_text(whole, column, f"{part.strip()!r} is not an argument of scale",
                           "write for example 'fp4_e2m1 @scale(axis=0, block=32, dtype=fp8_e8m0)'")
        given[name] = value
    try:
        axis, block = (int(given[name]) if name in given else None for name in ("axis", "block"))
        return scale(axis, block, given.get("dtype", "f32"), "tensor" in given)
    except (SourceError, ValueError):
        raise bad_text(whole, column, f"{text!r} are no arguments of scale") from None


def bad_text(whole: str, column: int, why: str, help: str | None = None) -> SourceError:
    """E301 for a dtype string, with the column (from 1) where reading stopped."""
    return SourceError("E301", f"bad dtype {whole!r} at column {column + 1}: {why}",
                       help=help or "write for example 'bf16 @accum(f32) @stochastic_round'")

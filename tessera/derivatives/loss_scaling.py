"""Loss scaling, which `@loss_scale(s)` on the type of a parameter asks for.

    seed      s, in place of 1: every cotangent is s times as large, so that small ones do not underflow
    gradient  cotangent / s, computed in f32 (f64 for f64) and given in that type: in f16 it might underflow after all
    overflow  if any element of any of the gradients is not finite, all of them are 0: the step is skipped
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tessera.errors import SourceError
from tessera.numerics import LossScale, Policy
from tessera.pytree import flatten
from tessera.tensor import Tensor, operators

__all__ = ["all_finite", "scale_of", "unscaled"]


def scale_of(values: Iterable[Any], declared: Iterable[tuple[Policy, ...]] = ()) -> float | None:
    """The loss scale that values carry or their declarations name, or None. E313 for two of them."""
    chains = [*declared, *(x.policies for x in values if isinstance(x, Tensor))]
    found = sorted({p.factor for chain in chains for p in chain if isinstance(p, LossScale)})
    if len(found) > 1:
        raise SourceError("E313", f"grad by arguments with loss scales {found[0]} and {found[1]}",
                          help="the loss has one seed: give the parameters one loss_scale")
    return found[0] if found else None


def unscaled(gradients: Sequence[Any], factor: float) -> list[Any]:
    """Gradients (None among them stays) divided by the factor, or zeros where one is not finite."""
    wide = [None if g is None else operators.cast(g, g.dtype.wide) for g in gradients]
    finite = all_finite(wide)
    return [
        None if g is None else operators.where(finite, g * (1.0 / factor), operators.zeros_like(g)) for g in wide
    ]


def all_finite(tree: Any) -> Tensor:
    """Whether every element of every float tensor in a tree is finite: a bool, true for none."""
    result: Tensor = operators.full((), True)
    for x in flatten(tree)[0]:
        if isinstance(x, Tensor) and x.dtype.is_float:
            # x - x is 0 for a finite number and NaN else
            wide = operators.cast(x, x.dtype.wide)
            result = result & operators.all(wide - wide == 0.0)
    return result

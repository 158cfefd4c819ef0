"""Types whose values are stored otherwise than computed with: those with scales, and precision policies.

    @ts.precision_policy
    class Int8:
        storage, scale, compute, accumulate = ts.int8, ts.f32, ts.f32, ts.f32
        def quantize(self, x): ...            the pair (elements, scale)
        def dequantize(self, x, scale): ...   a tensor

    @ts.function
    def layer(x: ts.Tensor["B", "D", ts.f32], w: ts.Tensor["D", "N", Int8]):
        return x @ w                          w is dequantize(elements, scale) here

A parameter of such a type is given as the pair (elements, scales), or as elements alone where there are no scales; what
a function declares to return in it, it gives so. In the body a value is a tensor of the compute type.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tessera.dtypes import DType, as_dtype, f32
from tessera.errors import SourceError, did_you_mean
from tessera.numerics import Policy, Scale, accum, renewed
from tessera.quantized import dequantize, quantize, scale_dims
from tessera.tensor import Tensor, operators
from tessera.types import TensorSpec

__all__ = ["PrecisionPolicy", "StoredSpec", "loaded", "precision_policy", "stored_spec"]

_FIELDS = ("storage", "scale", "compute", "accumulate")


class PrecisionPolicy:
    """A type made by `@ts.precision_policy`. `storage` is the element type in memory, `scale` that of the scale (None
    without one), `compute` the type of values in a function, `accumulate` the type of their sums and products (None for
    the usual one)."""

    def __init__(self, made: object) -> None:
        cls = type(made)
        for name in vars(cls):
            if not name.startswith("_") and not callable(getattr(cls, name)) and name not in _FIELDS:
                raise SourceError("E301", f"a precision policy has no field `{name}`",
                                  help=did_you_mean(name, _FIELDS) or f"fields are {', '.join(_FIELDS)}")
        if not hasattr(cls, "storage"):
            raise SourceError("E301", f"the precision policy {cls.__name__} does not say its storage",
                              help="write for example `storage = ts.int8`")
        self.name = cls.__name__
        self.storage = as_dtype(made.storage).base  # type: ignore[attr-defined]
        self.scale = as_dtype(made.scale).base if getattr(made, "scale", None) is not None else None  # type: ignore[attr-defined]
        self.compute = as_dtype(getattr(made, "compute", self.storage.wide)).base
        accumulate = getattr(made, "accumulate", None)
        self.policies: tuple[Policy, ...] = () if accumulate is None else (self.compute @ accum(accumulate)).policies
        self._quantize: Callable[..., Any] | None = getattr(made, "quantize", None)
        self._dequantize: Callable[..., Any] | None = getattr(made, "dequantize", None)
        if (self._quantize is None) != (self._dequantize is None):
            raise SourceError("E301", f"the precision policy {self.name} has only one of quantize and dequantize",
                              help="write both, or none")

    def __repr__(self) -> str:
        return self.name

    def quantize(self, x: Tensor) -> Any:
        """What is stored of a tensor: (elements, scale), or elements without a scale."""
        if self._quantize is not None:
            return self._quantize(x)
        if self.scale is None:
            return operators.cast(x, self.storage)
        return quantize(x, self.storage @ Scale(dtype=self.scale.name))

    def dequantize(self, elements: Tensor, *scale: Tensor) -> Tensor:
        """The tensor that is stored so, in the compute type."""
        if self._dequantize is not None:
            value = self._dequantize(elements, *scale)
        else:
            value = operators.cast(elements, self.compute)
            for factor in scale:
                value = operators.cast(operators.cast(elements, f32) * operators.cast(factor, f32), self.compute)
        found: Tensor = operators.cast(value, self.compute)
        return found.with_policies(renewed(found.policies, self.policies)) if self.policies else found


def precision_policy(cls: type) -> PrecisionPolicy:
    """Decorator: a class that says how values are stored and computed with, as a type; see the module. E301."""
    return PrecisionPolicy(cls())


How = DType | PrecisionPolicy


@dataclass(frozen=True)
class StoredSpec:
    """The annotation of a tensor that is stored otherwise than computed with. `spec` has its dims."""

    spec: TensorSpec
    how: How

    def __str__(self) -> str:
        shown = f"ts.{self.how}" if isinstance(self.how, DType) else str(self.how)
        return str(self.spec).removesuffix("]") + f", {shown}]"

    @property
    def parts(self) -> Any:
        """The annotations of (elements, scales), of these and the tensor's scale, or of the elements alone."""
        if isinstance(self.how, PrecisionPolicy):
            elements = replace(self.spec, dtype=self.how.storage)
            return elements if self.how.scale is None else (elements, TensorSpec((), self.how.scale))
        how, given = self.how.scaling, self.spec.dims
        assert how is not None and given is not None
        if any(d is None for d in given) and how.block is not None:
            raise SourceError("E306", f'blocks need sizes with names, not "?", in {self}')
        dims = scale_dims(how, given)  # type: ignore[arg-type]
        whole = (TensorSpec((), f32),) if how.tensor else ()
        return replace(self.spec, dtype=self.how.base), TensorSpec(dims, as_dtype(how.dtype)), *whole

    def load(self, value: Any) -> Tensor:
        """The tensor that these parts store."""
        parts = value if isinstance(value, (tuple, list)) else (value,)
        if isinstance(self.how, PrecisionPolicy):
            return self.how.dequantize(*parts)
        elements, scales, *whole = parts
        found = dequantize(elements, scales, self.how, whole=whole[0] if whole else None)
        travelling = tuple(p for p in self.how.policies if p.kind != "scale")
        return found.with_policies(renewed(found.policies, travelling)) if travelling else found

    def store(self, x: Tensor) -> Any:
        """The parts that a tensor is stored as."""
        return quantize(x, self.how)


def stored_spec(spec: TensorSpec, how: Any) -> StoredSpec | None:
    """The annotation of `spec`'s dims in a type, if that is one of those that are stored otherwise; else None."""
    if not isinstance(how, PrecisionPolicy) and (how is None or how.scaling is None):
        return None
    if spec.kind == "tile":
        raise SourceError("E301", f"a tile is not stored as {how}",
                          help="give the kernel elements and scales as parameters of their own")
    return StoredSpec(replace(spec, dtype=None), how)


def loaded(annotation: Any, value: Any) -> Any:
    """A value of the annotation's structure with the stored tensors in it as the tensors that they store."""
    if isinstance(annotation, StoredSpec):
        return annotation.load(value)
    if isinstance(annotation, dict) and isinstance(value, dict):
        return {key: loaded(annotation.get(key), part) for key, part in value.items()}
    if isinstance(annotation, (list, tuple)) and isinstance(value, (list, tuple)):
        return type(value)(loaded(part, item) for part, item in zip(annotation, value, strict=True))
    return value

"""Types of values and annotations of parameters.

`TensorType` is the type of a value: `f32[B, 64]`, in the one spelling that IR, messages and command lines share.
`TensorSpec` is what an annotation such as `ts.Tensor["B", "3*D", ts.bf16]` records: a pattern for a TensorType.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tessera.bounds import Bound, NamedDim
from tessera.dtypes import DType, as_dtype, parse_dtype
from tessera.errors import SourceError
from tessera.shapes import Dim, Expr, UnifyError, parse_dim, product, substitute, symbol, symbols_of, unify

__all__ = ["Region", "RegionSpec", "TensorSpec", "TensorType", "Tile", "read", "reduce_max", "reduce_min", "reduce_sum",
           "tensor_spec", "write"]


@dataclass(frozen=True)
class TensorType:
    """Shape and element type of a value; `str` gives `f32[B, 64]`, `parse` reads it back."""

    dims: tuple[Dim, ...]
    dtype: DType

    def __str__(self) -> str:
        dtype = str(self.dtype).replace(" ", "")
        return f"{dtype}[{', '.join(str(d) for d in self.dims)}]"

    @property
    def rank(self) -> int:
        return len(self.dims)

    @property
    def size(self) -> Dim:
        """The number of elements."""
        return product(self.dims)

    @property
    def symbols(self) -> frozenset[str]:
        """The dim names in the shape."""
        return frozenset().union(*(symbols_of(d) for d in self.dims))

    def substitute(self, env: Mapping[str, Dim]) -> TensorType:
        """The type with dim names replaced."""
        return TensorType(tuple(substitute(d, env) for d in self.dims), self.dtype)

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(self.dims, dtype)

    @classmethod
    def parse(cls, text: str) -> TensorType:
        """Read `f32[B, 3*D]`; `f32` alone is a scalar. Raises SourceError E301 or E306."""
        head, bracket, rest = text.strip().partition("[")
        if not bracket:
            return cls((), parse_dtype(head))
        if not rest.endswith("]"):
            raise SourceError("E306", f"bad tensor type {text!r}: ']' is missing",
                              help="write for example 'f32[B, 64]'")
        return cls(tuple(parse_dim(part) for part in _split(rest[:-1])), parse_dtype(head))


def _split(text: str) -> list[str]:
    """Split at commas outside brackets; nothing for blank text."""
    parts, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if char == "," and not depth:
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]] if text.strip() else []


@dataclass(frozen=True)
class TensorSpec:
    """An annotation. `dims` None means any shape, a None in it any size; `dtype` None means any element type.

    `kind` is "tensor" or "tile" (a kernel parameter spelled ts.Tile[...]; the same ABI). `bounds` are what ts.dim says.
    """

    dims: tuple[Dim | None, ...] | None = None
    dtype: DType | None = None
    kind: str = "tensor"
    bounds: tuple[Bound, ...] = ()

    def __str__(self) -> str:
        parts = [] if self.dims is None else ['"?"' if d is None else _quoted(d) for d in self.dims]
        parts += [] if self.dtype is None else [f"ts.{self.dtype}"]
        return ("Tile" if self.kind == "tile" else "Tensor") + (f"[{', '.join(parts)}]" if parts else "")

    def pattern(self, name: str, rank: int) -> tuple[Dim, ...]:
        """The dims with every unnamed size given a symbol of its own, `<name>_<axis>`."""
        dims = self.dims if self.dims is not None else (None,) * rank
        return tuple(symbol(f"{name}_{i}") if d is None else d for i, d in enumerate(dims))

    def type(self, name: str) -> TensorType:
        """The most general type that fits; raises SourceError E307 when rank or dtype is left open."""
        if self.dims is None or self.dtype is None:
            raise SourceError("E307", f"the type of `{name}` is not complete: {self}",
                              help="give dims and dtype, or an --input-spec")
        return TensorType(self.pattern(name, len(self.dims)), self.dtype)


def _quoted(dim: Dim) -> str:
    return f'"{dim}"' if isinstance(dim, Expr) else str(dim)


def tensor_spec(items: object, kind: str = "tensor") -> Any:
    """The annotation for the subscript of ts.Tensor[...]: dims (ints, strings, "?") and, last, an element type. It is a
    TensorSpec, or a StoredSpec (tessera.stored) for a type with scales or a precision policy."""
    from tessera.stored import PrecisionPolicy, stored_spec

    parts = items if isinstance(items, tuple) else (items,)
    dims: list[Dim | None] = []
    dtype: DType | None = None
    policy: PrecisionPolicy | None = None
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if last and isinstance(part, PrecisionPolicy):
            policy = part
        elif last and (isinstance(part, (DType, type)) or (isinstance(part, str) and _is_dtype_text(part))):
            dtype = as_dtype(part)
        elif isinstance(part, bool) or not isinstance(part, (int, str, Expr)):
            raise SourceError("E306", f"{part!r} is not a dim of a tensor",
                              help='write for example ts.Tensor["B", 64, ts.f32]; the element type comes last')
        elif isinstance(part, str):
            dims.append(None if part.strip() == "?" else parse_dim(part))
        else:
            if isinstance(part, int) and part < 0:
                raise SourceError("E306", f"a dim cannot be {part}")
            dims.append(part)
    bounds = tuple(part.bound for part in parts if isinstance(part, NamedDim))
    spec = TensorSpec(tuple(dims), dtype, kind, bounds)
    return stored_spec(spec, policy or dtype) or spec


def _is_dtype_text(text: str) -> bool:
    try:
        parse_dtype(text)
    except SourceError:
        return "@" in text  # a chain with a mistake: let as_dtype report it
    return True


class Tile:
    """Annotation of a kernel parameter, `ts.Tile["S", "D", ts.bf16]`: as ts.Tensor[...], with the intent recorded."""

    def __class_getitem__(cls, items: object) -> Any:
        return tensor_spec(items, "tile")


# Regions --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RegionSpec:
    """What a function may do with a parameter: "read", "write" or "reduce_sum|max|min"; `inner` is its tensor type."""

    privilege: str
    inner: TensorSpec = TensorSpec()

    def __str__(self) -> str:
        return f"Region[{self.privilege}]"


read, write = RegionSpec("read"), RegionSpec("write")
reduce_sum, reduce_max, reduce_min = RegionSpec("reduce_sum"), RegionSpec("reduce_max"), RegionSpec("reduce_min")
_PRIVILEGES = {spec.privilege: spec for spec in (read, write, reduce_sum, reduce_max, reduce_min)}


class Region:
    """Annotation `ts.Region[ts.read]` or `ts.Region["read", ts.Tensor[...]]`: a privilege on a parameter."""

    def __class_getitem__(cls, items: object) -> Any:
        privilege, *rest = items if isinstance(items, tuple) else (items,)
        spec = _PRIVILEGES.get(privilege) if isinstance(privilege, str) else privilege
        if not isinstance(spec, RegionSpec):
            raise SourceError("E305", f"{privilege!r} is not a privilege of a region",
                              help="privileges are read, write, reduce_sum, reduce_max and reduce_min")
        return replace(spec, inner=rest[0]) if rest and isinstance(rest[0], TensorSpec) else spec


# Fitting a type to an annotation --------------------------------------------------------------------------------------


def check_spec(
    function: str, name: str, spec: TensorSpec, actual: TensorType, env: Mapping[str, Dim],
) -> dict[str, Dim]:
    """`env` extended by the dims that `actual` binds; raises SourceError E307 in the user's names."""
    where = f"`{name}` of {function}"
    if spec.dims is not None and len(spec.dims) != actual.rank:
        raise SourceError("E307", f"{where} has rank {actual.rank}, expected {len(spec.dims)}",
                          help=f"it is declared {spec} and was given {actual}")
    if spec.dtype is not None and spec.dtype.base != actual.dtype.base:
        raise SourceError("E307", f"{where} has dtype {actual.dtype.base}, expected {spec.dtype.base}",
                          help=f"convert it with ts.cast(..., ts.{spec.dtype.base})")
    try:
        return unify(spec.pattern(name, actual.rank), actual.dims, env)
    except UnifyError as err:
        shown = f"{err.pattern}" if err.pattern == err.expected else f"{err.pattern} = {err.expected}"
        raise SourceError("E307", f"{where} has size {err.actual} in dim {err.axis}, expected {shown}",
                          help=f"it is declared {spec} and was given {actual}{_bindings(env, err.pattern)}") from None


def _bindings(env: Mapping[str, Dim], pattern: Dim) -> str:
    known = [f"{s} = {env[s]}" for s in sorted(symbols_of(pattern)) if s in env]
    return f"; earlier arguments give {', '.join(known)}" if known else ""


def dims_text(dims: Sequence[Dim]) -> str:
    """A shape as written in messages: [B, 64]."""
    return f"[{', '.join(str(d) for d in dims)}]"

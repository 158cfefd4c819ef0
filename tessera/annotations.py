"""Annotations of parameters that hold more than one tensor, and of state.

    PARAMS = {"w": ts.Tensor[64, 10, ts.f32], "b": ts.Tensor[10, ts.f32]}

    def step(params: ts.State[PARAMS], x: ts.Tensor["B", 64, ts.f32]):
        ...
        return {"loss": loss, "params": {"w": .., "b": ..}}

A tree of annotations (nested dicts, lists and tuples) describes a tree of tensors. A parameter marked `ts.State` is
given back with its new value: under its name in the dict that the function returns, with the same structure and types.
Eagerly that is all; a bundle updates the memory in place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tessera.dtypes import DType
from tessera.errors import SourceError
from tessera.pytree import flatten, flatten_with_names, tree_map
from tessera.stored import StoredSpec
from tessera.tensor import Tensor
from tessera.types import RegionSpec, TensorSpec, tensor_spec

__all__ = ["State", "StateSpec", "check_state", "is_state", "leaf_spec", "like", "spec_tree", "with_specs"]


@dataclass(frozen=True, eq=False)
class StateSpec:
    """What `ts.State[...]` records: `inner` is a TensorSpec or a tree of them."""

    inner: Any

    def __str__(self) -> str:
        return f"State[{self.inner}]"


class State:
    """Annotation of a parameter that the function updates: ts.State["N", ts.f32], ts.State[{"w": ts.Tensor[..]}], or
    ts.State[params], with the types of a tree of tensors."""

    def __class_getitem__(cls, items: object) -> Any:
        if isinstance(items, (dict, list, Tensor, TensorSpec)):
            return StateSpec(like(items))
        if isinstance(items, tuple) and items and isinstance(items[0], (dict, list, tuple, Tensor, TensorSpec)):
            return StateSpec(like(items))
        return StateSpec(tensor_spec(items))


def like(tree: Any) -> Any:
    """The annotation of values like these: each tensor stands for its own type. Raises E306 for other leaves."""
    return tree_map(_spec_like, tree)


def _spec_like(x: Any) -> Any:
    if isinstance(x, (StoredSpec, TensorSpec)):
        return x
    if not isinstance(x, Tensor):
        raise SourceError("E306", f"an object of type {type(x).__name__} does not say the type of a tensor",
                          help='write for example {"w": ts.Tensor["D", ts.f32]}, or a tree of tensors')
    return TensorSpec(x.type.dims, x.dtype)


def leaf_spec(annotation: Any) -> TensorSpec | None:
    """The tensor annotation that this is: a TensorSpec, that of a Region or State, a scalar DType; or None."""
    if isinstance(annotation, RegionSpec):
        return annotation.inner
    if isinstance(annotation, StateSpec):
        return leaf_spec(annotation.inner)
    if isinstance(annotation, DType):
        return TensorSpec((), annotation)
    if isinstance(annotation, type) and issubclass(annotation, Tensor):
        return TensorSpec()
    return annotation if isinstance(annotation, TensorSpec) else None


def is_state(annotation: Any) -> bool:
    """Whether the annotation marks state."""
    return isinstance(annotation, StateSpec)


def spec_tree(annotation: Any) -> Any:
    """The tree of TensorSpecs that the annotation is, or None where it describes one tensor or nothing."""
    inner = annotation.inner if isinstance(annotation, StateSpec) else annotation
    if isinstance(inner, StoredSpec):
        return inner.parts
    if not isinstance(inner, (dict, list, tuple)):
        return None
    leaves, _ = flatten(inner)
    if not leaves or any(_parts(x) is None for x in leaves):
        return None
    return tree_map(_parts, inner)


def _parts(annotation: Any) -> Any:
    """The tensor annotation that this is, or those of the parts that it is stored as; or None."""
    return annotation.parts if isinstance(annotation, StoredSpec) else leaf_spec(annotation)


def with_specs(
    name: str, specs: Any, value: Any, one: Callable[[str, TensorSpec, Any], Any], where: str,
) -> Any:
    """`one(path, spec, leaf)` for each tensor of a value that must have the structure of the specs. E307 if not."""
    if isinstance(specs, TensorSpec):
        return one(name, specs, value)
    keys = [*sorted(specs)] if isinstance(specs, dict) else [*range(len(specs))]
    kind = dict if isinstance(specs, dict) else (tuple, list)
    given = [*sorted(value)] if isinstance(value, dict) else [*range(len(value))] if isinstance(value, kind) else None
    if not isinstance(value, kind) or given != keys:
        expected = ", ".join(str(k) for k in keys)
        shown = type(value).__name__ if given is None else ", ".join(map(str, given))
        raise SourceError("E307", f"`{name}` of {where} is declared with {expected} and was given {shown}",
                          help="values have the structure of the annotation")
    made = [with_specs(f"{name}.{k}", specs[k], value[k], one, where) for k in keys]
    if isinstance(value, dict):
        return dict(zip(keys, made, strict=True))
    return tuple(made) if isinstance(value, tuple) else made


def check_state(names: list[str], arguments: dict[str, Any], result: Any, where: str) -> None:
    """The rule of state: what the function returns has its new value. Raises E317."""
    for name in names:
        if not isinstance(result, dict) or name not in result:
            raise SourceError("E317", f"{where} does not return the new value of its state `{name}`",
                              help=f'return a dict that has it, as in return {{"loss": loss, "{name}": {name}}}')
        before, after = flatten_with_names(arguments[name], name)[0], flatten_with_names(result[name], name)[0]
        for (path, old), (other, new) in zip(before, after, strict=False):
            if path == other and isinstance(new, Tensor) and new.type != old.type:
                raise SourceError("E317", f"{where} returns its state `{path}` as {new.type}, it is {old.type}",
                                  help="keep shape and element type; convert with ts.cast")
        if [path for path, _ in before] != [path for path, _ in after]:
            raise SourceError("E317", f"{where} returns its state `{name}` with another structure",
                              help=f"expected {flatten(arguments[name])[1]}, found {flatten(result[name])[1]}")

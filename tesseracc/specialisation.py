"""How a call with given arguments is compiled: types of open parameters, Python values, numbers for dims of tiles."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tessera.decorators import Function, Kernel, Parameter
from tessera.pytree import flatten, tree_map
from tessera.tensor import Tensor, as_tensor
from tesseracc.static_values import identity

__all__ = ["Specialisation", "is_tensor", "specialise"]


@dataclass(frozen=True)
class Specialisation:
    """What values of arguments decide of a compilation: types of parameters without annotation, Python values that are
    part of the program, and numbers for dims that tiles have."""

    types: Mapping[str, Any]
    static: Mapping[str, object]
    fixed: Mapping[str, int]

    @property
    def key(self) -> Hashable:
        """Equal for calls that one compilation serves."""
        types = tuple(f"{name}={tree_map(str, type_)}" for name, type_ in self.types.items())
        return types, identity(self.static), tuple(self.fixed.items())


def specialise(entry: Function | Kernel, arguments: Mapping[str, object]) -> Specialisation:
    """How a call with these arguments, all of them by name, is compiled."""
    parameters = {p.name: p for p in entry.parameters}
    static = {name: value for name, value in arguments.items() if _is_static(entry, parameters[name], value)}
    types = {
        name: _type_of(value)
        for name, value in arguments.items()
        if name not in static and _is_open(parameters[name])
    }  # fmt: skip
    return Specialisation(types, static, _fixed(entry, arguments))


def _is_static(entry: Function | Kernel, parameter: Parameter, value: object) -> bool:
    """Whether the value is part of what is compiled: a Python value of a parameter that declares no tensor."""
    if isinstance(entry, Kernel):
        return any(p.constant for p in entry.definition.params if p.name == parameter.name)
    return parameter.tensor is None and not any(map(is_tensor, _leaves(value)))


def _fixed(entry: Function | Kernel, values: Mapping[str, object]) -> dict[str, int]:
    """The sizes of dims that tiles have, and that must be numbers therefore."""
    names = entry.definition.open if isinstance(entry, Kernel) else ()
    if not names:
        return {}
    from tessera.kernel.evaluate import bind

    sizes = bind(entry.definition, (), values)[2]  # type: ignore[union-attr]
    return {name: int(str(sizes[name])) for name in names}


def _type_of(value: Any) -> Any:
    """The type of a tensor; of a tree the tree of types, with Python values as they are."""
    if isinstance(value, (dict, list, tuple)):
        return tree_map(lambda x: _type_of(x) if is_tensor(x) else x, value)
    found = as_tensor(value)
    return found.type.with_dtype(found.dtype)


def _is_open(parameter: Parameter) -> bool:
    if parameter.tree is not None:
        return any(spec.dims is None or spec.dtype is None for spec in flatten(parameter.tree)[0])
    spec = parameter.tensor
    return spec is None or spec.dims is None or spec.dtype is None


def _leaves(value: object) -> list[object]:
    """The leaves of a tree; an object that is none, such as a dict with other keys than strings, is one leaf."""
    try:
        return flatten(value)[0]
    except TypeError:
        return [value]


def is_tensor(value: object) -> bool:
    return isinstance(value, (Tensor, np.ndarray, np.generic))

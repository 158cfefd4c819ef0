"""Nested tuples, lists and dicts of values: what functions take and give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Tree", "flatten", "flatten_with_names", "leaf_count", "tree_map", "unflatten"]


@dataclass(frozen=True)
class Tree:
    """A structure without its leaves. `kind` is leaf, none, tuple, list, dict; `keys` are a dict's keys, sorted."""

    kind: str
    keys: tuple[str, ...] = ()
    children: tuple[Tree, ...] = ()

    def __str__(self) -> str:
        inner = [str(c) for c in self.children]
        if self.kind == "dict":
            return "{" + ", ".join(f"{k}: {c}" for k, c in zip(self.keys, inner, strict=True)) + "}"
        if self.kind in ("tuple", "list"):
            return ("(%s)" if self.kind == "tuple" else "[%s]") % ", ".join(inner)
        return "*" if self.kind == "leaf" else "None"


_LEAF, _NONE = Tree("leaf"), Tree("none")


def flatten(value: Any) -> tuple[list[Any], Tree]:
    """The leaves in order (dicts by sorted key), and the structure. All but tuple, list, dict, None are leaves."""
    named, tree = flatten_with_names(value)
    return [leaf for _, leaf in named], tree


def flatten_with_names(value: Any, prefix: str = "") -> tuple[list[tuple[str, Any]], Tree]:
    """As flatten, with the path of each leaf: `prefix.key.0`."""
    if value is None:
        return [], _NONE
    if isinstance(value, (tuple, list)):
        parts = [flatten_with_names(v, _join(prefix, i)) for i, v in enumerate(value)]
        kind = "tuple" if isinstance(value, tuple) else "list"
        keys: tuple[str, ...] = ()
    elif isinstance(value, dict):
        if not all(isinstance(k, str) for k in value):
            raise TypeError("dict keys of a value passed to or from a function must be strings")
        keys = tuple(sorted(value))
        parts = [flatten_with_names(value[k], _join(prefix, k)) for k in keys]
        kind = "dict"
    else:
        return [(prefix, value)], _LEAF
    return [leaf for leaves, _ in parts for leaf in leaves], Tree(kind, keys, tuple(t for _, t in parts))


def _join(prefix: str, key: object) -> str:
    return f"{prefix}.{key}" if prefix else str(key)


def leaf_count(tree: Tree) -> int:
    """How many leaves a structure has."""
    return 1 if tree.kind == "leaf" else sum(map(leaf_count, tree.children))


def unflatten(tree: Tree, leaves: Iterable[Any]) -> Any:
    """The value with this structure and these leaves."""
    return _build(tree, iter(leaves))


def _build(tree: Tree, leaves: Iterator[Any]) -> Any:
    if tree.kind == "leaf":
        return next(leaves)
    if tree.kind == "none":
        return None
    items = [_build(child, leaves) for child in tree.children]
    if tree.kind == "dict":
        return dict(zip(tree.keys, items, strict=True))
    return tuple(items) if tree.kind == "tuple" else items


def tree_map(function: Callable[..., Any], value: Any, *others: Any) -> Any:
    """`function` applied to corresponding leaves of values of one structure."""
    leaves, tree = flatten(value)
    rest = []
    for other in others:
        more, same = flatten(other)
        if same != tree:
            raise ValueError(f"structures differ: {tree} and {same}")
        rest.append(more)
    return unflatten(tree, [function(*row) for row in zip(leaves, *rest, strict=True)])

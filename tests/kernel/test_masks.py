"""Every mask in front of a reduction is needed: without it a ragged size gives another result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tessera.kernel import KernelDef, evaluate, specialise
from tessera.kernel.tree import Mask, ReduceTile, walk_exprs
from tests.kernel import tile_kernels as K
from tests.kernel.test_tile_seeds import load


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Any:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(dtype)


def rewritten(node: Any, change: Callable[[Any], Any]) -> Any:
    """A tree with `change` applied to every node, children first. Buffers and variables are left alone."""
    if isinstance(node, tuple):
        return tuple(rewritten(item, change) for item in node)
    if not is_dataclass(node) or type(node).__module__ not in ("tessera.kernel.tree", "tessera.kernel.tile_tree"):
        return node
    if type(node).__name__ in ("Buffer", "Var", "Elem", "TileType", "Axis", "Param"):
        return node
    changed = {f.name: rewritten(getattr(node, f.name), change) for f in fields(node) if f.init}
    return change(replace(node, **changed))  # type: ignore[type-var]


def without_mask(kernel: KernelDef, number: int) -> KernelDef:
    """The kernel with the mask of one reduction left out."""
    count = iter(range(10**6))

    def change(node: Any) -> Any:
        if isinstance(node, ReduceTile) and isinstance(node.a, Mask) and next(count) == number:
            return replace(node, a=node.a.a)
        return node

    return replace(kernel, body=rewritten(kernel.body, change))


def masks(kernel: KernelDef) -> int:
    return sum(isinstance(e, ReduceTile) and isinstance(e.a, Mask) for e in walk_exprs(kernel.body))


def attention() -> list[list[Any]]:
    """Scores below 0, so that a key of zeros that is taken for one would win."""
    q, k, v = (normal(1, 100, 16, seed=i).astype(ml_dtypes.bfloat16) for i in range(3))
    return [[np.abs(q), -np.abs(k), v, False]]


def ring() -> list[list[Any]]:
    return [[-np.abs(normal(65, 16)), np.abs(normal(20, 16)), normal(20), normal(20)]]


#: the kernel, and arguments for some of which each mask must matter
CASES: dict[str, tuple[Callable[[], KernelDef], Callable[[], list[list[Any]]]]] = {
    "ring": (lambda: K.ring.definition, ring),
    "layer_norm": (lambda: K.layer_norm.definition, lambda: [[normal(5, 40) + 3, normal(40), normal(5, 40)]]),
    "cubes": (
        lambda: K.cubes.definition,
        lambda: [[normal(3, 5, 3) - 9, normal(3, 5)], [normal(3, 5, 3) + 9, normal(3, 5)]],
    ),
    "attention": (
        lambda: specialise(load("flash_attention").definition, {"is_causal": False}, dims={"D": 16}),
        attention,
    ),
}


def results(kernel: KernelDef, args: list[Any]) -> list[Any]:
    given = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
    out = evaluate(kernel, given)
    return [np.asarray(v).astype(np.float64) for v in (*given, out if out is not None else 0.0)]


@pytest.mark.parametrize("name", CASES)
def test_masks_of_reductions_are_needed(name: str) -> None:
    definition, arguments = CASES[name]
    kernel, cases = definition(), arguments()
    right = [results(kernel, args) for args in cases]
    count = masks(kernel)
    assert count
    for number in range(count):
        wrong = [results(without_mask(kernel, number), args) for args in cases]
        pairs = ((a, b) for x, y in zip(right, wrong, strict=True) for a, b in zip(x, y, strict=True))
        assert any(not np.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in pairs), number

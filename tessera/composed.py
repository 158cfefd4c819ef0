"""The family of operators that are defined by other operators; their derivatives and batches follow from that."""

from __future__ import annotations

from typing import Any

from tessera.derivatives import jvp, vjp, vmap
from tessera.operator import Cotangents, Operator, Types
from tessera.shapes import Dim
from tessera.tensor import Tensor
from tessera.types import TensorType

__all__ = ["Composed"]


class Composed(Operator):
    """Defined by `compose`. `vjp` and `jvp` differentiate the composition."""

    rounds = True
    accumulates = True

    def infer(self, *ins: TensorType) -> Types:
        raise self.missing("infer")

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        _, pullback = vjp(self.compose, *primals)
        return tuple(pullback(cts[0] if len(cts) == 1 else cts))

    def jvp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], tangents: Cotangents) -> Any:
        return jvp(self.compose, primals, tangents)[1]

    def batch(self, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Any:
        return vmap(self.compose, tuple(0 if own else None for own in batched))(*xs)

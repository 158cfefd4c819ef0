"""The Python operators of tensors: `x + y`, `x @ y`, `x < y`, `x[i]`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tessera.errors import SourceError

if TYPE_CHECKING:
    from tessera.tensor import Tensor, TensorLike

__all__ = ["Arithmetic", "operators"]


class Operators:
    """The functions of tessera.ops by name, for what those are built on: tensors, derivatives, policies."""

    def provide(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        """Make functions known; tessera.ops does so when it is imported, with all of its own."""
        vars(self).update(functions)

    if TYPE_CHECKING:
        def __getattr__(self, name: str) -> Callable[..., Tensor]: ...


operators = Operators()


class Arithmetic:
    """What Python's operators do with a tensor; functions of tessera.ops do it."""

    __slots__ = ()

    def __add__(self, other: TensorLike) -> Tensor:
        return operators.add(self, other)

    def __radd__(self, other: TensorLike) -> Tensor:
        return operators.add(other, self)

    def __sub__(self, other: TensorLike) -> Tensor:
        return operators.sub(self, other)

    def __rsub__(self, other: TensorLike) -> Tensor:
        return operators.sub(other, self)

    def __mul__(self, other: TensorLike) -> Tensor:
        return operators.mul(self, other)

    def __rmul__(self, other: TensorLike) -> Tensor:
        return operators.mul(other, self)

    def __truediv__(self, other: TensorLike) -> Tensor:
        return operators.div(self, other)

    def __rtruediv__(self, other: TensorLike) -> Tensor:
        return operators.div(other, self)

    def __floordiv__(self, other: TensorLike) -> Tensor:
        return operators.floordiv(self, other)

    def __rfloordiv__(self, other: TensorLike) -> Tensor:
        return operators.floordiv(other, self)

    def __mod__(self, other: TensorLike) -> Tensor:
        return operators.mod(self, other)

    def __rmod__(self, other: TensorLike) -> Tensor:
        return operators.mod(other, self)

    def __pow__(self, other: TensorLike) -> Tensor:
        return operators.pow(self, other)

    def __rpow__(self, other: TensorLike) -> Tensor:
        return operators.pow(other, self)

    def __matmul__(self, other: TensorLike) -> Tensor:
        return operators.matmul(self, other)

    def __rmatmul__(self, other: TensorLike) -> Tensor:
        return operators.matmul(other, self)

    def __and__(self, other: TensorLike) -> Tensor:
        return operators.bitwise_and(self, other)

    __rand__ = __and__

    def __or__(self, other: TensorLike) -> Tensor:
        return operators.bitwise_or(self, other)

    __ror__ = __or__

    def __xor__(self, other: TensorLike) -> Tensor:
        return operators.bitwise_xor(self, other)

    __rxor__ = __xor__

    def __lshift__(self, other: TensorLike) -> Tensor:
        return operators.shift_left(self, other)

    def __rshift__(self, other: TensorLike) -> Tensor:
        return operators.shift_right(self, other)

    def __neg__(self) -> Tensor:
        return operators.neg(self)

    def __abs__(self) -> Tensor:
        return operators.abs(self)

    def __invert__(self) -> Tensor:
        return operators.logical_not(self)

    def __lt__(self, other: TensorLike) -> Tensor:
        return operators.less(self, other)

    def __le__(self, other: TensorLike) -> Tensor:
        return operators.less_equal(self, other)

    def __gt__(self, other: TensorLike) -> Tensor:
        return operators.greater(self, other)

    def __ge__(self, other: TensorLike) -> Tensor:
        return operators.greater_equal(self, other)

    def __eq__(self, other: object) -> Tensor:  # type: ignore[override]
        return operators.equal(self, other)

    def __ne__(self, other: object) -> Tensor:  # type: ignore[override]
        return operators.not_equal(self, other)

    def __getitem__(self, index: Any) -> Tensor:
        return operators.getitem(self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        raise SourceError("E312", "a tensor is a value: its elements cannot be assigned",
                          help="make a new one with ts.where or ts.concat, or assign inside a @ts.kernel")

"""A tensor of the language that stands for something of the compiler: a graph value, or an array under evaluation."""

from __future__ import annotations

from typing import Generic, TypeVar

from tessera.interpreters import Interpreter
from tessera.tensor import Tensor
from tessera.types import TensorType

T = TypeVar("T")


class Held(Tensor, Generic[T]):
    """A tensor with a type and an interpreter, holding `held` in place of elements of its own."""

    __slots__ = ("_interpreter", "_type", "held")

    def __init__(self, interpreter: Interpreter, type_: TensorType, held: T) -> None:
        self._interpreter = interpreter
        self._type = type_
        self.held = held

    @property
    def type(self) -> TensorType:
        return self._type

    @property
    def interpreter(self) -> Interpreter:
        return self._interpreter

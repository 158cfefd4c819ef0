"""Who executes an operator. Transformations are interpreters: NumPy, a tracer, forward and reverse derivatives.

`execute(op, *xs)` hands the operator to the highest interpreter that owns one of its operands, or to the innermost
`dynamic` one (a tracer, which must see everything that happens while it is active), else to NumPy. An interpreter does
its work by calling `execute` on the values below it, so they nest.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tessera.arrays import dtype_of
from tessera.errors import SourceError, Span, origin, user_span
from tessera.operator import Operator
from tessera.policies import under
from tessera.tensor import EagerTensor
from tessera.types import TensorType
from tessera_runtime.core import recording

if TYPE_CHECKING:
    from tessera.tensor import Tensor

__all__ = [
    "Interpreter", "active", "apply", "execute", "interpret", "interpreters", "is_tracing", "move",
    "owner", "place",
]  # fmt: skip


class Interpreter:
    """Base of the interpreters above NumPy. The tensors it makes have it as their `interpreter`."""

    # A dynamic interpreter also receives operators none of whose operands are its own.
    dynamic: bool = False
    # Whether `process` needs the user's place; finding it costs some microseconds.
    located: bool = False

    def process(self, op: Operator, args: tuple[Tensor, ...], loc: Span | None) -> Any:
        """Execute `op`; returns a Tensor, or a tuple of them for an operator with several results."""
        raise TypeError(f"{type(self).__name__} does not define process")


class _Stack(threading.local):
    def __init__(self) -> None:
        self.entries: list[Interpreter] = []
        self.place: Span | None = None  # of what a record repeats: where it was written


_STACK = _Stack()
_I = TypeVar("_I", bound=Interpreter)


@contextmanager
def interpret(interpreter: _I) -> Iterator[_I]:
    """Make `interpreter` the top of this thread's stack for a while."""
    _STACK.entries.append(interpreter)
    try:
        yield interpreter
    finally:
        _STACK.entries.remove(interpreter)


def active(kind: type[_I]) -> _I | None:
    """The innermost active interpreter of a class."""
    for interpreter in reversed(_STACK.entries):
        if isinstance(interpreter, kind):
            return interpreter
    return None


def interpreters() -> tuple[Interpreter, ...]:
    """The active interpreters of this thread, the outermost first."""
    return tuple(_STACK.entries)


def place() -> Span | None:
    """Where the operator was written that a record repeats here; None outside of one."""
    return _STACK.place


def move(span: Span | None) -> None:
    """From here on this thread executes what was written at `span`."""
    _STACK.place = span


def is_tracing() -> bool:
    """Whether a dynamic interpreter (a tracer) is active."""
    return any(interpreter.dynamic for interpreter in _STACK.entries)


def apply(op: Operator, *xs: Tensor) -> Tensor:
    """Execute an operator of one result on tensors."""
    result: Tensor = execute(op, *xs)
    return result


def execute(op: Operator, *xs: Tensor) -> Any:
    """Execute any operator: a Tensor, or a tuple of them for several results. Policies of the operands are obeyed."""
    if any(x.policies for x in xs):
        return under(op, xs, perform)
    return perform(op, *xs)


def perform(op: Operator, *xs: Tensor) -> Any:
    """Execute an operator as it is, whatever policies its operands carry."""
    top = owner(xs) if _STACK.entries or any(x.interpreter is not None for x in xs) else None
    if top is None:
        return _numpy(op, xs) if recording.active() is None else _recorded(op, xs)
    try:
        return top.process(op, xs, (_STACK.place or user_span()) if top.located else None)
    except SourceError as err:
        # Raised below the tracer, where the user's place cannot be seen from.
        if err.span is None:
            calls = origin()
            err.at(calls[0].span if calls else None, calls)
        raise


def owner(xs: tuple[Tensor, ...]) -> Interpreter | None:
    """Who executes an operator on these operands: the highest interpreter concerned, None for NumPy."""
    entries = _STACK.entries
    owners = {id(x.interpreter) for x in xs if x.interpreter is not None}
    found = None
    for interpreter in entries:
        if interpreter.dynamic or id(interpreter) in owners:
            found = interpreter
        owners.discard(id(interpreter))
    if owners:
        raise SourceError("E309", "a value is used outside the function that it was traced in",
                          help="return it from the function instead of storing it elsewhere")
    return found


def _recorded(op: Operator, xs: tuple[Tensor, ...]) -> Any:
    """The same, with its time and place for a profile."""
    start = time.perf_counter_ns()
    results = _numpy(op, xs)
    stop, recorder, place = time.perf_counter_ns(), recording.active(), user_span()
    if recorder is not None:
        made = results if isinstance(results, tuple) else (results,)
        moved = sum(x._data.nbytes for x in (*xs, *made))
        file, line = (os.path.basename(place.file), place.line) if place else ("", 0)
        thread = threading.get_ident()
        span = recording.Span("operator", op.name, start, stop, "eager", thread, "", -1, moved, file, line)
        recorder.add(span)
    return results


def _numpy(op: Operator, xs: tuple[Tensor, ...]) -> Any:
    types = op.infer(*(x.type for x in xs))
    with np.errstate(all="ignore"):
        results = op.ref(*(x._data for x in xs))  # type: ignore[attr-defined]
    if isinstance(types, TensorType):
        return EagerTensor(_checked(op, np.asarray(results), types))
    return tuple(EagerTensor(_checked(op, np.asarray(r), t)) for r, t in zip(results, types, strict=True))


def _checked(op: Operator, array: np.ndarray[Any, Any], expected: TensorType) -> np.ndarray[Any, Any]:
    # infer decides; a ref that disagrees is a defect of the operator, and better found here than downstream.
    if array.shape != expected.dims or dtype_of(array) != expected.dtype:
        raise AssertionError(f"{op}: ref gives {dtype_of(array)}{list(array.shape)}, infer says {expected}")
    return array

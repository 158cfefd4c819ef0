"""What NumPy does with a tensor: `array + x` is the operator of the language, `np.exp(x)` an error that names ours.

Functions of NumPy that ask for shapes, call methods or take the elements of an eager tensor, such as `np.allclose`, are
left alone.
"""

from __future__ import annotations

import dis
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any

from tessera.arithmetic import operators
from tessera.errors import SourceError

if TYPE_CHECKING:
    from tessera.types import TensorType

__all__ = ["NumpyFunctions"]

#: what Python's operators on an array become: the tensor's method, and the one for a tensor on the right
_OPERATORS = {
    "add": "add", "subtract": "sub", "multiply": "mul", "divide": "truediv", "true_divide": "truediv",
    "floor_divide": "floordiv", "remainder": "mod", "power": "pow", "matmul": "matmul", "bitwise_and": "and",
    "bitwise_or": "or", "bitwise_xor": "xor", "left_shift": "lshift", "right_shift": "rshift",
}  # fmt: skip
_COMPARISONS = {"less": "gt", "less_equal": "ge", "greater": "lt", "greater_equal": "le", "equal": "eq",
                "not_equal": "ne"}  # fmt: skip

#: functions of NumPy that have another name here
_NAMES = {
    "absolute": "abs", "fabs": "abs", "floor_divide": "floordiv", "remainder": "mod", "true_divide": "divide",
    "left_shift": "shift_left", "right_shift": "shift_right", "amax": "max", "amin": "min", "invert": "logical_not",
    "bitwise_not": "logical_not", "bitwise_left_shift": "shift_left", "bitwise_right_shift": "shift_right",
}  # fmt: skip


class NumpyFunctions:
    """The protocols by which NumPy hands its functions to a tensor."""

    __slots__ = ()

    if TYPE_CHECKING:
        @property
        def type(self) -> TensorType: ...

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        """Operators of arrays and numbers with tensors; SourceError E320 for what is called by name.

        NumPy does not tell `array + x` from np.add(array, x), so that is the same; `array += x` gives the name the new
        tensor.
        """
        found: Any = NotImplemented
        own = out is None or (out[0] is inputs[0] and not _is_call(sys._getframe(1)))
        if method == "__call__" and len(inputs) == 2 and own and not options:
            found = _operator(ufunc.__name__, *inputs)
        if found is not NotImplemented:
            return found
        name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
        raise SourceError("E320", f"np.{name} does not compute with tensors", help=_help(ufunc.__name__))

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Functions that ask for shapes, methods or elements that there are. SourceError E309 for those that need the
        elements of a traced tensor, E320 where a method of tensors is not what NumPy takes it for."""
        name = getattr(function, "__name__", "")
        try:
            return function._implementation(*args, **kwargs)
        except SourceError as error:
            if error.code != "E309":
                raise
        except TypeError:
            if _ours(name) is None:
                raise
            raise SourceError("E320", f"np.{name} does not compute with tensors", help=_help(name)) from None
        raise SourceError("E309", f"np.{name} needs the elements of {self.type}, which are not known while tracing",
                          help=_help(name))


def _is_call(frame: FrameType) -> bool:
    """Whether the frame's present instruction is a call: `np.add(a, x, out=a)` and not `a += x`."""
    return "CALL" in dis.opname[frame.f_code.co_code[frame.f_lasti]]


def _operator(name: str, left: Any, right: Any) -> Any:
    """What the operator gives, NotImplemented where the ufunc is none or the tensor has no such method."""
    flipped = not isinstance(left, NumpyFunctions)
    value, other = (right, left) if flipped else (left, right)
    if name in _COMPARISONS:
        mirrored = _COMPARISONS[name]
        plain = {"gt": "lt", "ge": "le", "lt": "gt", "le": "ge"}.get(mirrored, mirrored)
        method = mirrored if flipped else plain
    elif name in _OPERATORS:
        method = f"r{_OPERATORS[name]}" if flipped else _OPERATORS[name]
    else:
        return NotImplemented
    found = getattr(value, f"__{method}__", None)
    return NotImplemented if found is None else found(other)


def _ours(name: str) -> str | None:
    """The function of `ts` for NumPy's of that name."""
    ours = _NAMES.get(name, name)
    return ours if ours in vars(operators) else None


def _help(name: str) -> str:
    ours = _ours(name)
    return f"use ts.{ours}" if ours else f"ts has no {name}: use functions of ts, as in ts.exp(x)"

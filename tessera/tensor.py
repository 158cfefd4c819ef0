"""Tensor values. `Tensor` holds what every kind of tensor can do; `EagerTensor` wraps a NumPy array.

A traced tensor is a subclass that has a type and an interpreter but no data: all arithmetic and all methods are shared.
Tensors are immutable values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Union

import numpy as np

from tessera.arithmetic import Arithmetic, operators
from tessera.arrays import Array, convert, dtype_of, widen
from tessera.dtypes import DType, as_dtype, bool_, f32, i64, promote
from tessera.errors import SourceError
from tessera.exchange import Exchange
from tessera.numerics import Policy
from tessera.numpy_functions import NumpyFunctions
from tessera.shapes import Expr
from tessera.types import TensorType, tensor_spec
from tessera_runtime import dlpack
from tessera_runtime.core.errors import InputError
from tessera_runtime.core.usage import track

if TYPE_CHECKING:
    from tessera.interpreters import Interpreter

__all__ = ["EagerTensor", "Tensor", "TensorLike", "array", "as_tensor", "from_dlpack", "operands", "operators",
           "tensor"]

Scalar = int | float | bool | Expr
TensorLike = Union["Tensor", int, float, bool, Expr, "np.ndarray[Any, Any]", Sequence[Any]]


class Tensor(NumpyFunctions, Arithmetic):
    """An array value of the language. As an annotation, `ts.Tensor["B", "3*D", ts.bf16]` describes a parameter."""

    __slots__ = ()

    def __class_getitem__(cls, items: object) -> Any:
        return tensor_spec(items)

    # What a subclass provides -------------------------------------------------------------------------------------

    @property
    def type(self) -> TensorType:
        """Shape and element type."""
        raise TypeError("abstract")

    @property
    def interpreter(self) -> Interpreter | None:
        """The interpreter that owns the value; None for eager tensors."""
        return None

    def numpy(self) -> Array:
        """The elements as a NumPy array (a copy, row-major); only an eager tensor has them."""
        raise SourceError("E309", f"the elements of a tensor {self.type} are not known while tracing",
                          help="a compiled function is traced once for all inputs; compute with ts operators instead")

    # Type ---------------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[Any, ...]:
        """The sizes: ints, or symbolic sizes while tracing."""
        return self.type.dims

    @property
    def policies(self) -> tuple[Policy, ...]:
        """The numeric policies that the value carries; `type` is without them."""
        return ()

    @property
    def dtype(self) -> DType:
        """The element type with the value's policies."""
        return DType(self.type.dtype.name, self.policies) if self.policies else self.type.dtype

    def with_policies(self, policies: tuple[Policy, ...]) -> Tensor:
        """The same value carrying other policies; where a kind of tensor cannot carry any, the value itself."""
        return self

    @property
    def ndim(self) -> int:
        return len(self.type.dims)

    rank = ndim

    @property
    def size(self) -> Any:
        """The number of elements."""
        return self.type.size

    def __len__(self) -> int:
        if not self.shape:
            raise SourceError("E304", "a tensor of rank 0 has no length")
        return int(self.shape[0])

    # Conversion to Python -----------------------------------------------------------------------------------------

    def item(self) -> Any:
        """The one element as a Python number."""
        if self.size != 1:
            raise SourceError("E304", f"item() needs one element, not {self.type}")
        return widen(self.numpy()).reshape(()).item()

    def tolist(self) -> Any:
        """Nested lists of Python numbers."""
        return widen(self.numpy()).tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        data = self.numpy()
        return data if dtype is None else np.asarray(data, dtype)

    def __bool__(self) -> bool:
        return bool(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __index__(self) -> int:
        if self.dtype.is_float:
            raise SourceError("E303", f"a tensor of {self.dtype} cannot be an index")
        return int(self.item())

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __hash__(self) -> int:
        return id(self)

    def __pos__(self) -> Tensor:
        return self

    # Methods ------------------------------------------------------------------------------------------------------

    @property
    def T(self) -> Tensor:
        """All axes reversed."""
        return operators.transpose(self)

    @property
    def mT(self) -> Tensor:
        """The last two axes swapped."""
        return operators.transpose(self, -2, -1)

    def reshape(self, *shape: Any) -> Tensor:
        return operators.reshape(self, *shape)

    def transpose(self, *axes: Any) -> Tensor:
        return operators.transpose(self, *axes)

    def permute(self, *axes: Any) -> Tensor:
        return operators.permute(self, *axes)

    def flatten(self) -> Tensor:
        return operators.reshape(self, -1)

    def squeeze(self, axis: Any = None) -> Tensor:
        return operators.squeeze(self, axis)

    def expand_dims(self, axis: Any) -> Tensor:
        return operators.expand_dims(self, axis)

    unsqueeze = expand_dims

    def broadcast_to(self, *shape: Any) -> Tensor:
        return operators.broadcast_to(self, *shape)

    def split(self, sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
        parts: Any = operators.split(self, sections, dim)
        return tuple(parts)

    def take(self, indices: TensorLike, axis: int = 0) -> Tensor:
        return operators.take(self, indices, axis)

    def astype(self, dtype: Any) -> Tensor:
        return operators.cast(self, dtype)

    cast = astype
    to = astype

    def sum(self, axis: Any = None, keepdims: bool = False, dim: Any = None) -> Tensor:
        return operators.sum(self, axis, keepdims, dim=dim)

    def prod(self, axis: Any = None, keepdims: bool = False, dim: Any = None) -> Tensor:
        return operators.prod(self, axis, keepdims, dim=dim)

    def mean(self, axis: Any = None, keepdims: bool = False, dim: Any = None) -> Tensor:
        return operators.mean(self, axis, keepdims, dim=dim)

    def max(self, axis: Any = None, keepdims: bool = False, dim: Any = None) -> Tensor:
        return operators.max(self, axis, keepdims, dim=dim)

    def min(self, axis: Any = None, keepdims: bool = False, dim: Any = None) -> Tensor:
        return operators.min(self, axis, keepdims, dim=dim)

    def any(self, axis: Any = None, keepdims: bool = False, dim: Any = None) -> Tensor:
        return operators.any(self, axis, keepdims, dim=dim)

    def all(self, axis: Any = None, keepdims: bool = False, dim: Any = None) -> Tensor:
        return operators.all(self, axis, keepdims, dim=dim)

    def argmax(self, axis: int | None = None, keepdims: bool = False, dim: int | None = None) -> Tensor:
        return operators.argmax(self, axis, keepdims, dim=dim)

    def argmin(self, axis: int | None = None, keepdims: bool = False, dim: int | None = None) -> Tensor:
        return operators.argmin(self, axis, keepdims, dim=dim)

    def softmax(self, axis: int = -1) -> Tensor:
        return operators.softmax(self, axis)

    def exp(self) -> Tensor:
        return operators.exp(self)

    def log(self) -> Tensor:
        return operators.log(self)

    def sqrt(self) -> Tensor:
        return operators.sqrt(self)

    def tanh(self) -> Tensor:
        return operators.tanh(self)

    def sigmoid(self) -> Tensor:
        return operators.sigmoid(self)

    def relu(self) -> Tensor:
        return operators.relu(self)

    def abs(self) -> Tensor:
        return operators.abs(self)

    def clip(self, low: TensorLike | None = None, high: TensorLike | None = None) -> Tensor:
        return operators.clip(self, low, high)

    def __repr__(self) -> str:
        return f"<{self.type}>"


class EagerTensor(Exchange, Tensor):
    """A tensor whose elements are there, in a NumPy array."""

    __slots__ = ("_data", "_policies", "_type")

    def __init__(self, data: Array, policies: tuple[Policy, ...] = ()) -> None:
        self._data = track(data)
        self._type: TensorType | None = None
        self._policies = policies

    @property
    def policies(self) -> tuple[Policy, ...]:
        return self._policies

    def with_policies(self, policies: tuple[Policy, ...]) -> EagerTensor:
        return self if policies == self._policies else EagerTensor(self._data, policies)

    @property
    def type(self) -> TensorType:
        if self._type is None:
            self._type = TensorType(self._data.shape, dtype_of(self._data))
        return self._type

    def numpy(self) -> Array:
        return np.array(self._data, order="C")

    def __repr__(self) -> str:
        text = np.array2string(widen(self._data), separator=", ", threshold=100, precision=6)
        return f"tensor({text}, dtype={self.dtype})"

    __str__ = __repr__


# Making tensors -------------------------------------------------------------------------------------------------------


def tensor(data: Any, dtype: Any = None) -> Tensor:
    """A tensor from numbers, nested sequences, a NumPy array or a tensor, with the elements copied.

    Arrays keep their element type; Python floats give f32, ints i64, bools bool; `dtype` converts.
    """
    if isinstance(data, Tensor):
        return data if dtype is None else data.astype(dtype)
    value: Array = np.array(data)
    if not isinstance(data, (np.ndarray, np.generic)) and value.dtype == np.float64:
        target = f32 if dtype is None else as_dtype(dtype).unscaled()
        return EagerTensor(convert(value, target), target.policies)
    if not isinstance(data, (np.ndarray, np.generic)) and value.size == 0 and value.dtype.kind == "f":
        value = value.astype(np.float32)
    try:
        source = dtype_of(value)
    except Exception:
        raise SourceError("E311", f"{_short(data)} is not a tensor",
                          help="tensors hold numbers: use arrays, numbers or nested lists of numbers") from None
    target = source if dtype is None else as_dtype(dtype).unscaled()
    if target.base != source:
        return EagerTensor(convert(value, target), target.policies)
    return EagerTensor(np.ascontiguousarray(value).reshape(value.shape), target.policies)


array = tensor


def from_dlpack(x: Any) -> Tensor:
    """A tensor over the memory of any object with `__dlpack__` on the CPU, without a copy. SourceError E311.

    Tensors are immutable: do not write to that memory while the tensor is in use.
    """
    if isinstance(x, Tensor):
        return x
    if not hasattr(x, "__dlpack__"):
        raise SourceError("E311", f"an object of type {type(x).__name__} has no __dlpack__")
    try:
        return EagerTensor(dlpack.from_dlpack(x))
    except InputError as error:
        raise SourceError("E311", error.message, help=error.help) from None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def as_tensor(x: TensorLike) -> Tensor:
    """`x` as a tensor; a Python number gets its default type (f32, i64, bool). SourceError E311 if it is none."""
    return x if isinstance(x, Tensor) else operands(x)[0]


def operands(*xs: TensorLike) -> tuple[Tensor, ...]:
    """Operands of one operator as tensors. A Python number is weak: it takes the element type of the tensors beside it,
    but a float beside ints gives f32, and an int beside bools gives i64."""
    if all(isinstance(x, Tensor) for x in xs):
        return xs  # type: ignore[return-value]
    ready = [x if isinstance(x, (Tensor, int, float, Expr)) else tensor(x) for x in xs]
    types = [x.dtype for x in ready if isinstance(x, Tensor)]
    beside = promote(*types) if types else None
    return tuple(x if isinstance(x, Tensor) else _scalar(x, beside) for x in ready)


def _scalar(value: Scalar, beside: DType | None) -> Tensor:
    if isinstance(value, bool):
        dtype = beside or bool_
    elif isinstance(value, float):
        dtype = beside if beside is not None and beside.is_float else f32
    else:
        dtype = beside if beside is not None and beside.kind != "bool" else i64
    if dtype.is_int and isinstance(value, int) and not dtype.min_value <= value <= dtype.max_value:
        number = value if value.bit_length() < 256 else f"of {value.bit_length()} bits"
        raise SourceError("E303", f"the number {number} does not fit {dtype}",
                          help="cast the tensor to a wider type first")
    return operators.full((), value, dtype)

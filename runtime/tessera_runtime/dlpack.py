"""DLPack in and out, without copies: https://dmlc.github.io/dlpack/latest/c_api.html, versions 0 and 1.

NumPy does this for its own types; here it is done for all element types (bf16 and fp8 too), with the read-only flag,
and for memory of devices. `take` consumes a capsule, `capsule` makes one.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tessera_runtime.core.dtypes import DTYPES, dtype_of, np_dtype
from tessera_runtime.core.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CPU", "CUDA", "Exported", "Taken", "capsule", "device_of", "from_dlpack", "take"]

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13
_READ_ONLY, _COPIED = 1, 2
MAX_RANK = 64  # NumPy's
#: element types that DLPack has, one element to a whole number of bytes: its type code; bits follow from the size
_CODES = {
    "i8": 0, "i16": 0, "i32": 0, "i64": 0, "u8": 1, "u16": 1, "u32": 1, "u64": 1, "f16": 2, "f32": 2, "f64": 2,
    "bf16": 4, "bool": 6, "fp8_e4m3": 10, "fp8_e5m2": 12,
}  # fmt: skip


class _Device(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int32), ("number", ctypes.c_int32)]


class _Type(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p), ("device", _Device), ("rank", ctypes.c_int32), ("dtype", _Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64),
    ]  # fmt: skip


class _Managed(ctypes.Structure):
    _fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


class _Versioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p), ("flags", ctypes.c_uint64), ("tensor", _Tensor),
    ]  # fmt: skip


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_Destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
# Objects are passed by address: while a capsule is destroyed nothing may count references to it.
_python = ctypes.PyDLL(None)
_valid, _pointer, _rename, _new = (
    getattr(_python, f"PyCapsule_{name}") for name in ("IsValid", "GetPointer", "SetName", "New")
)
_valid.argtypes, _valid.restype = (ctypes.c_void_p, ctypes.c_char_p), ctypes.c_int
_pointer.argtypes, _pointer.restype = (ctypes.c_void_p, ctypes.c_char_p), ctypes.c_void_p
_rename.argtypes, _rename.restype = (ctypes.c_void_p, ctypes.c_char_p), ctypes.c_int
_new.argtypes, _new.restype = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p), ctypes.py_object
_OLD, _NEW = b"dltensor", b"dltensor_versioned"  # names that stay: capsules keep pointers to them
_USED = {_OLD: b"used_dltensor", _NEW: b"used_dltensor_versioned"}


class Taken(NamedTuple):
    """A consumed tensor. `strides` count elements. The memory is there as long as `owner` is."""

    pointer: int
    device: tuple[int, int]
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    readonly: bool
    owner: object


class _Owner:
    """Calls the producer's deleter once, when nothing uses the memory any more."""

    def __init__(self, address: int, deleter: int | None) -> None:
        self._address, self._deleter = address, deleter

    def __del__(self) -> None:
        if self._deleter:
            _Deleter(self._deleter)(self._address)


def device_of(value: Any, what: str) -> tuple[int, int]:
    """The kind and number of the device that a value says it lies on; E708."""
    try:
        kind, number = map(int, value.__dlpack_device__())
    except Exception as error:  # code of others, which may raise anything
        raise InputError("E708", f"{what} does not say on which device it lies: {_shown(error)}") from error
    return kind, number


def take(value: Any, what: str, device: tuple[int, int], stream: int | None = None) -> Taken:
    """Consume what `value.__dlpack__` gives. E708 for what is no tensor of a known type in memory of `device`, which is
    what the value said of itself; `what` names it.

    `stream` is the consumer's, in DLPack's numbering; the producer makes it wait for its own work. None for the CPU.
    """
    options = {} if stream is None else {"stream": stream}
    try:
        try:
            found = value.__dlpack__(max_version=(1, 0), **options)
        except TypeError:
            found = value.__dlpack__(**options)
    except Exception as error:  # code of others, which may raise anything
        raise InputError("E708", f"{what} cannot be shared: {_shown(error)}") from error
    name = next((n for n in (_NEW, _OLD) if _valid(id(found), n)), None)
    if name is None:
        raise InputError("E708", f"{what}: __dlpack__ gives no unused capsule")
    address = _pointer(id(found), name)
    if name == _NEW:
        record: Any = _Versioned.from_address(address)
        flags = record.flags if record.major == 1 else 0
    else:
        record, flags = _Managed.from_address(address), 0
    _rename(id(found), _USED[name])  # from here on the deleter is ours to call
    owner = _Owner(address, record.deleter)
    if name == _NEW and record.major != 1:
        raise InputError("E708", f"{what} uses DLPack {record.major}; version 1 is understood")
    return _read(record.tensor, what, device, bool(flags & _READ_ONLY), owner)


def _shown(error: Exception) -> str:
    return str(error) or type(error).__name__


def _read(tensor: Any, what: str, device: tuple[int, int], readonly: bool, owner: object) -> Taken:
    """What a record says, held against itself: a producer that errs must not make us read anywhere."""
    found = (tensor.device.kind, tensor.device.number)
    if found[0] != device[0] or (found[0] == CUDA and found != device):
        raise InputError("E708", f"{what} says it lies on device {device[0]}:{device[1]}, its capsule {found}")
    kind = tensor.dtype
    dtype = _dtype(kind)
    if dtype is None:
        raise InputError("E708", f"{what} has the DLPack type {kind.code} of {kind.bits} bits x {kind.lanes}")
    rank = tensor.rank
    if not 0 <= rank <= MAX_RANK or (rank and not tensor.shape):
        raise InputError("E708", f"{what} has {rank} axes{'' if tensor.shape else ' without extents'}")
    shape = tuple(tensor.shape[i] for i in range(rank))
    if any(extent < 0 for extent in shape):
        raise InputError("E708", f"{what} has the extents {shape}")
    strides = tuple(tensor.strides[i] for i in range(rank)) if tensor.strides else _dense(shape)
    pointer = (tensor.data or 0) + tensor.offset
    if 0 not in shape:
        steps = [(extent - 1) * stride for extent, stride in zip(shape, strides, strict=True)]
        size = DTYPES[dtype].itemsize
        low = pointer + size * sum(step for step in steps if step < 0)
        high = pointer + size * (1 + sum(step for step in steps if step > 0))
        if not tensor.data or low <= 0 or high >= 1 << 63:
            raise InputError("E708", f"{what} has elements outside of memory: at {low:#x} to {high:#x}")
    return Taken(pointer, found, dtype, shape, strides, readonly, owner)


def _dtype(found: _Type) -> str | None:
    known = ((code, 8 * DTYPES[name].itemsize, 1) for name, code in _CODES.items())
    return dict(zip(known, _CODES)).get((found.code, found.bits, found.lanes))


def _dense(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


class _Memory:
    """What NumPy reads to make an array over foreign memory."""

    def __init__(self, taken: Taken) -> None:
        import numpy as np

        dtype = np.dtype(DTYPES[taken.dtype].raw)
        self.owner = taken.owner
        self.__array_interface__ = {
            "version": 3, "shape": taken.shape, "typestr": dtype.str, "data": (taken.pointer, taken.readonly),
            "strides": tuple(stride * dtype.itemsize for stride in taken.strides),
        }  # fmt: skip


def from_dlpack(value: Any, what: str = "the value") -> NDArray[Any]:
    """A NumPy array over the memory of an object with `__dlpack__` on the CPU, read-only if its owner says so; E708."""
    import numpy as np

    device = device_of(value, what)
    if device[0] not in (CPU, CUDA_HOST, CUDA_MANAGED):
        raise InputError("E708", f"{what} lies on device {device[0]}:{device[1]}, not in memory that the CPU reads",
                         help="copy it to the host first")  # fmt: skip
    taken = take(value, what, device)
    try:
        if 0 in taken.shape:  # its pointer and strides may be anything
            return np.empty(taken.shape, np_dtype(taken.dtype))
        array = np.asarray(_Memory(taken))
    except (ValueError, OverflowError) as error:
        raise InputError("E708", f"{what} is no array of NumPy: {error}") from error
    wanted = np_dtype(taken.dtype)
    # view() keeps strides where both types have one size
    return array if array.dtype == wanted else array.view(wanted)


_EXPORTED: dict[int, object] = {}  # what capsules point to, by address, until their consumer gives it back


def _free(address: int | None) -> None:
    _EXPORTED.pop(address or 0, None)


def _destroy(address: int | None) -> None:
    """Of a capsule that nobody has consumed."""
    for name in (_NEW, _OLD):
        if _valid(address, name):
            _EXPORTED.pop(_pointer(address, name), None)


_FREE, _DESTROY = _Deleter(_free), _Destructor(_destroy)


def capsule(
    pointer: int, device: tuple[int, int], dtype: str, shape: Sequence[int], strides: Sequence[int], readonly: bool,
    owner: object, max_version: tuple[int, int] | None, copied: bool = False,
) -> Any:  # fmt: skip
    """A DLPack capsule over memory that `owner` keeps.

    BufferError for read-only memory and a consumer that is too old to be told so, and for types that DLPack lacks.
    """
    versioned = max_version is not None and max_version[0] >= 1
    if readonly and not versioned:
        raise BufferError("the memory is read-only, which consumers of DLPack before version 1 are not told")
    if dtype not in _CODES:
        raise BufferError(f"DLPack has no type {dtype} of one element to a byte")
    rank = len(shape)
    numbers = (ctypes.c_int64 * max(2 * rank, 1))(*shape, *strides)
    record: Any = _Versioned() if versioned else _Managed()
    record.deleter = ctypes.cast(_FREE, ctypes.c_void_p)
    if versioned:
        record.major, record.minor = 1, 0
        record.flags = (_READ_ONLY if readonly else 0) | (_COPIED if copied else 0)
    tensor = record.tensor
    tensor.data, tensor.device, tensor.rank = pointer, _Device(*device), rank
    tensor.dtype = _Type(_CODES[dtype], 8 * DTYPES[dtype].itemsize, 1)
    tensor.shape = ctypes.cast(numbers, ctypes.POINTER(ctypes.c_int64))
    tensor.strides = ctypes.cast(ctypes.addressof(numbers) + 8 * rank, ctypes.POINTER(ctypes.c_int64))
    address = ctypes.addressof(record)
    _EXPORTED[address] = (record, numbers, owner)
    return _new(address, _NEW if versioned else _OLD, ctypes.cast(_DESTROY, ctypes.c_void_p))


class Exported:
    """A NumPy array of any element type as a producer of DLPack: `torch.from_dlpack(Exported(y))` for bf16 and fp8."""

    def __init__(self, array: NDArray[Any], dtype: str | None = None, *, readonly: bool = False) -> None:
        self._array = array
        self._dtype = dtype or dtype_of(array.dtype)
        self._readonly = readonly or not array.flags.writeable

    def __dlpack_device__(self) -> tuple[int, int]:
        return CPU, 0

    def __dlpack__(
        self, *, stream: Any = None, max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None, copy: bool | None = None,
    ) -> Any:  # fmt: skip
        array = self._array
        if stream is not None:
            raise BufferError("there are no streams on the CPU")
        if dl_device is not None and tuple(dl_device) != (CPU, 0):
            raise BufferError("the array lies on the CPU")
        if copy:
            array = array.copy()
        size = array.dtype.itemsize
        return capsule(
            array.ctypes.data, (CPU, 0), self._dtype, array.shape, [stride // size for stride in array.strides],
            self._readonly and not copy, array, max_version, bool(copy),
        )  # fmt: skip

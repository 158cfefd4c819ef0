"""Element types: one table of names, sizes and widths, and the way to NumPy and back.

The names are the ones of IR text, the command line and the manifest. Narrow types that NumPy lacks (bf16, fp8) are
stored as `ml_dtypes` arrays where that package is installed, else as raw unsigned integers of the same size.
The table needs no NumPy; conversions import it (`core.codecs`).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from tessera_runtime.core.errors import TesseraError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "ALIASES",
    "DTYPES",
    "DTypeInfo",
    "accepts",
    "decode",
    "dtype_of",
    "encode",
    "from_file",
    "info",
    "np_dtype",
    "storage_dtype",
]


class DTypeInfo(NamedTuple):
    """An element type. `kind` is f (float), i (signed), u (unsigned) or b (bool).

    `itemsize` is the storage of one element: types of 4 and 6 bits take the low bits of a byte, the others are 0.
    `exponent` and `mantissa` are field widths in bits (0 for integers); `numpy` is the name of the NumPy dtype that
    stores it (`bfloat16` and `float8_*` come from ml_dtypes), `raw` the one of the same size without ml_dtypes;
    `safetensors` is its name in a safetensors header.
    """

    name: str
    itemsize: int
    kind: str
    exponent: int
    mantissa: int
    numpy: str
    raw: str
    safetensors: str

    @property
    def bits(self) -> int:
        """The width of a value."""
        if self.kind == "f":
            return 8 if self.mantissa == 0 else 1 + self.exponent + self.mantissa
        return 4 if self.numpy.endswith("int4") else 8 * self.itemsize


DTYPES: dict[str, DTypeInfo] = {
    row[0]: DTypeInfo(*row)
    for row in (
        ("f64", 8, "f", 11, 52, "float64", "float64", "F64"),
        ("f32", 4, "f", 8, 23, "float32", "float32", "F32"),
        ("f16", 2, "f", 5, 10, "float16", "float16", "F16"),
        ("bf16", 2, "f", 8, 7, "bfloat16", "uint16", "BF16"),
        ("fp8_e4m3", 1, "f", 4, 3, "float8_e4m3fn", "uint8", "F8_E4M3"),
        ("fp8_e5m2", 1, "f", 5, 2, "float8_e5m2", "uint8", "F8_E5M2"),
        ("fp8_e8m0", 1, "f", 8, 0, "float8_e8m0fnu", "uint8", "F8_E8M0"),
        ("fp6_e2m3", 1, "f", 2, 3, "float6_e2m3fn", "uint8", "U8"),
        ("fp6_e3m2", 1, "f", 3, 2, "float6_e3m2fn", "uint8", "U8"),
        ("fp4_e2m1", 1, "f", 2, 1, "float4_e2m1fn", "uint8", "U8"),
        ("i4", 1, "i", 0, 0, "int4", "uint8", "U8"),
        ("u4", 1, "u", 0, 0, "uint4", "uint8", "U8"),
        ("i8", 1, "i", 0, 0, "int8", "int8", "I8"),
        ("i16", 2, "i", 0, 0, "int16", "int16", "I16"),
        ("i32", 4, "i", 0, 0, "int32", "int32", "I32"),
        ("i64", 8, "i", 0, 0, "int64", "int64", "I64"),
        ("u8", 1, "u", 0, 0, "uint8", "uint8", "U8"),
        ("u16", 2, "u", 0, 0, "uint16", "uint16", "U16"),
        ("u32", 4, "u", 0, 0, "uint32", "uint32", "U32"),
        ("u64", 8, "u", 0, 0, "uint64", "uint64", "U64"),
        ("bool", 1, "b", 0, 0, "bool", "bool", "BOOL"),
    )
}

ALIASES: dict[str, str] = {
    "fp64": "f64",
    "fp32": "f32",
    "fp16": "f16",
    "float64": "f64",
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "int4": "i4",
    "uint4": "u4",
    "int8": "i8",
    "int16": "i16",
    "int32": "i32",
    "int64": "i64",
    "uint8": "u8",
    "uint16": "u16",
    "uint32": "u32",
    "uint64": "u64",
    "i1": "bool",
}

_BY_NUMPY = {entry.numpy: name for name, entry in DTYPES.items()}


def info(name: str) -> DTypeInfo:
    """The table row of a canonical name or alias; E703 for an unknown one."""
    entry = DTYPES.get(ALIASES.get(name, name))
    if entry is None:
        raise TesseraError("E703", f"unknown element type '{name}'", help=f"known types: {' '.join(DTYPES)}")
    return entry


@cache
def np_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype that stores `name`: ml_dtypes for bf16 and fp8 when installed, else the raw unsigned integer."""
    import numpy as np

    entry = info(name)
    if entry.numpy == entry.raw:
        return np.dtype(entry.numpy)
    try:
        import ml_dtypes
    except ImportError:
        return np.dtype(entry.raw)
    narrow: np.dtype[Any] = np.dtype(getattr(ml_dtypes, entry.numpy))
    return narrow


def storage_dtype(name: str) -> np.dtype[Any]:
    """The built-in NumPy dtype of the same size: what files and device memory hold (bf16 -> uint16, fp8 -> uint8)."""
    import numpy as np

    return np.dtype(info(name).raw)


def dtype_of(dtype: np.dtype[Any]) -> str:
    """The element type name of a NumPy (or ml_dtypes) dtype; E703 when there is none."""
    name = _BY_NUMPY.get(dtype.name)
    if name is None or not dtype.isnative:
        raise TesseraError(
            "E703", f"NumPy type {dtype} is not an element type", help=f"element types: {' '.join(DTYPES)}"
        )
    return name


def accepts(name: str, dtype: np.dtype[Any]) -> bool:
    """Whether an array of `dtype` holds elements of type `name`; raw storage does where ml_dtypes is absent."""
    return dtype == np_dtype(name) or (dtype.isnative and _BY_NUMPY.get(dtype.name) == name)


def from_file(array: NDArray[Any], name: str) -> NDArray[Any]:
    """An array from a safetensors file as elements of type `name`, if that is a type that stands there as bytes."""
    if array.dtype == storage_dtype(name) and array.dtype != np_dtype(name) and info(name).safetensors == "U8":
        return array.view(np_dtype(name))
    return array


def decode(name: str, raw: NDArray[Any]) -> NDArray[Any]:
    """The values of raw bit patterns of narrow types, exact; see `core.codecs.decode`."""
    from tessera_runtime.core import codecs

    return codecs.decode(name, raw)


def encode(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Bit patterns of the float `name` nearest to float32 or float64 `values`, ties to even; see `codecs.encode`."""
    from tessera_runtime.core import codecs

    return codecs.encode(name, values)

"""The command line's spelling of an input, and its value.

    x=@x.npy                      a NumPy file                 x=@f.npz:key  x=@f.safetensors:key
    x=4x64xf32=1                  every element is 1
    x=2x2xf32=[[1 2][3 4]]        all elements, brackets optional, separated by spaces or commas
    x=randn:4x64xbf16             normal samples, a function of the seed alone
    x=3.5                         a scalar (also: true, false, -inf, nan, 7)

Without `NAME=` the input is positional. No shape stands for a scalar array: `f32=1`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from tessera_runtime.core.dtypes import ALIASES, DTYPES, decode, np_dtype, storage_dtype
from tessera_runtime.core.errors import InputError, TesseraError, UsageError
from tessera_runtime.core.files import open_regular, read_bytes
from tessera_runtime.core.numbers import number, real, short

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["GRAMMAR", "MAX_BYTES", "InputSpec", "load_array", "parse", "read_npy"]

GRAMMAR = (
    "NAME=@file.npy | @file.npz:key | @file.safetensors:key | 4x64xf32=1 | 2x2xf32=[[1 2][3 4]] | randn:4x64xf32 | 3.5"
)
MAX_BYTES = 1 << 40

_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.ASCII | re.DOTALL)
_TYPE = re.compile(r"((?:[0-9]{1,19}x)*)([a-z][a-z0-9_]*)", re.ASCII)


class InputSpec(NamedTuple):
    """A parsed input. `kind`: file, values, randn or scalar; the fields that a kind does not use are empty."""

    name: str | None
    kind: str
    path: str = ""
    key: str | None = None
    shape: tuple[int, ...] = ()
    dtype: str = ""
    text: str = ""


def _bad(text: str, why: str) -> InputError:
    return InputError("E711", f"input '{short(text)}': {why}", help=f"write {GRAMMAR}")


def parse(text: str) -> InputSpec:
    """Parse one `--input` argument; E711 when it is not understood. Reads no file."""
    name: str | None = None
    value = text
    match = _NAME.fullmatch(text)
    if match is not None and not _is_typed(match[1]):
        name, value = match[1], match[2]
    if value.startswith("@"):
        return _parse_file(name, value[1:], text)
    if value.startswith("randn:"):
        shape, dtype = _parse_type(value[6:], text)
        if DTYPES[dtype].kind != "f":
            raise _bad(text, f"randn needs a floating-point type, not {dtype}")
        return InputSpec(name, "randn", shape=shape, dtype=dtype)
    head, equals, tail = value.partition("=")
    if equals:
        shape, dtype = _parse_type(head, text)
        if not tail.strip():
            raise _bad(text, "no value after '='")
        return InputSpec(name, "values", shape=shape, dtype=dtype, text=tail)
    try:
        number(value)
    except ValueError as error:
        typed = _TYPE.fullmatch(value)
        if typed is not None and (typed[1] or _is_typed(value)):
            raise _bad(text, f"a value is missing: '{value}=0'") from None
        raise _bad(text, str(error) if value[:1].isdigit() else "not understood") from None
    return InputSpec(name, "scalar", text=value)


def _is_typed(word: str) -> bool:
    """Whether `word=` is the scalar array form `f32=`, not an input's name."""
    return word in DTYPES or word in ALIASES


def _parse_file(name: str | None, value: str, text: str) -> InputSpec:
    lower = value.lower()
    if lower.endswith((".npy", ".npz", ".safetensors")):
        return InputSpec(name, "file", path=value)
    path, colon, key = value.rpartition(":")
    if colon and path.lower().endswith((".npz", ".safetensors")):
        if not key:
            raise _bad(text, "no key after ':'")
        return InputSpec(name, "file", path=path, key=key)
    raise _bad(text, "a file must end in .npy, .npz[:key] or .safetensors[:key]")


def _parse_type(value: str, text: str) -> tuple[tuple[int, ...], str]:
    match = _TYPE.fullmatch(value)
    if match is None:
        raise _bad(text, f"'{short(value)}' is not a shape and element type such as 4x64xf32")
    dtype = ALIASES.get(match[2], match[2])
    if dtype not in DTYPES:
        raise _bad(text, f"unknown element type '{match[2]}'")
    shape = tuple(int(extent) for extent in match[1].split("x")[:-1])
    size = DTYPES[dtype].itemsize
    for extent in shape:
        size *= max(extent, 1)
    if size > MAX_BYTES or len(shape) > 32:
        raise InputError("E713", f"input '{short(text)}' is too large", help=f"the limit is {MAX_BYTES} bytes")
    return shape, dtype


def load_array(spec: InputSpec, *, seed: int = 0) -> NDArray[Any] | float | int | bool:
    """The value of a parsed input: an array, or a Python number for kind `scalar`.

    `seed` is the key of `randn`; E712 for an unusable file, E711 for values that do not fit.
    """
    if spec.kind == "file":
        return _read_file(spec)
    if spec.kind == "scalar":
        return number(spec.text)
    try:
        if spec.kind == "randn":
            return _randn(spec, seed)
        return _values(spec)
    except MemoryError as error:
        raise InputError("E713", f"input '{spec.name or ''}' does not fit into memory") from error


def cast_f64(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """float64 values rounded once to a floating-point element type (narrow ones through the project's codecs)."""
    from tessera_runtime.core.codecs import encode

    if dtype in ("f64", "f32"):
        import numpy as np

        with np.errstate(over="ignore", under="ignore"):
            return values.astype(np_dtype(dtype))
    return encode(dtype, values).view(np_dtype(dtype))


def _randn(spec: InputSpec, seed: int) -> NDArray[Any]:
    from tessera_runtime.core.randn import randn

    count = 1
    for extent in spec.shape:
        count *= extent
    return cast_f64(randn(count, seed), spec.dtype).reshape(spec.shape)


def _values(spec: InputSpec) -> NDArray[Any]:
    import numpy as np

    text = spec.text.strip()
    words = _words(text, spec)
    shown = f"{spec.name or 'input'}={'x'.join(map(str, (*spec.shape, spec.dtype)))}={short(text)}"
    count = 1
    for extent in spec.shape:
        count *= extent
    if len(words) != count and not (len(words) == 1 and not text.startswith("[")):
        raise _bad(shown, f"{len(words)} values for {count} elements")
    try:
        flat = _reals(words, spec.dtype) if DTYPES[spec.dtype].kind == "f" else _integers(words, spec.dtype)
    except ValueError as error:
        raise _bad(shown, str(error)) from None
    if len(words) == 1:
        return np.full(spec.shape, flat[0], dtype=flat.dtype)
    return flat.reshape(spec.shape)


def _reals(words: list[str], dtype: str) -> NDArray[Any]:
    """Elements of a floating-point type, rounded once. ValueError where a finite number has no finite one near it."""
    import numpy as np

    given = np.array([float(number(word)) if word.isalpha() else real(word) for word in words], dtype=np.float64)
    flat = cast_f64(given, dtype)
    narrow = DTYPES[dtype].numpy != DTYPES[dtype].raw
    lost = np.isfinite(given) & ~np.isfinite(decode(dtype, flat.view(storage_dtype(dtype))) if narrow else flat)
    if lost.any():
        raise ValueError(f"{short(words[int(np.argmax(lost))], 40)} is beyond the range of {dtype}")
    return flat


def _integers(words: list[str], dtype: str) -> NDArray[Any]:
    """Elements of an integer type. ValueError for what is none of it."""
    import numpy as np

    kind, bits = DTYPES[dtype].kind, DTYPES[dtype].bits
    low, high = {"b": (0, 1), "u": (0, (1 << bits) - 1), "i": (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)}[kind]
    values = [number(word) for word in words]
    for word, value in zip(words, values, strict=True):
        if isinstance(value, float) or not low <= value <= high:
            raise ValueError(f"{short(word, 40)} is not a value of {dtype}")
    if bits < 8:  # in the low half of a byte
        return np.array([int(value) & 15 for value in values], dtype=np.uint8).view(np_dtype(dtype))
    return np.array(values, dtype=np_dtype(dtype))


def _words(text: str, spec: InputSpec) -> list[str]:
    """The number words of a list of values. Brackets, where present, must nest as the shape does."""
    tokens = re.findall(r"[\[\]]|[^\s,\[\]]+", text)
    words = [token for token in tokens if token not in "[]"]
    for word in words:
        try:
            number(word)
        except ValueError as error:
            raise _bad(short(text), str(error)) from None
    if len(words) == len(tokens):
        return words
    # counts[d] is the number of items seen so far in the bracket open at depth d; each must close at its extent.
    counts: list[int] = []
    complete = False
    for token in tokens:
        if complete:
            raise _bad(text, "text after the last bracket")
        if token == "[":
            if len(counts) == len(spec.shape):
                raise _bad(text, "brackets nest deeper than the shape")
            counts.append(0)
        elif token == "]":
            if not counts or counts.pop() != spec.shape[len(counts)]:
                raise _bad(text, "brackets do not agree with the shape")
            if counts:
                counts[-1] += 1
            complete = not counts
        else:
            if len(counts) != len(spec.shape):
                raise _bad(text, "brackets do not agree with the shape")
            counts[-1] += 1
    if not complete:
        raise _bad(text, "a bracket is not closed")
    return words


def _read_file(spec: InputSpec) -> NDArray[Any]:
    lower = spec.path.lower()
    if lower.endswith(".npy"):
        return _plain(read_npy(spec.path), spec)
    if lower.endswith(".npz"):
        return _plain(_guarded(spec.path, lambda: _member(spec)), spec)
    from tessera_runtime.core import safetensors

    tensors = _guarded(spec.path, lambda: safetensors.load(read_bytes(spec.path, MAX_BYTES, regular=True)))
    return tensors[_pick(spec, list(tensors))]


def read_npy(path: str) -> NDArray[Any]:
    """The array of a .npy file; E802, E712."""
    import numpy as np

    def read() -> NDArray[Any]:
        with open_regular(path) as file:
            array = np.load(file, allow_pickle=False)
            if not isinstance(array, np.ndarray):
                raise ValueError("it is an archive of arrays")
            return array

    return _guarded(path, read)


def _member(spec: InputSpec) -> NDArray[Any]:
    import numpy as np

    with open_regular(spec.path) as file, np.load(file, allow_pickle=False) as archive:
        return np.asarray(archive[_pick(spec, list(archive.files))])


_Read = TypeVar("_Read")


def _guarded(path: str, read: Callable[[], _Read]) -> _Read:
    """What reading gives. NumPy and zipfile raise all kinds of exceptions on files that are damaged: E712."""
    try:
        return read()
    except (InputError, UsageError):
        raise
    except MemoryError as error:
        raise InputError("E713", f"'{path}' does not fit into memory") from error
    except Exception as error:
        why = error.message if isinstance(error, TesseraError) else str(error) or type(error).__name__
        raise InputError("E712", f"'{path}' is not a well-formed array file: {short(why)}") from error


def _plain(array: NDArray[Any], spec: InputSpec) -> NDArray[Any]:
    """In native byte order; void types, as which NumPy stores ml_dtypes arrays, become integers of their size."""
    if array.dtype.kind == "V" and array.dtype.names is None and array.dtype.itemsize in (1, 2):
        return array.view("u1" if array.dtype.itemsize == 1 else "u2")
    if array.dtype.kind not in "fiub":
        raise InputError("E712", f"'{spec.path}' holds {array.dtype}, which is not an element type")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _pick(spec: InputSpec, keys: list[str]) -> str:
    """The key asked for; else the input's own name; else the only one."""
    shown = ", ".join(sorted(keys)[:8]) or "none"
    for key in (spec.key, spec.name if spec.key is None else None):
        if key is not None and key in keys:
            return key
    if spec.key is None and len(keys) == 1:
        return keys[0]
    wanted = f"'{spec.key}'" if spec.key is not None else "a key"
    raise InputError(
        "E712",
        f"'{spec.path}' has no key {wanted}" if spec.key else f"'{spec.path}' needs {wanted}",
        help=f"its keys: {shown}",
    )

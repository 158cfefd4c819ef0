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
from typing import TYPE_CHECKING, Any, NamedTuple

from tessera_runtime.core.dtypes import ALIASES, DTYPES, np_dtype
from tessera_runtime.core.errors import InputError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["GRAMMAR", "MAX_BYTES", "InputSpec", "load_array", "parse"]

GRAMMAR = (
    "NAME=@file.npy | @file.npz:key | @file.safetensors:key | 4x64xf32=1 | 2x2xf32=[[1 2][3 4]] | randn:4x64xf32 | 3.5"
)
MAX_BYTES = 1 << 40

_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.ASCII | re.DOTALL)
_TYPE = re.compile(r"((?:[0-9]{1,19}x)*)([a-z][a-z0-9_]*)", re.ASCII)
_NUMBER = re.compile(
    r"[+-]?(?:inf|nan|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)|true|false", re.ASCII | re.IGNORECASE
)


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
    return InputError("E711", f"input '{_short(text)}': {why}", help=f"write {GRAMMAR}")


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


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
    if _NUMBER.fullmatch(value) is not None:
        return InputSpec(name, "scalar", text=value)
    if _TYPE.fullmatch(value) is not None:
        raise _bad(text, f"a value is missing: '{value}=0'")
    raise _bad(text, "not understood")


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
        raise _bad(text, f"'{_short(value)}' is not a shape and element type such as 4x64xf32")
    dtype = ALIASES.get(match[2], match[2])
    if dtype not in DTYPES:
        raise _bad(text, f"unknown element type '{match[2]}'")
    shape = tuple(int(extent) for extent in match[1].split("x")[:-1])
    size = DTYPES[dtype].itemsize
    for extent in shape:
        size *= max(extent, 1)
    if size > MAX_BYTES or len(shape) > 32:
        raise InputError("E713", f"input '{_short(text)}' is too large", help=f"the limit is {MAX_BYTES} bytes")
    return shape, dtype


def load_array(spec: InputSpec, *, seed: int = 0) -> NDArray[Any] | float | int | bool:
    """The value of a parsed input: an array, or a Python number for kind `scalar`.

    `seed` is the key of `randn`; E712 for an unusable file, E711 for values that do not fit.
    """
    if spec.kind == "file":
        return _read_file(spec)
    if spec.kind == "scalar":
        return _number(spec.text)
    try:
        if spec.kind == "randn":
            return _randn(spec, seed)
        return _values(spec)
    except MemoryError as error:
        raise InputError("E713", f"input '{spec.name or ''}' does not fit into memory") from error


def _number(word: str) -> float | int | bool:
    lower = word.lower()
    if lower in ("true", "false"):
        return lower == "true"
    try:
        return int(lower)
    except ValueError:
        return float(lower)


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
    numbers = [_number(word) for word in _words(text, spec)]
    kind = DTYPES[spec.dtype].kind
    shown = f"{spec.name or 'input'}={'x'.join(map(str, (*spec.shape, spec.dtype)))}"
    count = 1
    for extent in spec.shape:
        count *= extent
    if len(numbers) != count and not (len(numbers) == 1 and not text.startswith("[")):
        raise _bad(f"{shown}={_short(text)}", f"{len(numbers)} values for {count} elements")
    if kind == "f":
        flat = cast_f64(np.array([float(n) for n in numbers], dtype=np.float64), spec.dtype)
    else:
        bits = DTYPES[spec.dtype].bits
        lo, hi = {"b": (0, 1), "u": (0, (1 << bits) - 1), "i": (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)}[kind]
        for n in numbers:
            if isinstance(n, float) or not lo <= n <= hi:
                raise _bad(f"{shown}={_short(text)}", f"{n} is not a value of {spec.dtype}")
        if bits < 8:  # in the low half of a byte
            flat = np.array([int(n) & 15 for n in numbers], dtype=np.uint8).view(np_dtype(spec.dtype))
        else:
            flat = np.array(numbers, dtype=np_dtype(spec.dtype))
    if len(numbers) == 1:
        return np.full(spec.shape, flat[0], dtype=flat.dtype)
    return flat.reshape(spec.shape)


def _words(text: str, spec: InputSpec) -> list[str]:
    """The number words of a list of values. Brackets, where present, must nest as the shape does."""
    tokens = re.findall(r"[\[\]]|[^\s,\[\]]+", text)
    words = [token for token in tokens if token not in "[]"]
    for word in words:
        if _NUMBER.fullmatch(word) is None:
            raise _bad(text, f"'{_short(word)}' is not a number")
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
    import numpy as np

    lower = spec.path.lower()
    try:
        if lower.endswith(".npy"):
            return _plain(np.load(spec.path, allow_pickle=False), spec)
        if lower.endswith(".npz"):
            with np.load(spec.path, allow_pickle=False) as archive:
                return _plain(archive[_pick(spec, list(archive.files))], spec)
        from tessera_runtime.core import safetensors

        with open(spec.path, "rb") as file:
            tensors = safetensors.load(file.read())
        return tensors[_pick(spec, list(tensors))]
    except OSError as error:
        if error.errno is None:  # numpy's own complaint about the content
            raise InputError("E712", f"'{spec.path}' is not a readable array file") from error
        raise UsageError("E802", f"cannot read '{spec.path}': {error.strerror}") from error
    except (ValueError, EOFError, KeyError, NotImplementedError) as error:
        raise InputError("E712", f"'{spec.path}' is not a well-formed array file: {_short(str(error))}") from error
    except Exception as error:  # zipfile and numpy raise several kinds on a damaged archive
        if isinstance(error, InputError):
            raise
        raise InputError("E712", f"'{spec.path}' is damaged: {_short(str(error))}") from error


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

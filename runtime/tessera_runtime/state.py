"""The state of a function - its in/out inputs - as a file: read, made, written.

A state file is a safetensors file with one tensor for each in/out input of the function, named like it. It is held
against the signature before a byte of its data is read, and written whole or not at all.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tessera_runtime.core import safetensors
from tessera_runtime.core.dtypes import np_dtype
from tessera_runtime.core.errors import BundleError, InputError, UsageError
from tessera_runtime.core.files import open_regular, write_atomic
from tessera_runtime.guards import type_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from io import BufferedReader

    from numpy.typing import NDArray

    from tessera_runtime.api import Bundle, BundleFunction
    from tessera_runtime.core.manifest import Input

__all__ = ["first_state", "read_state", "state_inputs", "write_state"]

State = dict[str, "NDArray[Any]"]


def state_inputs(function: BundleFunction) -> tuple[Input, ...]:
    """The inputs that the function updates. E801 where it has none."""
    found = tuple(item for item in function.function.inputs if item.inout)
    if not found:
        raise UsageError("E801", f"{function.name} has no state", help="state is marked by ts.State in the source")
    return found


def read_state(function: BundleFunction, path: str) -> State:
    """The state in a file, as arrays of their own. E802 when it cannot be read, E715 when it is not this function's."""
    import numpy as np

    inputs = state_inputs(function)
    try:
        # read, not mapped: whoever cuts a mapped file ends the process
        with open_regular(path) as file:
            entries = _header(path, file)
            _hold(path, function, inputs, entries)
            state: State = {}
            for item in inputs:
                entry = entries[item.name]
                array = np.empty(entry.shape, np_dtype(item.dtype))
                file.seek(entry.start)
                if file.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
                    raise _unfit(path, "was cut while it was read")
                state[item.name] = array
            return state
    except OSError as error:
        raise UsageError("E802", f"cannot read '{path}': {error.strerror}") from error
    except (MemoryError, ValueError) as error:
        raise InputError("E713", f"the state in '{path}' is too large for memory") from error


def _header(path: str, file: BufferedReader) -> dict[str, safetensors.TensorEntry]:
    total = os.fstat(file.fileno()).st_size
    if total == 0:
        raise _unfit(path, "is not a state file: it is empty")
    start = file.read(8)
    start += file.read(min(int.from_bytes(start, "little"), safetensors.MAX_HEADER))
    try:
        return safetensors.parse_header(start, total)
    except BundleError as error:
        raise _unfit(path, f"is not a state file: {error.message.removeprefix('safetensors: ')}") from error


def _hold(
    path: str, function: BundleFunction, inputs: tuple[Input, ...], entries: Mapping[str, safetensors.TensorEntry]
) -> None:
    """Names, element types and shapes are those of the in/out inputs."""
    expected = {item.name: item for item in inputs}
    missing = [name for name in expected if name not in entries]
    extra = [name for name in entries if name not in expected]
    if missing or extra:
        parts = [f"lacks {', '.join(missing[:5])}"] if missing else []
        parts += [f"has {', '.join(map(repr, extra[:5]))}, which {function.name} does not know"] if extra else []
        raise _unfit(path, " and ".join(parts))
    for name, item in expected.items():
        entry = entries[name]
        fits = len(entry.shape) == len(item.shape) and all(
            not isinstance(dim, int) or dim == size for dim, size in zip(item.shape, entry.shape, strict=False)
        )
        if entry.dtype != item.dtype or not fits:
            given, wanted = type_text(entry.dtype, entry.shape), type_text(item.dtype, item.shape)
            raise _unfit(path, f"has {name} as {given}, expected {wanted}")


def _unfit(path: str, what: str) -> InputError:
    help = "give a file that this function has written; under a name that does not exist, a new state begins"
    return InputError("E715", f"'{path}' {what}", help=help)


def first_state(bundle: Bundle, function: BundleFunction, maker: str | None) -> State:
    """The state that the function `maker` of the bundle returns; `init` by default. E715 when there is none."""
    inputs = state_inputs(function)
    name = maker or "init"
    if maker is None and name not in bundle:
        raise InputError("E715", f"{function.name} needs a state, and the bundle has no function `init`",
                         help="give a state file that exists, or --init NAME")  # fmt: skip
    made = bundle[name]
    if made.function.inputs:
        raise InputError("E715", f"{name} makes no first state: it has inputs", help=f"its signature: {made.signature}")
    values = made()
    results = dict(zip(made.outputs, values if isinstance(values, tuple) else (values,), strict=True))
    state: State = {}
    for item in inputs:
        array = results.get(item.name)
        if array is None:
            raise InputError("E715", f"{name} makes no first state: it does not return {item.name}",
                             help=f"it returns the state under the names of {function.name}'s parameters, as in "
                                  f"return {{\"weights\": ..}}; its signature: {made.signature}")  # fmt: skip
        state[item.name] = array.copy()
    return state


def write_state(function: BundleFunction, path: str, state: Mapping[str, NDArray[Any]]) -> None:
    """Write the state, whole or not at all. E803 when that is not possible."""
    dtypes = {item.name: item.dtype for item in state_inputs(function)}
    write_atomic(path, safetensors.save({name: state[name] for name in dtypes}, dtypes))

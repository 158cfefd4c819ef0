"""From a call's arguments to checked arrays, scalars and symbol values. Always on; messages use the user's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from struct import pack
from typing import Any

from tessera_runtime.core.dtypes import DTYPES, accepts, dtype_of, encode, np_dtype
from tessera_runtime.core.errors import InputError, TesseraError
from tessera_runtime.core.manifest import Dim, Function, Guard, Input
from tessera_runtime.core.shapeexpr import evaluate, symbols_of, to_infix

__all__ = ["arrange", "check_unmasked", "scalar_bits", "scalar_extents", "signature", "solve", "tensor", "type_text"]

Importer = Callable[[Any, str], Any]


def dim_text(dim: Dim) -> str:
    return str(dim) if isinstance(dim, int) else to_infix(dim)


def type_text(dtype: str, shape: Sequence[Dim]) -> str:
    """`f32[B, 64]`."""
    return f"{dtype}[{', '.join(dim_text(dim) for dim in shape)}]"


def signature(function: Function) -> str:
    """`f(x: f32[B, 64], y: inout f32[N], alpha: f32) -> out: f32[B]`."""

    def shown(item: Input) -> str:
        if item.kind == "scalar":
            return f"{item.name}: {item.dtype}"
        return f"{item.name}: {'inout ' if item.inout else ''}{type_text(item.dtype, item.shape)}"

    results = ", ".join(f"{o.name}: {type_text(o.dtype, o.shape)}" for o in function.outputs)
    return f"{function.name}({', '.join(map(shown, function.inputs))}) -> {results or 'nothing'}"


def arrange(function: Function, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The arguments in order of the inputs; E701."""
    inputs, count = function.inputs, len(args)
    if count == len(inputs) and not kwargs:
        return list(args)
    usage = f"its signature is {signature(function)}"
    if count > len(inputs):
        raise InputError("E701", f"{function.name}: takes {len(inputs)} inputs, got {count}", help=usage)
    values = dict(zip((item.name for item in inputs), args, strict=False))
    for name, value in kwargs.items():
        if name in values:
            raise InputError("E701", f"{function.name}: input '{name}' is given twice", help=usage)
        if all(item.name != name for item in inputs):
            raise InputError("E701", f"{function.name}: has no input '{name}'", help=usage)
        values[name] = value
    missing = [item.name for item in inputs if item.name not in values]
    if missing:
        those = f"inputs {', '.join(map(repr, missing))} are" if len(missing) > 1 else f"input '{missing[0]}' is"
        raise InputError("E701", f"{function.name}: {those} missing", help=usage)
    return [values[item.name] for item in inputs]


def tensor(function: Function, item: Input, value: Any, importer: Importer | None = None) -> Any:
    """The argument as an array of the declared element type and rank, in any layout; E702, E703, E708.

    `importer` is asked for values that lie on the device already; what it gives has a dtype (a name), ndim and shape.
    """
    import numpy as np

    where = f"{function.name}: input '{item.name}'"
    check_unmasked(where, value)
    if importer is not None and not isinstance(value, np.ndarray):
        found = importer(value, where)
        if found is not None:
            _check_type(where, item, found, found.dtype == item.dtype, found.dtype)
            return found
    if not isinstance(value, np.ndarray):
        if hasattr(value, "__dlpack__") and not isinstance(value, np.generic):
            from tessera_runtime.dlpack import from_dlpack

            value = from_dlpack(value, where)
        elif isinstance(value, np.generic) or hasattr(value, "__array__"):
            value = np.asarray(value)
        elif isinstance(value, (bool, int, float)) and not item.shape:
            bits = scalar_bits(function, item, value)
            size = DTYPES[item.dtype].itemsize
            value = np.frombuffer(bits.to_bytes(8, "little")[:size], dtype=np_dtype(item.dtype)).reshape(()).copy()
        else:
            raise InputError(
                "E708", f"{where} is a {type(value).__name__}, expected an array {type_text(item.dtype, item.shape)}"
            )
    _check_type(where, item, value, accepts(item.dtype, value.dtype), value.dtype)
    return value


def check_unmasked(where: str, value: Any) -> None:
    """E708 for a masked array: no function knows which elements count."""
    if hasattr(value, "mask") and hasattr(value, "fill_value"):
        raise InputError("E708", f"{where} is a masked array", help="give an array: x.filled(0), or x.data")


def _check_type(where: str, item: Input, value: Any, fits: bool, dtype: Any) -> None:
    """E703 unless the element type fits, E702 for another rank."""
    if not fits:
        try:
            actual = dtype if isinstance(dtype, str) else dtype_of(dtype)
        except TesseraError:
            actual = str(dtype)
        raise InputError(
            "E703",
            f"{where} has element type {actual}, expected {item.dtype}",
            help="convert it: inputs are never converted silently",
        )
    if value.ndim != len(item.shape):
        raise InputError(
            "E702", f"{where} has rank {value.ndim}, expected {len(item.shape)}: "
            f"got {type_text(item.dtype, value.shape)}, expected {type_text(item.dtype, item.shape)}"
        )  # fmt: skip


def scalar_bits(function: Function, item: Input, value: Any) -> int:
    """The bits of a scalar argument in the low bytes of 64; E709 when it is not a number of the declared type."""
    import numpy as np

    if type(value) is float and item.dtype == "f64":
        return int.from_bytes(pack("<d", value), "little")
    where = f"{function.name}: scalar '{item.name}'"
    entry = DTYPES[item.dtype]
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, np.generic):
        if value.dtype.name in ("int4", "uint4"):
            value = int(value)
        elif value.dtype.kind == "V" or value.dtype.name.startswith(("bfloat", "float4", "float6", "float8")):
            value = float(value)
        else:
            value = value.item()
    if not isinstance(value, (bool, int, float)):
        raise InputError("E709", f"{where} is a {type(value).__name__}, expected a number of type {item.dtype}")
    if entry.kind == "f":
        try:
            wide = np.array(float(value), dtype=np.float64)
        except OverflowError as error:
            raise InputError("E709", f"{where} is {value}, beyond {item.dtype}") from error
        if item.dtype in ("f64", "f32"):
            with np.errstate(over="ignore", under="ignore"):
                return int.from_bytes(wide.astype(np_dtype(item.dtype)).tobytes(), "little")
        return int.from_bytes(encode(item.dtype, wide).tobytes(), "little")
    if isinstance(value, float) and not value.is_integer():
        raise InputError("E709", f"{where} is {value}, expected an integer of type {item.dtype}")
    number, bits = int(value), entry.bits
    low, high = {"b": (0, 1), "u": (0, (1 << bits) - 1), "i": (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)}[entry.kind]
    if not low <= number <= high:
        raise InputError("E709", f"{where} is {number}, outside {item.dtype}: {low}..{high}")
    return number & ((1 << bits) - 1)


def scalar_extents(function: Function, bits: Mapping[str, int]) -> dict[str, int]:
    """The values of the integer scalars that symbols are taken from, from their bits."""
    found: dict[str, int] = {}
    wanted = {symbol.input for symbol in function.symbols if symbol.axis < 0}
    for item in function.inputs:
        if item.name in wanted:
            entry, value = DTYPES[item.dtype], bits[item.name]
            width = entry.bits
            found[item.name] = value - (1 << width) if entry.kind == "i" and value >> (width - 1) else value
    return found


def solve(function: Function, shapes: Mapping[str, Sequence[int]], scalars: Mapping[str, int]) -> dict[str, int]:
    """Symbol values from actual extents, after checking every declared extent and every guard. E704-E707, E710.

    `scalars` gives the integer values of scalar inputs that symbols are taken from.
    """
    env: dict[str, int] = {}
    origin: dict[str, str] = {}
    for symbol in function.symbols:
        if symbol.axis < 0:
            value, place = scalars[symbol.input], f"scalar '{symbol.input}'"
        else:
            value, place = shapes[symbol.input][symbol.axis], f"input '{symbol.input}' axis {symbol.axis}"
        quotient, rest = divmod(value - symbol.offset, symbol.scale)
        if rest or quotient < 0:
            form = symbol.name if symbol.scale == 1 else f"{symbol.scale}*{symbol.name}"
            form += f" + {symbol.offset}" if symbol.offset > 0 else f" - {-symbol.offset}" if symbol.offset else ""
            raise InputError("E706", f"{function.name}: {place} is {value}, which is not of the form {form}")
        env[symbol.name] = quotient
        origin[symbol.name] = place
    for item in function.inputs:
        for axis, dim in enumerate(item.shape):
            actual = shapes[item.name][axis]
            expected = dim if isinstance(dim, int) else evaluate(dim, env)
            if actual != expected:
                raise _disagree(function, item, axis, dim, expected, actual, env, origin)
    for guard in function.guards:
        _check_guard(function, guard, env, origin)
    return env


def _where(names: Sequence[str], env: Mapping[str, int], origin: Mapping[str, str]) -> str:
    return ", ".join(f"{name} = {env[name]} from {origin[name]}" for name in names)


def _disagree(
    function: Function, item: Input, axis: int, dim: Dim, expected: int, actual: int, env: Mapping[str, int],
    origin: Mapping[str, str],
) -> InputError:  # fmt: skip
    place = f"{function.name}: input '{item.name}' axis {axis}"
    hint = f"'{item.name}' is {type_text(item.dtype, item.shape)}"
    if isinstance(dim, int):
        return InputError("E704", f"{place}: expected {expected}, got {actual}", help=hint)
    names = symbols_of(dim)
    text = to_infix(dim)
    equal = "" if len(dim) == 1 else f" = {expected}"
    code = "E705" if len(dim) == 1 else "E706"
    return InputError(
        code, f"{place}: expected {text}{equal} with {_where(names, env, origin)}, got {actual}", help=hint
    )


def _check_guard(function: Function, guard: Guard, env: Mapping[str, int], origin: Mapping[str, str]) -> None:
    value = evaluate(guard.expr, env)
    holds = {"eq": value == 0, "ne": value != 0, "ge": value >= 0, "gt": value > 0}[guard.relation]
    if not holds:
        names = _where(symbols_of(guard.expr), env, origin)
        raise InputError("E707", f"{function.name}: needs {guard.message}" + (f"; {names}" if names else ""))

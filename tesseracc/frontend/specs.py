"""What the command line says of parameters: types (`--input-spec x=f32[B,64]`, `f.x=f32[B,64]`) and numbers for dims
(`--specialize D=64`)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

from tessera.decorators import Function, Kernel, Parameter
from tessera.errors import SourceError, did_you_mean
from tessera.pytree import flatten
from tessera.types import TensorType
from tessera_runtime.core.errors import UsageError

SIZE_DIGITS = 18  # of a size on the command line, so that it is an i64
Specs = dict[str, dict[str, TensorType]]


def parse_specs(texts: Sequence[str], entries: Mapping[str, Function | Kernel]) -> Specs:
    """The types by entry and parameter. Raises E801 for a spec that fits no parameter or is not a type."""
    found: Specs = {}
    for text in texts:
        target, eq, type_text = text.partition("=")
        entry, dot, name = target.strip().rpartition(".")
        if not eq or not name:
            raise UsageError("E801", f"cannot read the input spec {text!r}", help="write x=f32[B,64] or f.x=f32[B,64]")
        try:
            type_ = TensorType.parse(type_text)
        except SourceError as error:
            raise UsageError("E801", f"cannot read the type in {text!r}: {error.message}", help=error.help) from None
        owners = [entry] if dot else list(entries)
        fitting = [e for e in owners if e in entries and name in _parameters(entries[e])]
        if not fitting:
            known = sorted({p for e in entries for p in _parameters(entries[e])})
            raise UsageError(
                "E801",
                f"no parameter fits the input spec {text!r}",
                help=did_you_mean(name, known) or f"parameters: {', '.join(known)}",
            )
        for owner in fitting:
            found.setdefault(owner, {})[name] = type_
    return found


def parse_fixed(texts: Sequence[str]) -> dict[str, int]:
    """Numbers of kernels' dims: those of which all variants say the same."""
    found: dict[str, int] = {}
    several: set[str] = set()
    for variant in parse_variants(texts):
        for name, size in variant.items():
            if found.setdefault(name, size) != size:
                several.add(name)
    return {name: size for name, size in found.items() if name not in several}


def parse_variants(texts: Sequence[str]) -> list[dict[str, int]]:
    """The sizes of each variant. Raises E801 for what is no `NAME=NUMBER,..`."""
    found = []
    for text in texts:
        variant: dict[str, int] = {}
        for part in text.split(","):
            name, _, number = part.partition("=")
            reason = _unusable(name, number, variant)
            if reason:
                raise UsageError("E801", f"cannot use --specialize {text!r}: {reason}", help="write D=64 or B=1,S=512")
            variant[name] = int(number)
        found.append(variant)
    return found


def _unusable(name: str, number: str, variant: Mapping[str, int]) -> str:
    """Why a part NAME=NUMBER of a variant cannot be used; "" where it can."""
    if not name.isidentifier():
        return f"{name!r} is no name of a dim"
    if not number.isdecimal():
        return f"{number!r} is no size"
    if len(number) > SIZE_DIGITS:
        return f"a size has at most {SIZE_DIGITS} digits"
    return f"`{name}` has two sizes" if name in variant else ""


def _parameters(entry: Function | Kernel) -> list[str]:
    return [p.name for p in entry.parameters]


def without_types(entries: Mapping[str, Function | Kernel], specs: Specs) -> list[str]:
    """Entries with a parameter whose type nothing gives: they cannot be built on their own."""
    missing = []
    for name, entry in entries.items():
        if isinstance(entry, Kernel):
            continue
        given = specs.get(name, {})
        if any(p.name not in given and p.default is inspect.Parameter.empty and _is_open(p) for p in entry.parameters):
            missing.append(name)
    return missing


def _is_open(parameter: Parameter) -> bool:
    specs = [parameter.tensor] if parameter.tree is None else flatten(parameter.tree)[0]
    typed = all(spec is not None and spec.dims is not None and spec.dtype is not None for spec in specs)
    return not typed and parameter.spec not in (float, int, bool)

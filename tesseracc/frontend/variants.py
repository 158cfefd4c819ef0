"""Which variants a function gets: for sizes that annotations (`ts.dim`) or `--specialize` call usual.

The attribute `variants` of a `graph.func` holds one tuple for each variant; its items are (name, low, high, multiple),
high being -1 where there is no end. The pass `specialise` makes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tessera.bounds import Bound
from tessera.decorators import Function, Kernel
from tessera.pytree import flatten
from tessera.shapes import substitute, symbols_of
from tessera.types import TensorSpec
from tessera_runtime.core.errors import UsageError
from tesseracc.ir.types import TensorType
from tesseracc.ir.value import Func, Module

Sizes = Mapping[str, int]


def with_variants(module: Module, entry: Function, wanted: Sequence[Sizes]) -> Module:
    """The module of an entry whose functions have their attribute `variants`, if there are any."""
    return module.with_(funcs=tuple(_with_variants(func, entry, wanted) for func in module.funcs))


def _with_variants(func: Func, entry: Function, wanted: Sequence[Sizes]) -> Func:
    known = _symbols(func)
    found = []
    for sizes in wanted:
        own = tuple((name, size, size, 1) for name, size in sorted(sizes.items()) if name in known)
        if own and own not in found:
            found.append(own)
    declared = tuple(
        (bound.name, bound.low, -1 if bound.high is None else bound.high, bound.multiple)
        for bound in bounds_of(entry)
        if bound.multiple > 1 or bound.low == bound.high
    )
    if declared:
        found.append(declared)
    return func.with_(attrs={**func.attrs, "variants": tuple(found)}) if found else func


def check_variants(module: Module, entries: Mapping[str, Function | Kernel], wanted: Sequence[Sizes]) -> None:
    """E801 for a name that is no size of the module's, and for sizes that a function cannot have."""
    functions = [func for func in module.funcs if func.kind == "graph.func"]
    known = {name for func in functions for name in _symbols(func)}
    known |= {n for entry in entries.values() if isinstance(entry, Kernel) for n in entry.definition.symbols}
    for sizes in wanted:
        text = ",".join(f"{name}={size}" for name, size in sizes.items())
        for name in sizes:
            if name not in known:
                sizes_are = ", ".join(sorted(known)) or "none"
                raise UsageError("E801", f"--specialize {text}: no size is called `{name}`", help=f"sizes: {sizes_are}")
        for func in functions:
            for size, divisor in func.attrs.get("assume", ()):
                rest = substitute(size % divisor, sizes)
                if isinstance(rest, int) and rest != 0:
                    needs = f"`{func.name}` needs {size} to be a multiple of {divisor}"
                    raise UsageError("E801", f"--specialize {text}: {needs}")


def _symbols(func: Func) -> set[str]:
    return {s for p in func.params if isinstance(p.type, TensorType) for dim in p.type.dims for s in symbols_of(dim)}


def bounds_of(entry: Function) -> tuple[Bound, ...]:
    """What the annotations of a function's parameters say of sizes, by name."""
    found: dict[str, Bound] = {}
    for parameter in entry.parameters:
        for spec in [parameter.tensor] if parameter.tree is None else flatten(parameter.tree)[0]:
            if isinstance(spec, TensorSpec):
                found.update({bound.name: bound for bound in spec.bounds})
    return tuple(found[name] for name in sorted(found))

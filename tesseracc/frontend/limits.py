"""What bundles and machines can hold: names of ASCII letters, 65,536 parameters and as many results, 32 axes, sizes and
bytes below 2^63."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod

from tessera.errors import Call, SourceError, Span
from tessera.shapes import Dim, Expr, symbols_of
from tessera_runtime.core.dtypes import info
from tessera_runtime.core.manifest import MAX_VALUES
from tesseracc.ir.value import Module

MAX_RANK = 32
MAX_SIZE = 2**63 - 1
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def is_name(text: str) -> bool:
    """Whether a bundle can have a function, parameter, result or dim of this name."""
    return _NAME.fullmatch(text) is not None


def check_names(module: Module, span: Span) -> None:
    """Raises E305 for a function with a name in it that no bundle can have, or with more values than one can."""
    for func in module.funcs:
        for what, count in (("parameters", len(func.params)), ("results", len(func.body.yields))):
            if count > MAX_VALUES:
                text = f"`{func.name}` has {count:,} {what}; at most {MAX_VALUES:,} are possible"
                raise SourceError("E305", text, help="stack them: one tensor with an axis more", span=span)
        dims = (s for p in func.params for dim in getattr(p.type, "dims", ()) for s in sorted(symbols_of(dim)))
        for name in (func.name, *(p.name or "" for p in func.params), *dims, *func.attrs.get("outputs", ())):
            if not is_name(name):
                raise SourceError(
                    "E305",
                    f"`{name}` cannot be a name of `{func.name}`, its parameters, results or dims",
                    help="bundles have names of ASCII letters, digits and _, at most 64 of them",
                    span=span,
                )


def check_limits(
    what: str, dims: Sequence[Dim], dtype: str, span: Span | None = None, calls: tuple[Call, ...] = ()
) -> None:
    """Raises E305 for a tensor that no machine can hold, at the place where it comes from."""
    problem = _problem(dims, dtype)
    if problem is not None:
        raise SourceError("E305", f"{what} {problem}", span=span, calls=calls)


def _problem(dims: Sequence[Dim], dtype: str) -> str | None:
    if len(dims) > MAX_RANK:
        return f"has {len(dims)} axes; at most {MAX_RANK} are possible"
    numbers = (n for d in dims for n in (d.to_postfix() if isinstance(d, Expr) else [d]) if isinstance(n, int))
    if any(abs(n) > MAX_SIZE for n in numbers):
        return "has a size that does not fit 64 bits"
    known = [d for d in dims if isinstance(d, int)]
    if prod(known) * info(dtype).itemsize > MAX_SIZE:
        return "has more bytes than 64 bits can count"
    return None

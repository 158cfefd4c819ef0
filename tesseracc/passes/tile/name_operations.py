"""`name-operations`: kernels say what they compute, for profiles and pages: the attributes `ops` and `parts`.

The names of their operations on data, each once, in order of first use. Atomic updates are such operations; moving
data, choosing it and converting it is none, and neither is arithmetic on indices, which is i64; but a kernel that has
nothing else is one on integers.

A kernel that is several operators, fused or joined, has `parts`: for each line its place, and the parameters that what
stands there writes.
"""

from __future__ import annotations

from tesseracc.ir.dialects.arith import BINARY, UNARY
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.types import element
from tesseracc.ir.value import Func, Module, Op

__all__ = ["run"]

_NAMES = {f"arith.{name}": name for name in (*BINARY, *UNARY, "fma")} | {"tile.mma": "matmul"}
_SUMS = {"add": "sum", "mul": "prod"}  # other kinds of a reduction are words as they are
_UPDATES = ("tile.update", "tile.update_block")
_MOST = 32  # names that a bundle keeps
_MOST_LINES = 64


@register("name-operations", level="tile")
def run(module: Module, context: Context) -> Module:
    """Gives kernels the attributes `ops` and `parts`."""

    def named(func: Func) -> Func:
        if func.kind != "tile.kernel":
            return func
        return func.with_(attrs={**func.attrs, "ops": _of(func), "parts": _parts(func)})

    return module.with_(funcs=tuple(map(named, module.funcs)))


def _of(kernel: Func) -> tuple[str, ...]:
    found = [(name, _on_data(op)) for op in kernel.walk() if (name := _name(op))]
    on_data = [name for name, data in found if data]
    return tuple(dict.fromkeys(on_data or [name for name, _ in found]))[:_MOST]


def _on_data(op: Op) -> bool:
    return op.name in _UPDATES or element(op.results[0].type) not in ("i64", "bool")


def _parts(kernel: Func) -> tuple[tuple[str, int, tuple[int, ...]], ...]:
    """File, line and written parameters of each line, in order; empty for a kernel of one line."""
    lines: dict[tuple[str, int], None] = {}
    writer: dict[int, tuple[str, int]] = {}
    written = {p: i for i, (p, how) in enumerate(zip(kernel.params, kernel.attrs["access"], strict=True))
               if how in ("write", "readwrite")}  # fmt: skip
    for op in kernel.walk():
        if op.loc is None:
            continue
        place = op.loc.file.rsplit("/", 1)[-1], op.loc.line
        lines[place] = None
        if op.defn.effect == "write":
            writer.update((written[v], place) for v in op.operands if v in written)
    if len(lines) < 2 or len(lines) > _MOST_LINES:
        return ()
    return tuple(
        (file, line, tuple(i for i, at in sorted(writer.items()) if at == (file, line))) for file, line in sorted(lines)
    )


def _name(op: Op) -> str:
    """The word for an operation; empty for what computes nothing."""
    if op.name in ("tile.reduce", "tile.fold"):
        kind = str(op.attrs["kind"])
        return _SUMS.get(kind, kind)
    if op.name in _UPDATES:
        return f"atomic_{op.attrs['kind']}"
    return _NAMES.get(op.name, "")

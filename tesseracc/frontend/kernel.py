"""Kernels to Tile IR: the typed tree of `tessera.kernel` becomes a `tile.kernel` and the `tile.program` launching it.

The tree's variables become SSA values: a branch yields, and a loop carries, the variables that it assigns. Varying
conditions and bounds give `tile.if`, `tile.for`, `tile.while`; uniform ones `scf`. A range that is spread over lanes
keeps its bounds as `lo + local_id * step` and `group * step`. The program has the kernel's tensors and scalars as
parameters; it yields what the kernel returns, then what it writes without returning it. A returned scalar is a
buffer of rank 0 behind the kernel's parameters. Where the sizes of a call choose between forms of a kernel, the program
has a tree of `tile.when`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tessera.kernel import KernelDef
from tessera.kernel.tree import Buffer
from tessera.polynomials import dim_max
from tessera.shapes import symbol
from tesseracc.frontend.kernel_body import Body
from tesseracc.frontend.places import location, near
from tesseracc.ir.builder import Builder
from tesseracc.ir.pipeline import Note
from tesseracc.ir.rewrite import remove_dead
from tesseracc.ir.types import BufType, ScalarType
from tesseracc.ir.value import Func, Loc, Module, Value
from tesseracc.ir.verify import verify
from tesseracc.tuning.split import Split

__all__ = ["lower", "notes"]


def notes(kernel: KernelDef, root: str | None = None) -> list[Note]:
    """What the rules of the language decided, for `--notes`, and the warnings, which have codes."""
    return [Note(n.message, near(n.span, root), n.code or "") for n in kernel.notes]


def _buf(buffer: Buffer) -> BufType:
    return BufType(buffer.dims, buffer.dtype.name, "global")


def lower(
    kernel: KernelDef, root: str | None = None, others: Sequence[KernelDef] = (), choice: Split[int] | int = 0
) -> Module:
    """A verified module with the functions `<name>__0` (the kernel) and `<name>` (the program).

    `root` is the folder that locations are relative to. `others` are the kernel at other points of its space,
    `<name>__1` and so on; `choice` says by sizes which of them all runs, by number.
    """
    forms = [_kernel(form, f"{kernel.name}__{number}", root) for number, form in enumerate((kernel, *others))]
    return verify(Module((*forms, _program(kernel, forms, choice, location(kernel.span, root)))))


def _kernel(kernel: KernelDef, name: str, root: str | None) -> Func:
    """One form of a kernel."""
    loc = location(kernel.span, root)
    outs = [r for r in kernel.results if r.param is None]
    params: list[Value] = []
    body = Body(Builder(loc), kernel.group, lambda span: location(span, root))
    access: list[str] = []
    for param in kernel.params:
        if param.buffer is not None:
            params.append(body.buffer(param.buffer, Value(_buf(param.buffer), param.name)))
        elif param.var is not None:
            params.append(Value(ScalarType(param.var.type.dtype.name), param.name))
            body.env[param.var] = params[-1]
        else:
            continue
        access.append(kernel.access(param.name))
    for result in outs:
        params.append(body.buffer(result.buffer, Value(_buf(result.buffer), result.name)))
        access.append("write")
    body.block(kernel.body)
    attrs = {
        "access": tuple(access),
        "grid": kernel.grid,
        "group": kernel.group,
        "symbols": kernel.symbols,
    }
    if stages := dict(kernel.config).get("num_stages"):
        attrs["stages"] = stages
    return Func("tile.kernel", name, remove_dead(body.b.region(params)), attrs, loc)


def _program(kernel: KernelDef, forms: Sequence[Func], choice: Split[int] | int, loc: Loc) -> Func:
    b, func = Builder(loc), forms[0]
    count = sum(1 for p in kernel.params if not p.constant)
    params = [Value(p.type, p.name) for p in func.params[:count]]
    temps = [b.op("tile.temp", types=p.type) for p in func.params[count:]]

    def launch(choice: Split[int] | int) -> Builder:
        inner = Builder(loc)
        if isinstance(choice, Split):
            regions = [launch(choice.below).region(), launch(choice.above).region()]
            beyond = dim_max(symbol(choice.name) - choice.limit, 0)
            inner.emit("tile.when", types=[], regions=regions, bind=(), unless=beyond)
        else:
            inner.emit("tile.launch", *params, *temps, kernel=forms[choice].name)
        return inner

    b.ops += launch(choice).ops
    by_name = {p.name: p for p in params}
    fresh = iter(temps)
    yields = {r.name: by_name[r.param] if r.param is not None else next(fresh) for r in kernel.results}
    inout = tuple(p.name for p in kernel.buffers if p.name in kernel.written)
    for written in inout:
        yields.setdefault(written, by_name[written])
    attrs: dict[str, Any] = {"inout": inout, "outputs": tuple(yields)}
    if kernel.doc:
        attrs["doc"] = " ".join(kernel.doc.split())
    return Func("tile.program", kernel.name, b.region(params, list(yields.values())), attrs, loc)

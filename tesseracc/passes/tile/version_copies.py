"""`version-copies`: kernels whose pipelines a tensor copy engine can feed get a version that relies on it.

The engine wants sizes that only the call knows. A kernel whose sizes are known to fit is marked; one whose sizes are
not known is launched in one of two versions:

    launch k        =>        when sum of (dim mod multiple) + (dim is 0) = 0:  launch k__tensor
                              else:                                             launch k

The version is told of these multiples (`multiples`). Where they follow from a single size, the other version is told
that it is none (`ragged`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tessera.polynomials import dim_min
from tessera.shapes import Dim
from tesseracc.analysis.tensor_copies import distances, tensor_copies
from tesseracc.ir.builder import Builder
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import map_funcs, map_ops
from tesseracc.ir.value import Func, Module, Op, Region

FEATURES = ("tma", "mbarrier_tx", "elect")


def misfit(sizes: list[tuple[Dim, int]]) -> Dim:
    """0 where every size is a positive multiple, else positive."""
    total: Dim = 0
    for dim, multiple in sizes:
        remainder = dim % multiple if multiple > 1 else 0
        total = total + remainder + _is_zero(dim)
    return total


def _is_zero(dim: Dim) -> Dim:
    return 1 - dim_min(dim, 1)


@register("version-copies", level="tile")
def run(module: Module, context: Context) -> Module:
    """Gives kernels a version whose pipelines are fed by tensor copies."""
    if not all(context.need_arch().has(feature) for feature in FEATURES):
        return module
    versions: dict[str, tuple[Func, Dim]] = {}
    funcs: list[Func] = []
    for func in module.funcs:
        copies = tensor_copies(func) if func.kind == "tile.kernel" and not func.attrs["group"] % 128 else None
        sizes = distances(func, copies) if copies else []
        off = misfit(sizes) if copies else 1
        if isinstance(off, int):
            funcs.append(_tensor(func, func.name) if copies and off == 0 else func)
            continue
        version = _tensor(func, f"{func.name}__tensor", sizes)
        versions[func.name] = (version, off)
        funcs += [version, _other(func, sizes)]
    return launch_versions(module.with_(funcs=tuple(funcs)), versions)


def _tensor(kernel: Func, name: str, sizes: Sequence[tuple[Dim, int]] = ()) -> Func:
    own = {"multiples": tuple(sizes)} if sizes else {}
    return replace(kernel, name=name, attrs={**kernel.attrs, "tensor_copies": True, **own})


def _other(kernel: Func, sizes: list[tuple[Dim, int]]) -> Func:
    """The version for the sizes that do not fit."""
    ragged = [(dim, multiple) for dim, multiple in sizes if multiple > 1]
    return replace(kernel, attrs={**kernel.attrs, "ragged": ragged[0]}) if len(ragged) == 1 else kernel


def launch_versions(module: Module, versions: dict[str, tuple[Func, Dim]]) -> Module:
    """The module with launches of a version where the size that stands beside it is 0, and of the kernel elsewhere."""

    def visit(op: Op) -> list[Op] | None:
        found = versions.get(str(op.attrs["kernel"])) if op.name == "tile.launch" else None
        if found is None:
            return None
        version, off = found
        fast = replace(op, attrs={**op.attrs, "kernel": version.name})
        b = Builder(op.loc)
        b.emit("tile.when", types=[], regions=[Region((), (fast,)), Region((), (op,))], bind=(), unless=off)
        return b.ops

    return module.with_(funcs=map_funcs(
        module.funcs, "tile.program", lambda program: replace(program, body=map_ops(program.body, visit))
    )) if versions else module  # fmt: skip

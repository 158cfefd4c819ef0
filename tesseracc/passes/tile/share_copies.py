"""`share-copies`: kernels whose neighbours copy the same get a version for clusters: each brings a part to all.

    launch k__tensor    =>    when (blocks along the axis) mod 2 = 0:  launch k__cluster    else:  launch k__tensor

A copy is shared by the blocks of a pair along an axis of the launch if neither its place nor the number of copies
before it depends on the index along that axis. Of all axes that one is taken along which most is shared.
"""

from __future__ import annotations

from dataclasses import replace

from tessera.shapes import Dim
from tesseracc.analysis.group_axes import NONE, Axes, axes_of
from tesseracc.analysis.tensor_copies import tensor_copy
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import map_ops
from tesseracc.ir.value import Func, Module, Op, Region, Value
from tesseracc.passes.tile.version_copies import launch_versions

FEATURES = ("cluster", "tma_multicast")
#: blocks of a cluster: more share more, but wait for more
BLOCKS = 2


def shared_along(kernel: Func, axis: int) -> dict[Op, int]:
    """The copies that neighbours along an axis can share, as they would be made, and the bytes of each."""
    axes = axes_of(kernel)
    found: dict[Op, int] = {}

    def visit(region: Region, moved: Axes) -> None:
        for op in region.ops:
            inside = moved | _all(axes, op.operands[:3]) if op.name in ("scf.for", "tile.pipeline") else moved
            if op.name == "tile.pipeline" and axis not in inside:
                for copy in op.regions[0].ops:
                    if copy.name == "tile.copy_async" and axis not in _all(axes, copy.group("src_at")):
                        made = tensor_copy(_shared(copy), kernel.params)
                        if made is not None:
                            found[copy] = made.bytes
            elif op.name == "scf.for":
                visit(op.regions[0], inside)

    visit(kernel.body, NONE)
    return found


def _all(axes: dict[Value, Axes], values: tuple[Value, ...]) -> Axes:
    return NONE.union(*(axes.get(value, NONE) for value in values))


def _shared(copy: Op) -> Op:
    return replace(copy, attrs={**copy.attrs, "blocks": BLOCKS})


def cluster_version(kernel: Func) -> tuple[Func, Dim] | None:
    """The version, and what must be 0 for it to be launched; None where nothing is shared."""
    grid: tuple[Dim, ...] = kernel.attrs["grid"]
    best: dict[Op, int] = {}
    along = 0
    for axis, size in enumerate(grid):
        found = shared_along(kernel, axis)
        if size % BLOCKS != 1 and sum(found.values()) > sum(best.values()):
            best, along = found, axis
    if not best:
        return None
    body = map_ops(kernel.body, lambda op: [_shared(op)] if op in best else None)
    name = f"{kernel.name.removesuffix('__tensor')}__cluster"
    version = replace(kernel, name=name, body=body, attrs={**kernel.attrs, "cluster": (BLOCKS, along)})
    return version, grid[along] % BLOCKS


@register("share-copies", level="tile")
def run(module: Module, context: Context) -> Module:
    """Gives kernels a version in which the blocks of a cluster share copies."""
    arch = context.need_arch()
    if not all(arch.has(feature) for feature in FEATURES) or arch.limits.cluster < BLOCKS:
        return module
    versions: dict[str, tuple[Func, Dim]] = {}
    funcs: list[Func] = []
    for func in module.funcs:
        tensor = func.kind == "tile.kernel" and func.attrs.get("tensor_copies")
        found = cluster_version(func) if tensor else None
        if found is not None:
            version, off = found
            axis = "xyz"[version.attrs["cluster"][1]]
            where = f" where {off} is 0" if off != 0 else ""
            context.note(f"@{version.name}: blocks in pairs along {axis} share copies{where}", func.loc)
            if off == 0:
                func = replace(version, name=func.name)
            else:
                versions[func.name] = found
                funcs.append(version)
        funcs.append(func)
    return launch_versions(module.with_(funcs=tuple(funcs)), versions)

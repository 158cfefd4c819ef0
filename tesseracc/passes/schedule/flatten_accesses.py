"""`flatten-accesses`: an index that is not affine axis by axis, but is so over several axes taken as one, is
read that way.

    x[i // B, i % B]  of x: [A, B]   =   x'[i]   of the view x': [A*B]

The shortest run of axes that helps is merged, for all accesses of that tensor in the group.
"""

from __future__ import annotations

from tessera.shapes import Dim
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.value import Module
from tesseracc.passes.schedule.merge_axes import Merger, Touch, map_merged


def _run(merger: Merger, touch: Touch) -> tuple[int, int] | None:
    """The shortest run of axes (first, last) whose merged index is affine though one of its own is not."""
    dims = merger.dims[touch.tensor]
    affine = [merger.known.affine(index) is not None for index in touch.indices]
    if all(affine):
        return None
    rank = len(dims)
    for length in range(2, rank + 1):
        for first in range(rank - length + 1):
            last = first + length - 1
            if affine[first] and affine[last]:
                continue
            total: Dim = 0
            for axis in range(first, last + 1):
                total = total * dims[axis] + touch.indices[axis]
            if merger.known.affine(total) is not None:
                return first, last
    return None


def flatten(merger: Merger) -> None:
    """Merges tensor axes until nothing more becomes affine."""
    for touch in merger.touches:
        while (found := _run(merger, touch)) is not None:
            for _ in range(found[1] - found[0]):
                merger.merge_tensor_axes(touch.tensor, found[0])


@register("flatten-accesses", level="schedule")
def run(module: Module, context: Context) -> Module:
    """Sees tensors with merged axes where that makes an index affine."""
    return map_merged(module, flatten)

"""Atomic updates of integers: a group counts in its own memory first, and adds its counts to all others' once.

    tesseracc build samples/histogram.py --arch cpu --arch sm_90 -o histogram.tsb
    tessera-run histogram.tsb --function histogram --input x=randn:100000xf32 --input counts=64xi32=0

Additions of integers give the same counts in any order of lanes, groups and threads, so the result is deterministic.
"""

import tessera as ts

BINS = 64


@ts.kernel(grid="ceildiv(N, 4096)")
def histogram(x: ts.Tensor["N", ts.f32], counts: ts.Region[ts.reduce_sum, ts.Tensor[BINS, ts.i32]]):
    """counts[b] += how many x lie in bin b of 64 equal ones from -4 to 4; the outermost two take what is beyond."""
    own = ts.tile.alloc_shared((BINS,), ts.i32)
    own[:] = 0
    lane = ts.tile.local_id()
    for first in ts.tile.grid_stride_range(0, N, ts.tile.group_size()):
        i = first + lane
        if i < N:
            place = (x[i] + 4.0) * (BINS / 8)
            ts.tile.atomic_add(own[ts.cast(min(max(place, 0.0), BINS - 1.0), ts.i32)], 1)
    ts.tile.barrier()
    if lane < BINS:
        ts.tile.atomic_add(counts[lane], own[lane])

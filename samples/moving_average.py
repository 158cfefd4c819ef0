"""A kernel with shared memory: each lane loads one element, and after a barrier reads its neighbours' elements.

    tesseracc build samples/moving_average.py --arch sm_90 --emit ptx
"""

import tessera as ts


@ts.kernel
def moving_average(x: ts.Tensor["N", ts.f32], y: ts.Tensor["N", ts.f32]):
    """y[i] = mean of x[i-1], x[i], x[i+1] as far as they exist; groups meet at their first and last lane."""
    window = ts.tile.alloc_shared((128,), ts.f32)
    i = ts.tile.linear_id()
    lane = ts.tile.local_id()
    if i < N:
        window[lane] = x[i]
    ts.tile.barrier()
    if i < N:
        total = window[lane]
        count = 1.0
        if i > 0:
            total += window[lane - 1] if lane > 0 else x[i - 1]
            count += 1.0
        if i + 1 < N:
            total += window[lane + 1] if lane < 127 else x[i + 1]
            count += 1.0
        y[i] = total / count

"""Sums and extrema of rows and of columns, in a fixed order.

Blocks are joined element by element, one behind the other; only what that leaves is reduced, as a tree of halves.
"""

import tessera as ts
from tessera.kernels.family import family
from tessera.kernels.norms import ROWS

COLUMNS = {"BM": (32, 16, 64), "BN": (64, 128, 32)}


@family
def row_sum(T):
    """`row_sum(x, y)`: y[M] = the sums of the rows of x[M, N], added in T's accumulator (f32 for narrow floats)."""
    ACC = T.accum

    @ts.kernel.autotune(space=ROWS)
    def row_sum(x: ts.Tensor["M", "N", T], y: ts.Tensor["M", ACC]) -> ts.Tensor["M", ACC]:
        for r in ts.tile.range(0, M, BM):
            acc = ts.tile.zeros((BM, BN), ACC)
            for c in range(0, N, BN):
                acc += x[r : r + BM, c : c + BN]
            y[r : r + BM] = ts.tile.cast(ts.tile.row_sum(acc), ACC)
        return y

    return row_sum


@family
def row_max(T):
    """`row_max(x, y)`: y[M] = the largest elements of the rows of x[M, N], -inf or the least int for none."""
    LEAST = -float("inf") if T.is_float else T.min_value

    @ts.kernel.autotune(space=ROWS)
    def row_max(x: ts.Tensor["M", "N", T], y: ts.Tensor["M", T]) -> ts.Tensor["M", T]:
        for r in ts.tile.range(0, M, BM):
            best = ts.tile.full((BM, BN), LEAST, T)
            for c in range(0, N, BN):
                best = ts.tile.maximum(best, x[r : r + BM, c : c + BN])
            y[r : r + BM] = ts.tile.row_max(best)
        return y

    return row_max


@family
def column_sum(T):
    """`column_sum(x, y)`: y[N] = the sums of the columns of x[M, N], added in T's accumulator (row_sum)."""
    ACC = T.accum

    @ts.kernel.autotune(space=COLUMNS)
    def column_sum(x: ts.Tensor["M", "N", T], y: ts.Tensor["N", ACC]) -> ts.Tensor["N", ACC]:
        for c in ts.tile.range(0, N, BN):
            acc = ts.tile.zeros((BM, BN), ACC)
            for r in range(0, M, BM):
                acc += x[r : r + BM, c : c + BN]
            y[c : c + BN] = ts.tile.cast(ts.tile.col_sum(acc), ACC)
        return y

    return column_sum


@family
def column_max(T):
    """`column_max(x, y)`: y[N] = the largest elements of the columns of x[M, N], -inf or the least int for none."""
    LEAST = -float("inf") if T.is_float else T.min_value

    @ts.kernel.autotune(space=COLUMNS)
    def column_max(x: ts.Tensor["M", "N", T], y: ts.Tensor["N", T]) -> ts.Tensor["N", T]:
        for c in ts.tile.range(0, N, BN):
            best = ts.tile.full((BM, BN), LEAST, T)
            for r in range(0, M, BM):
                best = ts.tile.maximum(best, x[r : r + BM, c : c + BN])
            y[c : c + BN] = ts.tile.col_max(best)
        return y

    return column_max

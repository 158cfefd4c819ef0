"""Rows brought to a common size: softmax, layer_norm, rms_norm. A group takes BM rows, in blocks of BN columns.

The loops over columns are Python's `range`, which is sequential: what they find belongs to the whole row.
"""

import tessera as ts
from tessera.kernels.family import family

ROWS = {"BM": (8, 16, 32), "BN": (256, 512, 128)}  # few rows at a time, so that short matrices fill the machine


@family
def softmax(T):
    """`softmax(x, y)`: y = exp(x - max) / sum(exp(x - max)) along each row of x[M, N]; x and y of type T.

    One pass finds the maximum and the sum together, in f32, the second writes.
    Source: Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018.
    """

    @ts.kernel.autotune(space=ROWS)
    def softmax(x: ts.Tensor["M", "N", T], y: ts.Tensor["M", "N", T]) -> ts.Tensor["M", "N", T]:
        for r in ts.tile.range(0, M, BM):
            top = ts.tile.full((BM,), -float("inf"))
            total = ts.tile.zeros((BM,))
            for c in range(0, N, BN):
                top_new, total, _ = ts.tile.online_softmax(x[r : r + BM, c : c + BN], top, total)
                top = top_new
            for c in range(0, N, BN):
                y[r : r + BM, c : c + BN] = ts.tile.exp(x[r : r + BM, c : c + BN] - top[:, None]) / total[:, None]
        return y

    return softmax


@family
def layer_norm(T):
    """`layer_norm(x, weight, bias, y, eps=1e-5)`: y = (x - mean) / sqrt(variance + eps) * weight + bias.

    x and y are [M, N], weight and bias [N], all of type T; mean and variance (the sum of squares divided by N) are of
    each row. One pass finds both: each block's own are joined with those of the blocks before it.
    Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
    """

    @ts.kernel.autotune(space=ROWS)
    def layer_norm(
        x: ts.Tensor["M", "N", T],
        weight: ts.Tensor["N", T],
        bias: ts.Tensor["N", T],
        y: ts.Tensor["M", "N", T],
        eps: ts.f32 = 1e-5,
    ) -> ts.Tensor["M", "N", T]:
        for r in ts.tile.range(0, M, BM):
            mean = ts.tile.zeros((BM,))
            square = ts.tile.zeros((BM,))  # the sum of the squares of the distances from the mean
            for c in range(0, N, BN):
                t = x[r : r + BM, c : c + BN]
                count = ts.f32(min(BN, N - c))
                here = ts.tile.row_sum(t) / count
                away = t - here[:, None]
                share = count / (c + count)
                step = here - mean
                square = square + ts.tile.row_sum(away * away) + step * step * (c * share)
                mean = mean + step * share
            scale = ts.tile.rsqrt(square / N + eps)
            for c in range(0, N, BN):
                t = (x[r : r + BM, c : c + BN] - mean[:, None]) * scale[:, None]
                y[r : r + BM, c : c + BN] = t * weight[c : c + BN][None, :] + bias[c : c + BN][None, :]
        return y

    return layer_norm


@family
def rms_norm(T):
    """`rms_norm(x, weight, y, eps=1e-6)`: y = x / sqrt(mean(x^2) + eps) * weight along each row.

    x and y are [M, N], weight is [N], all of type T; sums are in f32.
    Source: Zhang and Sennrich, "Root mean square layer normalization", 2019.
    """

    @ts.kernel.autotune(space=ROWS)
    def rms_norm(
        x: ts.Tensor["M", "N", T], weight: ts.Tensor["N", T], y: ts.Tensor["M", "N", T], eps: ts.f32 = 1e-6
    ) -> ts.Tensor["M", "N", T]:
        for r in ts.tile.range(0, M, BM):
            squares = ts.tile.zeros((BM, BN))
            for c in range(0, N, BN):
                t = x[r : r + BM, c : c + BN]
                squares += t * t
            scale = ts.tile.rsqrt(ts.tile.row_sum(squares) / N + eps)
            for c in range(0, N, BN):
                y[r : r + BM, c : c + BN] = x[r : r + BM, c : c + BN] * scale[:, None] * weight[c : c + BN][None, :]
        return y

    return rms_norm

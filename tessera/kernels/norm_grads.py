"""Derivatives of softmax, layer_norm, rms_norm and cross_entropy, from the cotangents of their results.

Sums over a row belong to one group, and so do sums over a column, which weights have: every sum has one order. With
g = dy weight, h the normalised row and s its scale,

    layer_norm:  dx = s (g - mean(g) - h mean(g h))        rms_norm:  dx = s (g - h mean(g h))
    dweight = the column sums of dy h,    dbias = those of dy.

The kernels of rows leave mean and scale for those of columns. All sums are in f32; results are rounded once, to T.
"""

import tessera as ts
from tessera.kernels.family import family
from tessera.kernels.norms import ROWS
from tessera.kernels.reductions import COLUMNS


@family
def softmax_grad(T):
    """`softmax_grad(y, dy, dx)`: dx = y (dy - sum(dy y)) along each row; y is the result of softmax, all [M, N]."""

    @ts.kernel.autotune(space=ROWS)
    def softmax_grad(
        y: ts.Tensor["M", "N", T], dy: ts.Tensor["M", "N", T], dx: ts.Tensor["M", "N", T]
    ) -> ts.Tensor["M", "N", T]:
        for r in ts.tile.range(0, M, BM):
            products = ts.tile.zeros((BM, BN))
            for c in range(0, N, BN):
                products += y[r : r + BM, c : c + BN] * dy[r : r + BM, c : c + BN]
            total = ts.tile.row_sum(products)
            for c in range(0, N, BN):
                dx[r : r + BM, c : c + BN] = y[r : r + BM, c : c + BN] * (dy[r : r + BM, c : c + BN] - total[:, None])
        return dx

    return softmax_grad


@family
def cross_entropy_grad(T):
    """`cross_entropy_grad(x, label, dloss, dx)`: dx = (softmax(x) - one_hot(label)) dloss.

    It is 0 where a label is outside [0, N). x and dx are [M, N] of type T, label is i32[M], dloss f32[M].
    """

    @ts.kernel.autotune(space=ROWS)
    def cross_entropy_grad(
        x: ts.Tensor["M", "N", T],
        label: ts.Tensor["M", ts.i32],
        dloss: ts.Tensor["M", ts.f32],
        dx: ts.Tensor["M", "N", T],
    ) -> ts.Tensor["M", "N", T]:
        for r in ts.tile.range(0, M, BM):
            want = label[r : r + BM]
            factor = ts.tile.where((want < 0) | (want >= N), 0.0, dloss[r : r + BM])
            top = ts.tile.full((BM,), -float("inf"))
            total = ts.tile.zeros((BM,))
            for c in range(0, N, BN):
                top_new, total, _ = ts.tile.online_softmax(x[r : r + BM, c : c + BN], top, total)
                top = top_new
            for c in range(0, N, BN):
                p = ts.tile.exp(x[r : r + BM, c : c + BN] - top[:, None]) / total[:, None]
                labelled = ts.tile.arange(BN)[None, :] + c == want[:, None]
                dx[r : r + BM, c : c + BN] = (p - ts.tile.where(labelled, 1.0, 0.0)) * factor[:, None]
        return dx

    return cross_entropy_grad


@family
def layer_norm_grad(T):
    """`layer_norm_grad(x, weight, dy, dx, mean, scale, eps=1e-5)`: the cotangent of x, and each row's mean and scale.

    x, dy and dx are [M, N] and weight is [N], of type T; mean and scale = 1 / sqrt(variance + eps) are f32[M], for
    `layer_norm_grad_weight`.
    """

    @ts.kernel.autotune(space=ROWS)
    def layer_norm_grad(
        x: ts.Tensor["M", "N", T],
        weight: ts.Tensor["N", T],
        dy: ts.Tensor["M", "N", T],
        dx: ts.Tensor["M", "N", T],
        mean: ts.Tensor["M", ts.f32],
        scale: ts.Tensor["M", ts.f32],
        eps: ts.f32 = 1e-5,
    ) -> ts.Tensor["M", "N", T]:
        for r in ts.tile.range(0, M, BM):
            sums = ts.tile.zeros((BM, BN))
            for c in range(0, N, BN):
                sums += x[r : r + BM, c : c + BN]
            middle = ts.tile.row_sum(sums) / N
            squares = ts.tile.zeros((BM, BN))
            direct = ts.tile.zeros((BM, BN))
            along = ts.tile.zeros((BM, BN))
            for c in range(0, N, BN):
                away = x[r : r + BM, c : c + BN] - middle[:, None]
                g = dy[r : r + BM, c : c + BN] * weight[c : c + BN][None, :]
                squares += away * away
                direct += g
                along += g * away
            s = ts.tile.rsqrt(ts.tile.row_sum(squares) / N + eps)
            first = ts.tile.row_sum(direct) / N
            second = ts.tile.row_sum(along) / N * s
            for c in range(0, N, BN):
                h = (x[r : r + BM, c : c + BN] - middle[:, None]) * s[:, None]
                g = dy[r : r + BM, c : c + BN] * weight[c : c + BN][None, :]
                dx[r : r + BM, c : c + BN] = (g - first[:, None] - h * second[:, None]) * s[:, None]
            mean[r : r + BM] = middle
            scale[r : r + BM] = s
        return dx

    return layer_norm_grad


@family
def layer_norm_grad_weight(T):
    """`layer_norm_grad_weight(x, dy, mean, scale, dweight, dbias)`: the cotangents of weight and bias, [N] of type T.

    x and dy are [M, N]; mean and scale come from `layer_norm_grad`.
    """

    @ts.kernel.autotune(space=COLUMNS)
    def layer_norm_grad_weight(
        x: ts.Tensor["M", "N", T],
        dy: ts.Tensor["M", "N", T],
        mean: ts.Tensor["M", ts.f32],
        scale: ts.Tensor["M", ts.f32],
        dweight: ts.Tensor["N", T],
        dbias: ts.Tensor["N", T],
    ) -> ts.Tensor["N", T]:
        for c in ts.tile.range(0, N, BN):
            weights = ts.tile.zeros((BM, BN))
            biases = ts.tile.zeros((BM, BN))
            for r in range(0, M, BM):
                h = (x[r : r + BM, c : c + BN] - mean[r : r + BM][:, None]) * scale[r : r + BM][:, None]
                weights += dy[r : r + BM, c : c + BN] * h
                biases += dy[r : r + BM, c : c + BN]
            dweight[c : c + BN] = ts.tile.col_sum(weights)
            dbias[c : c + BN] = ts.tile.col_sum(biases)
        return dweight, dbias

    return layer_norm_grad_weight


@family
def rms_norm_grad(T):
    """`rms_norm_grad(x, weight, dy, dx, scale, eps=1e-6)`: the cotangent of x, and scale = 1 / sqrt(mean(x^2) + eps).

    x, dy and dx are [M, N] and weight is [N], of type T; scale is f32[M], for `rms_norm_grad_weight`.
    """

    @ts.kernel.autotune(space=ROWS)
    def rms_norm_grad(
        x: ts.Tensor["M", "N", T],
        weight: ts.Tensor["N", T],
        dy: ts.Tensor["M", "N", T],
        dx: ts.Tensor["M", "N", T],
        scale: ts.Tensor["M", ts.f32],
        eps: ts.f32 = 1e-6,
    ) -> ts.Tensor["M", "N", T]:
        for r in ts.tile.range(0, M, BM):
            squares = ts.tile.zeros((BM, BN))
            along = ts.tile.zeros((BM, BN))
            for c in range(0, N, BN):
                t = x[r : r + BM, c : c + BN]
                squares += t * t
                along += dy[r : r + BM, c : c + BN] * weight[c : c + BN][None, :] * t
            s = ts.tile.rsqrt(ts.tile.row_sum(squares) / N + eps)
            second = ts.tile.row_sum(along) / N * s * s
            for c in range(0, N, BN):
                g = dy[r : r + BM, c : c + BN] * weight[c : c + BN][None, :]
                dx[r : r + BM, c : c + BN] = (g - x[r : r + BM, c : c + BN] * second[:, None]) * s[:, None]
            scale[r : r + BM] = s
        return dx

    return rms_norm_grad


@family
def rms_norm_grad_weight(T):
    """`rms_norm_grad_weight(x, dy, scale, dweight)`: the cotangent of weight, [N] of type T; scale as above."""

    @ts.kernel.autotune(space=COLUMNS)
    def rms_norm_grad_weight(
        x: ts.Tensor["M", "N", T], dy: ts.Tensor["M", "N", T], scale: ts.Tensor["M", ts.f32], dweight: ts.Tensor["N", T]
    ) -> ts.Tensor["N", T]:
        for c in ts.tile.range(0, N, BN):
            weights = ts.tile.zeros((BM, BN))
            for r in range(0, M, BM):
                h = x[r : r + BM, c : c + BN] * scale[r : r + BM][:, None]
                weights += dy[r : r + BM, c : c + BN] * h
            dweight[c : c + BN] = ts.tile.col_sum(weights)
        return dweight

    return rms_norm_grad_weight

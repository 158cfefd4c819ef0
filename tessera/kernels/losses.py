"""Losses of rows of logits."""

import tessera as ts
from tessera.kernels.family import family
from tessera.kernels.norms import ROWS


@family
def cross_entropy(T):
    """`cross_entropy(x, label, loss)`: loss = log(sum(exp(x))) - x[label] of each row of x[M, N], in f32.

    x is of type T; label[M] is i32. A row whose label is outside [0, N) has the loss 0. Maximum, sum and the labelled
    logit are found in one pass (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018).
    """

    @ts.kernel.autotune(space=ROWS)
    def cross_entropy(
        x: ts.Tensor["M", "N", T], label: ts.Tensor["M", ts.i32], loss: ts.Tensor["M", ts.f32]
    ) -> ts.Tensor["M", ts.f32]:
        for r in ts.tile.range(0, M, BM):
            want = label[r : r + BM]
            top = ts.tile.full((BM,), -float("inf"))
            total = ts.tile.zeros((BM,))
            hit = ts.tile.zeros((BM,))
            for c in range(0, N, BN):
                t = x[r : r + BM, c : c + BN]
                top_new, total, _ = ts.tile.online_softmax(t, top, total)
                top = top_new
                labelled = ts.tile.arange(BN)[None, :] + c == want[:, None]
                hit += ts.tile.row_sum(ts.tile.where(labelled, t, 0.0))
            outside = (want < 0) | (want >= N)
            loss[r : r + BM] = ts.tile.where(outside, 0.0, top + ts.tile.log(total) - hit)
        return loss

    return cross_entropy

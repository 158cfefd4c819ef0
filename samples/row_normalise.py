"""Reductions whose result is used again on the same row: one kernel reads a row, reduces it, and writes it.

    tesseracc build samples/row_normalise.py --arch cpu -o row_normalise.tsb
    tessera-run row_normalise.tsb --function softmax --input x=randn:3x1000xf32
"""

import tessera as ts


@ts.function
def softmax(x: ts.Tensor["N", "D", ts.f32]):
    """The largest element is subtracted first, so that no exponential overflows."""
    e = ts.exp(x - ts.max(x, axis=-1, keepdims=True))
    return e / ts.sum(e, axis=-1, keepdims=True)


@ts.function
def layer_norm(x: ts.Tensor["N", "D", ts.bf16], scale: ts.Tensor["D", ts.f32], shift: ts.Tensor["D", ts.f32]):
    """bf16 in and out; the mean, the variance and the scaling are computed in f32 and rounded once."""
    wide = ts.cast(x, ts.f32)
    centred = wide - ts.mean(wide, axis=-1, keepdims=True)
    variance = ts.mean(centred * centred, axis=-1, keepdims=True)
    return ts.cast(centred * ts.rsqrt(variance + 1e-5) * scale + shift, ts.bf16)

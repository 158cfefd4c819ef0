"""Attention spelled out with operators: two batched products around a softmax, any batch, length and head size.

    tesseracc build samples/attention.py --arch cpu --arch sm_90 -o attention.tsb
"""

import tessera as ts


@ts.function
def attention(
    q: ts.Tensor["B", "S", "D", ts.f32], k: ts.Tensor["B", "T", "D", ts.f32], v: ts.Tensor["B", "T", "D", ts.f32]
) -> ts.Tensor["B", "S", "D", ts.f32]:
    """softmax(q k^T / sqrt(D)) v for every batch element."""
    d = ts.cast(ts.full((), q.shape[-1], ts.i64), ts.f32)
    scores = (q @ k.mT) * ts.rsqrt(d)
    return ts.softmax(scores, axis=-1) @ v

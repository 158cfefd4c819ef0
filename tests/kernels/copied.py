# A product as in tessera.kernels.matmul, as a user would write it: other names, the same loop.
import tessera as ts


@ts.kernel
def mine(P: ts.Tensor["R", "I", ts.bf16], Q: ts.Tensor["I", "S", ts.bf16]) -> ts.Tensor["R", "S", ts.bf16]:
    total = ts.tile.zeros((64, 64), ts.f32)
    total += ts.tile.mma(P[r : r + 64, i : i + 64], Q[i : i + 64, s : s + 64])
    return ts.tile.cast(total, ts.bf16)

"""Tile kernels, written in Tessera: products, normalisation, losses, reductions, transposition, attention.

Each name is a family of kernels (tessera.kernels.family): `matmul(a, b)` takes the element type from its first
argument; `matmul.of(ts.bf16, trans_b=True)` is one `ts.kernel`, to build or to call. Kernels of several block sizes
come by `tessera.kernel.specialise(kernel.definition, config={"BM": 128})`.
"""

from tessera.kernels.attention import flash_attention
from tessera.kernels.family import Family
from tessera.kernels.losses import cross_entropy
from tessera.kernels.matmul import matmul
from tessera.kernels.norms import layer_norm, rms_norm, softmax
from tessera.kernels.reductions import column_max, column_sum, row_max, row_sum
from tessera.kernels.transpose import transpose

__all__ = [
    "Family", "column_max", "column_sum", "cross_entropy", "flash_attention", "layer_norm", "matmul", "rms_norm",
    "row_max", "row_sum", "softmax", "transpose",
]  # fmt: skip

"""Tile kernels, written in Tessera: products, normalisation, losses, reductions, transposition, attention,
and their derivatives.

Each name is a family of kernels (tessera.kernels.family): `matmul(a, b)` takes the element type from its first
argument; `matmul.of(ts.bf16, trans_b=True)` is one `ts.kernel`, to build or to call. Kernels of several block sizes
come by `tessera.kernel.specialise(kernel.definition, config={"BM": 128})`.
"""

from tessera.kernels.attention import flash_attention, flash_attention_grad_kv, flash_attention_grad_q
from tessera.kernels.family import Family
from tessera.kernels.losses import cross_entropy
from tessera.kernels.matmul import matmul
from tessera.kernels.norm_grads import (
    cross_entropy_grad,
    layer_norm_grad,
    layer_norm_grad_weight,
    rms_norm_grad,
    rms_norm_grad_weight,
    softmax_grad,
)
from tessera.kernels.norms import layer_norm, rms_norm, softmax
from tessera.kernels.reductions import column_max, column_sum, row_max, row_sum
from tessera.kernels.split import matmul_parts, sum_parts
from tessera.kernels.transpose import transpose

__all__ = [
    "Family", "column_max", "column_sum", "cross_entropy", "cross_entropy_grad", "flash_attention",
    "flash_attention_grad_kv", "flash_attention_grad_q", "layer_norm", "layer_norm_grad", "layer_norm_grad_weight",
    "matmul", "matmul_parts", "rms_norm", "rms_norm_grad", "rms_norm_grad_weight", "row_max", "row_sum", "softmax",
    "softmax_grad", "sum_parts", "transpose",
]  # fmt: skip

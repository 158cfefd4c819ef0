"""`ts.nn`: the layers and losses of neural networks."""

from __future__ import annotations

from tessera.nn.attention import flash_attention
from tessera.nn.layers import avg_pool2d, conv1d, conv2d, conv3d, dropout, group_norm, max_pool2d
from tessera.nn.transformer import transformer_layer, transformer_stack
from tessera.ops.activations import gelu, relu, sigmoid, silu, softplus, swish
from tessera.ops.attention import rope, scaled_dot_product_attention
from tessera.ops.functions import tanh
from tessera.ops.indexing import embedding
from tessera.ops.linalg import linear
from tessera.ops.nn import cross_entropy, layer_norm, log_softmax, logsumexp, mse, rms_norm, softmax

__all__ = [
    "avg_pool2d", "conv1d", "conv2d", "conv3d", "cross_entropy", "dropout", "embedding", "flash_attention", "gelu",
    "group_norm", "layer_norm", "layernorm_safe", "linear", "log_softmax", "logsumexp", "max_pool2d", "mse", "relu",
    "rms_norm", "rmsnorm_safe", "rope", "scaled_dot_product_attention", "sigmoid", "silu", "softmax", "softmax_safe",
    "softplus", "swish", "tanh", "transformer_layer", "transformer_stack",
]

# The plain forms are the safe ones: they subtract the maximum, centre, and compute narrow types in f32.
softmax_safe, layernorm_safe, rmsnorm_safe = softmax, layer_norm, rms_norm

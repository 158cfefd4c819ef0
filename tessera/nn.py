"""`ts.nn`: the layers and losses of neural networks."""

from __future__ import annotations

from tessera.ops.activations import gelu, relu, sigmoid, silu, softplus, swish
from tessera.ops.functions import tanh
from tessera.ops.indexing import embedding
from tessera.ops.linalg import linear
from tessera.ops.nn import cross_entropy, layer_norm, log_softmax, logsumexp, mse, rms_norm, softmax

__all__ = [
    "cross_entropy", "embedding", "gelu", "layer_norm", "layernorm_safe", "linear", "log_softmax", "logsumexp", "mse",
    "relu", "rms_norm", "rmsnorm_safe", "sigmoid", "silu", "softmax", "softmax_safe", "softplus", "swish", "tanh",
]

# The plain forms are the safe ones: they subtract the maximum, centre, and compute narrow types in f32.
softmax_safe, layernorm_safe, rmsnorm_safe = softmax, layer_norm, rms_norm

"""Transformer layers over a documented tree of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tessera.errors import SourceError, did_you_mean
from tessera.nn.attention import flash_attention
from tessera.ops.activations import gelu, relu, silu
from tessera.ops.attention import rope
from tessera.ops.linalg import linear
from tessera.ops.nn import layer_norm, rms_norm
from tessera.ops.parts import split
from tessera.ops.views import reshape, transpose
from tessera.pytree import tree_map
from tessera.tensor import Tensor, TensorLike, as_tensor

__all__ = ["transformer_layer", "transformer_stack"]

KEYS = ("norm1", "qkv", "qkv_bias", "out", "out_bias", "norm2", "gate", "mlp", "mlp_bias", "down", "down_bias")
ACTIVATIONS = {"gelu": gelu, "silu": silu, "relu": relu}


def transformer_layer(
    x: TensorLike, weights: Mapping[str, Any], *, heads: int = 16, kv_heads: int | None = None, causal: bool = True,
    rotary: bool = False, activation: str = "gelu",
) -> Tensor:
    """x + attention(norm1(x)), then that + mlp(norm2(that)), for x [B, S, D].

    `weights` is a dict; H are `heads`, G `kv_heads` (H by default), E = D // H the size of a head:

        qkv    [D, (H + 2 G) E]   queries, keys and values, each by heads
        out    [H E, D]
        mlp    [D, F]
        down   [F, D]      may be missing: then the transpose of mlp
        gate   [D, F]      may be missing; if given, the hidden values are activation(h gate) * (h mlp)
        norm1, norm2       may be missing: layer_norm without parameters; {"weight": [D], "bias": [D]}: layer_norm;
                           {"weight": [D]}: rms_norm
        qkv_bias, out_bias, mlp_bias, down_bias   may be missing

    `rotary` turns queries and keys by their positions (ts.nn.rope). `activation` is gelu, silu or relu.
    """
    _check(weights, activation)
    value = as_tensor(x)
    if value.ndim != 3:
        raise SourceError("E304", f"transformer_layer needs x [B, S, D], got {value.type}")
    value = value + _attention(_norm(value, weights.get("norm1")), weights, heads, kv_heads or heads, causal, rotary)
    return value + _mlp(_norm(value, weights.get("norm2")), weights, activation)


def _check(weights: Mapping[str, Any], activation: str) -> None:
    if activation not in ACTIVATIONS:
        raise SourceError("E305", f"there is no activation {activation!r}", help=did_you_mean(activation, ACTIVATIONS))
    if not isinstance(weights, Mapping):
        raise SourceError("E311", f"the weights of a transformer layer are a dict, not {type(weights).__name__}",
                          help=f"its keys: {', '.join(KEYS)}")
    for name in weights:
        if name not in KEYS:
            raise SourceError("E311", f"a transformer layer has no weight `{name}`",
                              help=did_you_mean(name, KEYS) or f"its keys: {', '.join(KEYS)}")
    for name in ("qkv", "out", "mlp"):
        if name not in weights:
            raise SourceError("E311", f"a transformer layer needs the weight `{name}`",
                              help=f"its keys: {', '.join(KEYS)}")


def _norm(x: Tensor, parameters: Mapping[str, Any] | None) -> Tensor:
    if parameters is None:
        return layer_norm(x)
    if "bias" in parameters:
        return layer_norm(x, parameters["weight"], parameters["bias"])
    return rms_norm(x, parameters["weight"])


def _attention(x: Tensor, weights: Mapping[str, Any], heads: int, shared: int, causal: bool, rotary: bool) -> Tensor:
    batch, length, size = x.shape
    if isinstance(size, int) and size % heads:
        raise SourceError("E302", f"a transformer layer of {heads} heads on {x.type}",
                          help="the number of heads divides the last axis; say heads=")
    each = size // heads
    qkv = linear(x, weights["qkv"], weights.get("qkv_bias"))
    parts = split(qkv, [heads * each, shared * each, shared * each], dim=-1)
    q, k, v = (
        transpose(reshape(t, (batch, length, n, each)), 1, 2)
        for t, n in zip(parts, (heads, shared, shared), strict=True)
    )
    if rotary:
        q, k = rope(q), rope(k)
    mixed = transpose(flash_attention(q, k, v, causal), 1, 2)
    return linear(reshape(mixed, (batch, length, heads * each)), weights["out"], weights.get("out_bias"))


def _mlp(x: Tensor, weights: Mapping[str, Any], activation: str) -> Tensor:
    act: Any = ACTIVATIONS[activation]
    hidden = linear(x, weights["mlp"], weights.get("mlp_bias"))
    hidden = act(linear(x, weights["gate"])) * hidden if "gate" in weights else act(hidden)
    down = weights["down"] if "down" in weights else as_tensor(weights["mlp"]).mT
    return linear(hidden, down, weights.get("down_bias"))


def transformer_stack(
    x: TensorLike, weights: Sequence[Mapping[str, Any]] | Mapping[str, Any], num_layers: int | None = None,
    **options: Any,
) -> Tensor:
    """`num_layers` transformer layers one after the other; `options` are those of transformer_layer.

    `weights` is a list of the layers' trees, or one tree whose tensors have the layers as their first axis.
    """
    if isinstance(weights, Mapping):
        stacked = as_tensor(weights["qkv"]).shape[0] if "qkv" in weights else None
        count = stacked if num_layers is None else num_layers
        if not isinstance(count, int) or (isinstance(stacked, int) and count > stacked):
            raise SourceError("E305", f"a stack of {num_layers} layers with weights of {stacked}",
                              help="`num_layers` is an int, at most the first axis of the weights")
        layers: Sequence[Any] = [tree_map(lambda t, i=i: as_tensor(t)[i], dict(weights)) for i in range(count)]
    else:
        layers = list(weights)
        if num_layers is not None and num_layers != len(layers):
            raise SourceError("E305", f"a stack of {num_layers} layers with the weights of {len(layers)}")
    value = as_tensor(x)
    for layer in layers:
        value = transformer_layer(value, layer, **options)
    return value

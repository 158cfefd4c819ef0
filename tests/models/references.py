"""Neural network layers in float64 NumPy, written with loops and definitions, not with the operators under test."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def conv2d(x: Array, w: Array, bias: Array | None, stride: int, padding: int, dilation: int, groups: int) -> Array:
    n, c, h, width = x.shape
    o, inner, kh, kw = w.shape
    padded = np.zeros((n, c, h + 2 * padding, width + 2 * padding))
    padded[:, :, padding : padding + h, padding : padding + width] = x
    rows = (h + 2 * padding - (kh - 1) * dilation - 1) // stride + 1
    columns = (width + 2 * padding - (kw - 1) * dilation - 1) // stride + 1
    y = np.zeros((n, o, rows, columns))
    for out in range(o):
        first = out // (o // groups) * inner
        for i in range(rows):
            for j in range(columns):
                top, left = i * stride, j * stride
                patch = padded[:, first : first + inner, top : top + (kh - 1) * dilation + 1 : dilation,
                               left : left + (kw - 1) * dilation + 1 : dilation]  # fmt: skip
                y[:, out, i, j] = np.sum(patch * w[out], (1, 2, 3)) + (0.0 if bias is None else bias[out])
    return y


def pool2d(x: Array, size: int, stride: int, padding: int, kind: str) -> Array:
    border = -np.inf if kind == "max" else 0.0
    padded = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(padding, padding)] * 2, constant_values=border)
    rows, columns = ((n - size) // stride + 1 for n in padded.shape[-2:])
    y = np.zeros((*x.shape[:-2], rows, columns))
    for i in range(rows):
        for j in range(columns):
            window = padded[..., i * stride : i * stride + size, j * stride : j * stride + size]
            y[..., i, j] = window.max((-2, -1)) if kind == "max" else window.mean((-2, -1))
    return y


def attention(q: Array, k: Array, v: Array, causal: bool, scale: float | None = None) -> Array:
    """q [B, H, S, D], k and v [B, G, T, .]: row by row."""
    batch, heads, rows, size = q.shape
    group, keys = heads // k.shape[1], k.shape[2]
    y = np.zeros((batch, heads, rows, v.shape[-1]))
    for b in range(batch):
        for h in range(heads):
            for i in range(rows):
                seen = min(keys, i + keys - rows + 1) if causal else keys
                if seen <= 0:
                    continue
                scores = k[b, h // group, :seen] @ q[b, h, i] * (scale or 1.0 / math.sqrt(size))
                p = np.exp(scores - scores.max())
                y[b, h, i] = p @ v[b, h // group, :seen] / p.sum()
    return y


def rope(x: Array, positions: Array | None = None, base: float = 10000.0) -> Array:
    """Pairs as complex numbers, multiplied by e^(i angle)."""
    size = x.shape[-1]
    place = np.arange(x.shape[-2]) if positions is None else positions
    angle = place[..., None] * base ** (-2.0 * np.arange(size // 2) / size)
    turned = (x[..., : size // 2] + 1j * x[..., size // 2 :]) * np.exp(1j * angle)
    return np.concatenate([turned.real, turned.imag], -1)


def gelu(x: Array) -> Array:
    return np.asarray(x * 0.5 * (1.0 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2.0))))


def silu(x: Array) -> Array:
    return np.asarray(x / (1.0 + np.exp(-x)))


def layer_norm(x: Array, weight: Any = 1.0, bias: Any = 0.0, eps: float = 1e-5) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return np.asarray(centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * weight + bias)


def rms_norm(x: Array, weight: Any = 1.0, eps: float = 1e-5) -> Array:
    return np.asarray(x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight)


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def group_norm(x: Array, groups: int, weight: Array, bias: Array) -> Array:
    n, c = x.shape[:2]
    flat = layer_norm(x.reshape(n, groups, -1)).reshape(x.shape)
    shape = (1, c) + (1,) * (x.ndim - 2)
    return np.asarray(flat * weight.reshape(shape) + bias.reshape(shape))


def norm(x: Array, weights: Any) -> Array:
    if weights is None:
        return layer_norm(x)
    return layer_norm(x, weights["weight"], weights["bias"]) if "bias" in weights else rms_norm(x, weights["weight"])


def transformer_layer(
    x: Array, w: dict[str, Any], heads: int, shared: int, causal: bool, rotary: bool, act: Any
) -> Array:
    b, s, d = x.shape
    e = d // heads
    qkv = norm(x, w.get("norm1")) @ w["qkv"] + w.get("qkv_bias", 0.0)
    cuts = np.split(qkv, [heads * e, (heads + shared) * e], -1)
    q, k, v = (t.reshape(b, s, -1, e).transpose(0, 2, 1, 3) for t in cuts)
    if rotary:
        q, k = rope(q), rope(k)
    mixed = attention(q, k, v, causal).transpose(0, 2, 1, 3).reshape(b, s, d)
    x = x + mixed @ w["out"] + w.get("out_bias", 0.0)
    h = norm(x, w.get("norm2"))
    hidden = h @ w["mlp"] + w.get("mlp_bias", 0.0)
    hidden = act(h @ w["gate"]) * hidden if "gate" in w else act(hidden)
    return np.asarray(x + hidden @ w.get("down", w["mlp"].T) + w.get("down_bias", 0.0))

"""Trains the network of `digits.py` on the training digits and writes its weights: plain NumPy, one fixed seed.

    python samples/train_digits.py [OUT.safetensors]

A perceptron 64-128-64-10 with relu; Adam on the mean cross-entropy with a cosine rate; every image is seen each time
under another small rotation, scale, shear and shift. Weights are w[in, out], as `ts.linear` takes them. The settings
were chosen by cross-validation inside the training set (four contiguous blocks), never by the test set.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digits_data import load
from tessera_runtime.core import safetensors

Array = NDArray[np.floating[Any]]

SIZES = (64, 128, 64, 10)
EPOCHS, BATCH, RATE, DECAY = 400, 64, 2e-3, 1e-4
ROTATE, SCALE, SHEAR, SHIFT = 0.1, 0.08, 0.1, 0.7  # standard deviations (radians, 1, 1) and largest shift in pixels
OUT = Path(__file__).parent / "data" / "digits.safetensors"


def initial(rng: np.random.Generator) -> dict[str, Array]:
    """He initialisation: standard deviation sqrt(2 / inputs), biases zero."""
    weights: dict[str, Array] = {}
    for layer, (inputs, outputs) in enumerate(zip(SIZES, SIZES[1:], strict=False), start=1):
        weights[f"w{layer}"] = rng.standard_normal((inputs, outputs)) * np.sqrt(2 / inputs)
        weights[f"b{layer}"] = np.zeros(outputs)
    return weights


def forward(weights: dict[str, Array], x: Array) -> list[Array]:
    """The activations of every layer, from the input to the logits."""
    layers = [x]
    for layer in range(1, len(SIZES)):
        z = layers[-1] @ weights[f"w{layer}"] + weights[f"b{layer}"]
        layers.append(z if layer == len(SIZES) - 1 else np.maximum(z, 0))
    return layers


def gradients(weights: dict[str, Array], x: Array, labels: NDArray[Any]) -> dict[str, Array]:
    """Of the mean cross-entropy: d loss / d logits = (softmax(logits) - onehot(labels)) / batch, then backwards."""
    layers = forward(weights, x)
    e = np.exp(layers[-1] - layers[-1].max(axis=1, keepdims=True))
    g = e / e.sum(axis=1, keepdims=True)
    g[np.arange(len(labels)), labels] -= 1
    g /= len(labels)
    result: dict[str, Array] = {}
    for layer in range(len(SIZES) - 1, 0, -1):
        result[f"w{layer}"] = layers[layer - 1].T @ g
        result[f"b{layer}"] = g.sum(axis=0)
        g = (g @ weights[f"w{layer}"].T) * (layers[layer - 1] > 0)
    return result


def warped(images: Array, rng: np.random.Generator) -> Array:
    """Each image under a random affine map about its centre, sampled bilinearly; outside is white.

    A pixel (y, x), measured from the centre, takes the value found at s R(a) (y, x) + (ty, h y + tx) for the angle a,
    scale s, shear h and shift t drawn for its image.
    """
    n = len(images)
    angle, scale, shear = (rng.normal(0, d, (n, 1, 1)) for d in (ROTATE, SCALE, SHEAR))
    ty, tx = rng.uniform(-SHIFT, SHIFT, (2, n, 1, 1))
    y, x = np.meshgrid(np.arange(8) - 3.5, np.arange(8) - 3.5, indexing="ij")
    from_y = (1 + scale) * (np.cos(angle) * y - np.sin(angle) * x) + ty
    from_x = (1 + scale) * (np.sin(angle) * y + np.cos(angle) * x) + shear * y + tx
    margin = 3
    padded = np.pad(images.reshape(-1, 8, 8), ((0, 0), (margin, margin), (margin, margin)))
    last = padded.shape[1] - 1
    at_y, at_x = (np.clip(v + 3.5 + margin, 0, last - 1e-3) for v in (from_y, from_x))
    iy, ix = at_y.astype(np.int64), at_x.astype(np.int64)
    fy, fx, k = at_y - iy, at_x - ix, np.arange(n)[:, None, None]
    top = (1 - fx) * padded[k, iy, ix] + fx * padded[k, iy, ix + 1]
    bottom = (1 - fx) * padded[k, iy + 1, ix] + fx * padded[k, iy + 1, ix + 1]
    return ((1 - fy) * top + fy * bottom).reshape(-1, 64)


def train(seed: int = 2024) -> dict[str, NDArray[np.float32]]:
    """The trained weights, rounded to f32."""
    rng = np.random.default_rng(seed)
    images, labels = load(test=False)
    x = images / 16.0
    weights = initial(rng)
    mean = {name: np.zeros_like(w) for name, w in weights.items()}
    square = {name: np.zeros_like(w) for name, w in weights.items()}
    step = 0
    for epoch in range(EPOCHS):
        rate = RATE * 0.5 * (1 + np.cos(np.pi * epoch / EPOCHS))
        order = rng.permutation(len(x))
        for start in range(0, len(x), BATCH):
            batch = order[start : start + BATCH]
            step += 1
            for name, g in gradients(weights, warped(x[batch], rng), labels[batch]).items():
                mean[name] = 0.9 * mean[name] + 0.1 * g
                square[name] = 0.999 * square[name] + 0.001 * g * g
                update = (mean[name] / (1 - 0.9**step)) / (np.sqrt(square[name] / (1 - 0.999**step)) + 1e-8)
                weights[name] = weights[name] - rate * (update + DECAY * weights[name])
    return {name: w.astype(np.float32) for name, w in weights.items()}


def accuracy(weights: dict[str, NDArray[np.float32]], test: bool) -> float:
    """The share of images whose largest logit is at their label."""
    images, labels = load(test=test)
    wide: dict[str, Array] = {name: w.astype(np.float64) for name, w in weights.items()}
    return float(np.mean(forward(wide, images / 16.0)[-1].argmax(axis=1) == labels))


def main() -> None:
    weights = train()
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    out.write_bytes(safetensors.save(weights))
    print(f"training {accuracy(weights, test=False):.2%}, test {accuracy(weights, test=True):.2%}: {out}")


if __name__ == "__main__":
    main()

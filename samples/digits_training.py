"""Trains the network that reads handwritten digits, from a bundle: data, model, loss and update are in it.

    tesseracc build samples/digits_training.py --arch cpu -o train.tsb
    tessera-run train.tsb --function step --repeat 4000 --state digits.safetensors --log loss.csv
    python samples/loss_curve.py loss.csv loss.png

`python samples/train.py digits` does all of it. Every image is seen each time under another small rotation, scale and
shift, drawn from a key that follows from the number of the step: the same bits on every run. It reads 98 % of the test
images, which `step` never sees.
"""

import importlib.util
from pathlib import Path

import numpy as np

import tessera as ts

SPEC = importlib.util.spec_from_file_location("digits_data", Path(__file__).parent / "digits_data.py")
digits_data = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(digits_data)

BATCH, STEPS = 64, 4000
ROTATE, SCALE, SHIFT = 0.1, 0.08, 0.7  # standard deviations (radians, 1) and largest shift in pixels
SIZES = (64, 128, 64, 10)
BORDER = 3

_train, _test = digits_data.load(test=False), digits_data.load(test=True)
images, labels = ts.tensor(_train.images), ts.tensor(_train.labels.astype(np.int32))
test_images, test_labels = ts.tensor(_test.images), ts.tensor(_test.labels.astype(np.int32))
optimiser = ts.optim.adamw(ts.optim.cosine(3e-3, STEPS, warmup=100), decay=0.02)
START = {}
for i, (n, m) in enumerate(zip(SIZES, SIZES[1:]), start=1):
    START[f"w{i}"] = ts.randn(n, m, seed=i) * float(np.sqrt(2 / n))
    START[f"b{i}"] = ts.zeros(m)


def network(params, x):
    """Logits of images [B, 64] with pixels from 0 to 1."""
    h = ts.relu(ts.linear(x, params["w1"], params["b1"]))
    h = ts.relu(ts.linear(h, params["w2"], params["b2"]))
    return ts.linear(h, params["w3"], params["b3"])


def warped(x, key):
    """Each image [B, 64] under a random rotation, scale and shift about its centre, sampled bilinearly."""
    angle, scale, down, right = (
        ts.randn(BATCH, 1, key=ts.random.fold_in(key, i)) * size if i < 2
        else ts.rand(BATCH, 1, key=ts.random.fold_in(key, i)) * (2 * size) - size
        for i, size in enumerate((ROTATE, SCALE, SHIFT, SHIFT)))
    pixel = ts.arange(64)
    y, x0 = ts.cast(pixel // 8, ts.f32) - 3.5, ts.cast(pixel % 8, ts.f32) - 3.5
    side = 8 + 2 * BORDER
    row, column = (
        ts.clip((1.0 + scale) * turned + moved + (3.5 + BORDER), 0.0, side - 1.001)
        for turned, moved in ((ts.cos(angle) * y - ts.sin(angle) * x0, down),
                              (ts.sin(angle) * y + ts.cos(angle) * x0, right)))
    top, left = ts.floor(row), ts.floor(column)
    padded = ts.pad(x.reshape(BATCH, 8, 8), ((0, 0), (BORDER, BORDER), (BORDER, BORDER))).reshape(BATCH, side * side)
    at = ts.cast(top, ts.i32) * side + ts.cast(left, ts.i32)
    a, b, c, d = (ts.gather(padded, 1, at + move) for move in (0, 1, side, side + 1))
    fy, fx = row - top, column - left
    return (1.0 - fy) * ((1.0 - fx) * a + fx * b) + fy * ((1.0 - fx) * c + fx * d)


@ts.function
def init():
    """The first state: weights by He, biases zero."""
    return {"params": START, "state": optimiser.init(START)}


@ts.function
def step(params: ts.State[START], state: ts.State[optimiser.init(START)]):
    """One step on a batch drawn at random; the mean cross-entropy before it."""
    key = ts.random.fold_in(ts.random.key(2024), state["step"])
    chosen = ts.randint(0, len(labels), BATCH, key=key)
    x = warped(ts.cast(ts.take(images, chosen), ts.f32) / 16.0, key)
    loss, grads = ts.value_and_grad(lambda p: ts.nn.cross_entropy(network(p, x), ts.take(labels, chosen)))(params)
    params, state = optimiser.update(params, ts.optim.clip_by_global_norm(grads, 1.0), state)
    return {"loss": loss, "params": params, "state": state}


@ts.function
def accuracy(params: ts.like(START)):
    """The share of test images whose largest logit is at their label."""
    guess = ts.argmax(network(params, ts.cast(test_images, ts.f32) / 16.0), axis=-1)
    return ts.mean(ts.cast(guess == ts.cast(test_labels, ts.i64), ts.f32))

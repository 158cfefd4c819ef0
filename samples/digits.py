"""Reads handwritten digits: a small network with its weights compiled in.

    tesseracc build samples/digits.py --arch cpu --arch sm_90 -o digits.tsb
    tessera-run digits.tsb --input images=@images.npy --output label=@label.npy

`images` are 8x8 pixels in rows of 64, 0 (white) to 16 (black), for any number B of images. `train_digits.py` made the
weights; `demo.py` runs the bundle on the test images.
"""

import tessera as ts

weights = ts.load("data/digits.safetensors")


@ts.function
def classify(images: ts.Tensor["B", 64, ts.u8]):
    """The digit on each image (i64[B]) and how sure the network is of it (f32[B], 0 to 1)."""
    x = ts.cast(images, ts.f32) / 16.0
    h = ts.relu(ts.linear(x, weights["w1"], weights["b1"]))
    h = ts.relu(ts.linear(h, weights["w2"], weights["b2"]))
    logits = ts.linear(h, weights["w3"], weights["b3"])
    return {"label": ts.argmax(logits, axis=-1), "probability": ts.max(ts.softmax(logits, axis=-1), axis=-1)}

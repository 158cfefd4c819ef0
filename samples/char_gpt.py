"""A small GPT over characters: two transformer layers, trained and sampled from a bundle.

    tesseracc build samples/char_gpt.py --arch cpu -o gpt.tsb
    tessera-run gpt.tsb --function step --repeat 1500 --state gpt.safetensors --save-every 100 --log loss.csv
    python samples/loss_curve.py loss.csv loss.png
    python samples/char_gpt_sample.py gpt.tsb gpt.safetensors

`python samples/train.py gpt` does all of it. The text is `data/romeo.txt`. After 1500 steps the loss on the part of the
text that training never sees is below 1.9 nats per character (a uniform guess has 4.1).
"""

from pathlib import Path

import numpy as np

import tessera as ts

DIM, HEADS, LAYERS, CONTEXT, BATCH, STEPS = 96, 4, 2, 64, 16, 1500
TEXT = (Path(__file__).parent / "data" / "romeo.txt").read_text(encoding="ascii")
ALPHABET = "".join(sorted(set(TEXT)))
HELD_OUT = len(TEXT) // 10  # characters at the end, for `evaluate`

_codes = np.array([ALPHABET.index(c) for c in TEXT], np.uint8)
text, held_out = ts.tensor(_codes[:-HELD_OUT]), ts.tensor(_codes[-HELD_OUT:])
optimiser = ts.optim.adamw(ts.optim.cosine(4e-3, STEPS, warmup=50, floor=2e-4), betas=(0.9, 0.98), decay=0.05)


def initial():
    """Normal weights of standard deviation 1 / sqrt(inputs), those that end a residual branch smaller."""
    def normal(seed, n, m, scale=1.0):
        return ts.randn(n, m, seed=seed) * float(scale / np.sqrt(n))

    def norm():
        return {"weight": ts.ones(DIM), "bias": ts.zeros(DIM)}

    layers = []
    for i in range(LAYERS):
        s, last = 10 * (i + 1), (2 * LAYERS) ** -0.5
        layers.append({"norm1": norm(), "qkv": normal(s, DIM, 3 * DIM), "out": normal(s + 1, DIM, DIM, last),
                       "norm2": norm(), "mlp": normal(s + 2, DIM, 4 * DIM), "down": normal(s + 3, 4 * DIM, DIM, last)})
    return {"embed": ts.randn(len(ALPHABET), DIM, seed=1) * 0.3, "layers": layers, "norm": norm(),
            "head": normal(2, DIM, len(ALPHABET))}


START = initial()


def logits(params, tokens):
    """[B, S, alphabet] for tokens [B, S]; positions enter by rotary embedding."""
    x = ts.take(params["embed"], tokens)
    x = ts.nn.transformer_stack(x, params["layers"], heads=HEADS, rotary=True)
    x = ts.nn.layer_norm(x, params["norm"]["weight"], params["norm"]["bias"])
    return x @ params["head"]


def windows(source, start):
    """(characters, those that follow), both [B, CONTEXT], from these places of the text on."""
    at = ts.expand_dims(start, 1) + ts.arange(CONTEXT + 1)
    rows = ts.cast(ts.take(source, at), ts.i32)
    return rows[:, :CONTEXT], rows[:, 1:]


@ts.function
def init():
    """The first state."""
    return {"params": START, "state": optimiser.init(START)}


@ts.function
def step(params: ts.State[START], state: ts.State[optimiser.init(START)]):
    """One step on passages drawn at random; the mean cross-entropy before it, in nats per character."""
    key = ts.random.fold_in(ts.random.key(7), state["step"])
    tokens, following = windows(text, ts.randint(0, len(text) - CONTEXT - 1, BATCH, key=key, dtype=ts.i64))
    loss, grads = ts.value_and_grad(lambda p: ts.nn.cross_entropy(logits(p, tokens), following))(params)
    params, state = optimiser.update(params, ts.optim.clip_by_global_norm(grads, 1.0), state)
    return {"loss": loss, "params": params, "state": state}


@ts.function
def evaluate(params: ts.like(START)):
    """The mean cross-entropy over the held-out text."""
    tokens, following = windows(held_out, ts.arange(HELD_OUT // CONTEXT - 1) * CONTEXT)
    return ts.nn.cross_entropy(logits(params, tokens), following)


# Sampling, one character at a time ------------------------------------------------------------------------------------

# Keys and values of the last CONTEXT characters, of each layer: those of the character at `place` are in slot
# place % CONTEXT. Rotary embedding looks at differences of places only, so the text may be of any length.
CACHE = [ts.Tensor[2, HEADS, CONTEXT, DIM // HEADS, ts.f32]] * LAYERS


def _norm(x, p):
    return ts.nn.layer_norm(x, p["weight"], p["bias"])


def cached_layer(x, layer, past, place):
    """A transformer layer for the one character at `place`; (its result, the keys and values from now on)."""
    q, k, v = ts.split(_norm(x, layer["norm1"]) @ layer["qkv"], 3, dim=-1)
    q, k, v = (t.reshape(HEADS, 1, DIM // HEADS) for t in (q, k, v))
    where = ts.expand_dims(place, 0)
    q, k = ts.nn.rope(q, where), ts.nn.rope(k, where)
    past = ts.where(ts.expand_dims(ts.arange(CONTEXT) == place % CONTEXT, 1), ts.stack([k, v]), past)
    keys, values = past[0], past[1]
    scores = ts.squeeze(q @ keys.mT, 1) * (DIM // HEADS) ** -0.5
    scores = ts.where(ts.arange(CONTEXT) <= place, scores, -1e30)
    attended = ts.sum(ts.expand_dims(ts.softmax(scores), 2) * values, 1)
    x = x + attended.reshape(1, DIM) @ layer["out"]
    return x + ts.gelu(_norm(x, layer["norm2"]) @ layer["mlp"]) @ layer["down"], past


@ts.function
def next_character(params: ts.like(START), cache: ts.State[CACHE], place: ts.State[ts.i64], character: ts.i32,
                   temperature: ts.f32):
    """The character after `character`, which stands at `place`; drawn by a key of the place."""
    x = ts.take(params["embed"], ts.expand_dims(character, 0))
    caches = []
    for i, layer in enumerate(params["layers"]):
        x, past = cached_layer(x, layer, cache[i], place)
        caches.append(past)
    scores = ts.squeeze(_norm(x, params["norm"]) @ params["head"], 0)
    # Gumbel's trick: the largest of scores / T - log(-log(u)) is a draw from softmax(scores / T)
    u = ts.rand(len(ALPHABET), key=ts.random.fold_in(ts.random.key(11), place))
    drawn = ts.argmax(scores / ts.maximum(temperature, 1e-6) - ts.log(-ts.log(u + 1e-9) + 1e-9), axis=0)
    return {"drawn": ts.cast(drawn, ts.i32), "scores": scores, "cache": caches, "place": place + 1}

"""The programs that are measured, as a user would write them."""

import tessera as ts


@ts.function
def matmul(a: ts.Tensor["M", "K", ts.f32], b: ts.Tensor["K", "N", ts.f32]):
    return a @ b


@ts.kernel
def saxpy(x: ts.Tensor["n", ts.f32], y: ts.Tensor["n", ts.f32], alpha: ts.f32) -> ts.Tensor["n", ts.f32]:
    i = ts.tile.linear_id()
    if i < n:
        y[i] = alpha * x[i] + y[i]
    return y


@ts.function
def axpy(a: ts.f32, x: ts.Tensor["N", ts.f32], y: ts.Tensor["N", ts.f32]):
    return a * x + y


@ts.function
def softmax(x: ts.Tensor["N", "D", ts.f32]):
    return ts.softmax(x)


@ts.function
def layer_norm(x: ts.Tensor["N", "D", ts.f32]):
    return ts.layer_norm(x)


@ts.function
def gelu_chain(
    x: ts.Tensor["N", "D", ts.f32],
    w: ts.Tensor["D", ts.f32],
    b: ts.Tensor["D", ts.f32],
    r: ts.Tensor["N", "D", ts.f32],
):
    return ts.gelu(x * w + b, approximate="tanh") + r


@ts.function
def column_sums(x: ts.Tensor["N", "D", ts.f32]):
    return ts.sum(x, axis=0)


@ts.function
def transpose(x: ts.Tensor["N", "D", ts.f32]):
    return ts.transpose(x)


@ts.function
def mlp(
    x: ts.Tensor["N", "D", ts.f32],
    w1: ts.Tensor["D", "H", ts.f32],
    b1: ts.Tensor["H", ts.f32],
    w2: ts.Tensor["H", "D", ts.f32],
    b2: ts.Tensor["D", ts.f32],
):
    h = ts.gelu(ts.linear(ts.layer_norm(x), w1, b1), approximate="tanh")
    return x + ts.linear(h, w2, b2)


@ts.function
def matmul_bf16(a: ts.Tensor["M", "K", ts.bf16], b: ts.Tensor["K", "N", ts.bf16]):
    return a @ b


@ts.function
def decode(x: ts.Tensor[1, "K", ts.f32], w: ts.Tensor["K", "N", ts.f32]):
    return x @ w


@ts.function
def attention(
    q: ts.Tensor["B", "H", "S", 64, ts.f32],
    k: ts.Tensor["B", "H", "S", 64, ts.f32],
    v: ts.Tensor["B", "H", "S", 64, ts.f32],
):
    return ts.softmax((q @ k.mT) * 0.125, axis=-1) @ v


@ts.function
def attention_bf16(
    q: ts.Tensor["B", "H", "S", 64, ts.bf16],
    k: ts.Tensor["B", "H", "S", 64, ts.bf16],
    v: ts.Tensor["B", "H", "S", 64, ts.bf16],
):
    return ts.nn.flash_attention(q, k, v)


@ts.function
def causal_attention(
    q: ts.Tensor["B", "H", "S", 64, ts.f32],
    k: ts.Tensor["B", "H", "S", 64, ts.f32],
    v: ts.Tensor["B", "H", "S", 64, ts.f32],
):
    return ts.nn.flash_attention(q, k, v, causal=True)


@ts.function
def layer(
    x: ts.Tensor["B", "S", 1024, ts.f32],
    qkv: ts.Tensor[1024, 3072, ts.f32],
    out: ts.Tensor[1024, 1024, ts.f32],
    up: ts.Tensor[1024, 4096, ts.f32],
    down: ts.Tensor[4096, 1024, ts.f32],
):
    return ts.nn.transformer_layer(x, {"qkv": qkv, "out": out, "mlp": up, "down": down}, heads=16)


@ts.function
def layer_bf16(
    x: ts.Tensor["B", "S", 1024, ts.bf16],
    qkv: ts.Tensor[1024, 3072, ts.bf16],
    out: ts.Tensor[1024, 1024, ts.bf16],
    up: ts.Tensor[1024, 4096, ts.bf16],
    down: ts.Tensor[4096, 1024, ts.bf16],
):
    return ts.nn.transformer_layer(x, {"qkv": qkv, "out": out, "mlp": up, "down": down}, heads=16)


def _loss(w1, b1, w2, b2, x, target):
    return ts.mse(ts.linear(ts.relu(ts.linear(x, w1, b1)), w2, b2), target)


@ts.function
def train_step(
    w1: ts.Tensor["D", "H", ts.f32],
    b1: ts.Tensor["H", ts.f32],
    w2: ts.Tensor["H", "O", ts.f32],
    b2: ts.Tensor["O", ts.f32],
    x: ts.Tensor["N", "D", ts.f32],
    target: ts.Tensor["N", "O", ts.f32],
):
    grads = ts.grad(_loss, argnums=(0, 1, 2, 3))(w1, b1, w2, b2, x, target)
    return tuple(p - 0.01 * g for p, g in zip((w1, b1, w2, b2), grads))

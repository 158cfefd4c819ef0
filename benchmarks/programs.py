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

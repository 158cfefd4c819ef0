"""Functions of a bundle that every later version must load and run to the same bits."""

import tessera as ts

w = ts.randn(8, 8, seed=1)
table = ts.randn(20, 4, seed=2)


@ts.function
def layer(x: ts.Tensor["N", 8, ts.f32]):
    """softmax(gelu(x w)), and the sums of its columns."""
    y = ts.softmax(ts.gelu(x @ w), axis=-1)
    return {"y": y, "sums": ts.sum(y, axis=0)}


@ts.function
def embed(i: ts.Tensor["K", ts.i32], s: ts.f32):
    return ts.take(table, i, axis=0) * s


@ts.kernel
def saxpy(a: ts.f32, x: ts.Tensor["N", ts.f32], y: ts.Tensor["N", ts.f32]):
    i = ts.tile.linear_id()
    if i < N:
        y[i] = a * x[i] + y[i]

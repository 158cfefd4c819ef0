"""What the tests of libraries compile, imported and as a file."""

import tessera as ts


@ts.kernel
def saxpy(a: ts.f32, x: ts.Tensor["N", ts.f32], y: ts.Tensor["N", ts.f32]):
    i = ts.tile.linear_id()
    if i < N:
        y[i] = a * x[i] + y[i]


@ts.function
def quarters(x: ts.Tensor["N", ts.f32]):
    return ts.sum(ts.reshape(x, (-1, 4)), axis=1)


@ts.function
def rows(x: ts.Tensor["N", 8, ts.bf16]):
    return ts.softmax(x)

"""A program whose bundle has every field and step of the format: what the mutation campaign attacks.

Its functions have state, scalars, guards, weights, a branch in a loop over rows, a loop that data decides, and a
variant. Targets are of every kind and format, with tensor maps and counts of operations; tests and sources are
embedded.
"""

import numpy as np

import tessera as ts

TABLE = ts.tensor(np.random.default_rng(1).standard_normal((4, 64)).astype(np.float32))


@ts.function
def walk(h: ts.Tensor["B", "D", ts.f32], x: ts.Tensor["T", "B", "D", ts.f32]):
    """A branch in a loop over rows, which it reads and writes from the last one on."""

    def step(state, row):
        state = ts.cond(ts.sum(row) > 0, lambda s: s * 0.5 + row, lambda s: s - row, state)
        return state, {"square": state * state, "first": row[0]}

    return ts.scan(step, h, x, reverse=True)


@ts.function
def root(a: ts.Tensor["N", ts.f32]):
    """Newton's method, until nothing moves."""
    value = ts.abs(a) + 1.0

    def moves(state):
        x, before = state
        return ts.any(ts.abs(x - before) > 1e-6 * x)

    return ts.while_loop(moves, lambda s: ((s[0] + value / s[0]) * 0.5, s[0]), (value, value * 2.0))[0]


@ts.function
def learn(w: ts.State[ts.Tensor[4, 64, ts.f32]], x: ts.Tensor["S", 4, ts.f32], rate: ts.f32):
    """State, a scalar, weights, sizes that have code of their own, and a size that must be even."""
    y = x @ (w + TABLE)
    pairs = ts.reshape(x, (x.shape[0] // 2, 2, 4))
    return {"w": w - rate * ts.mean(y) * TABLE, "y": y, "pairs": ts.sum(pairs, axis=1)}


@ts.kernel
def product(A: ts.Tensor["M", "K", ts.bf16], B: ts.Tensor["K", "N", ts.bf16]) -> ts.Tensor["M", "N", ts.f32]:
    """Fed by tensor copies, where the target has them."""
    acc = ts.tile.zeros((64, 128), ts.f32)
    acc += ts.tile.mma(A[m : m + 64, k : k + 64], B[k : k + 64, n : n + 128])
    return acc


OPTIONS = ("--arch=x86-64-v2", "--arch=aarch64", "--arch=sm_90", "--arch=ptx_80", "--specialize=S=2",
           "--embed-tests", "--embed-source", "--no-cache")  # fmt: skip

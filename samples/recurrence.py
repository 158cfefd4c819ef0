"""Loops that data decides, one function each: a recurrent network by `ts.scan`, and a solver by `ts.while_loop`.

    tesseracc build samples/recurrence.py --arch cpu --arch sm_90 -o recurrence.tsb
    tessera-run recurrence.tsb --function root --input "a=3xf32=2 9 0.001"
"""

import tessera as ts


@ts.function
def network(x: ts.Tensor["T", "B", 8, ts.f32], w: ts.Tensor[8, 8, ts.f32], b: ts.Tensor[8, ts.f32]):
    """The last state, and the mean of the state after every step."""

    def step(state, row):
        state = ts.tanh(state @ (w * 0.3) + row + b)
        return state, ts.mean(state)

    return ts.scan(step, ts.zeros(x.shape[1], 8), x)


@ts.function
def root(a: ts.Tensor["N", ts.f32]):
    """The square root of |a| + 1 by Newton's method, until no element moves by more than its last few bits."""
    value = ts.abs(a) + 1.0

    def moves(state):
        x, before = state
        return ts.any(ts.abs(x - before) > 1e-6 * x)

    return ts.while_loop(moves, lambda s: ((s[0] + value / s[0]) * 0.5, s[0]), (value, value * 2.0))[0]

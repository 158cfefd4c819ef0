"""Programs with control flow that the tests of the levels and of compiled libraries share."""

import tessera as ts


def recur(w: ts.Tensor["D", "D", ts.f32], h: ts.Tensor["B", "D", ts.f32], x: ts.Tensor["T", "B", "D", ts.f32]):
    def step(state, row):
        state = ts.tanh(state @ w + row)
        return state, {"square": state * state, "first": row[0]}

    return ts.scan(step, h, x)


def collatz(n: ts.Tensor["N", ts.i64]):
    """Steps until every number has reached 1."""

    def step(state):
        count, m = state
        odd = (m % 2) == 1
        return count + 1, ts.where(m == 1, m, ts.where(odd, 3 * m + 1, m // 2))

    return ts.while_loop(lambda s: ts.any(s[1] != 1), step, (0, n))


def nested(x: ts.Tensor["T", "N", ts.f32], limit: ts.Tensor[ts.f32]):
    """For each row: doubled until its sum exceeds the limit, unless it is negative; swapped states; counted."""

    def step(state, row):
        a, b, i = state

        def double():
            return ts.while_loop(lambda v: ts.sum(v) < limit, lambda v: v * 2.0, row)

        row = ts.cond(ts.sum(row) > 0, double, lambda: row - a)
        return (b, a + row, i + 1), (row, i)

    zero = ts.zeros(x.shape[1])
    return ts.scan(step, (zero, zero + 1.0, 0), x)

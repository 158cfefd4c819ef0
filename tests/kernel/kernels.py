# ruff: noqa
# Kernels for the tests, by what they exercise. Annotations are evaluated, so this file does without `annotations`.
import math

import tessera as ts

SCALE = 2.5
TAPS = (0.25, 0.5, 0.25)


def clamp(v, low=-1.0, high=1.0):
    if v < low:
        return low
    elif v > high:
        return high
    return v


def both(v):
    return v + 1.0, v * 2.0


def put(out, i, v):
    out[i] = v


@ts.kernel
def branches(x: ts.Tensor["N", ts.f32], y: ts.Tensor["N", ts.f32]):
    i = ts.tile.linear_id()
    if i >= N:
        return
    v = x[i]
    if v > 1.0:
        r = 1
    elif v < -1.0:
        r = -2.0
    else:
        r = v * SCALE
    y[i] = r if i % 2 == 0 else -r


@ts.kernel
def helpers(x: ts.Tensor["N", ts.f32], y: ts.Tensor["N", ts.f32], z: ts.Tensor["N", ts.f32]):
    i = ts.tile.linear_id()
    if i < N:
        a, b = both(x[i])
        a, b = b, a
        y[i] = clamp(a, high=b + 3.0)
        put(z, i, clamp(x[i]))


@ts.kernel
def guarded(x: ts.Tensor["N", ts.f32], y: ts.Tensor["N", ts.f32]):
    i = ts.tile.linear_id()
    if 0 < i < N - 1 and x[i - 1] < x[i] and not x[i + 1] > x[i]:
        y[i] = 1.0
    elif i == 0 or i >= N or x[i - 1] > x[i]:
        if i < N:
            y[i] = 2.0
    else:
        y[i] = x[i + 1] if i + 1 < N else 0.0


@ts.kernel
def stencil(x: ts.Tensor["N", ts.f32], y: ts.Tensor["N", ts.f32]):
    i = ts.tile.linear_id()
    if i < N:
        total = 0.0
        for k in range(-1, 2):
            if i + k < 0 or i + k >= N:
                continue
            total += TAPS[k + 1] * x[i + k]
        y[i] = total


@ts.kernel
def collatz(n: ts.Tensor["N", ts.i32], steps: ts.Tensor["N", ts.i32]):
    i = ts.tile.linear_id()
    if i < N:
        v = n[i]
        count = 0
        while v > 1:
            if v % 2 == 0:
                v //= 2
            else:
                v = 3 * v + 1
            count += 1
        steps[i] = count


@ts.kernel
def triangle(x: ts.Tensor["N", ts.f64], y: ts.Tensor["N", ts.f64]):
    """Varying bounds: lane i sums x[0..i] in steps of two."""
    i = ts.tile.linear_id()
    if i < N:
        total = 0.0
        for k in ts.tile.range(i % 2, i + 1, 2):
            total += x[k]
        y[i] = total


@ts.kernel
def mathematics(x: ts.Tensor["N", ts.f32], y: ts.Tensor["N", 8, ts.f32]):
    i = ts.tile.linear_id()
    if i < N:
        v = x[i]
        y[i, 0] = ts.exp(v) + math.tanh(v)
        y[i, 1] = math.sqrt(abs(v)) * ts.rsqrt(1.0 + v * v)
        y[i, 2] = ts.sigmoid(v) - ts.relu(v)
        y[i, 3] = v ** 3 + 2.0 ** v
        y[i, 4] = v // 0.75 + v % 0.75
        y[i, 5] = ts.maximum(v, 0.5) * ts.minimum(v, -0.5) + max(v, 1, 2.0)
        y[i, 6] = ts.where(v < 0, ts.erf(v), math.log1p(abs(v)))
        y[i, 7] = math.floor(v) + math.ceil(v) + round(v) + int(v)


@ts.kernel
def integers(a: ts.Tensor["N", ts.i32], b: ts.Tensor["N", ts.i32], y: ts.Tensor["N", 6, ts.i32]):
    i = ts.tile.linear_id()
    if i < N:
        y[i, 0] = a[i] // b[i]
        y[i, 1] = a[i] % b[i]
        y[i, 2] = (a[i] & 255) | (b[i] ^ 3)
        y[i, 3] = (a[i] << 2) + (a[i] >> 3)
        y[i, 4] = -abs(a[i]) + ~b[i]
        y[i, 5] = min(a[i], b[i], 7) * (a[i] > b[i])


@ts.kernel
def narrow(x: ts.Tensor["N", ts.f16], y: ts.Tensor["N", ts.bf16], q: ts.Tensor["N", ts.fp8_e4m3], s: ts.Tensor["N", ts.f32]):
    """Elements are widened to f32 and rounded once, when they are stored or cast."""
    i = ts.tile.linear_id()
    if i < N:
        v = x[i] * x[i] + 0.1
        y[i] = v
        q[i] = v * 100.0
        s[i] = v - ts.cast(v, ts.f16)


@ts.kernel
def matrix(a: ts.Tensor["M", "K", ts.f32], b: ts.Tensor["K", "N", ts.f32], c: ts.Tensor["M", "N", ts.f32]):
    """One group per row, one lane per column; the innermost loop is each lane's own."""
    for i in ts.tile.range(M):
        for j in ts.tile.range(N):
            total = 0.0
            for k in ts.tile.range(K):
                total += a[i, k] * b[k, j]
            c[i, j] += total


@ts.kernel(group=64)
def row_softmax(x: ts.Tensor["M", "N", ts.f32], y: ts.Tensor["M", "N", ts.f32]):
    """The lanes of a group share a row by hand, with group reductions."""
    for row in ts.tile.range(M):
        best = -math.inf
        for j in ts.tile.range(ts.tile.local_id(), N, ts.tile.group_size()):
            best = max(best, x[row, j])
        best = ts.tile.reduce_max(best)
        total = 0.0
        for j in ts.tile.range(ts.tile.local_id(), N, ts.tile.group_size()):
            total += ts.exp(x[row, j] - best)
        total = ts.tile.reduce_sum(total)
        for j in ts.tile.range(N):
            y[row, j] = ts.exp(x[row, j] - best) / total


@ts.kernel
def row_scan(x: ts.Tensor["M", "N", ts.f32], y: ts.Tensor["M", "N", ts.f32]):
    """A loop that carries a value stays sequential."""
    for row in ts.tile.range(M):
        total = 0.0
        for j in ts.tile.range(N):
            total += x[row, j]
            y[row, j] = total


@ts.kernel
def reverse_in_groups(x: ts.Tensor["N", ts.i64], y: ts.Tensor["N", ts.i64]):
    buffer = ts.tile.alloc_shared(128, dtype=ts.i64, swizzle="xor", alignment=16)
    i = ts.tile.linear_id()
    j = ts.tile.local_id()
    if i < N:
        buffer[j] = x[i]
    ts.tile.barrier()
    last = min(N - ts.tile.group_id() * ts.tile.group_size(), 128) - 1
    if i < N:
        y[i] = buffer[last - j]


@ts.kernel
def statistics(x: ts.Tensor["N", ts.f32], bias: float = 0.0, squares: bool = True):
    """Several scalars; `squares` is fixed while compiling."""
    total = 0.0
    low = math.inf
    for i in ts.tile.range(ts.tile.local_id(), N, ts.tile.group_size()):
        v = x[i] + bias
        total += v * v if squares else v
        low = min(low, v)
    return ts.tile.reduce_sum(total), ts.tile.reduce_min(low)


@ts.kernel
def ids(where: ts.Tensor["N", 4, ts.i32]):
    i = ts.tile.linear_id()
    if i < N:
        where[i, 0] = ts.tile.group_id()
        where[i, 1] = ts.tile.local_id()
        where[i, 2] = ts.tile.lane_id()
        where[i, 3] = ts.tile.group_size()


@ts.kernel(grid=("ceildiv(N, 32)", "M"), group=32)
def planes(x: ts.Tensor["M", "N", ts.f32], y: ts.Tensor["M", "N", ts.f32], by: ts.i32 = 2):
    m = ts.tile.group_id(1)
    n = ts.tile.group_id() * ts.tile.group_size() + ts.tile.local_id()
    if n < x.shape[1]:
        y[m, n] = x[m, n] * by + m


@ts.kernel
def flat(x: ts.Tensor["H", "W", ts.f32]):
    """No parameter is subscripted by linear_id itself: the guard tells the number of lanes."""
    i = ts.tile.linear_id()
    if i < H * W:
        x[i // W, i % W] *= 2.0


@ts.kernel
def powers(x: ts.Tensor["3*D", ts.f32], BLOCK: int = 4) -> ts.Tensor["3*D", ts.f32]:
    i = ts.tile.linear_id()
    if i < 3 * D:
        v = 1.0
        for k in range(BLOCK):
            v *= x[i]
        x[i] = v
    return x


@ts.kernel
def one_value(x: ts.Tensor["N", ts.f32]) -> ts.f64:
    if N == 0:
        return 0.0
    best = x[0]
    k = 1
    while k < N:
        if x[k] > best:
            best = x[k]
        k += 1
    return best


@ts.kernel
def last_lane(x: ts.Tensor["N", ts.f32], y: ts.Tensor[1, ts.f32]):
    """A single lane of the launch stores."""
    i = ts.tile.linear_id()
    if i == N - 1:
        y[0] = x[i]

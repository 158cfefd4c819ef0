# ruff: noqa
# What the evaluator finds: each function `run_<kernel>` launches a kernel that has one fault.
import numpy as np

import tessera as ts


@ts.kernel
def out_of_bounds(x: ts.Tensor["N", ts.f32], y: ts.Tensor["N", ts.f32]):
    i = ts.tile.linear_id()
    y[i] = x[i]  #! E216 x[i]


def run_out_of_bounds():
    out_of_bounds(np.ones(100, np.float32), np.ones(100, np.float32))


@ts.kernel
def neighbours(x: ts.Tensor["N", ts.f32]):
    i = ts.tile.linear_id()
    if i + 1 < N:
        x[i] = x[i + 1]  #! E215 x[i] = x[i + 1]


def run_neighbours():
    neighbours(np.ones(100, np.float32))


@ts.kernel
def one_place(x: ts.Tensor["N", ts.f32], y: ts.Tensor[1, ts.f32]):
    i = ts.tile.linear_id()
    if i < N:
        y[0] = x[i]  #! E215 y[0] = x[i]


def run_one_place():
    one_place(np.ones(100, np.float32), np.ones(1, np.float32))


@ts.kernel
def missing_barrier(x: ts.Tensor["N", ts.f32]):
    s = ts.tile.alloc_shared((128,), ts.f32)
    j = ts.tile.local_id()
    s[j] = 1.0
    i = ts.tile.linear_id()
    if i < N:
        x[i] = s[127 - j]  #! E215 s[127 - j]


def run_missing_barrier():
    missing_barrier(np.ones(300, np.float32))


@ts.kernel
def across_groups(x: ts.Tensor["N", ts.f32]):
    for i in ts.tile.range(1, N):
        x[i] = x[i - 1] + 1.0  #! E215 x[i] = x[i - 1] + 1.0


def run_across_groups():
    across_groups(np.ones(9, np.float32))


@ts.kernel
def unwritten(x: ts.Tensor["N", ts.f32]):
    s = ts.tile.alloc_shared((128,), ts.f32)
    j = ts.tile.local_id()
    if j < 64:
        s[j] = 1.0
    ts.tile.barrier()
    i = ts.tile.linear_id()
    if i < N:
        x[i] = s[127 - j]  #! E217 s[127 - j]


def run_unwritten():
    unwritten(np.ones(128, np.float32))


@ts.kernel
def still(x: ts.Tensor["N", ts.f32], by: ts.i32):
    i = ts.tile.linear_id()
    if i < N:
        for k in ts.tile.range(0, N, by):  #! E219 for k in ts.tile.range(0, N, by):
            x[i] = 0.0


def run_still():
    still(np.ones(4, np.float32), 0)


@ts.kernel
def aliased(x: ts.Tensor["N", ts.f32], y: ts.Tensor["N", ts.f32]):  #! E222 aliased
    i = ts.tile.linear_id()
    if i < N:
        y[i] = x[i]


def run_aliased():
    a = np.ones(4, np.float32)
    aliased(a, a)


@ts.kernel
def hasty(x: ts.Tensor["N", ts.f32], wait: ts.i32):
    s = ts.tile.alloc_shared((16,), ts.f32)
    for i in ts.tile.range(0, N, 16):
        ts.tile.cp_async(s, x[i : i + 16])
        if wait > 0:
            ts.tile.barrier()
        x[i : i + 16] = s * 2.0  #! E225 s * 2.0


def run_hasty():
    hasty(np.ones(16, np.float32), 0)


@ts.kernel(grid=2)
def contested(x: ts.Tensor["N", ts.f32]):
    g = ts.tile.group_id() * 8
    x[g : g + 16] = 1.0  #! E215 x[g : g + 16] = 1.0


def run_contested():
    contested(np.ones(64, np.float32))

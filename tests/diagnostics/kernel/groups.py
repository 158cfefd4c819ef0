# ruff: noqa
# Uniform control flow, launches, results.
import tessera as ts


@ts.kernel
def divergent(x: ts.Tensor["N", ts.f32]):
    i = ts.tile.linear_id()
    if i < N:
        ts.tile.barrier()  #! E209 ts.tile.barrier()
        x[i] = ts.tile.reduce_sum(x[i])  #! E209 ts.tile.reduce_sum(x[i])
    k = i
    while k > 0:
        shared = ts.tile.alloc_shared((4,), ts.f32)  #! E209 ts.tile.alloc_shared((4,), ts.f32)
        k -= 1


@ts.kernel
def after_return(x: ts.Tensor["N", ts.f32]):
    i = ts.tile.linear_id()
    if i >= N:
        return
    ts.tile.barrier()  #! E209 ts.tile.barrier()
    x[i] = 1.0


def waits():
    ts.tile.barrier()  #! E209 ts.tile.barrier()


@ts.kernel
def divergent_helper(x: ts.Tensor["N", ts.f32]):
    i = ts.tile.linear_id()
    for k in ts.tile.range(i):
        waits()
    if i < N:
        x[i] = 1.0


@ts.kernel
def ambiguous(x: ts.Tensor["N", ts.f32], y: ts.Tensor["M", ts.f32]):
    i = ts.tile.linear_id()  #! E211 ts.tile.linear_id()
    x[i] = y[i]


@ts.kernel
def unknown_lanes(x: ts.Tensor["N", ts.f32]):
    i = ts.tile.linear_id()  #! E211 ts.tile.linear_id()
    x[i * 2] = 1.0


@ts.kernel
def unknown_groups(x: ts.Tensor["N", ts.f32]):
    x[ts.tile.group_id()] = 1.0  #! E211 ts.tile.group_id()


@ts.kernel
def two_work_loops(x: ts.Tensor["N", ts.f32]):
    for i in ts.tile.range(N):
        x[i] = 1.0
    for i in ts.tile.range(N):  #! E211 ts.tile.range(N)
        x[i] = 2.0


@ts.kernel
def carried(x: ts.Tensor["N", ts.f32], y: ts.Tensor["N", ts.f32]):
    total = 0.0
    for i in ts.tile.range(N):
        total += x[i]  #! E214 total
        y[i] = total


@ts.kernel
def varying_result(x: ts.Tensor["N", ts.f32]) -> ts.f32:
    return x[ts.tile.local_id()]  #! E213 return x[ts.tile.local_id()]


@ts.kernel
def return_in_loop(x: ts.Tensor["N", ts.f32]) -> ts.f32:
    for i in ts.tile.range(N):
        return x[i]  #! E213 return x[i]


@ts.kernel
def some_paths(x: ts.Tensor["N", ts.f32]) -> ts.f32:
    if N > 0:
        return x[0]  #! E213 return x[0]


@ts.kernel
def tensor_for_scalar(x: ts.Tensor["N", ts.f32]) -> ts.f32:
    x[0] = 1.0
    return x  #! E213 return x


@ts.kernel
def shared_result(x: ts.Tensor["N", ts.f32]):
    s = ts.tile.alloc_shared((4,), ts.f32)
    s[0] = x[0]
    return s  #! E213 return s


@ts.kernel
def allocations(x: ts.Tensor["N", ts.f32]):
    a = ts.tile.alloc_shared((ts.tile.group_id(),), ts.f32)  #! E212 ts.tile.alloc_shared((ts.tile.group_id(),), ts.f32)
    b = ts.tile.alloc_shared((4,))  #! E212 ts.tile.alloc_shared((4,))
    c = ts.tile.alloc_shared((4,), ts.f32, swizzle="zig")  #! E212 ts.tile.alloc_shared((4,), ts.f32, swizzle="zig")
    d = ts.tile.alloc_shared(4, 4, dtype=ts.f32, alignment=3)  #! E212 ts.tile.alloc_shared(4, 4, dtype=ts.f32, alignment=3)
    x[0] = 1.0


@ts.kernel
def never_written(x: ts.Tensor["N", ts.f32]) -> ts.Tensor["N", ts.f32]:  #! W201 x: ts.Tensor["N", ts.f32]
    return x


@ts.kernel
def unread(x: ts.Tensor["N", ts.f32]):
    s = ts.tile.alloc_shared((4,), ts.f32)  #! W202 ts.tile.alloc_shared((4,), ts.f32)
    s[0] = x[0]
    x[0] = 1.0


@ts.kernel
def no_effect(x: ts.Tensor["N", ts.f32]):  #! W204 no_effect
    y = x[0]

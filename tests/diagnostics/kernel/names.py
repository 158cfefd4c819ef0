# ruff: noqa
# Names, and what can be stored to. Each `#!` names a code and the text under the caret, of its own line.
import tessera as ts

table = {"a": 1}
T = 3


@ts.kernel
def unknown_name(x: ts.Tensor["N", ts.f32]):
    i = ts.tile.linear_id()
    if i < N:
        x[i] = scael * x[i]  #! E203 scael


@ts.kernel
def unknown_word(x: ts.Tensor["N", ts.f32]):
    i = ts.tile.linear_idx()  #! E204 ts.tile.linear_idx
    if i < N:
        x[i] = ts.gelu_exact(x[i])  #! E204 ts.gelu_exact


@ts.kernel
def not_assigned(x: ts.Tensor["N", ts.f32]):
    i = ts.tile.linear_id()
    if i < N:
        if x[i] > 0.0:
            s = x[i]
        x[i] = s  #! E210 s
        x[i] = late  #! E210 late
        late = 1.0


@ts.kernel
def after_its_loop(x: ts.Tensor["N", ts.f32]):
    i = ts.tile.linear_id()
    for k in ts.tile.range(N):
        last = k
    if i < N:
        x[i] = last + 1.0  #! E210 last
        x[i] = k + 1.0  #! E210 k


@ts.kernel
def stores(x: ts.Tensor["N", ts.f32], alpha: ts.f32, fixed: ts.Region[ts.read, ts.Tensor["N", ts.f32]]):
    i = ts.tile.linear_id()
    if i < N:
        alpha[i] = 1.0  #! E208 alpha[i]
        fixed[i] = x[i]  #! E208 fixed[i]
        x = x[i]  #! E208 x = x[i]
        x.value = 1.0  #! E208 x.value


@ts.kernel
def captured(x: ts.Tensor["N", ts.f32]):
    i = ts.tile.linear_id()
    x[i] = table["a"]  #! E206 table


@ts.kernel
def hidden(x: ts.Tensor["T", ts.f32]):
    i = ts.tile.linear_id()
    if i < T:  #! W203 T
        x[i] = 0.0


@ts.kernel
def words_of_lanes(x: ts.Tensor["N", ts.f32], m: ts.Tensor["N", ts.i32], rate: ts.f32):
    i = ts.tile.linear_id()
    for k in ts.tile.grid_stride_range(N):  #! E211 ts.tile.grid_stride_range(N)
        m[k] = k
    v = ts.tile.dropout(x[i], rate, 1, i)  #! E218 ts.tile.dropout(x[i], rate, 1, i)
    w = ts.tile.dropout(x[i], 0.5, 1, x[i])  #! E206 ts.tile.dropout(x[i], 0.5, 1, x[i])
    u = ts.tile.shuffle(m, 1)  #! E206 ts.tile.shuffle(m, 1)
    if i < N:
        x[i] = ts.tile.shuffle(x[i], 1)  #! E209 ts.tile.shuffle(x[i], 1)
    s = ts.tile.alloc_shared[ts.f32](8, dtype=ts.f16)  #! E218 ts.tile.alloc_shared[ts.f32](8, dtype=ts.f16)
    r = ts.tile.alloc_shared[8](8)  #! E206 ts.tile.alloc_shared[8]
    q = tshared.allocate(8, ts.f32)  #! E204 tshared.allocate
    ts.tile.create_mbarrier(1)  #! E204 ts.tile.create_mbarrier


@ts.kernel(grid=2)
def backwards(m: ts.Tensor["N", ts.i32]):
    for k in ts.tile.grid_stride_range(N, 0, -1):  #! E219 ts.tile.grid_stride_range(N, 0, -1)
        m[k] = k

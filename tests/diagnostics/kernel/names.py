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

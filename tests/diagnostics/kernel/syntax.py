# ruff: noqa
# Python that kernels do not have.
import tessera as ts


@ts.kernel
def statements(x: ts.Tensor["N", ts.f32]):
    i = ts.tile.linear_id()
    import math  #! E202 import math
    assert N > 0  #! E202 assert N > 0
    try:  #! E202 try:
        x[i] = 0.0
    except Exception:
        pass
    with x:  #! E202 with x:
        pass
    del i  #! E202 del i
    class Inner:  #! E202 class Inner:
        pass
    def inner():  #! E202 def inner():
        pass
    x[0]  #! E202 x[0]


@ts.kernel
def expressions(x: ts.Tensor["N", ts.f32]):
    i = ts.tile.linear_id()
    a = lambda v: v  #! E202 lambda v: v
    b = [v for v in (1, 2)]  #! E202 [v for v in (1, 2)]
    c = {1: 2}  #! E202 {1: 2}
    d = (e := 1)  #! E202 e := 1
    f = max(*x)  #! E202 *x
    g = {1}  #! E202 {1}
    h = f"{i}"  #! E202 f"{i}"
    k = i in (1, 2)  #! E202 i in (1, 2)


@ts.kernel
def generator(x: ts.Tensor["N", ts.f32]):
    yield x  #! E202 yield x


@ts.kernel
def loops(x: ts.Tensor["N", ts.f32]):
    i = ts.tile.linear_id()
    for k in ts.tile.range(N):
        if k > i:
            break  #! E202 break
    for k in x:  #! E202 x
        pass
    for a, b in ((1, 2), (3, 4)):  #! E202 a, b
        pass
    while True:  #! E202 True
        x[i] = 0.0


def recursive(v):
    return recursive(v)  #! E202 recursive(v)


@ts.kernel
def helper_without_end(x: ts.Tensor["N", ts.f32]):
    i = ts.tile.linear_id()
    x[i] = recursive(x[i])


def starred(*v):
    return v


@ts.kernel
def star_parameters(x: ts.Tensor["N", ts.f32]):
    x[0] = starred(1.0)  #! E202 starred(1.0)

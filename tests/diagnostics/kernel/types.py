# ruff: noqa
# Types, ranks, constants.
import tessera as ts


@ts.kernel
def element_types(x: ts.Tensor["N", ts.f32], k: ts.Tensor["N", ts.i32], s: ts.Tensor["N", ts.i8], flags: ts.Tensor["N", ts.bool]):
    i = ts.tile.linear_id()
    if i < N:
        k[i] = x[i]  #! E206 k[i] = x[i]
        k[x[i]] = 1  #! E206 x[i]
        s[i] = k[i]  #! E206 s[i] = k[i]
        flags[i] = k[i]  #! E206 flags[i] = k[i]
        k[i] = x[i] & 1  #! E206 x[i] & 1
        x[i] = x  #! E206 x[i] = x
        x[i] = k[i] ** i  #! E206 k[i] ** i
        a, b = x[i], x[i], x[i]  #! E206 a, b = x[i], x[i], x[i]
        x[i] = "text"  #! E206 x[i] = "text"
        if x:  #! E206 x
            pass


@ts.kernel
def ranks(a: ts.Tensor["M", "N", ts.f32], x: ts.Tensor["N", ts.f32]):
    i = ts.tile.linear_id()
    if i < N:
        x[i] = a[i]  #! E206 i
        x[i] = x[i, 0]  #! E207 x[i, 0]
        x[i] = i[0]  #! E207 i[0]
        x[i] = (1.0, 2.0)[i]  #! E207 i
        x[i] = x[-1]  #! E216 -1


@ts.kernel
def constants(x: ts.Tensor["N", ts.f32]):
    i = ts.tile.linear_id()
    a = 1 // 0  #! E220 1 // 0
    b = i + (1 << 70)  #! E220 i + (1 << 70)
    c = float("abc")  #! E220 float("abc")
    for k in range(0, N, 0):  #! E219 range(0, N, 0)
        pass
    for k in range(N, 0, -1):  #! E219 range(N, 0, -1)
        pass
    if i < N:
        x[i] = 0.0


@ts.kernel
def calls(x: ts.Tensor["N", ts.f32]):
    i = ts.tile.linear_id(1)  #! E218 ts.tile.linear_id(1)
    j = ts.tile.linear_id()
    if j < N:
        x[j] = ts.exp()  #! E218 ts.exp()
        x[j] = max(x[j])  #! E218 max(x[j])
        x[j] = ts.where(j < 3, x[j])  #! E218 ts.where(j < 3, x[j])
        x[j] = ts.cast(x[j], 3)  #! E206 ts.cast(x[j], 3)
        x[j] = helper(x[j])  #! E218 helper(x[j])
        print(x[j])  #! E204 print(x[j])
    for k in range():  #! E218 range()
        pass


def helper(a, b):
    return a + b


@ts.kernel
def unordered(x: ts.Tensor["N", ts.f32], n: ts.Tensor["N", ts.i32]):
    i = ts.tile.linear_id()
    if i < N:
        ts.tile.atomic_add(x[0], 1.0)  #! E226 ts.tile.atomic_add(x[0], 1.0)
        n[i] = ts.tile.atomic_add(n[0], 1)  #! E226 ts.tile.atomic_add(n[0], 1)

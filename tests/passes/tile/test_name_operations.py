"""What kernels say that they compute: operations on data, in order of first use."""

import tessera as ts
from tesseracc.arch.arch import load
from tesseracc.driver import Build, front


@ts.kernel
def histogram(x: ts.Tensor["N", ts.i32], counts: ts.Tensor["B", ts.i64]):
    i = ts.tile.linear_id()
    if i < N and x[i] >= 0 and x[i] < B:
        ts.tile.atomic_add(counts[x[i]], 1)


@ts.kernel
def highest(x: ts.Tensor["M", "N", ts.i32], top: ts.Tensor["N", ts.i32]):
    ts.tile.atomic_max(top[n : n + 64], x[0, n : n + 64] * 3)


def test_atomic_updates_are_operations() -> None:
    target = load("sm_90")
    tile = Build(front({"histogram": histogram, "highest": highest}), (target,)).tile(target)
    found = {f.name: f.attrs["ops"] for f in tile.of_kind("tile.kernel")}
    assert found == {"histogram__0": ("atomic_add",), "highest__0": ("mul", "atomic_max")}

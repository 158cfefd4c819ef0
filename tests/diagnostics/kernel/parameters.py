# ruff: noqa
# Signatures and options.
import tessera as ts


@ts.kernel
def no_annotation(x: ts.Tensor["N", ts.f32], y):  #! E205 y
    x[0] = y


@ts.kernel
def odd_annotation(x: ts.Tensor["N", ts.f32], y: "list"):  #! E205 y: "list"
    x[0] = y


@ts.kernel
def same_name(N: ts.i32, x: ts.Tensor["N", ts.f32]):  #! E205 same_name
    x[0] = N


@ts.kernel(group=100)
def odd_group(x: ts.Tensor["N", ts.f32]):  #! E221 odd_group
    x[0] = 1.0


@ts.kernel(num_warps=2, group=256)  #! E221 group=256
def two_groups(x: ts.Tensor["N", ts.f32]):
    x[0] = 1.0


@ts.kernel.autotune(space={"num_warps": (4, 8)}, group=128)  #! E221 group=128
def two_groups_of_a_space(x: ts.Tensor["N", ts.f32]):
    x[0] = 1.0


@ts.kernel(grid=(1, 2, 3, 4))
def odd_grid(x: ts.Tensor["N", ts.f32]):  #! E221 odd_grid
    x[0] = 1.0


@ts.kernel(grid="ceildiv(M, 128)")
def unknown_dim(x: ts.Tensor["N", ts.f32]):  #! E221 unknown_dim
    x[0] = 1.0

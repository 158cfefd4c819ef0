"""Kernels of test_results: what a program may ask of shared memory, and a product to tell of."""

import tessera as ts


@ts.kernel
def product(A: ts.Tensor["M", "K", ts.bf16], B: ts.Tensor["K", "N", ts.bf16]) -> ts.Tensor["M", "N", ts.bf16]:
    acc = ts.tile.zeros((64, 64), ts.f32)
    acc += ts.tile.mma(A[m : m + 64, k : k + 64], B[k : k + 64, n : n + 64])
    return ts.tile.cast(acc, ts.bf16)


@ts.kernel
def wishes(x: ts.Tensor["N", ts.f32], y: ts.Tensor["N", ts.f32]):
    plain = ts.tile.alloc_shared((32, 4), ts.f32, alignment=64)
    rows = ts.tile.alloc_shared((4, 32), ts.f32, swizzle="xor", alignment=128)
    narrow = ts.tile.alloc_shared((128, 1), ts.f32, swizzle="xor")
    i = ts.tile.local_id()
    rows[i // 32, i % 32] = x[i]
    plain[i // 4, i % 4] = x[i]
    narrow[i, 0] = x[i]
    ts.tile.barrier()
    y[i] = rows[i % 4, i // 4] + plain[i % 32, i // 32] + narrow[127 - i, 0]

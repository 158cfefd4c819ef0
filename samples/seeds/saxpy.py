# Seed 0, "Simple Kernel" (X01). Verbatim. `n` is the extent of x and y (rule R1); the lanes are as many as y has
# elements; y is changed in place and returned.

import tessera as ts

@ts.kernel
def saxpy(x: ts.Tensor["n", ts.f32], 
          y: ts.Tensor["n", ts.f32], 
          alpha: ts.f32) -> ts.Tensor["n", ts.f32]:
    """Simple SAXPY: y = alpha * x + y"""
    i = ts.tile.linear_id()
    if i < n:
        y[i] = alpha * x[i] + y[i]
    return y

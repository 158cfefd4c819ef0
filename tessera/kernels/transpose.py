"""The transpose of a matrix, in blocks, so that both sides are read and written along their rows."""

import tessera as ts
from tessera.kernels.family import family


@family
def transpose(T):
    """`transpose(x)`: y[N, M] with y[n, m] = x[m, n], of any element type T."""

    @ts.kernel.autotune(space={"BM": (32, 64), "BN": (32, 64)})
    def transpose(x: ts.Tensor["M", "N", T]) -> ts.Tensor["N", "M", T]:
        return x[m : m + BM, n : n + BN].T

    return transpose

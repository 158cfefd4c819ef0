"""Kernels of the library under names of their own, to be built by benchmarks."""

import tessera as ts
import tessera.kernels as K

gemm = K.matmul.of(ts.bf16)
attention = K.flash_attention.of(ts.bf16)

# Seed 3, "Memory Access Patterns" (X20). Corrected: the seed loads four elements of every fourth row, knows no
# columns, and never stores to `dst`. Here the loops go over all rows and over the columns by four, and the tile is
# stored. `block_m` and `block_n` are domain variables (rule R2).

import tessera as ts

@ts.kernel
def optimized_memory_access(src: ts.Tensor["M", "N", ts.bf16],
                           dst: ts.Tensor["M", "N", ts.bf16]):
    # Coalesced access pattern
    TILE_M, TILE_N = 128, 128
    
    # Allocate shared memory with bank conflict avoidance
    smem = ts.tile.alloc_shared((TILE_M, TILE_N), ts.bf16, 
                                swizzle="xor",      # XOR swizzling
                                alignment=16)        # 128-bit alignment
    
    # Vectorized loads for maximum bandwidth
    for i in ts.tile.range(0, TILE_M):
        for j in ts.tile.range(0, TILE_N, 4):
            # Load 4 elements at once
            vec4 = ts.tile.load_vector(src[block_m + i, block_n + j], width=4)
            ts.tile.store_vector(smem[i, j], vec4)

    dst[block_m:block_m+TILE_M, block_n:block_n+TILE_N] = smem

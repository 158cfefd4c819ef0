# Seed 3, "Memory Hierarchy Operations" (X19). Corrected: the import is added and `i` and `j`, which the seed leaves
# undefined, set to the corner of the block. `block_m` and `block_n` are domain variables (rule R2); nothing is
# written, so they run in sequence. The kernel has no effect, and the compiler says so (W202, W204).

import tessera as ts

@ts.kernel
def memory_hierarchy_example(A: ts.Tensor["M", "N", ts.f32]):
    # 1. Register allocation (tile-local)
    reg_value = ts.tile.alloc_register(ts.f32)
    
    # 2. Shared memory allocation (group-local)
    shared_tile = ts.tile.alloc_shared((64, 64), ts.f32, swizzle="xor")
    
    # 3. Global memory access
    i, j = block_m, block_n
    global_value = A[i, j]
    
    # 4. Async memory operations
    ts.tile.cp_async(shared_tile, A[block_m:block_m+64, block_n:block_n+64])
    ts.tile.cp_commit_group()
    ts.tile.cp_wait_group(0)

# Seed 3, "Tile Groups and Synchronization" (X18). Verbatim but for the import. A kernel that returns a scalar runs as
# one group of 128 lanes (rule R9), so that linear_id equals local_id and the stride of the loop is right.

import tessera as ts

@ts.kernel
def cooperative_reduction(data: ts.Tensor["N", ts.f32]) -> ts.f32:
    # Allocate shared memory for tile group
    shared_sum = ts.tile.alloc_shared((128,), ts.f32)
    
    # Each tile computes partial sum
    tile_id = ts.tile.linear_id()
    local_sum = 0.0
    
    for i in ts.tile.range(tile_id, N, ts.tile.group_size()):
        local_sum += data[i]
    
    # Store to shared memory
    shared_sum[ts.tile.local_id()] = local_sum
    
    # Synchronize tile group
    ts.tile.barrier()
    
    # Cooperative reduction
    stride = ts.tile.group_size() // 2
    while stride > 0:
        if ts.tile.local_id() < stride:
            shared_sum[ts.tile.local_id()] += shared_sum[ts.tile.local_id() + stride]
        ts.tile.barrier()
        stride //= 2
    
    return shared_sum[0]

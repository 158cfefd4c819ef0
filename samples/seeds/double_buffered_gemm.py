# Seed 3, "Double Buffering Pattern" (X21). Corrected: the seed multiplies the first block of C only, never commits
# its copies, waits for the stage that it has just started, and leaves the last block of K out. Here `tile_m` and
# `tile_n` (rule R2) go over C, each stage is committed, one stage stays in flight, and the last block is multiplied
# behind the loop. No barrier is written: it would complete the stage in flight too (R6); the compiler adds what is
# needed (R7). BM, BN and BK are schedule parameters (R11).

import tessera as ts

@ts.kernel
def double_buffered_gemm(A: ts.Tensor["M", "K", ts.bf16],
                        B: ts.Tensor["K", "N", ts.bf16],
                        C: ts.Tensor["M", "N", ts.f32]):
    # Allocate double buffers
    smem_a = [
        ts.tile.alloc_shared((BM, BK), ts.bf16),
        ts.tile.alloc_shared((BM, BK), ts.bf16)
    ]
    smem_b = [
        ts.tile.alloc_shared((BK, BN), ts.bf16),
        ts.tile.alloc_shared((BK, BN), ts.bf16)
    ]
    
    # Pipeline stages
    write_stage = 0
    compute_stage = 1
    
    # Prefetch first blocks
    ts.tile.cp_async(smem_a[write_stage], A[tile_m:tile_m+BM, 0:BK])
    ts.tile.cp_async(smem_b[write_stage], B[0:BK, tile_n:tile_n+BN])
    ts.tile.cp_commit_group()
    
    for k in ts.tile.range(BK, K, BK):
        # Start loading next blocks
        write_stage, compute_stage = compute_stage, write_stage
        ts.tile.cp_async(smem_a[write_stage], A[tile_m:tile_m+BM, k:k+BK])
        ts.tile.cp_async(smem_b[write_stage], B[k:k+BK, tile_n:tile_n+BN])
        ts.tile.cp_commit_group()
        
        # Wait for previous load and compute
        ts.tile.cp_wait_group(1)
        
        # Compute on current blocks
        C[tile_m:tile_m+BM, tile_n:tile_n+BN] += ts.tile.mma(smem_a[compute_stage], smem_b[compute_stage])
    
    # The last block
    ts.tile.cp_wait_group(0)
    C[tile_m:tile_m+BM, tile_n:tile_n+BN] += ts.tile.mma(smem_a[write_stage], smem_b[write_stage])

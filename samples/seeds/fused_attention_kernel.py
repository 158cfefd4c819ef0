# Seed 1, "Custom Optimized Kernel" (X07). Verbatim but for the import. The copies fix D to 64. The registers have
# their first values in every iteration of the loop over q_tile (rule R3), Q, K, V and O are lifted over B*H (R4),
# l_state has one element per row whatever the sizes (R5), and the whole store goes to the group's block of O (R9).

import tessera as ts

@ts.kernel
def fused_attention_kernel(
    Q: ts.Tile["B*H", "S", "D", ts.bf16],
    K: ts.Tile["B*H", "S", "D", ts.bf16], 
    V: ts.Tile["B*H", "S", "D", ts.bf16],
    O: ts.Tile["B*H", "S", "D", ts.bf16],
    scale: float
):
    """Custom Flash Attention kernel with manual optimization."""
    
    # Automatic tiling and memory management
    ctx = ts.tile.context()
    
    # Shared memory allocation (automatically optimized)
    smem_q = ts.tile.alloc_shared(128, 64, dtype=ts.bf16)
    smem_k = ts.tile.alloc_shared(128, 64, dtype=ts.bf16)
    smem_v = ts.tile.alloc_shared(128, 64, dtype=ts.bf16)
    
    # Online softmax state
    m_state = ts.tile.alloc_register(128, dtype=ts.f32)
    l_state = ts.tile.alloc_register(128, dtype=ts.f32)
    acc = ts.tile.alloc_register(128, 64, dtype=ts.f32)
    
    # Initialize
    ts.tile.fill(m_state, -float('inf'))
    ts.tile.fill(l_state, 0.0)
    ts.tile.fill(acc, 0.0)
    
    # Main computation loop (automatically pipelined)
    for q_tile in ts.tile.range(Q.shape[1], step=128):
        # Load Q tile (async prefetch)
        ts.tile.load_async(smem_q, Q[q_tile:q_tile+128])
        
        for kv_tile in ts.tile.range(K.shape[1], step=128):
            # Load K,V tiles (double buffered)
            ts.tile.load_async(smem_k, K[kv_tile:kv_tile+128])
            ts.tile.load_async(smem_v, V[kv_tile:kv_tile+128])
            ts.tile.barrier()
            
            # Attention scores: Q @ K^T (uses tensor cores)
            scores = ts.tile.matmul(smem_q, smem_k.T) * scale
            
            # Online softmax update (numerically stable)
            m_new, l_new, scores_norm = ts.tile.online_softmax(
                scores, m_state, l_state
            )
            
            # Attention output: P @ V (uses tensor cores)
            v_out = ts.tile.matmul(scores_norm, smem_v)
            
            # Update accumulator
            ts.tile.update_accumulator(acc, v_out, m_state, m_new, l_state, l_new)
            
            # Update states
            m_state = m_new
            l_state = l_new
    
    # Store final output
    ts.tile.store(O, acc / l_state)

# Use the custom kernel (automatically compiles for your GPU)
custom_attention = ts.jit(fused_attention_kernel)

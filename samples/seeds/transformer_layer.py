# Seed 1, "Example 1: Optimized Transformer Layer" (X08). Verbatim. `w_mlp.transpose()` reverses the axes, so the
# weights of the two products of the MLP are tied; D must be a multiple of the 16 heads, which every call checks;
# layer_norm has no parameters. The seed runs it at B, S, D = 4, 2048, 4096; any size will do.

import tessera as ts
import numpy as np

@ts.function
def transformer_layer(
    x: ts.Tensor["B", "S", "D", ts.bf16],  # Input: batch, sequence, dim
    w_qkv: ts.Tensor["D", "3*D", ts.bf16], # QKV projection weights
    w_out: ts.Tensor["D", "D", ts.bf16],   # Output projection
    w_mlp: ts.Tensor["D", "4*D", ts.bf16], # MLP weights
) -> ts.Tensor["B", "S", "D", ts.bf16]:
    """Complete transformer layer with Flash Attention."""
    
    # Multi-head attention with automatic optimization
    qkv = ts.nn.linear(x, w_qkv)
    q, k, v = ts.split(qkv, dim=-1, sections=3)
    
    # Reshape for multi-head attention
    B, S, D = x.shape
    H = 16  # num_heads
    q = q.reshape(B, S, H, D // H).transpose(1, 2)  # [B, H, S, D/H]
    k = k.reshape(B, S, H, D // H).transpose(1, 2)
    v = v.reshape(B, S, H, D // H).transpose(1, 2)
    
    # Flash Attention (automatically optimized)
    attn_out = ts.nn.flash_attention(q, k, v, causal=True)
    attn_out = attn_out.transpose(1, 2).reshape(B, S, D)
    
    # Output projection
    attn_out = ts.nn.linear(attn_out, w_out)
    
    # Residual connection
    x = x + attn_out
    
    # Layer norm (numerically stable)
    x = ts.nn.layer_norm(x)
    
    # MLP with GELU
    mlp_out = ts.nn.gelu(ts.nn.linear(x, w_mlp))
    mlp_out = ts.nn.linear(mlp_out, w_mlp.transpose())
    
    # Final residual
    return x + mlp_out

# ruff: noqa
"""Kernels of the seeds with the faults that they have there (LANGUAGE section C)."""

from __future__ import annotations

import tessera as ts


@ts.kernel
def double_correction(
    Q: ts.Tensor["H", "S", "D", ts.bf16],
    K: ts.Tensor["H", "S", "D", ts.bf16],
    V: ts.Tensor["H", "S", "D", ts.bf16],
    O: ts.Tensor["H", "S", "D", ts.bf16],
):
    """X05: `p` is made with the new maximum, and its sum is scaled by beta once more."""
    acc = ts.tile.zeros((64, D), ts.f32)
    m_i = ts.tile.full((64,), -float("inf"), ts.f32)
    l_i = ts.tile.zeros((64,), ts.f32)
    q = Q[0, tile_q : tile_q + 64, :]
    for kv in ts.tile.range(0, S, 64):
        scores = ts.tile.mma(q, K[0, kv : kv + 64, :].T)
        m_new = ts.tile.row_max(scores)
        m_i_new = ts.tile.maximum(m_i, m_new)
        alpha = ts.tile.exp(m_i - m_i_new)
        beta = ts.tile.exp(m_new - m_i_new)
        p = ts.tile.exp(scores - m_i_new)
        l_i = alpha * l_i + beta * ts.tile.row_sum(p)
        acc = alpha * acc + ts.tile.mma(p, V[0, kv : kv + 64, :])
        m_i = m_i_new
    O[0, tile_q : tile_q + 64, :] = acc / l_i[:, None]


@ts.kernel
def missing_block(
    A: ts.Tensor["M", "K", ts.bf16], B: ts.Tensor["K", "N", ts.bf16], C: ts.Tensor["M", "N", ts.f32]
):
    """X21: the stage that is copied last is never multiplied."""
    smem_a = [ts.tile.alloc_shared((64, 32), ts.bf16), ts.tile.alloc_shared((64, 32), ts.bf16)]
    smem_b = [ts.tile.alloc_shared((32, 64), ts.bf16), ts.tile.alloc_shared((32, 64), ts.bf16)]
    write_stage = 0
    compute_stage = 1
    ts.tile.cp_async(smem_a[write_stage], A[tile_m : tile_m + 64, 0:32])
    ts.tile.cp_async(smem_b[write_stage], B[0:32, tile_n : tile_n + 64])
    ts.tile.cp_commit_group()
    for k in ts.tile.range(32, K, 32):
        write_stage, compute_stage = compute_stage, write_stage
        ts.tile.cp_async(smem_a[write_stage], A[tile_m : tile_m + 64, k : k + 32])
        ts.tile.cp_async(smem_b[write_stage], B[k : k + 32, tile_n : tile_n + 64])
        ts.tile.cp_commit_group()
        ts.tile.cp_wait_group(1)
        C[tile_m : tile_m + 64, tile_n : tile_n + 64] += ts.tile.mma(smem_a[compute_stage], smem_b[compute_stage])

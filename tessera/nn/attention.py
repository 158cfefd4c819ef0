"""Attention that holds few rows of scores at a time."""

from __future__ import annotations

from tessera.control.scan import scan
from tessera.dtypes import i64
from tessera.errors import SourceError
from tessera.ops.attention import scaled_dot_product_attention
from tessera.ops.create import full, iota
from tessera.ops.parts import pad
from tessera.ops.views import expand_dims, permute, reshape
from tessera.shapes import ceildiv
from tessera.tensor import Tensor, TensorLike, operands

__all__ = ["flash_attention"]


def flash_attention(
    q: TensorLike, k: TensorLike, v: TensorLike, causal: bool = False, scale: float | None = None, *,
    block: int | None = None,
) -> Tensor:
    """scaled_dot_product_attention without a mask: q [.., H, S, D], k [.., G, T, D], v [.., G, T, E].

    With `block`, that many queries are done at a time, one block after the other (ts.scan): then no S x T scores exist,
    forwards or backwards, but `block` x T for each head; backwards they are computed again. Without it the compiler
    decides what is held.
    """
    if block is None:
        return scaled_dot_product_attention(q, k, v, causal=causal, scale=scale)
    if not isinstance(block, int) or isinstance(block, bool) or block < 1:
        raise SourceError("E305", f"flash_attention has block={block!r}", help="a number of queries, 1 or more")
    queries, keys, values = operands(q, k, v)
    return _by_blocks(queries, keys, values, causal, scale, block)


def _by_blocks(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float | None, block: int) -> Tensor:
    if q.ndim < 2 or k.ndim < 2:
        raise SourceError("E304", f"attention needs queries and keys of rank >= 2, got {q.type} and {k.type}")
    *lead, length, size = q.shape
    keys, rank = k.shape[-2], len(lead)
    count = ceildiv(length, block)
    whole = pad(q, [(0, 0)] * rank + [(0, count * block - length), (0, 0)])
    blocks = permute(reshape(whole, (*lead, count, block, size)), rank, *range(rank), rank + 1, rank + 2)
    columns = expand_dims(iota(keys), 0)
    # query r of block i is query i * block + r, which sees the keys up to its number + keys - length
    last = expand_dims(iota(block), 1) + full((), keys - length, i64)

    def step(i: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        mask = columns <= last + i * block if causal else None
        return i + 1, scaled_dot_product_attention(rows, k, v, mask, scale=scale)

    _, found = scan(step, full((), 0, i64), blocks)
    together = permute(found, *range(1, rank + 1), 0, rank + 1, rank + 2)
    return reshape(together, (*lead, count * block, v.shape[-1]))[..., :length, :]

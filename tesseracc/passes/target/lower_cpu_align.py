"""Loops that store rows of a large buffer begin with the lanes up to the next native vector of memory.

A row whose length is no multiple of a vector begins anywhere, and stores to it would go through the caches: see
`lower_cpu_memory`. A loop that carries nothing gives each index to some lane, no matter which, when its body tells
lanes apart by the index alone. Then its first iteration may take fewer lanes, and all later ones store whole vectors.
"""

from __future__ import annotations

from collections.abc import Callable

from tesseracc.ir.rewrite import captured
from tesseracc.ir.types import BufType, size_of
from tesseracc.ir.value import Op
from tesseracc.passes.target.lower_cpu_values import Affine, Buf, Int, Kernel, Rep, Splat, Vec

_PLAIN = ("tile.load", "tile.store", "tile.splat", "tile.dim")
Flat = Callable[[Buf, list[Rep]], Affine | Vec]


def lanes_to_boundary(k: Kernel, op: Op, base: Int, flat: Flat) -> Int | None:
    """How many lanes from index `base` on reach a boundary, 0 for a small buffer; None where a loop must not be cut."""
    region = op.regions[0]
    if op.results or not all(inner.defn.dialect == "arith" or inner.name in _PLAIN for inner in region.ops):
        return None
    if any(_varies(k, k.env[value]) for value in captured(region)):
        return None
    for store in region.ops:
        if store.name == "tile.store" and store.optional("where") is None:
            buf = k.env[store["buf"]]
            known = all(v is region.args[0] or v in k.env for v in store.group("indices"))
            if known and isinstance(buf, Buf) and buf.address is not None and buf.large is not None:
                first = [Affine(base, 1) if v is region.args[0] else k.env[v] for v in store.group("indices")]
                return _missing(k, buf, flat(buf, first))
    return None


def _varies(k: Kernel, rep: Rep) -> bool:
    """Whether a value tells lanes apart by itself."""
    if isinstance(rep, Buf):
        return isinstance(rep.type, BufType) and rep.type.space == "local"
    return not (isinstance(rep, Splat) or (isinstance(rep, Affine) and rep.stride == 0))


def _missing(k: Kernel, buf: Buf, index: Affine | Vec) -> Int | None:
    size, native = size_of(buf.type.dtype), k.arch.vector_bits // 8
    if not isinstance(index, Affine) or index.stride != 1 or (k.width * size) % native:
        return None
    assert buf.address is not None and buf.large is not None
    place = k.add(buf.address, k.mul(index.base, size))
    past = k.b.op("arith.and", k.value(k.sub(0, place)), k.b.const(native - 1))
    lanes = k.floordiv(past, size)
    return k.b.op("arith.select", buf.large, k.value(lanes), k.b.const(0))

"""Rings of fewer slots, where shared memory has no room for all that a kernel needs beside them.

How much that is, for tiles that change their layout or leave by way of shared memory, the lowering knows: a kernel that
does not fit is lowered again with fewer slots. Copies that threads make themselves do with one slot. Where others make
them, an iteration hands a slot back when the next one has begun, which takes two; what has no room for these is copied
by the threads after all, if other blocks do not wait for it.
"""

from __future__ import annotations

from dataclasses import replace

from tesseracc.ir.rewrite import map_ops, substitute
from tesseracc.ir.types import BufType, shared_bytes
from tesseracc.ir.value import Func, Op, Value


def fewer_slots(kernel: Func, excess: int) -> Func | None:
    """The kernel without so many slots of its largest rings as make up for `excess` bytes; None: none is left over."""
    others = bool(kernel.attrs.get("tensor_copies"))
    least = 2 if others else 1
    pipelines = [op for op in kernel.walk() if op.name == "tile.pipeline" and op.attrs["stages"] > least]
    if not pipelines:
        alone = others and "cluster" not in kernel.attrs
        return replace(kernel, attrs={**kernel.attrs, "tensor_copies": False}) if alone else None
    large = max(pipelines, key=lambda op: op.attrs["stages"] * _slot_bytes(op))
    stages = max(least, large.attrs["stages"] - -(-excess // _slot_bytes(large)))
    rings = {ring: Value(_of(ring, stages), ring.name) for ring in large.group("rings")}

    def visit(op: Op) -> list[Op] | None:
        if op.results and op.results[0] in rings:
            return [replace(op, results=(rings[op.results[0]],))]
        if op.name == "tile.pipeline" and op.group("rings") == large.group("rings"):
            return [replace(op, attrs={**op.attrs, "stages": stages})]
        return None

    body = map_ops(kernel.body, visit)
    return replace(kernel, body=substitute(body, rings))


def _of(ring: Value, stages: int) -> BufType:
    type_ = ring.type
    assert isinstance(type_, BufType)
    return BufType((stages, *type_.dims[1:]), type_.dtype, type_.space)


def _slot_bytes(pipeline: Op) -> int:
    return sum(shared_bytes(_of(ring, 1)) for ring in pipeline.group("rings"))

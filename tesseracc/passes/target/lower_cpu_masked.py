"""Accesses under a mask and at scattered places: the machine's instructions where it has them, else a loop over lanes.

LLVM would spell a masked access out lane by lane where the machine has no such instruction: a branch and an insertion
per lane, in code that grows with the group and takes it minutes to compile. A loop through scratch memory is short, and
runs over the first lanes only when the mask is a range.
"""

from __future__ import annotations

from collections.abc import Callable

from tesseracc.ir.types import ScalarType, Type, VecType, element, kind_of, size_of
from tesseracc.ir.value import Value
from tesseracc.passes.target.lower_cpu_values import ALL, Int, Kernel, Lane, Range


def zero(k: Kernel, type_: Type) -> Value:
    """Zero of a scalar or vector type."""
    dtype = element(type_)
    return k.b.const(0.0 if kind_of(dtype) == "f" else False if dtype == "bool" else 0, type_)


def _word(dtype: str) -> bool:
    """Whether elements have the size that vector instructions for single elements exist for."""
    return size_of(dtype) in (4, 8)


def _moves_masked(k: Kernel, dtype: str) -> bool:
    # x86 got masked moves of words together with gathers, those of bytes with predicate registers
    return k.arch.has("mask") or (k.arch.has("gather") and _word(dtype))


def masked_load(k: Kernel, ptr: Value, dtype: str, mask: Lane) -> Value:
    """Contiguous elements in the lanes of the mask, zeros elsewhere."""
    vec = k.vec_type(dtype)
    if _moves_masked(k, dtype):
        return k.b.op("target.masked_load", ptr, k.vector(mask, "bool"), zero(k, vec), align=size_of(dtype))
    return _collect(k, dtype, mask, lambda lane: k.offset(ptr, lane, dtype))


def masked_store(k: Kernel, value: Value, ptr: Value, dtype: str, mask: Lane) -> None:
    if _moves_masked(k, dtype):
        k.b.emit("target.masked_store", value, ptr, k.vector(mask, "bool"), align=size_of(dtype))
        return
    _spread(k, value, dtype, mask, lambda lane: k.offset(ptr, lane, dtype))


def gather(k: Kernel, ptr: Value, index: Value, dtype: str, mask: Lane) -> Value:
    """ptr[index] in the lanes of the mask, zeros elsewhere."""
    if k.arch.has("gather") and _word(dtype):
        vec = k.vec_type(dtype)
        return k.b.op("target.gather", ptr, index, k.vector(mask, "bool"), zero(k, vec), dtype=dtype)
    return _collect(k, dtype, mask, _place(k, ptr, index, dtype))


def scatter(k: Kernel, value: Value, ptr: Value, index: Value, dtype: str, mask: Lane) -> None:
    if k.arch.has("mask") and _word(dtype):
        k.b.emit("target.scatter", value, ptr, index, k.vector(mask, "bool"), dtype=dtype)
        return
    _spread(k, value, dtype, mask, _place(k, ptr, index, dtype))


def update(k: Kernel, kind: str, value: Value, ptr: Value, index: Value, dtype: str, mask: Lane, own: bool) -> None:
    """ptr[index] = kind(ptr[index], value) in the lanes of the mask, in order; atomically unless memory is `own`."""
    place, (saved, _) = _place(k, ptr, index, dtype), _save(k, value, "value")

    def body(lane: Value) -> None:
        one = k.b.op("target.load", k.offset(saved, lane, dtype), types=ScalarType(dtype), align=size_of(dtype))
        update_one(k, kind, one, place(lane), own)

    _each_lane(k, mask, body)


def update_one(k: Kernel, kind: str, value: Value, ptr: Value, own: bool) -> None:
    """One element; memory that is this thread's own needs no atomic instruction."""
    if not own:
        k.b.emit("target.update", value, ptr, kind=kind)
        return
    size = size_of(element(value.type))
    old = k.b.op("target.load", ptr, types=value.type, align=size)
    k.b.emit("target.store", k.b.op(f"arith.{kind}", old, value), ptr, align=size)


# -- lane by lane ------------------------------------------------------------------------------------------------------


def _save(k: Kernel, value: Value, use: str) -> tuple[Value, str]:
    """Writes a vector to the scratch memory that is kept for this use."""
    assert isinstance(value.type, VecType)
    place = _temporary(k, use)
    k.b.emit("target.store", value, place, align=size_of(value.type.dtype))
    return place, value.type.dtype


def _temporary(k: Kernel, use: str) -> Value:
    """Room for one vector of the widest elements; reused by every access, for none outlives its access."""
    key = (use, k.width)
    if key not in k.temporaries:
        k.temporaries[key] = k.reserve(8 * k.width)
    return k.temporaries[key]


def _place(k: Kernel, ptr: Value, index: Value, dtype: str) -> Callable[[Value], Value]:
    saved, kind = _save(k, index, "index")

    def place(lane: Value) -> Value:
        at = k.b.op("target.load", k.offset(saved, lane, kind), types=ScalarType(kind), align=size_of(kind))
        return k.offset(ptr, at if kind == "i64" else k.b.op("arith.cast", at, to="i64"), dtype)

    return place


def _each_lane(k: Kernel, mask: Lane, body: Callable[[Value], None]) -> None:
    """Runs `body` for every lane of the mask, in order."""
    lo: Int = 0
    hi: Int = k.width
    saved: Value | None = None
    if isinstance(mask, Range):
        lo = 0 if mask.lo is None else k.max(mask.lo, 0)
        hi = k.width if mask.hi is None else k.min(mask.hi, k.width)
    else:
        saved, _ = _save(k, k.vector(mask, "bool"), "mask")

    def step(lane: Value, _: list[Value]) -> list[Value]:
        def run() -> list[Value]:
            body(lane)
            return []

        if saved is None:
            return run()
        on = k.b.op("target.load", k.offset(saved, lane, "bool"), types=ScalarType("bool"), align=1)
        k.when(on, run, list)
        return []

    k.loop(lo, hi, 1, (), step)


def _collect(k: Kernel, dtype: str, mask: Lane, place: Callable[[Value], Value]) -> Value:
    size, vec = size_of(dtype), k.vec_type(dtype)
    found = _temporary(k, "value")
    if mask != ALL:
        k.b.emit("target.store", zero(k, vec), found, align=size)

    def body(lane: Value) -> None:
        value = k.b.op("target.load", place(lane), types=ScalarType(dtype), align=size)
        k.b.emit("target.store", value, k.offset(found, lane, dtype), align=size)

    _each_lane(k, mask, body)
    return k.b.op("target.load", found, types=vec, align=size)


def _spread(k: Kernel, value: Value, dtype: str, mask: Lane, place: Callable[[Value], Value]) -> None:
    size = size_of(dtype)
    saved, _ = _save(k, value, "value")

    def body(lane: Value) -> None:
        one = k.b.op("target.load", k.offset(saved, lane, dtype), types=ScalarType(dtype), align=size)
        k.b.emit("target.store", one, place(lane), align=size)

    _each_lane(k, mask, body)

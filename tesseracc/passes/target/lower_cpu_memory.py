"""Loads and stores of a group on a CPU: scalar, contiguous, or gathered, as the index allows."""

from __future__ import annotations

from collections.abc import Sequence

from tessera_runtime.core.errors import TesseraError
from tesseracc.ir.types import BufType, LanesType, ScalarType, size_of
from tesseracc.ir.value import Op, Value
from tesseracc.passes.target.lower_cpu_masked import (
    gather,
    masked_load,
    masked_store,
    scatter,
    update,
    update_one,
    zero,
)
from tesseracc.passes.target.lower_cpu_prefetch import prefetch, touch
from tesseracc.passes.target.lower_cpu_values import ALL, Affine, Buf, Int, Kernel, Lane, Range, Rep, Splat, Vec, wrap


def buffer(k: Kernel, value: Value) -> Buf:
    found = k.env[value]
    if not isinstance(found, Buf):
        raise TesseraError("E404", f"@{k.func.name}: {value!r} is not a buffer")
    return found


def flat_index(k: Kernel, buf: Buf, indices: Sequence[Rep]) -> Affine | Vec:
    """The element number: row-major over the dims; a per-lane buffer interleaves its lanes."""
    total: Affine | Vec = Affine(0)
    stride: Int = 1
    for rep, dim in reversed(list(zip(indices, buf.type.dims, strict=True))):
        total = _sum(k, total, _scaled(k, rep, stride))
        stride = k.mul(stride, k.dim(dim))
    if buf.type.space == "local":
        total = _sum(k, _scaled(k, total, k.width), Affine(0, 1))
    return total


def _scaled(k: Kernel, rep: Rep, by: Int) -> Affine | Vec:
    match rep:
        case Affine(base, stride):
            return Affine(k.mul(base, by), k.mul(stride, by))
        case Vec(value):
            return rep if by == 1 else Vec(k.b.op("arith.mul", value, k.vector(Affine(by), "i64")))
    raise TesseraError("E404", f"@{k.func.name}: an index is not an i64")


def _sum(k: Kernel, a: Affine | Vec, b: Affine | Vec) -> Affine | Vec:
    if isinstance(a, Affine) and isinstance(b, Affine):
        return Affine(k.add(a.base, b.base), k.add(a.stride, b.stride))
    if a == Affine(0) or b == Affine(0):
        return b if a == Affine(0) else a
    return Vec(k.b.op("arith.add", k.vector(a, "i64"), k.vector(b, "i64")))


def _split(k: Kernel, index: Affine | Vec) -> tuple[Int, Value]:
    """A scalar part and a vector of offsets; a known small stride is kept in 32 bits."""
    if isinstance(index, Vec):
        return 0, index.value
    if isinstance(index.stride, int) and abs(index.stride) * k.width < 1 << 31:
        lanes = k.b.op("target.iota", count=k.width, dtype="i32")
        offsets = k.b.op("arith.mul", lanes, k.constant(index.stride, "i32"))
        return index.base, offsets
    return index.base, k.vector(Affine(0, index.stride), "i64")


def load(k: Kernel, buf: Buf, index: Affine | Vec, where: Lane | None) -> Rep:
    """Elements of a buffer in the lanes of the mask; zeros where `where` is false."""
    dtype, size = buf.type.dtype, size_of(buf.type.dtype)
    mask = k.mask if where is None else k.meet(k.mask, where)
    if isinstance(index, Affine) and index.stride == 0:
        return _load_uniform(k, buf, index.base, where)
    vec = k.vec_type(dtype)
    if isinstance(index, Affine) and index.stride == 1:
        ptr = k.offset(buf.ptr, index.base, dtype)
        if mask == ALL:
            return Vec(k.b.op("target.load", ptr, types=vec, align=size))
        return Vec(masked_load(k, ptr, dtype, mask))
    k.gathers += 1
    base, offsets = _split(k, index)
    ptr = k.offset(buf.ptr, base, dtype)
    return Vec(gather(k, ptr, offsets, dtype, mask))


def _load_uniform(k: Kernel, buf: Buf, index: Int, where: Lane | None) -> Rep:
    """One element for all lanes; it is touched only if a lane asks for it."""
    dtype = buf.type.dtype
    type_ = ScalarType(dtype)

    def read() -> list[Value]:
        ptr = k.offset(buf.ptr, index, dtype)
        return [k.b.op("target.load", ptr, types=type_, align=size_of(dtype))]

    if where is None:
        return k.wrap_scalar(read()[0])
    (found,) = k.when(_asked(k, where), read, lambda: [zero(k, type_)])
    rep = k.wrap_scalar(found)
    if isinstance(where, Splat):
        return rep
    return k.merge(where, rep, Vec(zero(k, k.vec_type(dtype))), dtype)


def _asked(k: Kernel, where: Lane) -> Value | bool:
    """Whether some lane takes part, inside a region that some lane has entered."""
    return where.value if isinstance(where, Splat) else k.any(k.meet(k.mask, where))


def store(k: Kernel, buf: Buf, value: Rep, index: Affine | Vec, where: Lane | None) -> None:
    """Stores the lanes of the mask; a uniform value at a uniform index is stored once."""
    dtype, size = buf.type.dtype, size_of(buf.type.dtype)
    mask = k.mask if where is None else k.meet(k.mask, where)
    uniform = isinstance(value, Splat) or (isinstance(value, Affine) and value.stride == 0)
    if isinstance(index, Affine) and index.stride == 0 and uniform:
        # without `where` some lane takes part: regions are entered only then
        def write() -> list[Value]:
            k.b.emit("target.store", k.scalar(value), k.offset(buf.ptr, index.base, dtype), align=size)
            return []

        k.when(True if where is None else _asked(k, where), write, list)
        return
    if isinstance(index, Affine) and index.stride == 1:
        ptr = k.offset(buf.ptr, index.base, dtype)
        if mask == ALL:
            _store_vector(k, buf, k.vector(value, dtype), ptr, index.base)
        else:
            masked_store(k, k.vector(value, dtype), ptr, dtype, mask)
        return
    base, offsets = _split(k, index)
    ptr = k.offset(buf.ptr, base, dtype)
    scatter(k, k.vector(value, dtype), ptr, offsets, dtype, mask)


def _store_vector(k: Kernel, buf: Buf, value: Value, ptr: Value, index: Int) -> None:
    """A contiguous store; past the caches where the buffer is large and the address falls on a vector."""
    size = size_of(buf.type.dtype)
    native_bytes = k.arch.vector_bits // 8
    if buf.address is None or buf.large is None or (k.width * size) % native_bytes:
        k.b.emit("target.store", value, ptr, align=size)
        return
    k.bypasses = True
    place = k.add(buf.address, k.mul(index, size))
    rest = k.b.op("arith.and", k.value(place), k.b.const(native_bytes - 1))
    bypass = k.b.op("arith.and", buf.large, k.b.op("arith.cmp", rest, k.b.const(0), pred="eq"))

    def past() -> list[Value]:
        k.b.emit("target.store", value, ptr, align=native_bytes, nontemporal=True)
        return []

    def plain() -> list[Value]:
        k.b.emit("target.store", value, ptr, align=size)
        return []

    k.when(bypass, past, plain)


def _where(k: Kernel, op: Op) -> Lane | None:
    value = op.optional("where")
    if value is None:
        return None
    rep = k.env[value]
    assert isinstance(rep, (Affine, Splat, Range, Vec))
    return rep


def lower_load(k: Kernel, op: Op) -> Rep:
    buf = buffer(k, op["buf"])
    if k.touches:
        place = flat_index(k, buf, [k.env[v] for v in op.group("indices")])
        touch(k, buf, place)
        uniform = isinstance(place, Affine) and place.stride == 0
        nothing = zero(k, ScalarType(buf.type.dtype) if uniform else k.vec_type(buf.type.dtype))
        return k.wrap_scalar(nothing) if uniform else Vec(nothing)
    prefetch(k, op, buf, lambda indices: flat_index(k, buf, indices))
    return load(k, buf, flat_index(k, buf, [k.env[v] for v in op.group("indices")]), _where(k, op))


def lower_store(k: Kernel, op: Op) -> None:
    buf = buffer(k, op["buf"])
    store(k, buf, k.env[op["value"]], flat_index(k, buf, [k.env[v] for v in op.group("indices")]), _where(k, op))


def lower_update(k: Kernel, op: Op) -> None:
    """Threads share what the kernel is given, and nothing else: groups run on one each."""
    buf, kind = buffer(k, op["buf"]), op.attrs["kind"]
    index = flat_index(k, buf, [k.env[v] for v in op.group("indices")])
    own, dtype, value, where = buf.type.space != "global", buf.type.dtype, k.env[op["value"]], _where(k, op)
    if any(isinstance(v.type, LanesType) for v in op.operands):
        mask = k.mask if where is None else k.meet(k.mask, where)
        base, offsets = _split(k, index)
        update(k, kind, k.vector(value, dtype), k.offset(buf.ptr, base, dtype), offsets, dtype, mask, own)
        return
    assert isinstance(index, Affine)
    place = index.base

    def once() -> list[Value]:
        update_one(k, kind, k.scalar(value), k.offset(buf.ptr, place, dtype), own)
        return []

    k.when(True if where is None else _asked(k, where), once, list)


def lower_alloc(k: Kernel, op: Op) -> Rep:
    """Memory of the group in scratch; the dims are known numbers."""
    type_ = op.result.type
    assert isinstance(type_, BufType)
    count = k.width if type_.space == "local" else 1
    for dim in type_.dims:
        if not isinstance(dim, int):
            raise TesseraError("E404", f"@{k.func.name}: the size of {type_} is not known at compile time")
        count *= dim
    return Buf(k.reserve(wrap(count * size_of(type_.dtype))), type_)

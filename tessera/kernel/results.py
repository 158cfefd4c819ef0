"""What a kernel returns: parameters, scalars, tiles (rule R9)."""

from __future__ import annotations

from tessera.dtypes import DType, as_dtype
from tessera.kernel.loops import Reader
from tessera.kernel.operands import BufferRef, Static, held_type, is_expr, to_expr
from tessera.kernel.report import Report, fail
from tessera.kernel.scope import Bound, Poison, Unset
from tessera.kernel.signature import Signature
from tessera.kernel.syntax import Source
from tessera.kernel.tile_operands import Facts, TileOp
from tessera.kernel.tree import Buffer, Elem, Read, Result, Store
from tessera.types import TensorSpec

__all__ = ["results_of", "returned_values"]


def returned_values(reader: Reader) -> list[object]:
    count = reader.kernel_frame.env.get("return")
    if not isinstance(count, Static):
        return []
    assert isinstance(count.value, tuple)
    return [reader.kernel_frame.env.get(f"return.{k}") for k in range(count.value[1])]


def results_of(reader: Reader, signature: Signature, report: Report, source: Source) -> tuple[Result, ...]:
    """The results, and the stores of returned scalars to their buffers. Raises SourceError E213."""
    if not reader.returns:
        if isinstance(signature.returns, (DType, TensorSpec)):
            raise fail("E213", "the kernel declares a result and has no `return`", source.name_span())
        return ()
    given = [(span, value) for span, value in reader.returns if value is not None]
    if not given:
        return ()
    span = given[-1][0]
    binding = reader.kernel_frame.env.get("return")
    if isinstance(binding, Unset):
        if all(isinstance(value, BufferRef) for _, value in given) and len({value for _, value in given}) == 1:
            only = given[0][1]
            assert isinstance(only, BufferRef)
            reader.kernel_frame.env["return"], reader.kernel_frame.env["return.0"] = Static(("tuple", 1)), only
        else:
            raise fail("E213", "the paths of the kernel return different things, or some return nothing", span)
    results: list[Result] = []
    values = returned_values(reader)
    declared = (
        list(signature.returns)
        if isinstance(signature.returns, (tuple, list))
        else [signature.returns] * (len(values) == 1)
    )
    for at, value in enumerate(values):
        want = declared[at] if at < len(declared) else None
        match value:
            case BufferRef(buffer) if buffer.space == "global":
                if isinstance(want, DType):
                    raise fail(
                        "E213",
                        f"the kernel declares a scalar of type {want} and returns the tensor `{buffer.name}`",
                        span,
                    )
                results.append(Result(buffer.name, buffer, buffer.name))
            case BufferRef(buffer):
                raise fail(
                    "E213",
                    f"`{buffer.name}` is shared memory and cannot be returned",
                    span,
                    "return one of its elements, or store it to a parameter",
                )
            case Poison():
                return ()
            case Bound(var, _, Facts() as facts):
                if not isinstance(want, TensorSpec) or want.dtype is None or not signature.result_dims:
                    raise fail("E213", "a kernel that returns a tile declares the tensor that it is a block of", span,
                               'as in -> ts.Tensor["M", "N", ts.f32]')  # fmt: skip
                name = "out" if len(values) == 1 else f"out{at}"
                buffer = Buffer(name, signature.result_dims, want.dtype.base, "global", span,
                                declared=signature.result_declared)
                if "return" in signature.batched:
                    reader.batched |= {buffer.name}
                reader.store_output(buffer, TileOp(Read(var, span), facts), span)
                results.append(Result(buffer.name, buffer))
            case Bound() | Static() if isinstance(value, Bound) or is_expr(value):
                expr = Read(value.var, span) if isinstance(value, Bound) else to_expr(value, span)
                if isinstance(want, TensorSpec):
                    raise fail(
                        "E213",
                        f"the kernel declares a tensor and returns a scalar of type {held_type(expr).dtype}",
                        span,
                    )
                if not isinstance(expr.type, Elem) or expr.type.varying:
                    raise fail(
                        "E213",
                        "the returned scalar differs between the lanes of the group",
                        span,
                        "return a uniform value: an element of shared memory at a uniform index, or a group reduction",
                    )
                dtype = as_dtype(want) if want is not None else expr.type.dtype
                name = "out" if len(values) == 1 else f"out{at}"
                buffer = Buffer(name, (), dtype, "global", span)
                reader.out.append(Store(buffer, (), to_expr(expr, span, dtype), False, span))
                results.append(Result(name, buffer))
            case _:
                raise fail("E213", "the paths of the kernel return different things, or some return nothing", span)
    names = [r.name for r in results]
    for name in names:
        if names.count(name) > 1:
            raise fail("E213", f"`{name}` is returned twice", span)
    return tuple(results)

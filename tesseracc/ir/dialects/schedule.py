"""`schedule`: loop nests over whole tensors; one `schedule.group` becomes one kernel.

    %y = schedule.group {domain = [<N>]} (%i: i64) {
      %m = schedule.reduce {kind = "max", sizes = [<D>]} (%j: i64) { .. yield %v } : f32
      schedule.each {sizes = [<D>]} (%j: i64) { .. schedule.write %v, [%i, %j] {result = 0} }
    } : tensor<f32[N, D]>

The region of a group runs once per point of `domain`, in any order: it has one i64 argument per domain axis. Inside,
`arith` works on elements; `schedule.reduce` is an ordered reduction, `schedule.each` an inner parallel loop whose body
writes.
Each element of each result is written exactly once. Tensors of the outside are read element by element.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tessera.shapes import equal_if_divisible, product
from tessera_runtime.core.errors import TesseraError
from tesseracc.ir.define import define
from tesseracc.ir.types import BOOL, I64, ScalarType, TensorType, Type
from tesseracc.ir.value import Attr, Op, Value

REDUCTIONS = ("add", "mul", "max", "min", "and", "or", "argmax", "argmin")


def _indices(op: Op, tensor: Type) -> str | None:
    if not isinstance(tensor, TensorType):
        return "needs a tensor"
    if len(op.group("indices")) != len(tensor.dims):
        return f"{len(op.group('indices'))} indices for rank {len(tensor.dims)}"
    if any(v.type != I64 for v in op.group("indices")):
        return "indices must be i64"
    where = op.optional("where")
    return "`where` must be a bool" if where is not None and where.type != BOOL else None


def _check_group(op: Op) -> str | None:
    problem = _check_loop(op, len(op.attrs["domain"]))
    for write in op.walk():
        if problem is None and write.name == "schedule.write":
            problem = _check_write(write, op)
    return problem


def _check_write(write: Op, group: Op) -> str | None:
    number = write.attrs["result"]
    if not 0 <= number < len(group.results):
        return f"result {number} is written, of {len(group.results)}"
    tensor = group.results[number].type
    problem = _indices(write, tensor)
    if problem is None and write["value"].type != _read([group.results[number]], {})[0]:
        problem = f"{write['value'].type} is written to result {number}, {tensor}"
    return problem


def _read(operands: Sequence[Value], attrs: Mapping[str, Attr]) -> tuple[Type, ...]:
    tensor = operands[0].type
    if not isinstance(tensor, TensorType):
        raise TesseraError("E404", "needs a tensor")
    return (ScalarType(tensor.dtype),)


def _check_loop(op: Op, rank: int) -> str | None:
    args = op.regions[0].args
    if len(args) != rank or any(a.type != I64 for a in args):
        return f"the region needs {rank} i64 arguments"
    return None


def _check_reduce(op: Op) -> str | None:
    problem = _check_loop(op, len(op.attrs["sizes"]))
    if problem:
        return problem
    if op.attrs["kind"] not in REDUCTIONS:
        return f"unknown reduction `{op.attrs['kind']}`"
    (value,) = op.regions[0].yields or (None,)
    if value is None:
        return "the region must yield the element"
    expected = I64 if op.attrs["kind"].startswith("arg") else value.type
    return None if op.result.type == expected else f"the result should be {expected}"


def _check_view(op: Op) -> str | None:
    source, result = op["tensor"].type, op.result.type
    if not isinstance(source, TensorType) or not isinstance(result, TensorType) or source.dtype != result.dtype:
        return "source and result must be tensors of one element type"
    if equal_if_divisible(product(source.dims), product(result.dims)) is None:
        return f"{source} and {result} are not known to have equally many elements"
    return None


define(
    "schedule.group",
    attrs="domain:tuple plan:str=",
    regions=1,
    doc="One kernel: the region runs for every point of the domain. `plan` records scheduling decisions.",
    verify=_check_group,
)
define(
    "schedule.read",
    "tensor indices* where?",
    infer=_read,
    effect="read",
    verify=lambda op: _indices(op, op["tensor"].type),
    doc="An element; where `where` is false, 0 and no access.",
)
define(
    "schedule.write",
    "value indices* where?",
    "result:int",
    effect="write",
    doc="Writes an element of the group's result number `result`.",
)
define(
    "schedule.reduce",
    attrs="kind:str sizes:tuple",
    regions=1,
    effect="nest",
    verify=_check_reduce,
    doc="Ordered reduction over the box `sizes`; argmax and argmin give the first winner's index, NaN wins.",
)
define(
    "schedule.each",
    attrs="sizes:tuple",
    regions=1,
    effect="nest",
    verify=lambda op: _check_loop(op, len(op.attrs["sizes"])),
    doc="Inner loop over the box `sizes`, iterations independent.",
)
define(
    "schedule.view",
    "tensor",
    verify=_check_view,
    doc="(function level) The same elements in row-major order under another shape; an alias, never a copy.",
)
define("schedule.dim", attrs="expr:int|dim", infer=lambda v, at: (I64,), doc="The value of a dim expression.")
define("schedule.constant", attrs="name:str", doc="A named array of the module.")

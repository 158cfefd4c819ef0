"""`graph`: one operation per registered operator (`graph.matmul`, ...), attributes = the operator's fields.

Values are immutable tensors with symbolic dims. `graph.constant` names an array of the module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from tessera.shapes import Expr
from tessera_runtime.core.errors import TesseraError
from tesseracc.ir.define import AttrSpec, OpDef, Operand, define, resolve_with
from tesseracc.ir.types import TensorType, Type
from tesseracc.ir.value import Attr, Op, Value

if TYPE_CHECKING:
    from tessera import types as lang
    from tessera.operator import Operator

# The operator registry is imported on first use: kernels and IR tools do without it.

define("graph.constant", attrs="name:str", doc="A named array of the module.")


def to_lang(type_: Type) -> lang.TensorType:
    """The language's view of a tensor type."""
    from tessera import types as lang
    from tessera.dtypes import as_dtype

    assert isinstance(type_, TensorType)
    return lang.TensorType(type_.dims, as_dtype(type_.dtype))


def from_lang(type_: lang.TensorType) -> TensorType:
    """The IR's view of a language tensor type."""
    return TensorType(tuple(type_.dims), type_.dtype.name)


def operator_of(op: Op) -> Operator:
    """The operator that a graph operation stands for."""
    return operator_from(op.name.removeprefix("graph."), op.attrs)


def operator_from(name: str, attrs: Mapping[str, Attr]) -> Operator:
    from tessera.operator import registry

    return registry()[name](**attrs)


def attrs_of(operator: Operator) -> dict[str, Attr]:
    """An operator's fields as attributes."""
    return {f.name: getattr(operator, f.name) for f in fields(operator)}  # type: ignore[arg-type]


def _fits(value: Attr, kind: str) -> bool:
    """Whether an attribute is what the field's annotation says, such as `tuple[Dim, ...]` or `int | float`."""
    if " | " in kind:
        return any(_fits(value, part) for part in kind.split(" | "))
    if kind.startswith("tuple["):
        return isinstance(value, tuple) and all(_fits(item, kind[6:].removesuffix(", ...]")) for item in value)
    number = isinstance(value, int) and not isinstance(value, bool)
    return {
        "int": number, "bool": isinstance(value, bool), "str": isinstance(value, str),
        "float": number or isinstance(value, float), "Expr": isinstance(value, Expr),
        "Dim": number or isinstance(value, Expr),
    }[kind]  # fmt: skip


def _infer(cls: Any) -> Any:
    kinds = {f.name: str(f.type) for f in fields(cls)}

    def infer(operands: Sequence[Value], attrs: Mapping[str, Attr]) -> tuple[Type, ...]:
        for name, value in attrs.items():
            if name in kinds and not _fits(value, kinds[name]):
                raise TesseraError("E404", f"attribute `{name}` is {value!r}, expected {kinds[name]}")
        if not all(isinstance(v.type, TensorType) for v in operands):
            raise TesseraError("E404", "operands must be tensors")
        found = cls(**attrs).infer(*(to_lang(v.type) for v in operands))
        if not isinstance(found, tuple):
            found = (found,)
        return tuple(from_lang(type_) for type_ in found)

    return infer


def _resolve(name: str) -> OpDef | None:
    from tessera.operator import registry

    cls = registry().get(name.removeprefix("graph."))
    if cls is None:
        return None
    attrs: dict[str, AttrSpec] = {}
    for f in fields(cls):  # type: ignore[arg-type]
        required = f.default is MISSING and f.default_factory is MISSING
        attrs[f.name] = AttrSpec(("any",), required, None if required else f.default)
    doc = (cls.__doc__ or name).strip().splitlines()[0]
    return OpDef(name, (Operand("inputs", "*"),), attrs, infer=_infer(cls), doc=doc)


resolve_with("graph", _resolve)

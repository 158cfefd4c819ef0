"""The Operator protocol and its registry: the one place where an operator is described.

An operator is a frozen dataclass. Its fields are its attributes; its methods are its rules. Everything else - eager
execution, tracing, derivatives, lowering, tests, the table in the specification - is derived from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, Union

from tessera.arrays import Array
from tessera.elements import Element, Elements, Index, Read
from tessera.errors import SourceError, did_you_mean
from tessera.shapes import Dim
from tessera.types import TensorType

if TYPE_CHECKING:
    from typing_extensions import Self

    from tessera.tensor import Tensor

__all__ = ["Case", "Cotangents", "Operator", "REGISTRY", "Types", "lookup", "register", "registry", "rule_table"]

Types = Union[TensorType, "tuple[TensorType, ...]"]
Cotangents = tuple["Tensor | None", ...]

RULES = ("infer", "ref", "vjp", "jvp", "batch", "element", "compose", "cases")


@dataclass(frozen=True)
class Case:
    """An instance to test: the operator, input types (symbolic dims allowed) and where random values come from.

    `ranges` has (low, high) per input, or None for (-2, 2) (ints: -8..8). `sizes` bounds a symbol to (least, greatest);
    others range over 0..7. `smooth` is False when the values make derivatives by differences meaningless.
    """

    op: Operator
    inputs: tuple[TensorType, ...]
    ranges: tuple[tuple[float, float] | None, ...] = ()
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    smooth: bool = True

    def __str__(self) -> str:
        return f"{self.op}({', '.join(str(t) for t in self.inputs)})"


class Operator:
    """Base of all operators. Subclasses are frozen dataclasses, made known by `@register`.

    Attributes are int, float, bool, str, a size (Dim), None, or tuples of these; element types are given by name.
    Every subclass has `infer`, `ref`, and either `element` or `compose`; `vjp` and `jvp` unless `differentiable` is
    False. A rule that is missing raises E310, which names operator and rule.
    """

    name: ClassVar[str]
    differentiable: ClassVar[bool] = True
    # Inputs through which no derivative flows although the operator has one (indices, conditions).
    nondiff: ClassVar[tuple[int, ...]] = ()
    # What numeric policies act on (tessera.policies): whether results are rounded to a type, whether terms are added or
    # multiplied up, and whether these are products of two operands.
    rounds: ClassVar[bool] = False
    accumulates: ClassVar[bool] = False
    contracts: ClassVar[bool] = False

    def infer(self, *ins: TensorType) -> Types:
        """The type of the result, or of each result. Raises SourceError E3xx: operator, expected, found."""
        raise self.missing("infer")

    def ref(self, *ins: Array) -> Any:
        """The definition, in NumPy: widen, compute, round once to what `infer` says. Gives an array or a tuple."""
        raise self.missing("ref")

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        """For each input its cotangent, of the input's type, or None where none flows. Made of tessera operators."""
        raise self.missing("vjp")

    def jvp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], tangents: Cotangents) -> Any:
        """The tangent of the result (a tuple if there are several); a tangent of None stands for zero."""
        raise self.missing("jvp")

    def batch(self, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Any:
        """The results for a batch of `size`, in axis 0 of each: of the operands that are `batched` (one at least) it is
        axis 0 too, the others are one for all. For an operator without the rule ts.vmap runs it once per example."""
        raise self.missing("batch")

    def element(
        self, e: Elements, ins: tuple[TensorType, ...], idx: tuple[Index, ...], *reads: Read, out: int = 0,
    ) -> Element:
        """The element of output `out` at `idx`, in the dtype that `infer` gives."""
        raise self.missing("element")

    def compose(self, *xs: Tensor) -> Any:
        """The result in terms of other operators."""
        raise self.missing("compose")

    @classmethod
    def cases(cls) -> Iterable[Case]:
        """Instances for the tests that are derived from the registry."""
        raise SourceError("E310", f"operator {cls.name} has no rule `cases`", help="add it to the operator's class")

    def unrounded(self, dtype: str) -> Operator:
        """The operator that gives the result in `dtype` for operands of that type: itself, unless it names a type."""
        return self

    def missing(self, rule: str) -> SourceError:
        """The error for a rule that this operator lacks."""
        return SourceError("E310", f"operator {self.name} has no rule `{rule}`", help="add it to the operator's class")

    @classmethod
    def has(cls, rule: str) -> bool:
        """Whether the class, or a family it belongs to, defines the rule."""
        defined = getattr(cls, rule)
        return getattr(defined, "__func__", defined) is not getattr(
            getattr(Operator, rule), "__func__", getattr(Operator, rule))

    @property
    def attributes(self) -> dict[str, Any]:
        """The fields by name, in order: what IR text prints and what makes the operator again."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]

    def substitute(self, env: Mapping[str, Dim]) -> Self:
        """The operator with the symbols of `env` replaced in its attributes."""
        return replace(self, **{k: _substituted(v, env) for k, v in self.attributes.items()})  # type: ignore[type-var]

    def __str__(self) -> str:
        shown = ", ".join(f"{k}={v!r}" if isinstance(v, str) else f"{k}={v}" for k, v in self.attributes.items())
        return f"{self.name}{{{shown}}}" if shown else self.name


def _substituted(value: Any, env: Mapping[str, Dim]) -> Any:
    if isinstance(value, tuple):
        return tuple(_substituted(v, env) for v in value)
    return value.substitute(env) if hasattr(value, "substitute") else value


REGISTRY: dict[str, type[Operator]] = {}
"""Operators by name, in order of definition; importing `tessera` fills it."""

_O = TypeVar("_O", bound=type[Operator])


def register(cls: _O) -> _O:
    """Class decorator: make an operator known under its `name`."""
    if cls.name in REGISTRY and REGISTRY[cls.name].__qualname__ != cls.__qualname__:
        raise ValueError(f"two operators are called {cls.name!r}")
    REGISTRY[cls.name] = cls
    return cls


def registry() -> dict[str, type[Operator]]:
    """All operators by name, sorted."""
    return {name: REGISTRY[name] for name in sorted(REGISTRY)}


def lookup(name: str) -> type[Operator]:
    """The operator class of that name; SourceError E310 when there is none."""
    known = registry()
    if name not in known:
        raise SourceError("E310", f"no operator {name!r}", help=did_you_mean(name, known))
    return known[name]


def rule_table() -> str:
    """The table of specs/operators.md: each operator, its attributes, and which rules it has."""
    lines = ["| operator | attributes | " + " | ".join(RULES) + " |", "|---|---|" + "---|" * len(RULES)]
    for name, cls in registry().items():
        attributes = ", ".join(f.name for f in fields(cls))  # type: ignore[arg-type]
        marks = []
        for rule in RULES:
            derivative = rule in ("vjp", "jvp")
            marks.append("-" if derivative and not cls.differentiable else "yes" if cls.has(rule) else "")
        lines.append(f"| {name} | {attributes} | " + " | ".join(marks) + " |")
    return "\n".join(lines) + "\n"

"""Operation definitions: one row per operation, found by name.

A definition states the operand segments, the attributes with their kinds and defaults, the number of regions,
the effect, how result types follow from operands (`infer`), and what else must hold (`verify`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tessera_runtime.core.errors import TesseraError
from tesseracc.ir.types import Type
from tesseracc.ir.value import Attr, Op, Value

Infer = Callable[[Sequence[Value], Mapping[str, Attr]], tuple[Type, ...]]
Check = Callable[[Op], str | None]  # what is wrong, or None

#: what an operation does besides computing its results
EFFECTS = ("pure", "read", "write", "sync", "nest")  # nest: whatever its regions do


@dataclass(frozen=True, slots=True)
class Operand:
    """A segment: exactly one operand, any number (`*`), or at most one (`?`, printed behind its name)."""

    name: str
    arity: str = "1"


@dataclass(frozen=True, slots=True)
class AttrSpec:
    kinds: tuple[str, ...]  # int float bool str dim tuple
    required: bool = True
    default: Attr = None


@dataclass(frozen=True, slots=True)
class OpDef:
    name: str
    operands: tuple[Operand, ...] = ()
    attrs: Mapping[str, AttrSpec] = field(default_factory=dict)
    regions: int = 0
    effect: str = "pure"
    closed: bool = False  # regions see nothing but their arguments: passes run on them as on functions
    infer: Infer | None = None
    verify: Check | None = None
    doc: str = ""
    dialect: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dialect", self.name.partition(".")[0])
        object.__setattr__(self, "attrs", dict(sorted(self.attrs.items())))


_REGISTRY: dict[str, OpDef] = {}
_RESOLVERS: dict[str, Callable[[str], OpDef | None]] = {}


def parse_operands(text: str) -> tuple[Operand, ...]:
    """`"buf indices* where?"` -> segments."""
    found = []
    for word in text.split():
        arity = word[-1] if word[-1] in "*?" else "1"
        found.append(Operand(word.rstrip("*?"), arity))
    return tuple(found)


def parse_attrs(text: str) -> dict[str, AttrSpec]:
    """`"kind:str axis:int=0 value:int|float"` -> attribute specifications."""
    specs: dict[str, AttrSpec] = {}
    for word in text.split():
        name, _, rest = word.partition(":")
        kinds, eq, default = rest.partition("=")
        parsed: Attr = None
        if eq:
            parsed = {"true": True, "false": False, "()": ()}.get(default, default)
            if "int" in kinds.split("|"):
                parsed = int(default)
        specs[name] = AttrSpec(tuple(kinds.split("|")), not eq, parsed)
    return specs


def define(
    name: str,
    operands: str = "",
    attrs: str = "",
    *,
    regions: int = 0,
    effect: str = "pure",
    closed: bool = False,
    infer: Infer | None = None,
    verify: Check | None = None,
    doc: str,
) -> OpDef:
    """Registers one operation."""
    assert effect in EFFECTS, effect
    assert name not in _REGISTRY, f"{name} is defined twice"
    defn = OpDef(name, parse_operands(operands), parse_attrs(attrs), regions, effect, closed, infer, verify, doc)
    _REGISTRY[name] = defn
    return defn


def resolve_with(dialect: str, resolver: Callable[[str], OpDef | None]) -> None:
    """Lets a dialect define its operations on first use (the graph dialect mirrors the operator registry)."""
    _RESOLVERS[dialect] = resolver


def lookup(name: str) -> OpDef:
    """The definition of an operation. Raises E401 when there is none."""
    defn = _REGISTRY.get(name)
    if defn is None:
        resolver = _RESOLVERS.get(name.partition(".")[0])
        defn = resolver(name) if resolver else None
        if defn is None:
            raise TesseraError("E401", f"unknown operation `{name}`")
        _REGISTRY[name] = defn
    return defn


def definitions(dialect: str) -> list[OpDef]:
    """All definitions of a dialect that are registered so far, by name."""
    return sorted((d for d in _REGISTRY.values() if d.dialect == dialect), key=lambda d: d.name)

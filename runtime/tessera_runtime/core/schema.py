"""Strict, bounded JSON records: a value's codec checks type, range and length while decoding, and names the path.

A record is a class whose fields carry codecs (`field(codec)`). Decoding refuses missing and unknown keys.
The depth of a value is the depth of the schema, never that of the input. Everything wrong is E621.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tessera_runtime.core.errors import BundleError
from tessera_runtime.core.shapeexpr import I64_MAX, MAX_LENGTH

__all__ = [
    "Array", "Choice", "Codec", "Expression", "Extent", "Flag", "Integer", "Nested", "Nullable", "Record", "Tagged",
    "Text", "canonical", "field", "is_bounded", "parse_canonical", "record",
]  # fmt: skip

T = TypeVar("T")

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: object) -> Callable[[T], T]:
        """Types only: at run time it leaves the decorator as it is."""
        return lambda function: function


class Codec(Protocol):
    """Translates between a JSON value and its Python form."""

    def decode(self, value: Any, path: str) -> Any:
        """The Python form of a JSON value; E621 when it is not of this kind."""

    def encode(self, value: Any) -> Any:
        """The JSON value."""


def bad(path: str, message: str) -> BundleError:
    """E621 about the field at `path`."""
    return BundleError("E621", f"manifest field {path or 'root'}: {message}")


def shown(value: object) -> str:
    text = json.dumps(value) if isinstance(value, (str, int, bool, type(None))) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


#: Text without control characters but tab and line feed, which terminals would obey, and without lone surrogates
PLAIN = r"[^\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]*"


class Text:
    """A string of at most `limit` characters that matches `pattern`."""

    def __init__(self, limit: int = 1024, pattern: str = PLAIN) -> None:
        self.limit = limit
        self.pattern = re.compile(pattern, re.ASCII)

    def decode(self, value: Any, path: str) -> str:
        if not isinstance(value, str):
            raise bad(path, f"{shown(value)} is not a string")
        if len(value) > self.limit:
            raise bad(path, f"longer than {self.limit} characters")
        if self.pattern.fullmatch(value) is None:
            raise bad(path, f"{shown(value)} is not of the form {self.pattern.pattern}")
        return value

    def encode(self, value: str) -> str:
        return value


class Integer:
    """An integer between `low` and `high`."""

    def __init__(self, low: int = 0, high: int = I64_MAX) -> None:
        self.low, self.high = low, high

    def decode(self, value: Any, path: str) -> int:
        if type(value) is not int:
            raise bad(path, f"{shown(value)} is not an integer")
        if not self.low <= value <= self.high:
            raise bad(
                path, f"{value if abs(value) <= 10 * I64_MAX else 'a huge integer'} is not in {self.low}..{self.high}"
            )
        return value

    def encode(self, value: int) -> int:
        return int(value)


class Flag:
    """true or false."""

    def decode(self, value: Any, path: str) -> bool:
        if not isinstance(value, bool):
            raise bad(path, f"{shown(value)} is not true or false")
        return value

    def encode(self, value: bool) -> bool:
        return bool(value)


class Choice:
    """One of a few strings."""

    def __init__(self, *values: str) -> None:
        self.values = values

    def decode(self, value: Any, path: str) -> str:
        if not isinstance(value, str) or value not in self.values:
            raise bad(path, f"{shown(value)} is not one of {', '.join(self.values)}")
        return value

    def encode(self, value: str) -> str:
        return value


class Array:
    """A list of `least` to `limit` items; a tuple in Python."""

    def __init__(self, item: Codec, limit: int, least: int = 0) -> None:
        self.item, self.limit, self.least = item, limit, least

    def decode(self, value: Any, path: str) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise bad(path, f"{shown(value)} is not a list")
        if not self.least <= len(value) <= self.limit:
            raise bad(path, f"{len(value)} items; between {self.least} and {self.limit} are allowed")
        return tuple(self.item.decode(item, f"{path}[{index}]") for index, item in enumerate(value))

    def encode(self, value: Any) -> list[Any]:
        return [self.item.encode(item) for item in value]


class Nullable:
    """A value or null."""

    def __init__(self, item: Codec) -> None:
        self.item = item

    def decode(self, value: Any, path: str) -> Any:
        return None if value is None else self.item.decode(value, path)

    def encode(self, value: Any) -> Any:
        return None if value is None else self.item.encode(value)


class Expression:
    """A postfix shape expression: a list of integers and words. `shapeexpr.validate` checks it against the symbols."""

    def decode(self, value: Any, path: str) -> tuple[int | str, ...]:
        if not isinstance(value, list) or not 0 < len(value) <= MAX_LENGTH:
            raise bad(path, f"{shown(value)} is not a postfix expression of at most {MAX_LENGTH} items")
        for item in value:
            if type(item) is not int and (not isinstance(item, str) or len(item) > 64):
                raise bad(path, f"{shown(item)} does not belong into a shape expression")
            if type(item) is int and not -I64_MAX <= item <= I64_MAX:
                raise bad(path, "an integer beyond 64 bits")
        return tuple(value)

    def encode(self, value: Any) -> list[int | str]:
        return list(value)


class Extent:
    """An extent: a non-negative integer, or a postfix expression."""

    _integer = Integer()
    _expression = Expression()

    def decode(self, value: Any, path: str) -> int | tuple[int | str, ...]:
        return self._expression.decode(value, path) if isinstance(value, list) else self._integer.decode(value, path)

    def encode(self, value: Any) -> int | list[int | str]:
        return int(value) if isinstance(value, int) else list(value)


MAX_DEPTH = 16  # levels of nesting
MAX_VALUES = 1 << 21

_REQUIRED: Any = object()


class _Field:
    """What `field` leaves in a class body for `record` to collect."""

    __slots__ = ("codec", "default", "sparse")

    def __init__(self, codec: Codec, default: Any, sparse: bool) -> None:
        self.codec, self.default, self.sparse = codec, default, sparse


def field(codec: Codec, *, default: Any = _REQUIRED, sparse: bool = False) -> Any:
    """A field of a record: its codec and, if it may be left out when the record is made in Python, its default.

    The key of a `sparse` field is there exactly where its value is not the default: so a format grows by keys that
    older files do not have, and everything still has one spelling.
    """
    return _Field(codec, default, sparse)


class Record:
    """Base of records: immutable, compared by value. Subclasses are made by `record`, every field by `field`.

    They behave as frozen dataclasses do, without the code generation, which would cost more than all else at start-up.
    """

    _codecs: dict[str, Codec]
    _defaults: dict[str, Any]
    _sparse: frozenset[str]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        cls = type(self)
        given = dict(zip(cls._codecs, args, strict=False))
        values = {**cls._defaults, **given, **kwargs}
        if len(args) > len(cls._codecs) or given.keys() & kwargs.keys() or values.keys() != cls._codecs.keys():
            raise TypeError(f"{cls.__name__} takes {', '.join(cls._codecs)}")
        self.__dict__.update(values)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def _values(self) -> tuple[Any, ...]:
        return tuple(self.__dict__[name] for name in self._codecs)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, Record) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), self._values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={self.__dict__[k]!r}' for k in self._codecs)})"

    @classmethod
    def codecs(cls) -> dict[str, Codec]:
        """Field name -> codec, in order of declaration."""
        return cls._codecs

    @classmethod
    def sparse(cls) -> frozenset[str]:
        """The fields whose keys are left out where they have their default."""
        return cls._sparse

    @classmethod
    def decode(cls, value: Any, path: str = "") -> Any:
        """The record that a JSON object describes; E621 otherwise."""
        if not isinstance(value, dict):
            raise bad(path, f"{shown(value)} is not an object")
        codecs = cls._codecs
        if value.keys() != codecs.keys():
            missing, unknown = sorted(codecs.keys() - value.keys() - cls._sparse), sorted(value.keys() - codecs.keys())
            if missing or unknown:
                raise bad(path, f"lacks '{missing[0]}'" if missing else f"has the unknown key {shown(unknown[0])}")
        prefix = f"{path}." if path else ""
        found = {name: codecs[name].decode(value[name], prefix + name) for name in codecs if name in value}
        for name in cls._sparse & found.keys():
            if found[name] == cls._defaults[name]:
                raise bad(prefix + name, "is spelled out, and has the value that it has without")
        return cls(**found)

    def encode(self) -> dict[str, Any]:
        """The JSON object."""
        values = {name: getattr(self, name) for name in self._codecs}
        kept = (name for name in values if name not in self._sparse or values[name] != self._defaults[name])
        return {name: self._codecs[name].encode(values[name]) for name in kept}


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """Class decorator: collects the fields of a record in order of declaration."""
    found = {name: value for name, value in vars(cls).items() if isinstance(value, _Field)}
    for name in found:
        delattr(cls, name)
    assert issubclass(cls, Record)
    cls._codecs = {name: value.codec for name, value in found.items()}
    cls._defaults = {name: value.default for name, value in found.items() if value.default is not _REQUIRED}
    cls._sparse = frozenset(name for name, value in found.items() if value.sparse)
    return cls


class Nested:
    """A record inside another."""

    def __init__(self, cls: type[Record]) -> None:
        self.cls = cls

    def decode(self, value: Any, path: str) -> Any:
        return self.cls.decode(value, path)

    def encode(self, value: Record) -> dict[str, Any]:
        return value.encode()


class Tagged:
    """One of several records, told apart by the string under `op`."""

    def __init__(self, kinds: Mapping[str, type[Record]]) -> None:
        self.kinds = dict(kinds)
        self.names = {cls: name for name, cls in kinds.items()}

    def decode(self, value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            raise bad(path, f"{shown(value)} is not an object")
        kind = value.get("op")
        if not isinstance(kind, str) or kind not in self.kinds:
            raise bad(f"{path}.op", f"{shown(kind)} is not one of {', '.join(self.kinds)}")
        return self.kinds[kind].decode({k: v for k, v in value.items() if k != "op"}, path)

    def encode(self, value: Record) -> dict[str, Any]:
        return {"op": self.names[type(value)], **value.encode()}


def canonical(value: object) -> bytes:
    """The one spelling of a JSON value: keys sorted, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


_STRING = re.compile(rb'"[^"]*"')
_LONG_NUMBER = re.compile(rb"[0-9]{40}")
_PAIR = re.compile(rb"\[\]|\{\}")
_EXCEPT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def is_bounded(data: bytes) -> bool:
    """Whether a text is shallow and small enough for a parser that recurses and allocates; looks without parsing."""
    plain = data.replace(b"\\\\", b"").replace(b'\\"', b"")  # every quote that is left begins or ends a string
    if plain.count(b'"') > 2 * MAX_VALUES:
        return False
    bare = _STRING.sub(b"0", plain)
    if bare.count(b",") > MAX_VALUES or _LONG_NUMBER.search(bare) is not None:
        return False
    brackets = bare.translate(None, _EXCEPT_BRACKETS)
    if len(brackets) > 2 * MAX_VALUES:
        return False
    for _ in range(MAX_DEPTH):
        brackets = _PAIR.sub(b"", brackets)
    return not brackets


def parse_canonical(data: bytes) -> Any:
    """The value whose canonical spelling `data` is; E620 for anything else."""
    if not is_bounded(data):
        raise BundleError(
            "E620", f"the manifest is not JSON of at most {MAX_DEPTH} levels, {MAX_VALUES} values and 39 digits"
        )

    def refuse(text: str) -> Any:
        raise ValueError(f"number {text[:40]} is not an integer")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("duplicate key")
        return result

    parse: Callable[..., Any] = json.loads
    try:
        value = parse(data.decode("ascii"), parse_float=refuse, parse_constant=refuse, object_pairs_hook=unique)
        same = canonical(value) == data
    except (ValueError, RecursionError) as error:
        raise BundleError("E620", f"the manifest is not canonical JSON: {str(error)[:120]}") from error
    if not same:
        raise BundleError("E620", "the manifest is JSON, but not in its canonical spelling")
    return value

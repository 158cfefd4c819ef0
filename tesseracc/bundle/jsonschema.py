"""The manifest's records as a JSON schema (draft 2020-12), for readers that are not ours: specs/bundle.schema.json."""

from __future__ import annotations

import inspect
import json
from typing import Any

from tessera_runtime.core import manifest as m
from tessera_runtime.core import schema as s
from tessera_runtime.core.shapeexpr import I64_MAX, MAX_LENGTH

__all__ = ["schema_document"]

Schema = dict[str, Any]


def schema_document() -> str:
    """The text of specs/bundle.schema.json."""
    definitions: dict[str, Schema] = {}
    _record(m.Manifest, definitions)
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "manifest.json of a Tessera bundle",
        "description": "Generated from the manifest's types (`make bless` rewrites it). See bundle.md for what it "
        "cannot say.",
        "$ref": "#/$defs/Manifest",
        "$defs": dict(sorted(definitions.items())),
    }
    return json.dumps(document, indent=1) + "\n"


def _record(cls: type[s.Record], definitions: dict[str, Schema], **first: Schema) -> None:
    if cls.__name__ in definitions:
        return
    definitions[cls.__name__] = {}  # keeps its place; records do not contain themselves
    properties = {**first, **{name: _codec(codec, definitions) for name, codec in cls.codecs().items()}}
    definitions[cls.__name__] = {
        "description": inspect.cleandoc(cls.__doc__ or ""),
        "type": "object",
        "properties": properties,
        "required": sorted(properties.keys() - cls.sparse()),
        "additionalProperties": False,
    }


def _reference(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _codec(codec: s.Codec, definitions: dict[str, Schema]) -> Schema:
    match codec:
        case s.Text():
            return {"type": "string", "maxLength": codec.limit, "pattern": f"^(?:{codec.pattern.pattern})$"}
        case s.Integer():
            return {"type": "integer", "minimum": codec.low, "maximum": codec.high}
        case s.Flag():
            return {"type": "boolean"}
        case s.Choice():
            return {"enum": list(codec.values)}
        case s.Array():
            items = _codec(codec.item, definitions)
            return {"type": "array", "items": items, "minItems": codec.least, "maxItems": codec.limit}
        case s.Nullable():
            return {"anyOf": [_codec(codec.item, definitions), {"type": "null"}]}
        case s.Nested():
            _record(codec.cls, definitions)
            return _reference(codec.cls.__name__)
        case s.Tagged():
            for name, cls in codec.kinds.items():
                _record(cls, definitions, op={"const": name})
            return {"anyOf": [_reference(cls.__name__) for cls in codec.kinds.values()]}
        case s.Expression():
            item = {"anyOf": [{"type": "integer", "minimum": -I64_MAX, "maximum": I64_MAX},
                              {"type": "string", "maxLength": 64}]}  # fmt: skip
            definitions["Expression"] = {
                "description": "A shape expression in postfix order.",
                "type": "array", "items": item, "minItems": 1, "maxItems": MAX_LENGTH,
            }  # fmt: skip
            return _reference("Expression")
        case s.Extent():
            integer = _codec(s.Integer(), definitions)
            return {"anyOf": [integer, _codec(s.Expression(), definitions)]}
    raise TypeError(f"no schema for {type(codec).__name__}")

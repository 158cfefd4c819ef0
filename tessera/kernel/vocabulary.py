"""The words of the kernel language: functions on elements, and the operations of `ts.tile`.

Words are found by name, so that `ts.exp`, `ts.tile.exp` and `math.exp` mean the same on an element. The table says
what each needs; `expressions.py` gives it its meaning.
"""

from __future__ import annotations

import builtins
import math
from dataclasses import dataclass
from types import ModuleType

from tessera.dtypes import DType
from tessera.errors import did_you_mean

__all__ = ["Namespace", "TILE", "Word", "attribute", "known_words", "word_of"]


@dataclass(frozen=True)
class Word:
    """A word of the language; `shown` is how the user spelled it, `dtype` what stands in brackets behind it."""

    name: str
    shown: str
    dtype: DType | None = None


@dataclass(frozen=True)
class Namespace:
    """`ts`, `ts.tile` or `tshared` itself."""

    name: str


@dataclass(frozen=True)
class Config:
    """What `ts.tile.context()` gives: schedule parameters and dims by name."""


#: functions of one float element: word -> arith operation
UNARY = {
    name: name
    for name in (
        "exp", "exp2", "expm1", "log", "log2", "log1p", "sqrt", "rsqrt", "tanh", "erf", "sin", "cos", "floor", "ceil",
        "trunc", "round",
    )
}  # fmt: skip

#: other functions of elements
ELEMENT = frozenset({"abs", "maximum", "minimum", "max", "min", "where", "cast", "isnan", "sigmoid", "relu", "pow"})

#: atomic updates of an element or a slice of memory
ATOMIC_WORDS = frozenset(f"atomic_{op}" for op in ("add", "sub", "min", "max", "and", "or", "xor"))

#: operations that exist in `ts.tile` only
TILE = frozenset({
    "linear_id", "group_id", "lane_id", "local_id", "warp_id", "group_size", "group_tile_count",
    "group_linear_id", "range", "grid_stride_range", "alloc_shared", "barrier", "shuffle", "dropout",
    "reduce_sum", "reduce_max", "reduce_min", "alloc_register", "zeros", "full", "fill", "arange", "context", "load",
    "store", "load_vector", "store_vector", "cp_async", "load_async", "tma_load_async",
    "cp_commit_group", "cp_wait_group", "mma", "matmul", "dot", "transpose",
    "row_max", "row_sum", "row_min", "col_max", "col_sum", "col_min", "sum",
    "broadcast", "scale", "causal_mask", "apply_causal_mask", "online_softmax", "update_accumulator",
    *ATOMIC_WORDS,
})  # fmt: skip

#: words whose first argument is a place, not a value
PLACES = frozenset({"load", "store", "load_vector", "store_vector", "fill", "update_accumulator", *ATOMIC_WORDS})

#: words that mean the same on every element of a tile
ELEMENTWISE = ELEMENT | {"int", "float", "bool", "int_floor", "int_ceil", "python_round"}

#: operations of a group that name a tile: a loop around them is not shared by lanes
COLLECTIVE = TILE - ATOMIC_WORDS - {
    "linear_id", "group_id", "group_linear_id", "group_size", "group_tile_count", "range", "dropout",
}  # fmt: skip

#: words of other tile languages that this one leaves to the compiler, or refuses, and what to write instead
REFUSED = {
    "create_tma_descriptor": "tensor copies are formed from `cp_async` and from loads, and bring their descriptors",
    "create_mbarrier": "the compiler makes the mbarriers of its copies: write cp_async and cp_wait_group",
    "tbarrier": "write ts.tile.barrier(); the compiler makes the mbarriers of its copies",
    "alloc_distributed_shared": "write ts.tile.alloc_shared; blocks that load the same tile share it by multicast",
    "set_persistent_kernel": 'write @ts.kernel(grid=...) and a loop over ts.tile.grid_stride_range(...)',
    "cluster_range": "write ts.tile.range or grid_stride_range; the compiler pairs blocks that load the same tiles",
    "cluster_rank": "write ts.tile.group_id(); the compiler pairs blocks that load the same tiles",
    "atomic_exchange": "which value stays depends on the order of lanes: let one lane store it",
    "atomic_cas": "what it finds depends on the order of lanes: write atomic_min or atomic_max, or let one lane store",
}  # fmt: skip

#: where the words are listed
KNOWN = "specs/kernel.md lists the words of kernels; anything else stands in a function, outside of the kernel"

#: words of tiles that `ts` has too
_BOTH = frozenset({"sum", "matmul", "zeros", "full", "arange", "transpose"})

#: Python's own functions
_BUILTINS: dict[object, str] = {
    builtins.min: "min", builtins.max: "max", builtins.abs: "abs", builtins.range: "python_range", builtins.len: "len",
    builtins.pow: "pow", builtins.round: "python_round", builtins.int: "int", builtins.float: "float",
    builtins.bool: "bool",
    builtins.isinstance: "unsupported", builtins.print: "unsupported",
}  # fmt: skip
_MATH = {
    "exp": "exp", "expm1": "expm1", "log": "log", "log2": "log2", "log1p": "log1p", "sqrt": "sqrt", "tanh": "tanh",
    "erf": "erf",
    "sin": "sin", "cos": "cos", "fabs": "abs", "pow": "pow", "isnan": "isnan", "exp2": "exp2",
    "floor": "int_floor", "ceil": "int_ceil", "trunc": "int",
}  # fmt: skip
_MATH_FUNCTIONS: dict[object, str] = {getattr(math, name): word for name, word in _MATH.items() if hasattr(math, name)}


def word_of(value: object) -> Word | None:
    """The word for a Python function that kernels know: a built-in or one of `math`."""
    try:
        if value in _BUILTINS:
            name = _BUILTINS[value]
            return Word(name, getattr(value, "__name__", name))
        if value in _MATH_FUNCTIONS:
            return Word(_MATH_FUNCTIONS[value], f"math.{value.__name__}")  # type: ignore[attr-defined]
    except TypeError:  # unhashable
        return None
    return None


def namespace_of(module: ModuleType) -> Namespace | None:
    """`ts` or `ts.tile` for the module of that name."""
    return Namespace(module.__name__) if module.__name__ in ("tessera", "tessera.tile") else None


def attribute(space: Namespace, name: str) -> Word | Namespace | None:
    """What `ts.<name>` or `ts.tile.<name>` is in a kernel; None when it is no word of the kernel language."""
    if space.name == "tshared":
        return Word("alloc_shared", "tshared.alloc") if name == "alloc" else None
    if space.name == "tessera":
        if name == "tile":
            return Namespace("tessera.tile")
        return Word(name, f"ts.{name}") if name in UNARY or name in ELEMENT or name in _BOTH else None
    if name in TILE or name in UNARY or name in ELEMENT:
        return Word(name, f"ts.tile.{name}")
    return None


def known_words(space: Namespace) -> list[str]:
    """The words of a namespace, for suggestions."""
    words = {*UNARY, *ELEMENT}
    if space.name == "tshared":
        return ["alloc"]
    return sorted(words if space.name == "tessera" else words | TILE)


def suggestion(space: Namespace, name: str) -> str:
    """A help line for an unknown word."""
    if space.name == "tessera.tile" and name in REFUSED:
        return REFUSED[name]
    return did_you_mean(name, known_words(space)) or KNOWN

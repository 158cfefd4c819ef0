"""The steps of a plan, as the manifest writes them: launches, copies, branches, loops."""

from __future__ import annotations

from typing import TypeAlias

from tessera_runtime.core.schema import (
    Array,
    Extent,
    Flag,
    Integer,
    Nested,
    Nullable,
    Record,
    Text,
    field,
    record,
)  # fmt: skip

__all__ = [
    "MAX_STEPS", "STEPS", "Arg", "Branch", "Copy", "Dim", "Launch", "Loop", "Put", "Repeat", "Step", "Take", "When",
]  # fmt: skip

MAX_STEPS = 1 << 18

Dim: TypeAlias = "int | tuple[int | str, ...]"

_Identifier = Text(256, r"[A-Za-z_][A-Za-z0-9_]*")
_Index = Integer(0, 1 << 20)
_Steps = Integer(0, MAX_STEPS)


@record
class Arg(Record):
    """One argument of a launch: a plan buffer's index, an extent, or a scalar input's name; exactly one is set."""

    buffer: int | None = field(Nullable(_Index), default=None)
    dim: Dim | None = field(Nullable(Extent()), default=None)
    scalar: str | None = field(Nullable(_Identifier), default=None)


@record
class Launch(Record):
    """Run a kernel over a grid of groups (x, y, z); an empty grid is not launched. `dynamic_shared` is in bytes."""

    kernel: int = field(_Index)
    grid: tuple[Dim, ...] = field(Array(Extent(), 3, 3))
    args: tuple[Arg, ...] = field(Array(Nested(Arg), 4096))
    dynamic_shared: Dim = field(Extent(), default=0)


@record
class Copy(Record):
    """Copy the bytes of one plan buffer to another of the same byte size."""

    src: int = field(_Index)
    dst: int = field(_Index)


@record
class Take(Record):
    """In step i of the innermost repeat: copy row i of `src` to `dst`; from the last row on if `reverse`."""

    src: int = field(_Index)
    dst: int = field(_Index)
    reverse: bool = field(Flag(), default=False)


@record
class Put(Record):
    """In step i of the innermost repeat: copy `src` to row i of `dst`; from the last row on if `reverse`."""

    src: int = field(_Index)
    dst: int = field(_Index)
    reverse: bool = field(Flag(), default=False)


@record
class Branch(Record):
    """Run the next `then` steps if the buffer `on` holds true, else the `other` steps behind them."""

    on: int = field(_Index)
    then: int = field(_Steps)
    other: int = field(_Steps)


@record
class When(Record):
    """Decided by the call's extents: run the next `then` steps if `unless` is 0, else the `other` steps behind them."""

    unless: Dim = field(Extent())
    then: int = field(_Steps)
    other: int = field(_Steps)


@record
class Repeat(Record):
    """Run the next `body` steps `count` times."""

    count: Dim = field(Extent())
    body: int = field(_Steps)


@record
class Loop(Record):
    """Run the next `head` steps; while the buffer `on` then holds true, the `body` steps behind and `head` again."""

    on: int = field(_Index)
    head: int = field(_Steps)
    body: int = field(_Steps)


Step: TypeAlias = "Launch | Copy | Take | Put | Branch | When | Repeat | Loop"
STEPS = {
    "launch": Launch, "copy": Copy, "take": Take, "put": Put, "branch": Branch, "when": When,
    "repeat": Repeat, "loop": Loop,
}  # fmt: skip

"""`ts.dim`: a size by name, and which of its values are usual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tessera.errors import SourceError

__all__ = ["Bound", "NamedDim", "dim"]


@dataclass(frozen=True)
class Bound:
    """`low` <= size <= `high` (None: without end), and `multiple` divides it."""

    name: str
    low: int = 0
    high: int | None = None
    multiple: int = 1

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.name} = {self.low}"
        parts = [f"{self.name} >= {self.low}"] if self.low else []
        parts += [f"{self.name} <= {self.high}"] if self.high is not None else []
        parts += [f"{self.name} % {self.multiple} = 0"] if self.multiple > 1 else []
        return ", ".join(parts) or f"any {self.name}"


class NamedDim(str):
    """The name of a size, as in an annotation, with its bound."""

    bound: Bound


def dim(name: str, *, min: int = 0, max: int | None = None, multiple_of: int = 1) -> Any:
    """A size for annotations, `ts.Tensor[ts.dim("S", max=8192, multiple_of=64), ts.f32]`, as the name alone is.

    What is said of it makes the compiler add code for sizes like that, which a call takes where it fits; other sizes
    run the general code. Nothing is refused.
    """
    whole = all(isinstance(v, int) and not isinstance(v, bool) for v in (min, multiple_of, 0 if max is None else max))
    if not isinstance(name, str) or not name.isidentifier():
        raise SourceError("E306", f"{name!r} is not the name of a dim", help='write for example ts.dim("S", max=8192)')
    if not whole or min < 0 or multiple_of < 1 or (max is not None and max < min):
        raise SourceError("E306", f"no dim {name} has min={min!r}, max={max!r}, multiple_of={multiple_of!r}",
                          help="ints with 0 <= min <= max and multiple_of >= 1")
    made = NamedDim(name)
    made.bound = Bound(name, min, max, multiple_of)
    return made

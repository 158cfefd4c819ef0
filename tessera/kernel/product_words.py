"""Products of tiles: `mma` and its other names, and how precise their operands are taken."""

from __future__ import annotations

from tessera.dtypes import DType, bf16, f16, f32
from tessera.errors import Span
from tessera.kernel.operands import Args, Kwargs, Operand, Static, describe
from tessera.kernel.report import fail
from tessera.kernel.tile_operands import TileOp, cast_tile
from tessera.kernel.tile_words import TileWords
from tessera.kernel.tree import Unary

__all__ = ["ProductWords"]

_PRECISIONS = ("f32", "tf32", "bf16", "f16")


class ProductWords(TileWords):
    """mma, matmul, dot."""

    def word_mma(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        """mma(a, b, accumulator=, precision=): `accumulator` is an element type or a tile."""
        self.collective(name, span)
        for old in ("accum", "acc"):
            if old in kwargs:
                kwargs["accumulator"] = kwargs.pop(old)
        a, b, acc, precision = self.bind(name, "a b accumulator= precision=", args, kwargs, span)
        start: TileOp | DType | None = None
        if isinstance(acc, Static) and isinstance(acc.value, DType):
            start = acc.value
        elif self.is_tile(acc):
            start = self.tile(acc, span)
        elif acc != Static(None):
            raise fail("E218", f"the accumulator of `{name}` is an element type or a tile, not {describe(acc)}", span)
        left, right = (self._precise(self.tile(x, span), precision, name, span) for x in (a, b))
        return self.mma(left, right, start, span)

    word_matmul = word_mma
    word_dot = word_mma

    def _precise(self, tile: TileOp, precision: Operand, name: str, span: Span) -> TileOp:
        """An f32 operand rounded to what `precision=` says; narrower ones have that precision already."""
        wanted = precision.value if isinstance(precision, Static) else "?"
        wanted = wanted.base.name if isinstance(wanted, DType) else wanted
        if wanted is not None and wanted not in _PRECISIONS:
            raise fail("E218", f"`precision` of `{name}` is {', '.join(_PRECISIONS)}, not {describe(precision)}", span)
        if wanted in (None, "f32") or tile.dtype.base != f32:
            return tile
        if wanted == "tf32":
            return TileOp(Unary("round_tf32", tile.expr, tile.type, span), tile.facts)
        return cast_tile(tile, {"bf16": bf16, "f16": f16}[str(wanted)], span)

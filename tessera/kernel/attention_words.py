"""The words of attention, made of other words: causal_mask, online_softmax, update_accumulator."""

from __future__ import annotations

import ast
import math
from dataclasses import replace

from tessera.dtypes import bool_, f32, i32, i64
from tessera.errors import Span
from tessera.kernel.lane_words import LaneWords
from tessera.kernel.operands import NOT_ELEMENTS, Args, Items, Kwargs, Operand, Static, arithmetic, compare, to_expr
from tessera.kernel.report import fail
from tessera.kernel.tile_operands import Facts, TileOp, cast_tile, spread
from tessera.kernel.tree import Binary, Compare, Const, Elem, Expr, Iota, Splat, TileType, Unary, Where

__all__ = ["AttentionWords"]



class AttentionWords(LaneWords):
    """Each is what the user would write with the words of tiles."""

    def call_update_accumulator(self, node: ast.Call, name: str) -> Operand:
        """update_accumulator(acc, v, m_old, m_new, l_old, l_new): acc = exp(m_old - m_new) * acc + v.

        The sums l are not needed: v was made with p = exp(scores - m_new), which is not normalised. A row that has seen
        nothing yet (m_new is -inf) keeps its value.
        """
        span = self.span(node)
        if not 4 <= len(node.args) <= 6 or node.keywords:
            raise fail("E218", f"`{name}` takes acc, v, m_old, m_new, l_old, l_new", span)
        target, _ = self._register(node, name)
        acc = self.tile(self.expr(node.args[0]), span)
        value, old, new = (self.tile(self.expr(a), span) for a in node.args[1:4])
        alpha = self.unary_tile("exp", self.tiled("sub", old, self._finite(new, span), span), span)
        scaled = self.tiled("mul", acc, alpha, span)
        self.bind_name(target, self.tiled("add", scaled, value, span), span, True)
        return Static(None)

    def tiled(self, op: str, a: Operand, b: Operand, span: Span) -> TileOp:
        result = self.lift([a, b], lambda v: arithmetic(op, v[0], v[1], span), span)
        assert isinstance(result, TileOp)
        return result

    def unary_tile(self, op: str, a: TileOp, span: Span) -> TileOp:
        a = cast_tile(a, a.dtype.wide if a.dtype.is_float else f32, span)
        facts = replace(a.facts, zero=False, form=None, loaded=False)
        return TileOp(Unary(op, a.expr, a.type, span), facts)

    def _finite(self, m: TileOp, span: Span) -> TileOp:
        """0 in place of -inf: the maximum of a row that holds nothing yet."""
        low = Const(-math.inf, Elem(m.dtype.wide), span)

        def make(v: list[Operand]) -> Operand:
            return self.choose(to_expr(compare("eq", v[0], low, span), span), Static(0.0), v[0], span, Where)

        result = self.lift([m], make, span)
        assert isinstance(result, TileOp)
        return result

    def held(self, tile: TileOp, hint: str) -> TileOp:
        """The tile's value held in a variable, to be used more than once."""
        return TileOp(self.temporary(tile.expr, hint), tile.facts)

    def word_online_softmax(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        """online_softmax(scores, m, l) -> (m_new, l_new, p), p = exp(scores - m_new) not normalised."""
        self.collective(name, span)
        scores, m, total = (self.tile(a, span) for a in self.bind(name, "scores m l", args, kwargs, span))
        scores = self.held(scores, "scores")
        top = self.reduce_axis("max", scores, 1, span)
        assert isinstance(top, TileOp)
        m_new = self.held(self.tiled("max", m, top, span), "m")
        base = self.held(self._finite(m_new, span), "base")
        p = self.held(self.unary_tile("exp", self.tiled("sub", scores, base, span), span), "p")
        alpha = self.unary_tile("exp", self.tiled("sub", m, base, span), span)
        more = self.reduce_axis("add", p, 1, span)
        assert isinstance(more, TileOp)
        return Items((m_new, self.tiled("add", self.tiled("mul", alpha, total, span), more, span), p))

    def word_causal_mask(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        """causal_mask(scores, q_off, kv_off): -inf where kv_off + column > q_off + row."""
        self.collective(name, span)
        scores, q, kv = self.bind(name, "scores q_off=0 kv_off=0", args, kwargs, span)
        tile = self.tile(scores, span)
        if len(tile.shape) != 2:
            raise fail("E223", f"`{name}` needs a tile of rank 2, not {tile.type}", span)
        shift = to_expr(arithmetic("sub", q, kv, span), span, i64)
        near: Expr = shift
        for op, bound in (("max", -(2**30)), ("min", 2**30)):  # far beyond any tile: i32 holds the comparison
            near = Binary(op, near, Const(bound, Elem(i64), span), Elem(i64), span)
        offset = self.cast(near, i32, span)
        assert not isinstance(offset, NOT_ELEMENTS)
        rows, columns = tile.shape
        type_ = TileType(tile.shape, i32)
        row = spread(TileOp(Iota(TileType((rows,), i32), span), Facts.plain(1)), tile.shape, (0,), span)
        column = spread(TileOp(Iota(TileType((columns,), i32), span), Facts.plain(1)), tile.shape, (1,), span)
        last = Binary("add", row.expr, Splat(offset, type_, span), type_, span)
        seen = Compare("le", column.expr, last, TileType(tile.shape, bool_), span)
        tile = cast_tile(tile, tile.dtype.wide, span)
        low = Splat(Const(-math.inf, Elem(tile.dtype), span), tile.type, span)
        facts = replace(tile.facts, zero=False, form=None, loaded=False)
        return TileOp(Where(seen, tile.expr, low, tile.type, span), facts)

    word_apply_causal_mask = word_causal_mask

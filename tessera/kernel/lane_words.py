"""Words of lanes and of the grid, made of other words: shuffle, dropout, grid_stride_range, group_linear_id."""

from __future__ import annotations

import ast

from tessera.dtypes import i64, u64
from tessera.errors import Span
from tessera.kernel.expressions import effect_free
from tessera.kernel.operands import (
    Args,
    Kwargs,
    Operand,
    Static,
    arithmetic,
    compare,
    describe,
    held_type,
    is_expr,
    number,
    to_expr,
)
from tessera.kernel.product_words import ProductWords
from tessera.kernel.report import fail
from tessera.kernel.tile_operands import TileOp
from tessera.kernel.tree import Alloc, Barrier, Buffer, Elem, Id, Load, Store
from tessera.kernel.vocabulary import Word
from tessera.shapes import Dim
from tessera_runtime.core import randn

__all__ = ["LaneWords"]

_WORD = 0xFFFFFFFF


class LaneWords(ProductWords):
    """Each is what the user would write with ids, shared memory and integer arithmetic."""

    groups: tuple[Dim, ...] | None = None  # what the kernel is launched with, where it says so

    # -- the grid --------------------------------------------------------------------------------------------------

    def _launched(self, what: str, span: Span) -> tuple[Dim, ...]:
        if self.groups is None:
            raise fail("E211", f"{what} needs the number of groups, and the kernel does not say it", span,
                       'state it, as in @ts.kernel(grid=128)')  # fmt: skip
        return self.groups

    def word_group_linear_id(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        """The group's number among all: x + X (y + Y z) for the ids (x, y, z) in a grid (X, Y, Z)."""
        self.bind(name, "", args, kwargs, span)
        number: Operand = Static(0)
        for axis, extent in reversed(list(enumerate(self._launched(f"`{name}`", span)))):
            number = arithmetic("mul", number, Static(extent), span)
            number = arithmetic("add", number, Id("group", Elem(i64), span, axis), span)
        return number

    def strided(self, lo: Operand, hi: Operand, step: Operand, span: Span) -> tuple[Operand, Operand, Operand]:
        """The bounds of group g's part of a range: lo + g step, then in steps of as many as there are groups."""
        by = to_expr(step, span)
        step = step if isinstance(step, Static) or effect_free(by) else self.temporary(by, "step")
        total: Dim = 1
        for extent in self._launched("`grid_stride_range`", span):
            total = total * extent
        mine = arithmetic("mul", self.word_group_linear_id("group_linear_id", [], {}, span), step, span)
        self.report.once(f"each group runs every iteration whose number is its own modulo {total}, in order", span)
        return arithmetic("add", lo, mine, span), hi, arithmetic("mul", step, Static(total), span)

    # -- lanes -----------------------------------------------------------------------------------------------------

    def word_shuffle(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        """shuffle(v, lane): the value of v in lane `lane` (modulo the warp's size) of the caller's warp."""
        value, lane = self.bind(name, "v lane", args, kwargs, span)
        self.collective(name, span)
        if not is_expr(value) or not is_expr(lane) or held_type(lane).dtype.kind not in ("int", "uint"):
            other = value if not is_expr(value) else lane
            raise fail("E206", f"`{name}` takes an element and the number of a lane, not {describe(other)}", span)
        width = min(32, self.group)
        local = Id("local", Elem(i64, True), span)
        first = arithmetic("sub", local, arithmetic("mod", local, Static(width), span), span)
        source = to_expr(arithmetic("add", first, arithmetic("mod", lane, Static(width), span), span), span, i64)
        x = to_expr(value, span)
        assert isinstance(x.type, Elem)
        buffer = Buffer(self._fresh_name("shuffled"), (self.group,), x.type.dtype, "shared", span)
        self.out += [Alloc(buffer, span), Store(buffer, (local,), x, True, span), Barrier(span)]
        found = self.temporary(Load(buffer, (source,), Elem(x.type.dtype, True), span), "shuffled")
        self.out.append(Barrier(span))
        return found

    # -- random words ----------------------------------------------------------------------------------------------

    def word_dropout(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        """dropout(x, rate, key, place): 0 where word `place` of the key is below rate 2^32, else x / (1 - rate).

        The words are those of ts.random, so that places row-major in a tensor drop what ts.nn.dropout drops.
        """
        x, rate, key, place = self.bind(name, "x rate key place", args, kwargs, span)
        p = number(rate)
        if p is None or not 0 <= p < 1:
            raise fail("E218", f"the rate of `{name}` is a number of [0, 1) known while compiling", span)
        for what, operand in (("key", key), ("place", place)):
            if not self._is_integer(operand, span) or (what == "key" and self.is_tile(operand)):
                raise fail("E206", f"the {what} of `{name}` is an integer, not {describe(operand)}", span)
        if p == 0:
            return x
        scaled = self.binary(ast.Mult, x, Static(1.0 / (1.0 - p)), span)
        dropped = self._below(self._random(key, place, span), round(p * 2**32), span)
        return self.word(Word("where", name), [dropped, Static(0.0), scaled], {}, span)

    def _below(self, a: Operand, limit: int, span: Span) -> Operand:
        if self.is_tile(a):
            return self.lift([a], lambda v: compare("lt", v[0], Static(limit), span), span)
        return compare("lt", a, Static(limit), span)

    def _is_integer(self, operand: Operand, span: Span) -> bool:
        if self.is_tile(operand):
            return self.tile(operand, span).dtype.is_int
        return is_expr(operand) and held_type(operand).dtype.is_int

    def _random(self, key: Operand, place: Operand, span: Span) -> Operand:
        """Word `place` of a key's draws, 32 bits in u64: Philox4x32-10 as in `tessera_runtime.core.randn`."""

        def held(value: Operand) -> Operand:
            if isinstance(value, TileOp):
                return TileOp(self.temporary(value.expr), value.facts)
            return value if isinstance(value, Static) else self.temporary(to_expr(value, span))

        def op(kind: type[ast.operator], a: Operand, b: Operand | int) -> Operand:
            return held(self.binary(kind, a, Static(b) if isinstance(b, int) else b, span))

        def choose(cond: Operand, a: Operand, b: Operand) -> Operand:
            return self.word(Word("where", "where"), [cond, a, b], {}, span)

        word, key = (held(self.cast(v, u64, span)) for v in (place, key))
        block, part = op(ast.RShift, word, 2), op(ast.BitAnd, word, 3)
        zero = op(ast.BitAnd, block, 0)
        x = [op(ast.BitAnd, block, _WORD), op(ast.RShift, block, 32), zero, zero]
        k0, k1 = op(ast.BitAnd, key, _WORD), op(ast.RShift, key, 32)
        for _ in range(10):
            p0, p1 = op(ast.Mult, x[0], randn.M0), op(ast.Mult, x[2], randn.M1)
            high0, high1 = (op(ast.RShift, p, 32) for p in (p0, p1))
            x = [
                op(ast.BitXor, op(ast.BitXor, high1, x[1]), k0), op(ast.BitAnd, p1, _WORD),
                op(ast.BitXor, op(ast.BitXor, high0, x[3]), k1), op(ast.BitAnd, p0, _WORD),
            ]  # fmt: skip
            k0 = op(ast.BitAnd, op(ast.Add, k0, randn.W0), _WORD)
            k1 = op(ast.BitAnd, op(ast.Add, k1, randn.W1), _WORD)
        even = self._below(op(ast.BitAnd, part, 1), 1, span)
        return choose(self._below(part, 2, span), choose(even, x[0], x[1]), choose(even, x[2], x[3]))

"""Atomic updates: `atomic_add(x[i], v)` and its kin, of elements and slices of integers.

Additions, minima, maxima and bit operations of integers give the same result in every order, so these are
deterministic. What would not be is refused (E226): floats, whose sums round, and the old value.
"""

from __future__ import annotations

import ast

from tessera.dtypes import i32, i64, u32, u64
from tessera.errors import Span
from tessera.kernel.attention_words import AttentionWords
from tessera.kernel.operands import BufferRef, Operand, Static, describe, is_expr, to_expr
from tessera.kernel.privileges import declared
from tessera.kernel.report import fail
from tessera.kernel.tree import Atomic, AtomicTile, Buffer, Expr, Window
from tessera.kernel.vocabulary import ATOMIC_WORDS

__all__ = ["AtomicWords"]

_TYPES = (i32, u32, i64, u64)


class AtomicWords(AttentionWords):
    """Each is a statement. A place with an index for each axis names an element, any other a slice."""

    alone: ast.expr | None = None  # the call that is a statement by itself
    reduced: dict[str, str]  # parameters declared Region[reduce_..]: the kind of update that they take

    def _atomic(self, node: ast.Call, name: str, op: str) -> Operand:
        span = self.span(node)
        if len(node.args) != 2 or node.keywords:
            raise fail("E218", f"`{name}` takes a place and a value", span,
                       f"it is {name}(x[i], v); it orders nothing else, which ts.tile.barrier() does")  # fmt: skip
        if node is not self.alone:
            raise fail("E226", f"`{name}` gives no value: what was there before depends on the order of lanes, and no "
                               "numeric profile (strict, deterministic, fast) leaves a result to that", span,
                       "write it as a statement; places in an order come from a sum over the lanes before")  # fmt: skip
        found = self._atomic_place(node.args[0])
        buffer = found[0] if isinstance(found, tuple) else found.buffer
        self._check_atomic(buffer, name, op, span)
        value = self.expr(node.args[1])
        if op == "sub":
            op, value = "add", self.binary(ast.Sub, Static(0), value, span)
        if isinstance(found, Window) and found.shape:
            tile, counts = self.fitted(found, value, span)
            self.out.append(AtomicTile(op, found, tile.expr, counts, span))
        else:
            buffer, indices = found if isinstance(found, tuple) else (found.buffer, found.starts)
            if not is_expr(value):
                raise fail("E206", f"an element of `{buffer.name}` cannot be {describe(value)}", span)
            self.check_stored(buffer, value, span)
            expr = to_expr(value, span, buffer.dtype)
            varying = self.varying or expr.type.varying or any(i.type.varying for i in indices)
            self.out.append(Atomic(op, buffer, indices, expr, varying, span))
        if buffer.space == "shared":
            self.frame.env.pop(f"@{buffer.name}", None)
        return Static(None)

    def _atomic_place(self, node: ast.expr) -> tuple[Buffer, tuple[Expr, ...]] | Window:
        """An element by its indices, or a window."""
        if isinstance(node, ast.Subscript):
            base = self.expr(node.value)
            if isinstance(base, BufferRef) and self.names_element(base.buffer, node):
                return base.buffer, self.indices(base.buffer, node)
        return self._place(node, "what is updated")

    def _check_atomic(self, buffer: Buffer, name: str, op: str, span: Span) -> None:
        self.may_store(buffer, span)
        dtype, kind = buffer.dtype.base, self.reduced.get(buffer.name)
        if dtype.is_float:
            raise fail(
                "E226",
                f"`{name}` on `{buffer.name}` of {dtype}: floats round, and no numeric profile (strict, deterministic, "
                "fast) leaves a result to the order of lanes",
                span,
                "sum in a fixed tree: ts.tile.reduce_sum(v), one partial result for each group, and a second kernel "
                "that adds these",
            )
        if dtype not in _TYPES:
            raise fail("E206", f"`{buffer.name}` holds {dtype}, and `{name}` updates i32, u32, i64 and u64", span)
        if kind is not None and kind != {"sub": "add"}.get(op, op) and buffer.space == "global":
            raise fail("E208", f"`{buffer.name}` is declared {declared(kind)}, and "
                               f"`{name}` is another kind of update", span)  # fmt: skip


def _make(op: str) -> object:
    def call(self: AtomicWords, node: ast.Call, name: str) -> Operand:
        return self._atomic(node, name, op)

    return call


for _word in ATOMIC_WORDS:
    setattr(AtomicWords, f"call_{_word}", _make(_word.removeprefix("atomic_")))

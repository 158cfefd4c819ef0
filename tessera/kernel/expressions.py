"""Expressions of a kernel: from Python's AST to operands and typed expressions."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import FunctionType, ModuleType

from tessera.dtypes import DType, bool_, i64
from tessera.errors import Span
from tessera.kernel.operands import (
    Args,
    BufferRef,
    Items,
    Kwargs,
    Operand,
    Static,
    arithmetic,
    bitwise,
    common,
    compare,
    constant_dim,
    describe,
    held_type,
    is_expr,
    negate,
    to_expr,
)  # fmt: skip
from tessera.kernel.report import Report, fail
from tessera.kernel.scope import Frame, dtype_attribute, lookup, module_attribute
from tessera.kernel.tile_operands import TileOp, WindowRef, transpose
from tessera.kernel.tree import (
    Assign,
    Block,
    Buffer,
    Choose,
    Const,
    Elem,
    Expr,
    Load,
    LoadTile,
    Read,
    Reduce,
    Stmt,
    Unary,
    Var,
    Where,
    parts,
)  # fmt: skip
from tessera.kernel.vocabulary import (
    TILE,
    Config,
    Namespace,
    Word,
    attribute,
    suggestion,
)
from tessera.kernel.windows import Windows

__all__ = ["Expressions"]

_BINARY = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.FloorDiv: "floordiv", ast.Mod: "mod",
    ast.Pow: "pow",
}  # fmt: skip
_BITS = {ast.BitAnd: "and", ast.BitOr: "or", ast.BitXor: "xor", ast.LShift: "shl", ast.RShift: "shr"}
_PREDICATES = {ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge", ast.Eq: "eq", ast.NotEq: "ne"}
_UNSUPPORTED = {
    ast.Lambda: "lambda", ast.SetComp: "a comprehension",
    ast.DictComp: "a comprehension",
    ast.GeneratorExp: "a generator expression", ast.Await: "await", ast.Yield: "yield", ast.YieldFrom: "yield",
    ast.Dict: "a dict",
    ast.Set: "a set", ast.JoinedStr: "an f-string", ast.NamedExpr: "`:=`", ast.Starred: "a star argument",
    ast.Slice: "a slice",
}  # fmt: skip


class Expressions(Windows):
    """Reads expressions; statements are read by the subclass (helpers need them: `inline`)."""

    group: int
    dims: tuple[str, ...]

    def __init__(self, frame: Frame, report: Report) -> None:
        super().__init__()
        self.frame = frame
        self.report = report
        self.out: list[Stmt] = []
        self.varying = False  # whether lanes may disagree on reaching this point
        self.parallel: Span | None = None  # the work loop that is being read
        self.naming: str | None = None  # the name that an allocation is being bound to
        self._serial = 0
        self._buffers: dict[str, int] = {}

    def free(self, name: str, span: Span) -> Operand | None:
        """A name that is bound nowhere, if a rule gives it a meaning."""
        return None

    def span(self, node: ast.AST) -> Span:
        return self.frame.source.span(node)

    def inline(self, function: FunctionType, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        raise AssertionError("given by the subclass")

    def temporary(self, value: Expr, hint: str = "t") -> Read:
        """The value, evaluated now and held in a variable of its own."""
        self._serial += 1
        type_ = value.type
        if isinstance(type_, Elem):
            type_ = Elem(type_.dtype, type_.varying or self.varying)
        var = Var(f"{self.frame.prefix}{hint}.{self._serial}", type_)
        self.out.append(Assign(var, value, value.span))
        return Read(var, value.span)

    # -- entry points ----------------------------------------------------------------------------------------------

    def expr(self, node: ast.expr) -> Operand:
        """Any expression."""
        method: Callable[[ast.expr], Operand] | None = getattr(self, "on_" + type(node).__name__, None)
        if method is None:
            what = _UNSUPPORTED.get(type(node), type(node).__name__)
            raise fail("E202", f"{what} is not supported in a kernel", self.span(node))
        return method(node)

    def element(self, node: ast.expr, dtype: DType | None = None) -> Expr:
        """An expression that is one element at run time."""
        return to_expr(self.expr(node), self.span(node), dtype)

    def truth(self, operand: Operand, span: Span) -> Operand:
        """The operand as a condition: a bool, or a number that is not zero."""
        if isinstance(operand, Static) and (
            operand.value is None or isinstance(operand.value, (str, bool, int, float))
        ):
            return Static(bool(operand.value))
        if not is_expr(operand):
            raise fail("E206", f"a condition cannot be {describe(operand)}", span)
        return operand if held_type(operand).dtype.kind == "bool" else compare("ne", operand, Static(0), span)

    def index(self, operand: Operand, buffer: Buffer, axis: int, span: Span) -> Expr:
        """The operand as an i64 index."""
        if not is_expr(operand) or held_type(operand).dtype.is_float or held_type(operand).dtype.kind == "bool":
            raise fail("E206", f"an index must be an integer, not {describe(operand)}", span)
        constant = constant_dim(operand)
        extent = buffer.dims[axis]
        if constant is not None and (constant < 0 or (isinstance(extent, int) and constant >= extent)):
            size = f" {extent}" if isinstance(extent, int) else ""
            raise fail(
                "E216",
                f"index {constant} of `{buffer.name}` is outside its extent{size}",
                span,
                "indices do not count from the end",
            )
        return to_expr(operand, span, i64)

    # -- leaves ----------------------------------------------------------------------------------------------------

    def on_Constant(self, node: ast.Constant) -> Operand:
        if isinstance(node.value, (bool, int, float, str)) or node.value is None:
            return Static(node.value)
        raise fail("E202", f"{node.value!r} is not supported in a kernel", self.span(node))

    def on_Name(self, node: ast.Name) -> Operand:
        return lookup(self.frame, node.id, self.dims, self.span(node), self.report, self.free)

    def on_Tuple(self, node: ast.Tuple) -> Operand:
        return Items(tuple(self.expr(item) for item in node.elts))

    def on_List(self, node: ast.List) -> Operand:
        return self.list_of_buffers(tuple(self.expr(item) for item in node.elts), self.span(node))

    def list_of_buffers(self, items: tuple[Operand, ...], span: Span) -> Operand:
        return Items(items)

    def on_ListComp(self, node: ast.ListComp) -> Operand:
        """`[f(i) for i in range(n)]` with compile-time bounds."""
        span, (first, *more) = self.span(node), node.generators
        calls = isinstance(first.iter, ast.Call) and [constant_dim(self.expr(a)) for a in first.iter.args]
        if more or first.ifs or not isinstance(first.target, ast.Name) or not calls or None in calls:
            raise fail("E202", "a comprehension runs over range() with compile-time bounds in a kernel", span)
        items: list[Operand] = []
        env, outer = self.frame.env, self.frame.env.get(first.target.id)
        for value in range(*calls):  # type: ignore[arg-type]
            env[first.target.id] = Static(value)
            items.append(self.expr(node.elt))
        env.pop(first.target.id)
        if outer is not None:
            env[first.target.id] = outer
        return self.list_of_buffers(tuple(items), span)

    def on_Attribute(self, node: ast.Attribute) -> Operand:
        base, span = self.expr(node.value), self.span(node)
        match base:
            case Static(Namespace() as space):
                return self._word(space, node.attr, span)
            case Static(ModuleType() as module):
                return module_attribute(module, node.attr, span)
            case BufferRef(buffer) if node.attr == "shape":
                return Items(tuple(Static(dim) for dim in buffer.dims))
            case BufferRef(buffer) if node.attr == "ndim":
                return Static(buffer.rank)
            case BufferRef(buffer) if node.attr == "dtype":
                return Static(buffer.dtype)
            case TileOp() if node.attr in ("shape", "ndim", "dtype"):
                shape: Operand = Items(tuple(map(Static, base.shape)))
                return {"shape": shape, "ndim": Static(len(base.shape))}.get(node.attr, Static(base.dtype))
            case WindowRef(window) if node.attr == "shape":
                return Items(tuple(Static(dim) for dim in window.shape))
            case BufferRef() | TileOp() | WindowRef() if node.attr == "T" and self.is_tile(base):
                return transpose(self.tile(base, span), span)
            case Static(Config()):
                return self.configured(node.attr, span)
        raise fail("E202", f"{describe(base)} has no attribute `{node.attr}` in a kernel", span)

    def _word(self, space: Namespace, name: str, span: Span) -> Operand:
        found = attribute(space, name)
        if found is not None:
            return Static(found)
        if space.name == "tessera":
            dtype = dtype_attribute(name)
            if dtype is not None:
                return Static(dtype)
            if name in ("pi", "e", "inf", "nan"):
                return Static(getattr(math, name))
            if name == "tf32":  # a way to compute, not a type
                return Static(name)
            if name in TILE:
                raise fail("E204", f"there is no `ts.{name}`", span, f"did you mean `ts.tile.{name}`?")
        shown = {"tessera": "ts", "tessera.tile": "ts.tile"}.get(space.name, space.name)
        raise fail("E204", f"`{shown}.{name}` is not known in a kernel", span, suggestion(space, name))

    # -- operators -------------------------------------------------------------------------------------------------

    def on_BinOp(self, node: ast.BinOp) -> Operand:
        return self.binary(type(node.op), self.expr(node.left), self.expr(node.right), self.span(node))

    def configured(self, name: str, span: Span) -> Operand:
        raise AssertionError("given by the subclass")

    def binary(self, kind: type[ast.operator], a: Operand, b: Operand, span: Span) -> Operand:
        if self.is_tile(a) or self.is_tile(b):
            if kind is ast.MatMult:
                return self.mma(self.tile(a, span), self.tile(b, span), None, span)
            if kind is ast.Mult:
                self.double_correction(a, b, span)
            return self.lift([a, b], lambda v: self.binary(kind, v[0], v[1], span), span)
        if kind in _BINARY:
            return arithmetic(_BINARY[kind], a, b, span)
        if kind in _BITS:
            return bitwise(_BITS[kind], a, b, span)
        raise fail("E202", "the operator `@` is not supported on elements", span)

    def on_UnaryOp(self, node: ast.UnaryOp) -> Operand:
        span, a = self.span(node), self.expr(node.operand)
        if self.is_tile(a):
            return self.lift([a], lambda v: self.signed(node.op, v[0], span), span)
        return self.signed(node.op, a, span)

    def signed(self, op: ast.unaryop, a: Operand, span: Span) -> Operand:
        match op:
            case ast.Not():
                cond = self.truth(a, span)
                return (
                    Static(not cond.value)
                    if isinstance(cond, Static)
                    else Unary("not", to_expr(cond, span), held_type(cond), span)
                )
            case ast.USub():
                return negate(a, span)
            case ast.UAdd():
                return arithmetic("add", a, Static(0), span)
            case _:
                if is_expr(a) and held_type(a).dtype.kind == "bool":
                    return self.signed(ast.Not(), a, span)
                return bitwise("xor", a, Static(-1), span)

    def on_Compare(self, node: ast.Compare) -> Operand:
        span, left = self.span(node), self.expr(node.left)
        parts: list[Operand] = []
        for op, comparator in zip(node.ops, node.comparators, strict=True):
            right = self.expr(comparator)
            if isinstance(op, (ast.Is, ast.IsNot)) and (left == Static(None) or right == Static(None)):
                parts.append(Static((left == right) == isinstance(op, ast.Is)))
            elif type(op) in _PREDICATES and (self.is_tile(left) or self.is_tile(right)):
                parts.append(self.lift([left, right], partial(self._compared, _PREDICATES[type(op)], span), span))
            elif type(op) in _PREDICATES:
                parts.append(compare(_PREDICATES[type(op)], left, right, span))
            else:
                raise fail("E202", "`in` and `is` are not supported in a kernel", span)
            left = right
        result = parts[0]
        for part in parts[1:]:
            result = self._both(result, part, span)
        return result

    def _compared(self, pred: str, span: Span, sides: list[Operand]) -> Operand:
        return compare(pred, sides[0], sides[1], span)

    def _both(self, a: Operand, b: Operand, span: Span) -> Operand:
        if isinstance(a, Static):
            return b if a.value else Static(False)
        if isinstance(b, Static):
            return a if b.value else Static(False)
        return self.binary(ast.BitAnd, a, b, span)

    def on_BoolOp(self, node: ast.BoolOp) -> Operand:
        """`and`, `or`: the right side is evaluated only by lanes that need it."""
        wants = isinstance(node.op, ast.And)
        result = self.truth(self.expr(node.values[0]), self.span(node.values[0]))
        for value in node.values[1:]:
            if isinstance(result, Static):
                if bool(result.value) != wants:
                    return result
                result = self.truth(self.expr(value), self.span(value))
                continue
            first = to_expr(result, self.span(node))
            right = self._guarded(value, first)
            right = to_expr(self.truth(right, self.span(value)), self.span(value))
            other = Const(not wants, Elem(bool_), self.span(node))
            type_ = Elem(bool_, first.type.varying or right.type.varying)
            result = Choose(first, right if wants else other, other if wants else right, type_, self.span(node))
        return result

    def _guarded(self, node: ast.expr, cond: Expr) -> Operand:
        """An expression that only the lanes of one side of `cond` evaluate."""
        outer, outer_out = self.varying, self.out
        self.varying, self.out = outer or cond.type.varying, []
        try:
            value = self.expr(node)
            inner = self.out
        finally:
            self.varying, self.out = outer, outer_out
        if inner and self.is_tile(value):  # a choice between tiles evaluates both
            self.out.extend(inner)
        elif inner:
            return Block(tuple(inner), to_expr(value, self.span(node)), self.span(node))
        return value

    def on_IfExp(self, node: ast.IfExp) -> Operand:
        span = self.span(node)
        cond = self.truth(self.expr(node.test), self.span(node.test))
        if isinstance(cond, Static) and isinstance(cond.value, bool):
            return self.expr(node.body if cond.value else node.orelse)
        test = to_expr(cond, span)
        a, b = self._guarded(node.body, test), self._guarded(node.orelse, test)
        if self.is_tile(a) or self.is_tile(b):
            return self.lift([test, a, b], partial(self._chosen, span), span)
        return self.choose(test, a, b, span)

    def _chosen(self, span: Span, parts: list[Operand]) -> Operand:
        return self.choose(to_expr(parts[0], span), parts[1], parts[2], span, Where)

    def choose(self, cond: Expr, a: Operand, b: Operand, span: Span, kind: type[Choose] | type[Where] = Choose) -> Expr:
        for side in (a, b):
            if not is_expr(side):
                raise fail("E206", f"one element is needed here, not {describe(side)}", span)
        dtype = common(a, b)
        x, y = to_expr(a, span, dtype), to_expr(b, span, dtype)
        return kind(cond, x, y, Elem(dtype, cond.type.varying or x.type.varying or y.type.varying), span)

    # -- subscripts ------------------------------------------------------------------------------------------------

    def _typed(self, word: Word, node: ast.Subscript) -> Operand:
        """`alloc_shared[ts.f32]`: the word with its element type."""
        given = self.expr(node.slice)
        if not isinstance(given, Static) or not isinstance(given.value, DType):
            raise fail("E206", f"what stands in brackets behind `{word.shown}` is an element type", self.span(node))
        return Static(replace(word, dtype=given.value))

    def on_Subscript(self, node: ast.Subscript) -> Operand:
        base = self.expr(node.value)
        if isinstance(base, Static) and isinstance(base.value, Word):
            return self._typed(base.value, node)
        if isinstance(base, BufferRef) and self.names_element(base.buffer, node):
            return self.load(base.buffer, self.indices(base.buffer, node), self.span(node))
        if self.is_tile(base) and not isinstance(base, TileOp) and any(
            isinstance(i, ast.Constant) and i.value is None for i in ast.walk(node.slice)
        ):
            base = self.tile(base, self.span(node))  # s[:, None] of memory reads it
        if isinstance(base, (BufferRef, WindowRef)):
            window = self.window(base, node)
            if not window.shape:
                return self.load(window.buffer, window.starts, self.span(node))
            return WindowRef(window, self.span(node))
        if isinstance(base, TileOp):
            items = [ast.unparse(i) for i in (node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice])]
            if any(i not in (":", "None") for i in items):
                raise fail("E207", "a tile has `:` and `None` as indices only", self.span(node),
                           "elements and parts are read from memory: index a buffer or a parameter")  # fmt: skip
            return self.expand(base, items, self.span(node))
        if isinstance(base, Items):
            at = constant_dim(self.expr(node.slice))
            if at is None or not -len(base.items) <= at < len(base.items):
                raise fail(
                    "E207",
                    f"the index of a tuple of {len(base.items)} must be a compile-time integer within it",
                    self.span(node.slice),
                )
            return base.items[at]
        raise fail("E207", f"{describe(base)} cannot be subscripted", self.span(node))

    def names_element(self, buffer: Buffer, node: ast.Subscript) -> bool:
        """Whether the subscript has an index for each axis, and no slice."""
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        slices = any(isinstance(p, ast.Slice) for p in parts)
        return not slices and (len(parts) >= buffer.rank or buffer.rank == 0)

    def indices(self, buffer: Buffer, node: ast.Subscript) -> tuple[Expr, ...]:
        """The indices of an element. Raises SourceError E202 for slices, E207 for a wrong rank."""
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if len(parts) != buffer.rank:
            what = "index" if len(parts) == 1 else "indices"
            dims = ", ".join(map(str, buffer.dims))
            raise fail(
                "E207",
                f"`{buffer.name}` has rank {buffer.rank}, but {len(parts)} {what} are given",
                self.span(node),
                f"it is {buffer.dtype.base}[{dims}]; an element has one index per axis",
            )
        return tuple(self.index(self.expr(part), buffer, axis, self.span(part)) for axis, part in enumerate(parts))

    def load(self, buffer: Buffer, indices: tuple[Expr, ...], span: Span) -> Expr:
        varying = self.varying or any(i.type.varying for i in indices)
        return Load(buffer, indices, Elem(buffer.dtype.base, varying), span)


def effect_free(expr: Expr) -> bool:
    """Whether an expression may be evaluated twice: it reads no memory and runs no helper."""
    return not any(isinstance(e, (Load, LoadTile, Block, Reduce)) for e in parts(expr))

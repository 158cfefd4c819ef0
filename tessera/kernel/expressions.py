"""Expressions of a kernel: from Python's AST to operands and typed expressions."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from types import FunctionType, ModuleType

from tessera.dtypes import DType, as_dtype, bool_, f32, i64
from tessera.errors import SourceError, Span
from tessera.kernel.operands import (
    BufferRef,
    Items,
    Operand,
    Static,
    arithmetic,
    bitwise,
    common,
    compare,
    constant_dim,
    convert,
    describe,
    held_type,
    is_expr,
    is_number,
    negate,
    number,
    to_expr,
)  # fmt: skip
from tessera.kernel.report import Report, fail
from tessera.kernel.scope import Frame, dtype_attribute, lookup, module_attribute
from tessera.kernel.tree import (
    Assign,
    Block,
    Buffer,
    Cast,
    Choose,
    Const,
    Elem,
    Expr,
    Load,
    Read,
    Reduce,
    Stmt,
    Unary,
    Var,
    Where,
    parts,
)  # fmt: skip
from tessera.kernel.vocabulary import TILE, UNARY, Namespace, Word, attribute, known_words, suggestion, word_of

__all__ = ["Expressions"]

_BINARY = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.FloorDiv: "floordiv", ast.Mod: "mod",
    ast.Pow: "pow",
}  # fmt: skip
_BITS = {ast.BitAnd: "and", ast.BitOr: "or", ast.BitXor: "xor", ast.LShift: "shl", ast.RShift: "shr"}
_PREDICATES = {ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge", ast.Eq: "eq", ast.NotEq: "ne"}
_UNSUPPORTED = {
    ast.Lambda: "lambda", ast.ListComp: "a comprehension", ast.SetComp: "a comprehension",
    ast.DictComp: "a comprehension",
    ast.GeneratorExp: "a generator expression", ast.Await: "await", ast.Yield: "yield", ast.YieldFrom: "yield",
    ast.Dict: "a dict",
    ast.Set: "a set", ast.JoinedStr: "an f-string", ast.NamedExpr: "`:=`", ast.Starred: "a star argument",
    ast.Slice: "a slice",
}  # fmt: skip


class Expressions:
    """Reads expressions; statements are read by the subclass (helpers need them: `inline`)."""

    group: int
    dims: tuple[str, ...]

    def __init__(self, frame: Frame, report: Report) -> None:
        self.frame = frame
        self.report = report
        self.out: list[Stmt] = []
        self.varying = False  # whether lanes may disagree on reaching this point
        self.parallel: Span | None = None  # the work loop that is being read
        self.naming: str | None = None  # the name that an allocation is being bound to
        self._serial = 0

    def span(self, node: ast.AST) -> Span:
        return self.frame.source.span(node)

    def inline(self, function: FunctionType, args: list[Operand], kwargs: dict[str, Operand], span: Span) -> Operand:
        raise AssertionError("given by the subclass")

    def temporary(self, value: Expr, hint: str = "t") -> Read:
        """The value, evaluated now and held in a variable of its own."""
        self._serial += 1
        var = Var(
            f"{self.frame.prefix}{hint}.{self._serial}", Elem(value.type.dtype, value.type.varying or self.varying)
        )
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
        return lookup(self.frame, node.id, self.dims, self.span(node), self.report)

    def on_Tuple(self, node: ast.Tuple) -> Operand:
        return Items(tuple(self.expr(item) for item in node.elts))

    def on_List(self, node: ast.List) -> Operand:
        return Items(tuple(self.expr(item) for item in node.elts))

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
            if name in TILE:
                raise fail("E204", f"there is no `ts.{name}`", span, f"did you mean `ts.tile.{name}`?")
        shown = "ts" if space.name == "tessera" else "ts.tile"
        raise fail("E204", f"`{shown}.{name}` is not known in a kernel", span, suggestion(space, name))

    # -- operators -------------------------------------------------------------------------------------------------

    def on_BinOp(self, node: ast.BinOp) -> Operand:
        return self.binary(type(node.op), self.expr(node.left), self.expr(node.right), self.span(node))

    def binary(self, kind: type[ast.operator], a: Operand, b: Operand, span: Span) -> Operand:
        if kind in _BINARY:
            return arithmetic(_BINARY[kind], a, b, span)
        if kind in _BITS:
            return bitwise(_BITS[kind], a, b, span)
        raise fail("E202", "the operator `@` is not supported on elements", span)

    def on_UnaryOp(self, node: ast.UnaryOp) -> Operand:
        span, a = self.span(node), self.expr(node.operand)
        match node.op:
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
                return bitwise("xor", a, Static(-1), span)

    def on_Compare(self, node: ast.Compare) -> Operand:
        span, left = self.span(node), self.expr(node.left)
        parts: list[Operand] = []
        for op, comparator in zip(node.ops, node.comparators, strict=True):
            right = self.expr(comparator)
            if isinstance(op, (ast.Is, ast.IsNot)) and (left == Static(None) or right == Static(None)):
                parts.append(Static((left == right) == isinstance(op, ast.Is)))
            elif type(op) in _PREDICATES:
                parts.append(compare(_PREDICATES[type(op)], left, right, span))
            else:
                raise fail("E202", "`in` and `is` are not supported in a kernel", span)
            left = right
        result = parts[0]
        for part in parts[1:]:
            result = self._both(result, part, span)
        return result

    def _both(self, a: Operand, b: Operand, span: Span) -> Operand:
        if isinstance(a, Static):
            return b if a.value else Static(False)
        if isinstance(b, Static):
            return a if b.value else Static(False)
        return bitwise("and", a, b, span)

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
        if inner:
            return Block(tuple(inner), to_expr(value, self.span(node)), self.span(node))
        return value

    def on_IfExp(self, node: ast.IfExp) -> Operand:
        span = self.span(node)
        cond = self.truth(self.expr(node.test), self.span(node.test))
        if isinstance(cond, Static) and isinstance(cond.value, bool):
            return self.expr(node.body if cond.value else node.orelse)
        test = to_expr(cond, span)
        return self.choose(test, self._guarded(node.body, test), self._guarded(node.orelse, test), span)

    def choose(self, cond: Expr, a: Operand, b: Operand, span: Span, kind: type[Choose] | type[Where] = Choose) -> Expr:
        for side in (a, b):
            if not is_expr(side):
                raise fail("E206", f"one element is needed here, not {describe(side)}", span)
        dtype = common(a, b)
        x, y = to_expr(a, span, dtype), to_expr(b, span, dtype)
        return kind(cond, x, y, Elem(dtype, cond.type.varying or x.type.varying or y.type.varying), span)

    # -- subscripts ------------------------------------------------------------------------------------------------

    def on_Subscript(self, node: ast.Subscript) -> Operand:
        base = self.expr(node.value)
        if isinstance(base, BufferRef):
            return self.load(base.buffer, self.indices(base.buffer, node), self.span(node))
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

    # -- calls -----------------------------------------------------------------------------------------------------

    def on_Call(self, node: ast.Call) -> Operand:
        span = self.span(node)
        function = self.expr(node.func)
        stars = [a for a in node.args if isinstance(a, ast.Starred)] + [k.value for k in node.keywords if k.arg is None]
        if stars:
            raise fail("E202", "star arguments are not supported in a kernel", self.span(stars[0]))
        args = [self.expr(a) for a in node.args]
        kwargs = {k.arg: self.expr(k.value) for k in node.keywords if k.arg is not None}
        match function:
            case Static(Word() as word):
                return self.word(word, args, kwargs, span)
            case Static(DType() as dtype):
                (value,) = self.bind(str(dtype), "x", args, kwargs, span)
                return self.cast(value, dtype, span)
            case Static(FunctionType() as helper):
                return self.inline(helper, args, kwargs, span)
            case Static(value) if (known := word_of(value)) is not None:
                return self.word(known, args, kwargs, span)
        raise fail(
            "E204",
            f"{describe(function)} cannot be called in a kernel",
            span,
            "kernels call ts.tile.*, element functions and plain Python functions",
        )

    def bind(
        self, name: str, params: str, args: list[Operand], kwargs: dict[str, Operand], span: Span
    ) -> list[Operand]:
        """Arguments in the order of `params` ("a b c=1"); defaults are ints or None. Raises SourceError E218."""
        specs = [p.partition("=") for p in params.split()]
        if len(args) > len(specs):
            raise fail(
                "E218", f"`{name}` takes {len(specs)} argument{'s' * (len(specs) != 1)}, {len(args)} are given", span
            )
        bound = dict(zip((p[0] for p in specs), args, strict=False))
        for key, value in kwargs.items():
            if key in bound or key not in {p[0] for p in specs}:
                raise fail(
                    "E218",
                    f"`{name}` has no argument `{key}` to give here",
                    span,
                    f"it is {name}({', '.join(p[0] for p in specs)})",
                )
            bound[key] = value
        for key, eq, default in specs:
            if key not in bound:
                if not eq:
                    raise fail(
                        "E218", f"`{name}` needs `{key}`", span, f"it is {name}({', '.join(p[0] for p in specs)})"
                    )
                bound[key] = Static(int(default) if default else None)
        return [bound[p[0]] for p in specs]

    def cast(self, value: Operand, dtype: object, span: Span) -> Operand:
        if isinstance(dtype, Static):
            dtype = dtype.value
        try:
            to = as_dtype(dtype).base
        except SourceError:
            raise fail("E206", "the second argument of a cast must be an element type such as ts.f16", span) from None
        expr = to_expr(value, span) if not is_number(value) else to_expr(value, span, to)
        return expr if expr.type.dtype == to else Cast(expr, Elem(to, expr.type.varying), span)

    def word(self, word: Word, args: list[Operand], kwargs: dict[str, Operand], span: Span) -> Operand:
        """A call of a word of the language."""
        name = word.name
        if name in UNARY:
            return self._unary(UNARY[name], self.bind(word.shown, "x", args, kwargs, span)[0], span)
        method = getattr(self, "word_" + name, None)
        if method is None:
            help = (
                "a loop over range() stands in a `for` statement"
                if "range" in name
                else f"kernels know {', '.join(known_words(Namespace('tessera.tile')))}"
            )
            raise fail("E204", f"`{word.shown}` cannot be called here", span, help)
        result: Operand = method(word.shown, args, kwargs, span)
        return result

    def _unary(self, op: str, a: Operand, span: Span) -> Operand:
        value = number(a)
        if op == "sqrt" and value is not None and value >= 0:
            return Static(math.sqrt(value))
        x = to_expr(a, span)
        x = convert(x, x.type.dtype.wide if x.type.dtype.is_float else f32)
        return Unary(op, x, x.type, span)


def effect_free(expr: Expr) -> bool:
    """Whether an expression may be evaluated twice: it reads no memory and runs no helper."""
    return not any(isinstance(e, (Load, Block, Reduce)) for e in parts(expr))

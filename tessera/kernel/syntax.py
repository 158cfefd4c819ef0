"""The Python source of a kernel: finding its AST, spans, and the shape of control flow.

Kernels have structured control flow only. An early `return` and `continue` are rewritten here: what follows them
moves into the branches that go on (`tail_returns`), so that every `return` ends its path.
"""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import FunctionType

from tessera.errors import SourceError, Span
from tessera.kernel.vocabulary import ATOMIC_WORDS

__all__ = [
    "Source", "assigned_names", "atomic_calls", "carried_names", "function_source", "mentions", "store_targets",
    "tail_returns", "tainted_names",
]  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A function's definition and the file that it stands in."""

    node: ast.FunctionDef
    file: str
    ascii_lines: frozenset[int] | None = None

    def span(self, node: ast.AST) -> Span:
        """The place of a node; columns in characters."""
        line, col = getattr(node, "lineno", self.node.lineno), getattr(node, "col_offset", 0)
        end_line, end_col = getattr(node, "end_lineno", line) or line, getattr(node, "end_col_offset", col) or col
        return Span(self.file, line, self._chars(line, col), end_line, self._chars(end_line, end_col))

    def name_span(self) -> Span:
        """The function's name in its `def` line."""
        text = linecache.getline(self.file, self.node.lineno)
        col = text.find(self.node.name, self.node.col_offset)
        col = max(col, 0)
        return Span(self.file, self.node.lineno, col, self.node.lineno, col + len(self.node.name))

    def _chars(self, line: int, col: int) -> int:
        text = linecache.getline(self.file, line)
        return col if text.isascii() else len(text.encode()[:col].decode(errors="replace"))


@lru_cache(maxsize=64)
def _parse_file(file: str, text: str) -> ast.Module:
    return ast.parse(text, file)


def function_source(function: FunctionType) -> Source:
    """The definition of a Python function. Raises SourceError E201 where there is no source to read."""
    code = function.__code__
    file = code.co_filename
    linecache.checkcache(file)
    lines = linecache.getlines(file, function.__globals__)
    missing = SourceError(
        "E201", f"the source of `{function.__name__}` cannot be read",
        help="define kernels and their helpers with `def` in a file",
        span=Span(file, code.co_firstlineno) if lines else None,
    )  # fmt: skip
    if not lines:
        raise missing
    try:
        tree = _parse_file(file, "".join(lines))
    except SyntaxError:
        raise missing from None
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == code.co_name:
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            if first == code.co_firstlineno:
                return Source(node, file)
    raise missing


# Control flow ---------------------------------------------------------------------------------------------------------


def _leaves(body: Sequence[ast.stmt], kind: type[ast.stmt]) -> bool:
    """Whether a `return` (or `continue`) of this level stands anywhere in the statements."""
    for stmt in body:
        if isinstance(stmt, kind):
            return True
        if isinstance(stmt, ast.If) and (_leaves(stmt.body, kind) or _leaves(stmt.orelse, kind)):
            return True
    return False


def tail_returns(body: Sequence[ast.stmt], kind: type[ast.stmt] = ast.Return) -> list[ast.stmt]:
    """The same statements with every `return` (or `continue`) at the end of its path; the unreachable is dropped."""
    out: list[ast.stmt] = []
    for at, stmt in enumerate(body):
        if isinstance(stmt, kind):
            return [*out, stmt] if kind is ast.Return else out
        if isinstance(stmt, ast.If) and _leaves([stmt], kind):
            rest = list(body[at + 1 :])
            then = tail_returns([*stmt.body, *rest], kind)
            orelse = tail_returns([*stmt.orelse, *rest], kind)
            new = ast.If(test=stmt.test, body=then, orelse=orelse)
            return [*out, ast.copy_location(new, stmt)]
        out.append(stmt)
    return out


def nested_return(body: Iterable[ast.stmt]) -> ast.Return | None:
    """A `return` inside a loop, if there is one."""
    for stmt in body:
        for inner in ast.walk(stmt):
            if isinstance(inner, (ast.For, ast.While)):
                for node in ast.walk(inner):
                    if isinstance(node, ast.Return):
                        return node
    return None


# Syntactic facts that decide which loops are parallel -----------------------------------------------------------------


def mentions(node: ast.AST, names: set[str]) -> bool:
    """Whether any of the names is read in the node."""
    return any(isinstance(n, ast.Name) and n.id in names for n in ast.walk(node))


def _targets(node: ast.expr) -> list[str]:
    return [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]


def tainted_names(body: Sequence[ast.stmt], start: set[str]) -> set[str]:
    """The names whose values depend on those in `start`, by assignments and loop bounds in `body`."""
    names = set(start)
    while True:
        before = len(names)
        for stmt in body:
            for node in ast.walk(stmt):
                if isinstance(node, ast.Assign) and mentions(node.value, names):
                    names.update(name for target in node.targets for name in _targets(target))
                elif (
                    isinstance(node, ast.AugAssign)
                    and isinstance(node.target, ast.Name)
                    and mentions(node.value, names)
                ):
                    names.add(node.target.id)
                elif isinstance(node, ast.AnnAssign) and node.value is not None and mentions(node.value, names):
                    names.update(_targets(node.target))
                if isinstance(node, ast.For) and mentions(node.iter, names):
                    names.update(_targets(node.target))
        if len(names) == before:
            return names


def assigned_names(body: Sequence[ast.stmt]) -> set[str]:
    """The names that statements assign."""
    return {n.id for stmt in body for n in ast.walk(stmt) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def _call_name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def changed_by(call: ast.Call) -> ast.Name | None:
    """The name that `fill(t, v)` or `update_accumulator(t, ..)` binds anew."""
    first = call.args[0] if call.args else None
    return first if _call_name(call) in ("fill", "update_accumulator") and isinstance(first, ast.Name) else None


def atomic_calls(body: Sequence[ast.stmt]) -> list[ast.Call]:
    """The atomic updates of the statements."""
    calls = [node for stmt in body for node in ast.walk(stmt) if isinstance(node, ast.Call)]
    return [call for call in calls if _call_name(call) in ATOMIC_WORDS and call.args]


def store_targets(body: Sequence[ast.stmt]) -> list[ast.Subscript]:
    """The subscripts that the statements store to."""
    return [
        node
        for stmt in body
        for node in ast.walk(stmt)
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)
    ]


def carried_names(body: Sequence[ast.stmt]) -> dict[str, ast.AST]:
    """Names assigned in the statements that may be read before: their values pass from one iteration to the next."""
    assigned = assigned_names(body) | {
        name.id for s in body for n in ast.walk(s) if isinstance(n, ast.Call) and (name := changed_by(n)) is not None
    }
    found: dict[str, ast.AST] = {}

    def reads(node: ast.AST | None, done: set[str]) -> None:
        if node is None:
            return
        for n in ast.walk(node):
            if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load) and n.id in assigned and n.id not in done:
                found.setdefault(n.id, n)

    def block(stmts: Sequence[ast.stmt], done: set[str]) -> set[str]:
        done = set(done)
        for stmt in stmts:
            match stmt:
                case ast.Assign(targets=targets, value=value):
                    reads(value, done)
                    for target in targets:
                        reads(target, done)
                        done.update(_targets(target))
                case ast.AugAssign(target=target, value=value):
                    reads(value, done)
                    reads(target, done)
                    if isinstance(target, ast.Name):
                        if target.id not in done:
                            found.setdefault(target.id, target)
                        done.add(target.id)
                case ast.Expr(value=ast.Call() as call) if (name := changed_by(call)) is not None:
                    for argument in call.args[1:]:
                        reads(argument, done)
                    if name.id not in done and _call_name(call) != "fill":
                        found.setdefault(name.id, name)
                    done.add(name.id)
                case ast.AnnAssign(target=target, value=value):
                    reads(value, done)
                    done.update(_targets(target) if value is not None else ())
                case ast.If(test=test, body=then, orelse=orelse):
                    reads(test, done)
                    done |= block(then, done) & block(orelse, done)
                case ast.For(target=target, iter=iterator, body=inner):
                    reads(iterator, done)
                    block(inner, done | set(_targets(target)))
                case ast.While(test=test, body=inner):
                    reads(test, done)
                    block(inner, done)
                case _:
                    reads(stmt, done)
        return done

    block(body, set())
    return found

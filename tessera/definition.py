"""Where parts of a user's function stand in its file: its header, a parameter, its `return`.

For errors that are found when no line of the function runs. Without the source, all are the function's first line.
"""

from __future__ import annotations

import ast
import inspect
import linecache
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

from tessera.errors import Span, characters

__all__ = ["header", "parameter", "returned"]

Definition = ast.FunctionDef | ast.AsyncFunctionDef


def header(python: Callable[..., Any]) -> Span:
    """`def` and the rest of that line."""
    file, line, node = _find(python)
    if node is None:
        return Span(file, line)
    text = linecache.getline(file, node.lineno)
    return Span(file, node.lineno, characters(file, node.lineno, node.col_offset), node.lineno, len(text.rstrip()))


def parameter(python: Callable[..., Any], name: str) -> Span:
    """The parameter of that name, with its annotation."""
    file, _, node = _find(python)
    if node is not None:
        given = node.args
        stars = [star for star in (given.vararg, given.kwarg) if star is not None]
        for found in (*given.posonlyargs, *given.args, *given.kwonlyargs, *stars):
            if found.arg == name:
                return _span(file, found)
    return header(python)


def returned(python: Callable[..., Any]) -> Span:
    """The `return` statement where there is one; the header where there are several, or none."""
    file, _, node = _find(python)
    found = [] if node is None else [part for part in _own(node) if isinstance(part, ast.Return)]
    return _span(file, found[0]) if len(found) == 1 else header(python)


def _find(python: Callable[..., Any]) -> tuple[str, int, Definition | None]:
    """The file, the first line, and the definition if it can be read."""
    code = getattr(inspect.unwrap(python), "__code__", None)
    if not isinstance(code, CodeType):
        return "<unknown>", 0, None
    file, line = code.co_filename, code.co_firstlineno
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError, RecursionError):
        return file, line, None
    for node in ast.walk(tree):
        if isinstance(node, Definition) and node.name == code.co_name:
            first = min((node.lineno, *(d.lineno for d in node.decorator_list)))
            if first == line:
                return file, line, node
    return file, line, None


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of a function without those of functions and classes in it."""
    for part in ast.iter_child_nodes(node):
        yield part
        if not isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            yield from _own(part)


def _span(file: str, node: Any) -> Span:
    end = node.end_lineno
    return Span(file, node.lineno, characters(file, node.lineno, node.col_offset), end,
                characters(file, end, node.end_col_offset))

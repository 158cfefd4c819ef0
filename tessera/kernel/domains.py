"""Implicit domain variables (rule R2): free names that are the base of a slice.

In `A[tile_m:tile_m+64, tile_k:tile_k+32]` the names `tile_m` and `tile_k`, bound nowhere, run over the multiples of the
slice's width on their axis. A variable in a subscript of a written parameter makes an axis of the launch. Any other one
is a sequential loop around the statements that depend on it.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tessera.errors import Span
from tessera.kernel.report import fail
from tessera.kernel.syntax import assigned_names, mentions
from tessera.kernel.tree import Buffer
from tessera.kernel.vocabulary import ATOMIC_WORDS
from tessera.shapes import Dim, known_equal

__all__ = ["Domain", "domain_loop", "find_domains", "output_names", "store_places", "with_loop"]

_STORES = {"store", "store_vector", *ATOMIC_WORDS}
_SYNCS = {"cp_commit_group", "cp_wait_group", "barrier"}
_FILLS = {"cp_async", "load_async", "tma_load_async", "store", "store_vector", "load"}


@dataclass
class Domain:
    """A domain variable: the axis' extent, as a size and as declared, the expression of its width, its first place, and
    whether it is written."""

    name: str
    dim: Dim
    declared: Dim
    width: ast.expr
    first: ast.AST
    written: bool = False
    places: list[tuple[str, int]] = field(default_factory=list)


def _name_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def store_places(body: Sequence[ast.stmt]) -> Iterator[ast.Subscript]:
    """Subscripts that statements store to, by assignment or by `store` and `store_vector`."""
    for stmt in body:
        for node in ast.walk(stmt):
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
                yield node
            elif (
                isinstance(node, ast.Call)
                and _name_of(node) in _STORES
                and node.args
                and isinstance(node.args[0], ast.Subscript)
            ):
                yield node.args[0]


def output_names(body: Sequence[ast.stmt]) -> list[str]:
    """Names that whole tiles are stored to: `store(O, t)` (rule R9)."""
    return [
        node.args[0].id
        for stmt in body
        for node in ast.walk(stmt)
        if isinstance(node, ast.Call) and _name_of(node) == "store" and node.args and isinstance(node.args[0], ast.Name)
    ]


def _subscripts(body: Sequence[ast.stmt]) -> list[ast.Subscript]:
    found = [node for stmt in body for node in ast.walk(stmt) if isinstance(node, ast.Subscript)]
    return sorted(found, key=lambda node: (node.lineno, node.col_offset))


def _width(node: ast.expr) -> tuple[str, ast.expr] | None:
    """The name and width of a slice `name:name+width`."""
    if isinstance(node, ast.Slice) and isinstance(node.lower, ast.Name) and isinstance(node.upper, ast.BinOp):
        left, right = node.upper.left, node.upper.right
        if isinstance(node.upper.op, ast.Add):
            for base, width in ((left, right), (right, left)):
                if isinstance(base, ast.Name) and base.id == node.lower.id:
                    return base.id, width
    return None


def find_domains(
    body: Sequence[ast.stmt],
    buffers: Mapping[str, Buffer],
    batched: frozenset[str],
    is_free: Callable[[str], bool],
    span: Callable[[ast.AST], Span],
) -> dict[str, Domain]:
    """All domain variables of a kernel. Raises SourceError E211 where two uses disagree."""
    found: dict[str, Domain] = {}
    stores = {id(node) for node in store_places(body)}
    for node in _subscripts(body):
        buffer = buffers.get(node.value.id) if isinstance(node.value, ast.Name) else None
        if buffer is None:
            continue
        items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        skip = 1 if buffer.name in batched and len(items) < buffer.rank else 0
        for at, item in enumerate(items):
            parts = _width(item)
            if parts is None or not is_free(parts[0]) or at + skip >= buffer.rank:
                continue
            name, width = parts
            dim = buffer.dims[at + skip]
            domain = found.setdefault(name, Domain(name, dim, buffer.axis(at + skip), width, item))
            if not known_equal(domain.dim, dim) or ast.dump(domain.width) != ast.dump(width):
                seen, axis = domain.places[0]
                raise fail("E211", f"`{name}` runs over `{domain.dim}` by {ast.unparse(domain.width)} in one slice, "
                                   f"and over `{dim}` by {ast.unparse(width)} here", span(item),
                           f"it slices axis {axis} of `{seen}` at line {span(domain.first).line}: a name is of one dim "
                           "and width; put the slices in the order of the axes, or take another name")  # fmt: skip
            domain.places.append((buffer.name, at + skip))
    for node in _subscripts(body):
        if id(node) in stores and isinstance(node.value, ast.Name) and node.value.id in buffers:
            for name, domain in found.items():
                domain.written = domain.written or mentions(node.slice, {name})
    return found


# Sequential domain variables ------------------------------------------------------------------------------------------


def domain_loop(node: ast.AST) -> Domain | None:
    """The domain variable that a loop was made for."""
    found = getattr(node, "domain", None)
    return found if isinstance(found, Domain) else None


def with_loop(
    body: Sequence[ast.stmt], domain: Domain, params: Container[str], outside: frozenset[str] = frozenset()
) -> list[ast.stmt]:
    """The statements with a loop over the variable around those that depend on it.

    What is stored to parameters holds the result of all iterations, so that reading them does not depend on one.
    `outside` are names that have a value before the statements.
    """
    users = [at for at, stmt in enumerate(body) if mentions(stmt, {domain.name})]
    if len(users) == 1 and isinstance(body[users[0]], (ast.For, ast.While)):
        inner = copy.copy(body[users[0]])
        assert isinstance(inner, (ast.For, ast.While))
        inner.body = with_loop(inner.body, domain, params, outside | assigned_names(body[: users[0]]))
        return [*body[: users[0]], inner, *body[users[0] + 1 :]]
    first, last = users[0], users[-1]
    names = {domain.name}
    before = outside | assigned_names(body[:first])
    for at in range(first, len(body)):
        stmt = body[at]
        if not mentions(stmt, names):
            continue
        last = max(last, at)
        names |= {name for name in _made(stmt, names, before) if name not in params}
    while last + 1 < len(body) and _is_sync(body[last + 1]):
        last += 1
    loop = ast.For(
        target=ast.Name(domain.name, ast.Store()), iter=ast.Constant(0), body=list(body[first : last + 1]), orelse=[]
    )
    loop.domain = domain  # type: ignore[attr-defined]
    for node in (loop, loop.target, loop.iter):
        ast.copy_location(node, domain.first)
    return [*body[:first], loop, *body[last + 1 :]]


def _is_sync(stmt: ast.stmt) -> bool:
    """Whether a statement completes or orders copies: behind dependent statements it belongs to them."""
    return isinstance(stmt, ast.Expr) and isinstance(stmt.value, ast.Call) and _name_of(stmt.value) in _SYNCS


def _made(stmt: ast.stmt, names: set[str], before: frozenset[str]) -> set[str]:
    """What a statement makes depend on the variable: names and memory that hold one iteration's value.

    A name that is carried (it has a value before the loop, and its new value is made from the old one) holds the result
    of all iterations.
    """
    made: set[str] = set()
    for node in ast.walk(stmt):
        if isinstance(node, ast.Call) and _name_of(node) in _FILLS and node.args:
            made |= _roots(node.args[0])
        if isinstance(node, (ast.Assign, ast.AugAssign)) and mentions(node.value, names):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                for name in _roots(target):
                    updated = isinstance(node, ast.AugAssign) or mentions(node.value, {name})
                    if not (updated and name in before):
                        made.add(name)
    return made


def _roots(node: ast.expr) -> set[str]:
    if isinstance(node, (ast.Tuple, ast.List)):
        return {name for item in node.elts for name in _roots(item)}
    while isinstance(node, (ast.Subscript, ast.Attribute)):
        node = node.value
    return {node.id} if isinstance(node, ast.Name) else set()

"""From a Python function to a `KernelDef`: signature, body, launch, results."""

from __future__ import annotations

import ast
import copy
import inspect
from collections.abc import Callable, Container, Mapping, Sequence
from types import FunctionType

from tessera.errors import SourceError, Span
from tessera.kernel.config import check_config, lanes_of
from tessera.kernel.domains import Domain, find_domains, output_names, with_loop
from tessera.kernel.dry import dry_run
from tessera.kernel.launch import check_grid, check_group, groups_for, lanes_needed, uses_id
from tessera.kernel.loops import Reader, has_word
from tessera.kernel.operands import BufferRef, Static
from tessera.kernel.privileges import check_updates
from tessera.kernel.report import KernelErrors, Report, fail
from tessera.kernel.results import results_of, returned_values
from tessera.kernel.scope import Bound, Frame
from tessera.kernel.signature import Signature
from tessera.kernel.syntax import Source, assigned_names, function_source, nested_return, tail_returns
from tessera.kernel.tile_operands import unknown_count
from tessera.kernel.tree import (
    Alloc,
    Atomic,
    AtomicTile,
    Axis,
    Buffer,
    Copy,
    KernelDef,
    Load,
    LoadTile,
    Result,
    Stmt,
    Store,
    StoreTile,
    TileType,
    Window,
    walk,
    walk_exprs,
)
from tessera.kernel.widen import widen
from tessera.shapes import Dim, known_equal, symbols_of

__all__ = ["parse", "specialise"]

_GRID_IDS = {"linear_id", "group_id", "group_linear_id", "grid_stride_range"}


def parse(
    function: FunctionType,
    *,
    group: int | None = None,
    grid: object = None,
    constants: Mapping[str, object] | None = None,
    config: Mapping[str, int] | None = None,
    dims: Mapping[str, int] | None = None,
) -> KernelDef:
    """Reads a kernel. `constants` replaces the values of compile-time parameters, `config` gives schedule parameters
    (of an autotune space, and rule R11), `dims` fixes dims of the signature to numbers.

    Raises KernelErrors (a SourceError with `.errors`) with every error that was found.
    """
    source = function_source(function)
    span = source.name_span()
    fixed, tracked = dict(dims or {}), frozenset[str]()
    while True:  # again when the body fixes a dim, or needs what was not tracked; both only grow
        report = Report()
        try:
            lanes = check_group(lanes_of(source, config or {}, group), span)
            groups = None if grid is None else check_grid(grid, span)
            signature = Signature(function, source, dict(constants or {}), report, fixed)
            groups = None if groups is None else signature.named(groups)
            report.finish()
            return _read(function, source, signature, lanes, groups, report, dict(config or {}), tracked)
        except _Again as again:
            fixed |= again.fixes
            tracked |= again.untracked
            continue
        except SourceError as error:
            if isinstance(error, KernelErrors):
                raise
            report.error(error)
            report.finish()
            raise


class _Again(Exception):
    """The kernel has to be read once more, with these dims fixed and these buffers tracked."""

    def __init__(self, fixes: dict[str, int], untracked: set[str]) -> None:
        super().__init__()
        self.fixes, self.untracked = fixes, untracked


def specialise(
    kernel: KernelDef,
    constants: Mapping[str, object] | None = None,
    *,
    config: Mapping[str, int] | None = None,
    dims: Mapping[str, int] | None = None,
) -> KernelDef:
    """The same kernel with other values of its compile-time parameters, schedule parameters, and dims fixed."""
    values = dict(kernel.constants) if constants is None else dict(constants)
    settings = {**dict(kernel.config), **(config or {})}
    fixed = {**dict(kernel.fixed), **(dims or {})}
    if (values, settings, fixed) == (dict(kernel.constants), dict(kernel.config), dict(kernel.fixed)):
        return kernel
    assert isinstance(kernel.function, FunctionType)
    grid = kernel.grid if kernel.explicit_grid else None
    group = None if "num_warps" in settings else kernel.group
    return parse(kernel.function, group=group, grid=grid, constants=values, config=settings, dims=fixed)


def _returns_scalar(node: ast.FunctionDef, signature: Signature) -> bool:
    """Whether any `return` gives something other than parameters and tiles."""
    if signature.result_dims:
        return False
    for inner in ast.walk(node):
        if isinstance(inner, ast.Return) and inner.value is not None:
            values = inner.value.elts if isinstance(inner.value, ast.Tuple) else [inner.value]
            for value in values:
                is_param = isinstance(value, ast.Name) and value.id in signature.buffers
                if not is_param and not (isinstance(value, ast.Constant) and value.value is None):
                    return True
    return False


def _decided(body: Sequence[ast.stmt], reader: Reader, assigned: Container[str]) -> list[ast.stmt]:
    """The statements without the branches that compile-time parameters rule out: what is not there has no domains."""
    found: list[ast.stmt] = []
    for stmt in body:
        if isinstance(stmt, ast.If):
            cond = _known(stmt.test, reader, assigned)
            if cond is not None:
                found += _decided(stmt.body if cond else stmt.orelse, reader, assigned)
                continue
        if isinstance(stmt, (ast.If, ast.For, ast.While)):
            inner = copy.copy(stmt)
            inner.orelse = _decided(stmt.orelse, reader, assigned)
            inner.body = _decided(stmt.body, reader, assigned) or [ast.copy_location(ast.Pass(), stmt)]
            stmt = inner
        found.append(stmt)
    return found


def _known(test: ast.expr, reader: Reader, assigned: Container[str]) -> bool | None:
    """What a condition is that consists of compile-time parameters, which nothing assigns, and numbers."""
    names = [node.id for node in ast.walk(test) if isinstance(node, ast.Name)]
    if any(isinstance(node, (ast.Call, ast.Attribute, ast.Subscript)) for node in ast.walk(test)):
        return None
    if not all(isinstance(reader.frame.env.get(name), Static) and name not in assigned for name in names):
        return None
    try:
        cond = reader.truth(reader.expr(test), reader.span(test))
    except SourceError:
        return None  # told where the statement is read
    return bool(cond.value) if isinstance(cond, Static) else None


def _read(
    function: FunctionType,
    source: Source,
    signature: Signature,
    group: int,
    grid: tuple[Dim, ...] | None,
    report: Report,
    config: dict[str, int],
    tracked: frozenset[str],
) -> KernelDef:
    node, span = source.node, source.name_span()
    scalar = _returns_scalar(node, signature)
    spread = grid is None and not scalar and not has_word(node, _GRID_IDS)
    frame = Frame(source, function, "")
    for param in signature.params:
        if param.buffer is not None:
            frame.env[param.name] = BufferRef(param.buffer)
        elif param.var is not None:
            frame.env[param.name] = Bound(param.var)
        else:
            frame.env[param.name] = Static(param.default)
    reader = Reader(frame, report, signature.buffers, signature.dims, group, spread)
    reader.groups = (1,) if scalar and grid is None else grid
    reader.readonly, reader.reduced = frozenset(signature.readonly), signature.reduced
    reader.constant_names = set(frame.env) - assigned_names(node.body)
    reader.batched, reader.tracked = frozenset(signature.batched), tracked
    for name, size in signature.fixed.items():
        frame.env.setdefault(name, Static(size))
    late = nested_return(node.body)
    if late is not None:
        report.error(fail("E213", "a `return` inside a loop is not supported in a kernel", source.span(late)))
        report.finish()
    body_nodes = _decided(tail_returns(node.body), reader, assigned_names(node.body))
    domains = find_domains(body_nodes, signature.buffers, reader.batched, _is_free(frame, signature), source.span)
    outputs = _outputs(body_nodes, signature)
    reader.prepare(domains, outputs, config, signature.fixed)
    for domain in domains.values():
        if not domain.written and not _places_output(domain, domains, outputs, source, report):
            body_nodes = with_loop(body_nodes, domain, signature.buffers)
    late = nested_return(body_nodes)
    if late is not None:
        raise fail("E213", "the returned tile depends on a domain variable (rule R2) that no output places",
                   source.span(late), "declare the tensor that it is a block of, or store it to a slice")  # fmt: skip
    given = tuple(config)  # before rule R11 adds to it
    reader.block(body_nodes)
    check_config(source, given, reader.used)
    results: tuple[Result, ...] = ()
    try:
        results = results_of(reader, signature, report, source)
    except SourceError as error:
        if not report.errors:
            report.error(error)
    fixes = {name: size for name, size in reader.fixes.items() if name not in signature.fixed}
    untracked = {b for e in walk_exprs(tuple(reader.out)) if (b := unknown_count(e)) is not None}
    if fixes or untracked:
        raise _Again(fixes, untracked)
    report.finish()
    axes, prologue = reader.launch(span)
    body = widen((*prologue, *reader.out), report)
    scalars = [p.var for p in signature.params if p.var is not None]
    dry_run(body, signature.dims, scalars, report)
    report.finish()
    explicit = grid is not None
    if grid is None:
        try:
            grid = _grid(reader, body, axes, group, report, span)
        except SourceError as error:
            report.error(error)
            report.finish()
            raise
    unknown = sorted({s for d in grid for s in symbols_of(d)} - set(signature.dims))
    if unknown:
        report.error(fail("E221", f"grid= uses `{unknown[0]}`, which is no dim of the signature", span))
        report.finish()
    globals_ = signature.buffers.values()
    check_updates(body, signature.reduced, report)
    report.finish()
    stores, loads = _accesses(body)
    written = frozenset(b.name for b in globals_ if b in stores)
    _warnings(body, stores, loads, results, written, signature, report, span)
    return KernelDef(
        name=function.__name__, params=tuple(signature.params), body=body, results=results, group=group, grid=grid,
        symbols=tuple(signature.dims), read=frozenset(b.name for b in globals_ if b in loads), written=written,
        notes=tuple(report.notes), span=span, doc=inspect.getdoc(function) or "",
        constants=tuple(signature.constants.items()), explicit_grid=explicit, axes=axes,
        config=tuple(sorted(reader.config.items())), fixed=tuple(sorted(signature.fixed.items())),
        open=_open(body, signature.dims), function=function,
    )  # fmt: skip


def _is_free(frame: Frame, signature: Signature) -> Callable[[str], bool]:
    """Whether a name is bound nowhere: it may be a domain variable (rule R2)."""

    def check(name: str) -> bool:
        bound = name in frame.locals or name in signature.dims or name in signature.fixed or frame.captured(name)[0]
        return not bound

    return check


def _outputs(body: Sequence[ast.stmt], signature: Signature) -> list[tuple[Dim, ...]]:
    """The declared shapes that tiles are stored to as a whole, or returned for (rule R9), without a batch axis."""
    found = [(name, signature.buffers[name].declared) for name in output_names(body) if name in signature.buffers]
    if signature.result_dims and _returns_tile(body, signature):
        found.append(("return", signature.result_declared))
    return [dims[1:] if name in signature.batched else dims for name, dims in found]


def _returns_tile(body: Sequence[ast.stmt], signature: Signature) -> bool:
    values = [n.value for s in body for n in ast.walk(s) if isinstance(n, ast.Return) and n.value is not None]
    return any(not (isinstance(v, ast.Name) and v.id in signature.buffers) for v in values)


def _places_output(
    domain: Domain, domains: Mapping[str, Domain], outputs: list[tuple[Dim, ...]], source: Source, report: Report
) -> bool:
    """Whether a domain variable that is in no written subscript places a tile of rule R9."""
    for dims in outputs:
        wanted = sum(known_equal(dim, domain.declared) for dim in dims)
        wanted -= sum(d.written and known_equal(d.declared, domain.declared) for d in domains.values())
        rivals = [d.name for d in domains.values() if not d.written and known_equal(d.declared, domain.declared)]
        if wanted > 0 and len(rivals) > wanted:
            names = " and ".join(f"`{name}`" for name in rivals)
            raise fail("E211", f"{names} run over `{domain.dim}`, and the result does not say which of them place it",
                       source.span(domain.first), "store the tile to a slice of a parameter")  # fmt: skip
        if wanted > 0:
            return True
    return False


def _accesses(body: tuple[Stmt, ...]) -> tuple[set[Buffer], set[Buffer]]:
    """The buffers that are stored to, and those that are read."""
    stores, loads, updates = set[Buffer](), set[Buffer](), set[Buffer]()
    for stmt in walk(body):
        match stmt:
            case Store(buffer):
                stores.add(buffer)
            case StoreTile(window):
                stores.add(window.buffer)
            case Atomic(buffer=buffer) | AtomicTile(window=Window(buffer)):
                updates.add(buffer)
            case Copy(dst, src):
                stores.add(dst.buffer)
                loads.add(src.buffer)
    for expr in walk_exprs(body):
        match expr:
            case Load(buffer):
                loads.add(buffer)
            case LoadTile(window):
                loads.add(window.buffer)
    # an update reads what it changes; of shared memory nobody sees it unless it is read
    return stores | updates, loads | {b for b in updates if b.space == "global"}


def _open(body: tuple[Stmt, ...], dims: Sequence[str]) -> tuple[str, ...]:
    """The dims that the shape of a tile or of shared memory depends on."""
    shapes: list[Dim] = []
    for stmt in walk(body):
        if isinstance(stmt, Alloc):
            shapes += stmt.buffer.dims
        elif isinstance(stmt, (StoreTile, AtomicTile, Copy)):
            window = stmt.src if isinstance(stmt, Copy) else stmt.window
            shapes += window.shape
    for expr in walk_exprs(body):
        if isinstance(expr.type, TileType):
            shapes += expr.type.shape
    return tuple(sorted({s for dim in shapes for s in symbols_of(dim)} & set(dims)))


def _grid(
    reader: Reader, statements: tuple[Stmt, ...], axes: tuple[Axis, ...], group: int, report: Report, span: Span
) -> tuple[Dim, ...]:
    linear, by_group = uses_id(statements, "linear"), uses_id(statements, "group")
    if any((isinstance(r, Bound) and r.facts is None) or isinstance(r, Static) for r in returned_values(reader)):
        report.note("R9: a kernel that returns a scalar runs as one group", span)
        return (1,)
    if axes:
        return tuple(axis.trips for axis in axes)
    if linear is not None:
        return groups_for(lanes_needed(statements, report, linear.span), group)
    if by_group is not None:
        raise fail(
            "E211",
            "the number of groups is not known: the kernel uses group_id without linear_id",
            by_group.span,
            'state it, as in @ts.kernel(grid="ceildiv(N, 128)")',
        )
    report.note("the kernel runs as one group: it uses no id of the grid and has no work loop", span)
    return (1,)


def _warnings(
    body: tuple[Stmt, ...],
    stores: set[Buffer],
    loads: set[Buffer],
    results: tuple[Result, ...],
    written: frozenset[str],
    signature: Signature,
    report: Report,
    span: Span,
) -> None:
    for name, buffer in signature.buffers.items():
        if buffer not in stores and buffer not in loads and not any(r.param == name for r in results):
            report.warn("W207", f"`{name}` is neither read nor written", buffer.span)
    for result in results:
        if result.param is not None and result.param not in written:
            report.warn("W201", f"`{result.param}` is returned but never written", result.buffer.span)
    for stmt in walk(body):
        if isinstance(stmt, Alloc) and stmt.buffer not in loads:
            how = "written but never read" if stmt.buffer in stores else "never used"
            report.warn("W202", f"the shared memory `{stmt.buffer.name}` is {how}", stmt.span)
    if not written and not results:
        report.warn("W204", "the kernel writes nothing and returns nothing", span)

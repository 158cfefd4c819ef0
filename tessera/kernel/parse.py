"""From a Python function to a `KernelDef`: signature, body, launch, results."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from types import FunctionType

from tessera.dtypes import DType, as_dtype
from tessera.errors import SourceError, Span
from tessera.kernel.launch import check_grid, check_group, groups_for, lanes_needed, uses_id
from tessera.kernel.loops import Reader, has_word
from tessera.kernel.operands import BufferRef, Static, held_type, is_expr, to_expr
from tessera.kernel.report import Report, fail
from tessera.kernel.scope import Bound, Frame, Poison, Unset
from tessera.kernel.syntax import Source, function_source, nested_return, tail_returns
from tessera.kernel.tree import Alloc, Buffer, KernelDef, Load, Param, Read, Result, Store, Var, walk, walk_exprs
from tessera.kernel.tree import Elem as ElemType
from tessera.shapes import Dim, symbols_of
from tessera.types import RegionSpec, TensorSpec

__all__ = ["parse", "specialise"]

_GRID_IDS = {"linear_id", "group_id"}


def parse(
    function: FunctionType,
    *,
    group: int = 128,
    grid: object = None,
    constants: Mapping[str, object] | None = None,
) -> KernelDef:
    """Reads a kernel. `constants` replaces the values of compile-time parameters.

    Raises KernelErrors (a SourceError with `.errors`) with every error that was found.
    """
    source = function_source(function)
    report = Report()
    span = source.name_span()
    try:
        lanes = check_group(group, span)
        groups = None if grid is None else check_grid(grid, span)
        signature = _Signature(function, source, dict(constants or {}), report)
    except SourceError as error:
        report.error(error)
        report.finish()
        raise
    report.finish()
    return _read(function, source, signature, lanes, groups, report)


def specialise(kernel: KernelDef, constants: Mapping[str, object]) -> KernelDef:
    """The same kernel with other values of its compile-time parameters."""
    if dict(constants) == dict(kernel.constants):
        return kernel
    assert isinstance(kernel.function, FunctionType)
    grid = kernel.grid if kernel.explicit_grid else None
    return parse(kernel.function, group=kernel.group, grid=grid, constants=constants)


class _Signature:
    """Parameters, dims and the declared result of a kernel."""

    def __init__(self, function: FunctionType, source: Source, constants: dict[str, object], report: Report) -> None:
        self.params: list[Param] = []
        self.readonly: set[str] = set()
        self.constants: dict[str, object] = {}
        node = source.node
        if node.args.vararg or node.args.kwarg:
            raise fail("E205", "a kernel has no star parameters", source.name_span())
        try:
            namespace = {
                n: c.cell_contents
                for n, c in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
            }
        except ValueError:
            namespace = {}
        try:
            annotations = inspect.get_annotations(function, locals=namespace, eval_str=True)
        except SourceError as error:
            raise error.at(source.name_span()) from None
        except Exception as error:
            raise fail("E205", f"the annotations cannot be evaluated: {error}", source.name_span()) from None
        for name, parameter in inspect.signature(function).parameters.items():
            arg = next(a for a in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs] if a.arg == name)
            try:
                self._add(name, annotations.get(name), parameter, source.span(arg), constants)
            except SourceError as error:
                report.error(error.at(source.span(arg)))
        unknown = sorted(set(constants) - set(self.constants))
        if unknown:
            raise fail(
                "E222", f"`{unknown[0]}` is not a compile-time parameter of `{function.__name__}`", source.name_span()
            )
        self.returns = annotations.get("return")
        self.buffers = {p.name: p.buffer for p in self.params if p.buffer is not None}
        self.dims = sorted({s for b in self.buffers.values() for d in b.dims for s in symbols_of(d)})
        for name in sorted({p.name for p in self.params} & set(self.dims)):
            report.error(fail("E205", f"`{name}` is a parameter and a dim", source.name_span(), "rename one of them"))

    def _add(
        self, name: str, annotation: object, parameter: inspect.Parameter, span: Span, constants: Mapping[str, object]
    ) -> None:
        has_default = parameter.default is not inspect.Parameter.empty
        default = parameter.default if has_default else None
        if isinstance(annotation, RegionSpec):
            if annotation.privilege == "read":
                self.readonly.add(name)
            annotation = annotation.inner
        if isinstance(annotation, TensorSpec):
            type_ = annotation.type(name)
            buffer = Buffer(name, type_.dims, type_.dtype, "global", span)
            self.params.append(Param(name, span, buffer=buffer))
            return
        plain = annotation in (int, bool, None, inspect.Parameter.empty)
        if has_default and plain and (isinstance(default, (int, float, str)) or default is None):
            value = constants.get(name, default)
            self.constants[name] = value
            self.params.append(Param(name, span, default=value, has_default=True, constant=True))
            return
        if annotation is None:
            raise fail(
                "E205",
                f"`{name}` needs an annotation",
                span,
                'write for example `x: ts.Tensor["N", ts.f32]` or `alpha: ts.f32`',
            )
        try:
            dtype: DType = as_dtype(annotation)
        except SourceError:
            raise fail(
                "E205",
                f"`{name}`: {annotation!r} is not the type of a kernel parameter",
                span,
                "parameters are ts.Tensor[...], ts.Tile[...] or an element type such as ts.f32",
            ) from None
        if has_default and not isinstance(default, (int, float)):
            raise fail("E205", f"the default of `{name}` is not a number", span)
        self.params.append(
            Param(name, span, var=Var(name, ElemType(dtype.base)), default=default, has_default=has_default)
        )


def _returns_scalar(node: ast.FunctionDef, signature: _Signature) -> bool:
    """Whether any `return` gives something other than parameters."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Return) and inner.value is not None:
            values = inner.value.elts if isinstance(inner.value, ast.Tuple) else [inner.value]
            for value in values:
                is_param = isinstance(value, ast.Name) and value.id in signature.buffers
                if not is_param and not (isinstance(value, ast.Constant) and value.value is None):
                    return True
    return False


def _read(
    function: FunctionType,
    source: Source,
    signature: _Signature,
    group: int,
    grid: tuple[Dim, ...] | None,
    report: Report,
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
    reader.readonly = frozenset(signature.readonly)
    late = nested_return(node.body)
    if late is not None:
        report.error(fail("E213", "a `return` inside a loop is not supported in a kernel", source.span(late)))
        report.finish()
    reader.block(tail_returns(node.body))
    results: tuple[Result, ...] = ()
    try:
        results = _results(reader, signature, report, source)
    except SourceError as error:
        if not report.errors:
            report.error(error)
    report.finish()
    body = tuple(reader.out)
    explicit = grid is not None
    if grid is None:
        try:
            grid = _grid(reader, body, group, report, span)
        except SourceError as error:
            report.error(error)
            report.finish()
            raise
    unknown = sorted({s for d in grid for s in symbols_of(d)} - set(signature.dims))
    if unknown:
        report.error(fail("E221", f"grid= uses `{unknown[0]}`, which is no dim of the signature", span))
        report.finish()
    globals_ = signature.buffers.values()
    stores = {s.buffer for s in walk(body) if isinstance(s, Store)}
    loads = {e.buffer for e in walk_exprs(body) if isinstance(e, Load)}
    written = frozenset(b.name for b in globals_ if b in stores)
    _warnings(body, stores, loads, results, written, report, span)
    return KernelDef(
        name=function.__name__, params=tuple(signature.params), body=body, results=results, group=group, grid=grid,
        symbols=tuple(signature.dims), read=frozenset(b.name for b in globals_ if b in loads), written=written,
        notes=tuple(report.notes), span=span, doc=inspect.getdoc(function) or "",
        constants=tuple(signature.constants.items()), explicit_grid=explicit, function=function,
    )  # fmt: skip


def _grid(reader: Reader, body: tuple[object, ...], group: int, report: Report, span: Span) -> tuple[Dim, ...]:
    statements = tuple(reader.out)
    linear, by_group = uses_id(statements, "linear"), uses_id(statements, "group")
    if any(value is not None and not isinstance(value, BufferRef) for value in _values(reader)):
        report.note("R9: a kernel that returns a scalar runs as one group", span)
        return (1,)
    if reader.trips is not None:
        return (reader.trips,)
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


def _values(reader: Reader) -> list[object]:
    count = reader.kernel_frame.env.get("return")
    if not isinstance(count, Static):
        return []
    assert isinstance(count.value, tuple)
    return [reader.kernel_frame.env.get(f"return.{k}") for k in range(count.value[1])]


def _results(reader: Reader, signature: _Signature, report: Report, source: Source) -> tuple[Result, ...]:
    """The results, and the stores of returned scalars to their buffers. Raises SourceError E213."""
    if not reader.returns:
        if isinstance(signature.returns, (DType, TensorSpec)):
            raise fail("E213", "the kernel declares a result and has no `return`", source.name_span())
        return ()
    given = [(span, value) for span, value in reader.returns if value is not None]
    if not given:
        return ()
    span = given[-1][0]
    binding = reader.kernel_frame.env.get("return")
    if isinstance(binding, Unset):
        if all(isinstance(value, BufferRef) for _, value in given) and len({value for _, value in given}) == 1:
            only = given[0][1]
            assert isinstance(only, BufferRef)
            reader.kernel_frame.env["return"], reader.kernel_frame.env["return.0"] = Static(("tuple", 1)), only
        else:
            raise fail("E213", "the paths of the kernel return different things, or some return nothing", span)
    results: list[Result] = []
    values = _values(reader)
    declared = (
        list(signature.returns)
        if isinstance(signature.returns, (tuple, list))
        else [signature.returns] * (len(values) == 1)
    )
    for at, value in enumerate(values):
        want = declared[at] if at < len(declared) else None
        match value:
            case BufferRef(buffer) if buffer.space == "global":
                if isinstance(want, DType):
                    raise fail(
                        "E213",
                        f"the kernel declares a scalar of type {want} and returns the tensor `{buffer.name}`",
                        span,
                    )
                results.append(Result(buffer.name, buffer, buffer.name))
            case BufferRef(buffer):
                raise fail(
                    "E213",
                    f"`{buffer.name}` is shared memory and cannot be returned",
                    span,
                    "return one of its elements, or store it to a parameter",
                )
            case Poison():
                return ()
            case Bound() | Static() if isinstance(value, Bound) or is_expr(value):
                expr = Read(value.var, span) if isinstance(value, Bound) else to_expr(value, span)
                if isinstance(want, TensorSpec):
                    raise fail(
                        "E213",
                        f"the kernel declares a tensor and returns a scalar of type {held_type(expr).dtype}",
                        span,
                    )
                if expr.type.varying:
                    raise fail(
                        "E213",
                        "the returned scalar differs between the lanes of the group",
                        span,
                        "return a uniform value: an element of shared memory at a uniform index, or a group reduction",
                    )
                dtype = as_dtype(want) if want is not None else expr.type.dtype
                name = "out" if len(values) == 1 else f"out{at}"
                buffer = Buffer(name, (), dtype, "global", span)
                reader.out.append(Store(buffer, (), to_expr(expr, span, dtype), False, span))
                results.append(Result(name, buffer))
            case _:
                raise fail("E213", "the paths of the kernel return different things, or some return nothing", span)
    names = [r.name for r in results]
    for name in names:
        if names.count(name) > 1:
            raise fail("E213", f"`{name}` is returned twice", span)
    return tuple(results)


def _warnings(
    body: tuple[object, ...],
    stores: set[Buffer],
    loads: set[Buffer],
    results: tuple[Result, ...],
    written: frozenset[str],
    report: Report,
    span: Span,
) -> None:
    for result in results:
        if result.param is not None and result.param not in written:
            report.warn("W201", f"`{result.param}` is returned but never written", result.buffer.span)
    for stmt in walk(body):  # type: ignore[arg-type]
        if isinstance(stmt, Alloc) and stmt.buffer not in loads:
            how = "written but never read" if stmt.buffer in stores else "never used"
            report.warn("W202", f"the shared memory `{stmt.buffer.name}` is {how}", stmt.span)
    if not written and not results:
        report.warn("W204", "the kernel writes nothing and returns nothing", span)

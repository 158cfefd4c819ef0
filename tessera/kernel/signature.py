"""The signature of a kernel: parameters, dims, compile-time values, and the declared result."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from types import FunctionType

from tessera.dtypes import DType, as_dtype
from tessera.errors import SourceError, Span
from tessera.kernel.report import Report, fail
from tessera.kernel.syntax import Source
from tessera.kernel.tree import Buffer, Elem, Param, Var
from tessera.shapes import Dim, known_equal, substitute, symbol, symbols_of
from tessera.types import RegionSpec, TensorSpec

__all__ = ["Signature"]


class Signature:
    """Parameters, dims and the declared result of a kernel."""

    def __init__(
        self,
        function: FunctionType,
        source: Source,
        constants: dict[str, object],
        report: Report,
        fixed: Mapping[str, int],
    ) -> None:
        self.fixed = dict(fixed)
        self.batched: set[str] = set()  # parameters whose leading axis is a product (rule R4)
        self.params: list[Param] = []
        self.readonly: set[str] = set()
        self.reduced: dict[str, str] = {}  # parameters that only atomic updates of one kind may change
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
        # the declared result's dims, where it is a tensor of known rank with an element type
        self.result_dims: tuple[Dim, ...] = ()
        self.result_declared: tuple[Dim, ...] = ()
        if isinstance(self.returns, TensorSpec) and self.returns.dims and self.returns.dtype is not None:
            self.result_declared = tuple(dim for dim in self.returns.dims if dim is not None)
            self.result_dims = tuple(substitute(dim, self.fixed) for dim in self.result_declared)
        self._name_products()
        self.buffers = {p.name: p.buffer for p in self.params if p.buffer is not None}
        self.dims = sorted({s for b in self.buffers.values() for d in b.dims for s in symbols_of(d)})
        for name in sorted({p.name for p in self.params} & set(self.dims)):
            report.error(fail("E205", f"`{name}` is a parameter and a dim", source.name_span(), "rename one of them"))

    def _name_products(self) -> None:
        """A product such as `B*H` whose factors no size determines becomes one dim of its own, `B_H`."""
        dims = [d for p in self.params if p.buffer is not None for d in p.buffer.dims]
        bare = {str(d) for d in dims if len(symbols_of(d)) == 1}
        products = {d: symbol("_".join(sorted(symbols_of(d)))) for d in dims if len(symbols_of(d)) > 1}
        self.products = {d: one for d, one in products.items() if not symbols_of(d) & bare and _is_product(d)}
        self.params = [
            p if p.buffer is None else replace(p, buffer=replace(p.buffer, dims=self.named(p.buffer.dims)))
            for p in self.params
        ]
        if isinstance(self.returns, TensorSpec) and self.result_dims:
            if len(self.result_dims) > 1 and len(symbols_of(self.result_dims[0])) > 1:
                self.batched.add("return")
            self.result_dims = self.named(self.result_dims)

    def named(self, dims: tuple[Dim, ...]) -> tuple[Dim, ...]:
        """Dims as they are called in the kernel: those that are fixed are numbers, products have names."""
        return tuple(self.products.get(d, d) for d in (substitute(dim, self.fixed) for dim in dims))

    def _add(
        self, name: str, annotation: object, parameter: inspect.Parameter, span: Span, constants: Mapping[str, object]
    ) -> None:
        has_default = parameter.default is not inspect.Parameter.empty
        default = parameter.default if has_default else None
        if isinstance(annotation, RegionSpec):
            if annotation.privilege == "read":
                self.readonly.add(name)
            elif annotation.privilege.startswith("reduce_"):
                self.reduced[name] = {"sum": "add"}.get(kind := annotation.privilege.removeprefix("reduce_"), kind)
            annotation = annotation.inner
        if isinstance(annotation, TensorSpec):
            type_ = annotation.type(name)
            dims = tuple(substitute(dim, self.fixed) for dim in type_.dims)
            if len(dims) > 1 and len(symbols_of(dims[0])) > 1:
                self.batched.add(name)
            buffer = Buffer(name, dims, type_.dtype, "global", span, declared=tuple(type_.dims))
            self.params.append(Param(name, span, buffer=buffer))
            return
        plain = annotation in (int, bool, str, None, inspect.Parameter.empty)
        if has_default and plain and (isinstance(default, (int, float, str, FunctionType)) or default is None):
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
            Param(name, span, var=Var(name, Elem(dtype.base)), default=default, has_default=has_default)
        )


def _is_product(dim: Dim) -> bool:
    """Whether a dim is a product of different symbols."""
    rest: Dim = 1
    for name in sorted(symbols_of(dim)):
        rest = rest * symbol(name)
    return known_equal(rest, dim)

"""Traces a function: its Python body runs once on values that have types and no elements; every operator becomes a
`graph` operation.

Sizes stay symbolic. Python control flow is decided by Python; a tensor that the body takes from outside becomes a
constant of the module, named by the module-level variable that holds it.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tessera import definition
from tessera import types as lang
from tessera.decorators import Function
from tessera.dtypes import as_dtype
from tessera.errors import SourceError, SourceErrors, Span, user_calls
from tessera.interpreters import Interpreter, interpret
from tessera.numerics import Policy
from tessera.operator import Operator
from tessera.ops.create import Full
from tessera.pytree import Tree, flatten_with_names, unflatten
from tessera.shapes import collect_assumptions, symbols_of
from tessera.tensor import EagerTensor, Tensor
from tesseracc.frontend.limits import check_limits
from tesseracc.frontend.places import location
from tesseracc.frontend.user_errors import user_code
from tesseracc.ir.builder import Builder
from tesseracc.ir.control import emit_results
from tesseracc.ir.dialects.graph import attrs_of, from_lang, to_lang
from tesseracc.ir.rewrite import remove_dead
from tesseracc.ir.value import Func, Loc, Module, Value
from tesseracc.ir.verify import verify

__all__ = ["Traced", "trace"]

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep

#: a tensor from outside with at most this many elements is written into the IR when all its elements are equal
INLINE_ELEMENTS = 1


class TracedTensor(Tensor):
    """A value of the graph under construction."""

    __slots__ = ("_interpreter", "_policies", "value")

    def __init__(self, value: Value, interpreter: Tracer, policies: tuple[Policy, ...] = ()) -> None:
        self.value = value
        self._interpreter = interpreter
        self._policies = policies

    @property
    def policies(self) -> tuple[Policy, ...]:
        return self._policies

    def with_policies(self, policies: tuple[Policy, ...]) -> TracedTensor:
        return TracedTensor(self.value, self._interpreter, policies)

    @property
    def type(self) -> lang.TensorType:
        return to_lang(self.value.type)

    @property
    def interpreter(self) -> Interpreter:
        return self._interpreter

    def __repr__(self) -> str:
        return f"<traced {self.type}>"


class Tracer(Interpreter):
    """Builds one `graph.func`."""

    dynamic = True
    located = True

    def __init__(self, names: Mapping[int, str], root: str | None) -> None:
        self.b = Builder()
        self.names = names
        self.root = root
        self.constants: dict[str, np.ndarray[Any, Any]] = {}
        self._held: dict[int, tuple[Tensor, Value]] = {}

    def process(self, op: Operator, args: tuple[Tensor, ...], loc: Span | None) -> Any:
        self.b.loc = self.location(loc)
        try:
            results = emit_results(self.b, op, [self.value(x) for x in args], self.location)
        except SourceError as error:
            # the compiler's own frames stand between the operator and the user's line
            calls = tuple(call for call in user_calls() if not call.span.file.startswith(_PACKAGE))
            raise error.at(loc, calls) from None
        found = tuple(TracedTensor(value, self) for value in results)
        for result in found:
            check_limits(f"the result of {op.name}", result.type.dims, result.type.dtype.name, loc)
        return found[0] if isinstance(op.infer(*(x.type for x in args)), lang.TensorType) else found

    def value(self, x: Tensor) -> Value:
        """The graph's value of a tensor; one from outside becomes a constant, each only once."""
        if isinstance(x, TracedTensor):
            return x.value
        assert isinstance(x, EagerTensor)
        if id(x) not in self._held:
            self._held[id(x)] = (x, self._constant(x))
        return self._held[id(x)][1]

    def _constant(self, x: EagerTensor) -> Value:
        data = x.numpy()
        name = self.names.get(id(x))
        if name is None and data.size <= INLINE_ELEMENTS and data.ndim == 0:
            return self.b.op("graph.full", **attrs_of(Full((), data.item(), x.dtype.name)))
        name = name or f"const{len(self.constants)}"
        self.constants[name] = data
        return self.b.op("graph.constant", types=from_lang(x.type), name=name)

    def location(self, span: Span | None) -> Loc | None:
        """A place relative to the module's folder."""
        return None if span is None else location(span, self.root)


@dataclass(frozen=True)
class Traced:
    """A traced function, and the structure of its result (`tessera.pytree`)."""

    module: Module
    tree: Tree


def trace(
    fn: Function,
    types: Mapping[str, Any] | None = None,
    root: str | None = None,
    *,
    static: Mapping[str, object] | None = None,
) -> Traced:
    """A verified module with one `graph.func`, and the structure of what it returns.

    `types` gives the types of parameters by name, where annotations leave them open: a type, or a tree of types and of
    Python values; `static` the Python values of others, which become part of the function; `root` is the folder that
    locations are relative to. A parameter that is a tree becomes one for each tensor, named by its path with `_`.
    Attributes of the function: `outputs` (the names of the results), `doc`, where operators assume it `assume`: pairs
    (size, divisor) that the inputs must satisfy, and where it has state `state`: pairs of a parameter's name and the
    number of the result that is its new value.
    Raises SourceError E3xx at the user's line.
    """
    root = root if root is not None else os.path.dirname(fn.file)
    tracer = Tracer(_global_names(fn), root)
    place, end = definition.header(fn.python), definition.returned(fn.python)
    _check_form(fn, place)
    errors: list[SourceError] = []
    args: list[Any] = []
    named: dict[str, Any] = {}
    params: list[Value] = []
    held: list[tuple[str, Any]] = []
    for parameter in fn.parameters:
        value = None if static is None else static.get(parameter.name)
        if static is None or parameter.name not in static:
            value = parameter.default
            try:
                declared = (types or {}).get(parameter.name) or _declared(fn, parameter)
                if declared is not None:
                    here = definition.parameter(fn.python, parameter.name)
                    value = _arguments(tracer, params, parameter.name, declared, here)
            except SourceError as error:
                errors.append(error.at(definition.parameter(fn.python, parameter.name)))
        if parameter.state:
            held += flatten_with_names(value, parameter.name)[0]
        if parameter.kind is parameter.kind.KEYWORD_ONLY:
            named[parameter.name] = value
        else:
            args.append(value)
    if errors:
        raise SourceErrors(errors) if len(errors) > 1 else errors[0]
    with interpret(tracer), collect_assumptions() as assumed:
        with user_code(Path(fn.file), "E105", f"`{fn.name}`"):
            result = fn.invoke(*args, **named)
        leaves, tree = _leaves(fn, result, end)
        yields = [_output(tracer, fn, leaf, end) for _, leaf in leaves]
    outputs = _output_names([path for path, _ in leaves])
    if len(set(outputs)) < len(outputs):
        twice = next(name for i, name in enumerate(outputs) if name in outputs[:i])
        raise SourceError("E317", f"two results of `{fn.name}` are named `{twice}`", span=end)
    _check_sizes(fn, params, yields, end)
    attrs: dict[str, Any] = {"doc": " ".join((fn.__doc__ or "").split()), "outputs": outputs}
    if assumed:
        attrs = {"assume": tuple((a.value, a.divisor) for a in assumed), **attrs}
    names = {p.name: i for i, p in enumerate(params)}
    if len(names) < len(params):
        raise SourceError("E305", f"two parameters of `{fn.name}` have one name in the bundle", span=place,
                          help="names in a tree are joined by _; rename one of them")
    state = [path_name(path) for path, _ in held]
    if state:
        attrs["state"] = tuple((name, outputs.index(name)) for name in state)
    region = remove_dead(tracer.b.region(params, yields))
    func = Func("graph.func", fn.name, region, attrs, tracer.location(place))
    used = {op.attrs["name"] for op in func.walk() if op.name == "graph.constant"}
    constants = {key: array for key, array in tracer.constants.items() if key in used}
    return Traced(verify(Module((func,), constants=constants)), tree)


def _check_form(fn: Function, place: Span) -> None:
    """A compiled function has fixed parameters and returns."""
    stars = [p.name for p in fn.parameters if p.kind in (p.kind.VAR_POSITIONAL, p.kind.VAR_KEYWORD)]
    if stars:
        raise SourceError(
            "E305", f"`{fn.name}` has the star parameter `{stars[0]}`", help="name every parameter", span=place
        )
    if inspect.isgeneratorfunction(fn.python) or inspect.iscoroutinefunction(fn.python):
        raise SourceError(
            "E317",
            f"`{fn.name}` is a generator or coroutine",
            help="return the results, as a tuple or dict",
            span=place,
        )


def _parameter(tracer: Tracer, params: list[Value], name: str, type_: lang.TensorType, place: Span) -> TracedTensor:
    """One more parameter of the graph."""
    check_limits(f"parameter `{name}`", type_.dims, type_.dtype.name, place)
    params.append(Value(from_lang(type_), name))
    return TracedTensor(params[-1], tracer, type_.dtype.policies)


def _arguments(tracer: Tracer, params: list[Value], name: str, declared: Any, place: Span) -> Any:
    """The value of a parameter: a traced tensor for each type in the tree, other leaves as they are."""
    named, tree = flatten_with_names(declared, name)
    leaves = [_parameter(tracer, params, path_name(path), leaf, place) if isinstance(leaf, lang.TensorType) else leaf
              for path, leaf in named]
    return unflatten(tree, leaves)


def path_name(path: str) -> str:
    """The name in a bundle of what is at a path in a tree: `params.layers.0` is params_layers_0."""
    return re.sub(r"[^0-9A-Za-z_]", "_", path)


def _leaves(fn: Function, result: Any, place: Span) -> tuple[list[tuple[str, Any]], Tree]:
    """The results by their paths. Raises E317 for none, and for structures that have no names."""
    try:
        leaves, tree = flatten_with_names(result)
    except (TypeError, RecursionError):
        raise SourceError(
            "E317", f"`{fn.name}` returns a structure that is not made of tuples, lists and dicts with names",
            help="keys of a dict are strings", span=place,
        ) from None  # fmt: skip
    if not leaves:
        raise SourceError("E317", f"`{fn.name}` returns nothing", help="end it with `return`", span=place)
    return leaves, tree


def _declared(fn: Function, parameter: Any) -> Any:
    """A parameter's type, or tree of types, by its annotation; None for one that keeps its default. Raises E307 where
    neither says."""
    if parameter.tree is not None:
        named, tree = flatten_with_names(parameter.tree, parameter.name)
        return unflatten(tree, [spec.type(path_name(path)) for path, spec in named])
    spec = parameter.tensor
    if spec is not None and spec.dims is not None and spec.dtype is not None:
        type_: lang.TensorType = spec.type(parameter.name)
        return type_
    if parameter.default is not inspect.Parameter.empty:
        return None
    if parameter.spec in (float, int, bool):
        return lang.TensorType((), as_dtype(parameter.spec))
    raise SourceError(
        "E307",
        f"the type of parameter `{parameter.name}` of `{fn.name}` is not known",
        help=f'annotate it (ts.Tensor["N", ts.f32]) or build with --input-spec {parameter.name}=f32[N]',
    )


def _output(tracer: Tracer, fn: Function, leaf: Any, place: Span) -> Value:
    if isinstance(leaf, Tensor):
        return tracer.value(leaf)
    if isinstance(leaf, (bool, int, float, np.ndarray, np.generic)):
        from tessera.tensor import as_tensor

        try:
            return tracer.value(as_tensor(np.asarray(leaf)))
        except SourceError as error:
            raise error.at(place) from None
    raise SourceError(
        "E317",
        f"`{fn.name}` returns an object of type {type(leaf).__name__}, which is not a tensor",
        help="return tensors, numbers, or tuples, lists and dicts of them",
        span=place,
    )


def _output_names(paths: Sequence[str]) -> tuple[str, ...]:
    """`out` for one result, `out0`, .. for several; the keys of a dict keep their names, nested ones joined by `_`."""
    if list(paths) == [""]:
        return ("out",)
    names = []
    for path in paths:
        name = path_name(path)
        names.append(f"out{name}" if name[:1].isdigit() else name)
    return tuple(names)


def _check_sizes(fn: Function, params: Sequence[Value], yields: Sequence[Value], place: Span) -> None:
    """Every symbol of a result must be a symbol of a parameter: otherwise nothing says how large it is."""
    known = {s for p in params for dim in to_lang(p.type).dims for s in symbols_of(dim)}
    for value in yields:
        for dim in to_lang(value.type).dims:
            free = symbols_of(dim) - known
            if free:
                raise SourceError(
                    "E307", f"the size `{dim}` of a result of `{fn.name}` does not follow from its inputs", span=place
                )


def _global_names(fn: Function) -> dict[int, str]:
    """Names of tensors that module-level variables (or dicts, lists and tuples in them) hold, by identity."""
    names: dict[int, str] = {}
    for variable, held in list(inspect.unwrap(fn.python).__globals__.items()):
        if isinstance(held, (Tensor, dict, list, tuple)):
            try:
                leaves, _ = flatten_with_names(held, variable)
            except (TypeError, RecursionError):
                continue  # a dict with other keys, or a structure that contains itself: nothing to name in there
            for path, leaf in leaves:
                if isinstance(leaf, Tensor):
                    names.setdefault(id(leaf), path)
    return names

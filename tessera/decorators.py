"""The decorators: @ts.function, @ts.jit, @ts.kernel. They record what was meant; nothing is compiled by them.

A Function runs eagerly; its annotations are checked at each call. With `jit` it runs compiled, where the compiler is
installed. A Kernel is never executed as Python: its source is parsed when it is first needed.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any, cast, overload

import numpy as np

from tessera import definition
from tessera.annotations import check_state, is_state, leaf_spec, spec_tree, with_specs
from tessera.derivatives.gradients import body_of
from tessera.errors import SourceError, Span, did_you_mean, marks_entry, user_span
from tessera.interpreters import is_tracing
from tessera.numerics import renewed
from tessera.pytree import flatten, tree_map
from tessera.shapes import Dim
from tessera.stored import StoredSpec, loaded
from tessera.tensor import EagerTensor, Tensor, tensor
from tessera.types import TensorSpec, check_spec
from tessera_runtime.core.usage import track

__all__ = ["Function", "Kernel", "Parameter", "function", "jit", "kernel"]

LEVELS = ("graph", "schedule", "tile", "target")


@dataclass(frozen=True)
class Parameter:
    """A parameter: its name, what its annotation records, its default.

    `spec` is a TensorSpec, a DType (a scalar), another annotation as it is, or None. `default` is
    inspect.Parameter.empty when there is none.
    """

    name: str
    spec: Any
    default: Any
    kind: Any

    @property
    def tensor(self) -> TensorSpec | None:
        """The tensor annotation: a TensorSpec, that of a Region, or the one of a scalar DType."""
        return leaf_spec(self.spec)

    @property
    def tree(self) -> Any:
        """The tree of tensor annotations, where the parameter holds several tensors; else None."""
        return spec_tree(self.spec)

    @property
    def state(self) -> bool:
        """Whether the function updates it (ts.State)."""
        return is_state(self.spec)


#: while a list, every call of an entry from the host program is recorded in it: the entry's name and the place
CALLS: list[tuple[str, Span | None]] | None = None


class _Entry:
    """What functions and kernels have in common: the Python function, its place, its signature."""

    marks: tuple[type, ...] = (FunctionType,)

    def __init__(self, python: Callable[..., Any], compiled: bool = False) -> None:
        if not isinstance(python, self.marks):
            raise SourceError("E305", f"ts.{type(self).__name__.lower()} marks Python functions, not {_what(python)}",
                              help="write it above a `def`")
        functools.update_wrapper(cast(Any, self), python)
        self.python = python
        self.name: str = python.__name__
        self.compiled = compiled
        self.options: dict[str, Any] = {}  # of ts.jit
        code = getattr(inspect.unwrap(python), "__code__", None)
        self.file: str = code.co_filename if code else "<unknown>"
        self.line: int = code.co_firstlineno if code else 0
        self._runner: Callable[..., Any] | None = None

    @functools.cached_property
    def signature(self) -> inspect.Signature:
        """The Python signature, with annotations evaluated. Raises SourceError E305 when one cannot be."""
        try:
            hints = inspect.get_annotations(self.python, eval_str=True)
        except SourceError:
            raise
        except Exception as err:
            help = 'dims are strings, as in ts.Tensor["B", ts.f32]' if isinstance(err, NameError) else None
            raise SourceError("E305", f"an annotation of `{self.name}` cannot be evaluated: {err}", help=help,
                              span=Span(self.file, self.line)) from None
        plain = inspect.signature(self.python)
        parameters = [p.replace(annotation=hints.get(p.name, p.empty)) for p in plain.parameters.values()]
        return plain.replace(parameters=parameters, return_annotation=hints.get("return", plain.empty))

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The parameters in order."""
        return tuple(
            Parameter(p.name, None if p.annotation is p.empty else p.annotation, p.default, p.kind)
            for p in self.signature.parameters.values())

    @property
    def returns(self) -> Any:
        """What the return annotation records, or None."""
        annotation = self.signature.return_annotation
        return None if annotation is inspect.Signature.empty else annotation

    def inspect_ir(self, level: str = "graph", **options: Any) -> str:
        """The function's IR text at `level`: graph, schedule, tile or target. Needs the compiler (E318)."""
        if level not in LEVELS:
            raise SourceError("E305", f"there is no IR level {level!r}",
                              help=did_you_mean(level, LEVELS) or f"levels are {', '.join(LEVELS)}")
        driver = _driver()
        if driver is None:
            raise SourceError("E318", "inspect_ir needs the compiler, which is not installed",
                              help="install the package tesseracc")
        text: str = driver.inspect_ir(self, level, **options)
        return text

    def _observe(self) -> None:
        """Tells who watches (the compiler while it loads a module) that the entry is called on real values."""
        if CALLS is not None and not is_tracing():
            CALLS.append((self.name, user_span()))

    def __repr__(self) -> str:
        return f"<{type(self).__name__.lower()} {self.name}>"

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        """The arguments of a call by the names of parameters, defaults among them. E314 when they do not fit."""
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as err:
            raise SourceError("E314", f"`{self.name}` was called wrongly: {err}",
                              help=f"its signature is {self.name}({', '.join(self.signature.parameters)})") from None
        bound.apply_defaults()
        return bound


class Function(_Entry):
    """A function made of operators. Calling it runs it; see the module. A bound method is one too."""

    marks = (FunctionType, MethodType)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._observe()
        if self.compiled and not is_tracing() and _is_eager((args, kwargs)):
            driver = _driver()
            if driver is not None:
                if self._runner is None:
                    self._runner = driver.jit(self)
                return tree_map(_as_tensor, self._runner(*args, **kwargs))
            _notice()
        return self.invoke(*args, **kwargs)

    def invoke(self, *args: Any, **kwargs: Any) -> Any:
        """Run the Python body on eager or traced values, with arguments and result checked against the annotations."""
        bound = self.bind(args, kwargs)
        env: dict[str, Dim] = {}
        for name, parameter in self.signature.parameters.items():
            specs = leaf_spec(parameter.annotation) or spec_tree(parameter.annotation)
            value = tree_map(_as_tensor, bound.arguments[name])

            def fitted(path: str, spec: TensorSpec, leaf: Any) -> Tensor:
                found = self._tensor(path, spec, leaf)
                env.update(check_spec(f"`{self.name}`", path, spec, found.type, env))
                if spec.dtype is not None and spec.dtype.policies:
                    found = found.with_policies(renewed(found.policies, spec.dtype.policies))
                return found

            if specs is not None:
                try:
                    value = loaded(parameter.annotation, with_specs(name, specs, value, fitted, f"`{self.name}`"))
                except SourceError as error:
                    # a call of the compiler has no place in the user's program: the parameter has
                    raise error if error.span else error.at(definition.parameter(self.python, name)) from None
            bound.arguments[name] = value
        given = dict(bound.arguments)
        with body_of(self.python) as body:
            bound.arguments.update({name: body.watch(value) for name, value in bound.arguments.items()})
            result = body.release(self.python(*bound.args, **bound.kwargs))
        states = [name for name, p in self.signature.parameters.items() if is_state(p.annotation)]
        try:
            result = self._returned(result, env)
            if states:
                check_state(states, given, result, f"`{self.name}`")
        except SourceError as error:
            raise error if error.span else error.at(definition.returned(self.python)) from None
        return result

    def _tensor(self, name: str, spec: TensorSpec, value: Any) -> Tensor:
        if isinstance(value, (int, float)) and spec.dims == ():
            return tensor(value, spec.dtype)
        if not isinstance(value, Tensor):
            raise SourceError("E311", f"`{name}` of `{self.name}` needs a tensor, got {type(value).__name__}",
                              help=f"it is declared {spec}")
        return value

    def _returned(self, result: Any, env: Mapping[str, Dim]) -> Any:
        """The result, checked against the annotation, and stored as it says."""
        if isinstance(self.returns, StoredSpec):
            self._check_result(self.returns.spec, result, env)
            return self.returns.store(result)
        spec = leaf_spec(self.returns)
        if spec is not None:
            self._check_result(spec, result, env)
        return result

    def _check_result(self, spec: TensorSpec, result: Any, env: Mapping[str, Dim]) -> None:
        if not isinstance(result, Tensor):
            given = type(result).__name__
            raise SourceError("E317", f"`{self.name}` is declared to return {spec}, but returns {given}")
        try:
            check_spec(f"`{self.name}`", "result", spec, result.type, env)
        except SourceError as err:
            raise SourceError("E317", err.message, help=err.help) from None


marks_entry(Function.invoke.__code__)


def _what(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"an object of type {type(value).__name__}"


class Kernel(_Entry):
    """A program for the lanes of a group, in the kernel language. `group` lanes form a group (None: what
    `num_warps` or the default says); `grid` counts groups."""

    def __init__(self, python: Callable[..., Any], compiled: bool = False, *, group: int | None = None,
                 grid: Any = None, space: Mapping[str, Sequence[Any]] | None = None) -> None:
        super().__init__(python, compiled)
        self.group = group
        self.grid = grid
        # What an autotuner may choose from: name -> values. The first of each is the default.
        self.space: dict[str, tuple[Any, ...]] = {k: tuple(v) for k, v in (space or {}).items()}

    @functools.cached_property
    def definition(self) -> Any:
        """The parsed kernel (tessera.kernel.KernelDef). Raises SourceError E2xx."""
        from tessera.kernel import parse

        config = {name: values[0] for name, values in self.space.items() if values}
        return parse(cast(FunctionType, self.python), group=self.group, grid=self.grid, config=config)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Launch it. A tensor that the kernel writes has the new elements afterwards; NumPy arrays change in place."""
        self._observe()
        if is_tracing() or not _is_eager((args, kwargs)):
            raise self._not_from_the_host()
        run: Callable[..., Any]
        if self.compiled and _driver() is not None:
            if self._runner is None:
                self._runner = _driver().jit(self)
            run = self._runner
        else:
            if self.compiled:
                _notice()
            run = self._evaluate
        return self._launch(run, self.bind(args, kwargs))

    def _not_from_the_host(self) -> SourceError:
        if is_tracing():
            return SourceError("E316", f"kernel `{self.name}` is called inside a traced function",
                               help="call it from the host program, or write this part with ts operators")
        from tessera.kernel.privileges import updates

        found = updates(self.definition.body)
        cause = f", and its {' and '.join(found)} {'has' if len(found) == 1 else 'have'} no derivative"
        return SourceError(
            "E316", f"kernel `{self.name}` is called inside a differentiated function{cause if found else ''}",
            help="launch it in a function with @ts.custom_vjp, whose rule gives the derivative; or write this part "
            "with ts operators")

    def _evaluate(self, *args: Any) -> Any:
        from tessera.kernel import evaluate

        return evaluate(self.definition, args)

    def _launch(self, run: Callable[..., Any], bound: inspect.BoundArguments) -> Any:
        written = self.definition.written
        arrays: list[Any] = []
        owners: dict[int, Tensor] = {}
        for name, value in bound.arguments.items():
            if isinstance(value, EagerTensor):
                array = value.numpy() if name in written else value._data
                owners[id(array)] = value
                value = array
            arrays.append(value)
        result = run(*arrays)
        for array, (name, value) in zip(arrays, bound.arguments.items(), strict=True):
            if name in written and isinstance(value, EagerTensor):
                value._data = track(array)
        return tree_map(lambda v: owners.get(id(v)) if id(v) in owners else _as_tensor(v), result)


def _as_tensor(value: Any) -> Any:
    """NumPy arrays and NumPy numbers as tensors; everything else unchanged."""
    if isinstance(value, (np.ndarray, np.generic)):
        return tensor(value)
    return value


def _is_eager(values: Any) -> bool:
    return all(not isinstance(v, Tensor) or v.interpreter is None for v in flatten(values)[0])


# The compiler, where it is installed ----------------------------------------------------------------------------------

_NOTICED: list[bool] = []


def _driver() -> Any:
    """The compiler's driver module, or None where it is not installed."""
    try:
        import tesseracc.driver
    except ModuleNotFoundError as err:
        if err.name is not None and err.name.startswith("tesseracc"):
            return None
        raise
    return tesseracc.driver


def _notice() -> None:
    if not _NOTICED:
        _NOTICED.append(True)
        print("tessera: the compiler is not installed, so ts.jit runs functions eagerly", file=sys.stderr)


# The decorators -------------------------------------------------------------------------------------------------------


def function(python: Callable[..., Any]) -> Function:
    """Mark a function as one of the module's entries; it runs eagerly until it is compiled."""
    return python if isinstance(python, Function) else Function(python)


@overload
def jit(python: Kernel, **options: Any) -> Kernel: ...
@overload
def jit(python: Callable[..., Any], **options: Any) -> Function: ...
@overload
def jit(python: None = None, **options: Any) -> Callable[[Callable[..., Any]], Function]: ...
def jit(python: Any = None, **options: Any) -> Any:
    """A compiled form of a function or kernel: as a decorator, with options or without, or as a call.

    `device` is where it runs: `cpu` (the default), `cuda:0`, `emulator:sm_90`. `capture_graph=True` runs calls on a GPU
    as CUDA graphs, one for each set of sizes; `"strict"` refuses what cannot be one. `numerics` is the profile, as of
    `tesseracc build`: "strict", "deterministic" (the default) or "fast". Warnings of kernels (W2xx) are Python's, of
    the category `ts.TesseraWarning`, each once. Without the compiler it runs eagerly, with one notice.
    """
    unknown = sorted(set(options) - {"capture_graph", "device", "numerics"})
    if unknown:
        known = ["capture_graph", "device", "numerics"]
        raise SourceError("E305", f"jit has no option `{unknown[0]}`", help=did_you_mean(unknown[0], known))
    if python is None:
        return lambda fn: jit(fn, **options)
    made: Any
    if isinstance(python, Kernel):
        made = Kernel(python.python, True, group=python.group, grid=python.grid, space=python.space)
    else:
        made = Function(python.python if isinstance(python, Function) else python, True)
    made.options = options
    return made


class _KernelDecorator:
    """`@ts.kernel`, `@ts.kernel(group=64)`, `@ts.kernel(num_stages=3)`, `@ts.kernel.autotune(space={...})`."""

    def __call__(self, python: Any = None, *, group: int | None = None, grid: Any = None, num_warps: int | None = None,
                 num_stages: int | None = None) -> Any:
        """A kernel; hints are those of a space with one point. `group` or `num_warps` says the lanes of a group."""
        hints = {"num_warps": num_warps, "num_stages": num_stages}
        return self.autotune(python, group=group, grid=grid, space={k: (v,) for k, v in hints.items() if v is not None})

    def autotune(self, python: Any = None, *, space: Mapping[str, Sequence[Any]] | None = None,
                 group: int | None = None, grid: Any = None) -> Any:
        """A kernel whose schedule parameters are chosen from `space`."""
        if python is None:
            return lambda fn: Kernel(fn, group=group, grid=grid, space=space)
        return Kernel(python, group=group, grid=grid, space=space)


kernel = _KernelDecorator()

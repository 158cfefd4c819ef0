"""A function of tensors as data: what control flow carries instead of Python code.

`record` runs a Python function once on values that have types only and writes down the operators; the result refers to
nothing outside itself. Tensors that the function takes from outside become parameters in front (`captured`). `replay`
runs the record on any tensors, through `execute`: eagerly, traced, or under a derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tessera.arrays import Array
from tessera.errors import SourceError, Span
from tessera.interpreters import Interpreter, execute, interpret, move, place
from tessera.numerics import Policy
from tessera.operator import Operator, lookup
from tessera.pytree import Tree, flatten
from tessera.shapes import Dim
from tessera.tensor import EagerTensor, Tensor, as_tensor
from tessera.types import TensorType

__all__ = ["Program", "Recorded", "Recorder", "Step", "record", "typed"]


@dataclass(frozen=True)
class Step:
    """One operator: the numbers of the values that it takes; it gives the next ones."""

    op: Operator
    inputs: tuple[int, ...]
    types: tuple[TensorType, ...]
    place: Span | None = field(default=None, compare=False)  # where it was written


@dataclass(frozen=True)
class Program:
    """Values are numbered: parameters first, then the results of the steps in order."""

    params: tuple[TensorType, ...]
    steps: tuple[Step, ...]
    results: tuple[int, ...]

    @property
    def types(self) -> tuple[TensorType, ...]:
        """The types of the results."""
        values = [*self.params, *(t for step in self.steps for t in step.types)]
        return tuple(values[i] for i in self.results)

    def replay(self, *args: Tensor, step: Callable[..., Any] = execute) -> list[Any]:
        """The results on these tensors; `step(op, *tensors)` executes an operator."""
        values: list[Any] = list(args)
        before = place()
        try:
            for one in self.steps:
                move(one.place or before)
                found = step(one.op, *(values[i] for i in one.inputs))
                values += found if isinstance(found, (tuple, list)) else (found,)
        finally:
            move(before)
        return [values[i] for i in self.results]

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """The results in NumPy."""
        return [x.numpy() for x in self.replay(*map(EagerTensor, arrays))]

    def substitute(self, env: Mapping[str, Dim]) -> Program:
        """The program with the symbols of `env` replaced."""
        params = tuple(t.substitute(env) for t in self.params)
        steps = tuple(
            replace(s, op=s.op.substitute(env), types=tuple(t.substitute(env) for t in s.types)) for s in self.steps)
        return Program(params, steps, self.results)

    def __str__(self) -> str:
        return f"<{len(self.params)} -> {len(self.results)}, {len(self.steps)} operators>"


class _Symbolic(Tensor):
    """A value of the program under construction."""

    __slots__ = ("_interpreter", "_policies", "_type", "number", "value")

    def __init__(
        self, type_: TensorType, interpreter: Recorder, number: int, policies: tuple[Policy, ...] = (),
        value: _Symbolic | None = None,
    ) -> None:
        self._type, self._interpreter, self.number, self._policies = type_, interpreter, number, policies
        self.value = self if value is None else value  # what this is, apart from policies

    @property
    def policies(self) -> tuple[Policy, ...]:
        return self._policies

    def with_policies(self, policies: tuple[Policy, ...]) -> _Symbolic:
        return _Symbolic(self._type, self._interpreter, self.number, policies, self.value)

    @property
    def type(self) -> TensorType:
        return self._type

    @property
    def interpreter(self) -> Interpreter | None:
        return self._interpreter


_Made = tuple[Operator, tuple[_Symbolic, ...], tuple[_Symbolic, ...], "Span | None"]


class Recorder(Interpreter):
    """Writes down the operators that a function applies."""

    dynamic = True
    located = True

    def __init__(self, params: Sequence[TensorType]) -> None:
        self.params = list(params)
        self.captured: dict[int, tuple[Tensor, _Symbolic]] = {}
        self.steps: list[_Made] = []
        self.arguments = [_Symbolic(t, self, i) for i, t in enumerate(params)]

    def process(self, op: Operator, args: tuple[Tensor, ...], loc: Span | None) -> Any:
        try:
            types = op.infer(*(x.type for x in args))
        except SourceError as error:
            raise error.at(loc) from None
        outs = tuple(_Symbolic(t, self, 0) for t in (types if isinstance(types, tuple) else (types,)))
        self.steps.append((op, tuple(map(self.own, args)), outs, loc))
        return outs if isinstance(types, tuple) else outs[0]

    def own(self, x: Tensor) -> _Symbolic:
        """The program's value of a tensor: its own, a number written into the program, or one more parameter."""
        if isinstance(x, _Symbolic) and x.interpreter is self:
            return x.value
        if id(x) not in self.captured:
            if isinstance(x, EagerTensor) and x.ndim == 0:
                made = _Symbolic(x.type, self, 0)
                number: Operator = lookup("full")((), x.numpy().item(), x.dtype.name)  # type: ignore[call-arg]
                self.steps.append((number, (), (made,), None))
            else:
                made = _Symbolic(x.type, self, -1)
            self.captured[id(x)] = (x, made)
        return self.captured[id(x)][1]


@dataclass(frozen=True)
class Recorded:
    """A program whose first parameters stand for the tensors `captured`, and the structure of its result."""

    program: Program
    captured: tuple[Tensor, ...]
    tree: Tree

    def placed(self, params: Sequence[TensorType], own: int, arguments: int) -> Program:
        """The program with more parameters: its captured ones begin at `own`, its arguments at `arguments`."""
        program, count = self.program, len(self.captured)
        extra = len(params) - len(program.params)

        def at(i: int) -> int:
            return own + i if i < count else arguments + i - count if i < len(program.params) else i + extra

        steps = tuple(replace(s, inputs=tuple(map(at, s.inputs))) for s in program.steps)
        return Program(tuple(params), steps, tuple(map(at, program.results)))


def typed(tensors: Sequence[Tensor]) -> list[TensorType]:
    """The types with the policies that the values carry, which hold in what is recorded of them."""
    return [x.type.with_dtype(x.dtype) for x in tensors]


def record(function: Callable[..., Any], *types: TensorType) -> Recorded:
    """Record `function`, which takes tensors and gives a tree of tensors and numbers.

    The policies of the types are those of the arguments; the program's types are without. Raises what the function
    raises on values without elements: E308 for Python control flow on one, for example.
    """
    recorder = Recorder([t.with_dtype(t.dtype.base) for t in types])
    arguments = [x.with_policies(t.dtype.policies) for x, t in zip(recorder.arguments, types, strict=True)]
    with interpret(recorder):
        leaves, tree = flatten(function(*arguments))
        found = [recorder.own(leaf if isinstance(leaf, Tensor) else as_tensor(np.asarray(leaf))) for leaf in leaves]
    outside = [(x, made) for x, made in recorder.captured.values() if made.number == -1]
    numbered = [*(made for _, made in outside), *recorder.arguments]
    number = {id(value): i for i, value in enumerate(numbered)}
    steps = []
    for op, args, outs, loc in _needed(recorder.steps, found):
        steps.append(Step(op, tuple(number[id(x)] for x in args), tuple(x.type for x in outs), loc))
        for out in outs:
            number[id(out)] = len(number)
    params = tuple(value.type for value in numbered)
    program = Program(params, tuple(steps), tuple(number[id(x)] for x in found))
    return Recorded(program, tuple(x for x, _ in outside), tree)


def _needed(steps: Sequence[_Made], results: Sequence[_Symbolic]) -> list[_Made]:
    """The steps that the results depend on, in order."""
    wanted = {id(x) for x in results}
    kept: list[_Made] = []
    for made in reversed(steps):
        _, args, outs, _ = made
        if any(id(out) in wanted for out in outs):
            kept.append(made)
            wanted.update(id(x) for x in args)
    return kept[::-1]

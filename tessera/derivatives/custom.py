"""Functions with derivatives of the user's own: ts.custom_vjp and ts.custom_jvp; and ts.checkpoint.

A custom rule is a linear map, given in one direction; the other direction is its transpose, which the tape finds. So a
rule is honoured exactly in forward and in reverse mode, also where it is not the true derivative.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

from tessera.derivatives.batching import Vmap, vmap
from tessera.derivatives.forward import Forward
from tessera.derivatives.reverse import Tape, segments
from tessera.derivatives.ruled import recorded_call, transposed
from tessera.derivatives.wrapped import is_float, zeros_of
from tessera.errors import SourceError
from tessera.interpreters import interpreters, owner
from tessera.operator import Cotangents
from tessera.programs import Recorder
from tessera.pytree import Tree, flatten, leaf_count, unflatten
from tessera.tensor import Tensor, as_tensor

__all__ = ["checkpoint", "custom_jvp", "custom_vjp"]


class _Call:
    """A call of a function with a rule, on the tensors among its arguments: a step of the derivative interpreters."""

    differentiable = True

    def __init__(self, custom: _Custom, rest: Sequence[Any], tree: Tree) -> None:
        self.custom = custom
        self.rest = rest  # leaves; None where a tensor goes
        self.tree = tree
        self.out_tree: Tree | None = None

    def arguments(self, tensors: Sequence[Any]) -> tuple[Any, ...]:
        """The arguments with these tensors."""
        given = iter(tensors)
        return tuple(unflatten(self.tree, [next(given) if x is None else x for x in self.rest]))

    def results(self, value: Any) -> tuple[Tensor, ...]:
        """The leaves of a result; its structure is kept for the caller."""
        leaves, self.out_tree = flatten(value)
        return tuple(as_tensor(x) for x in leaves)

    def put(self, outs: Sequence[Any]) -> Any:
        """The result with these leaves."""
        assert self.out_tree is not None
        return unflatten(self.out_tree, outs)

    def leaves(self, values: Any, what: str) -> list[Any]:
        """What a rule gives for the arguments, one for each tensor. A bare value serves for a single argument."""
        arity = len(self.tree.children)
        values = (values,) if arity == 1 and not (isinstance(values, tuple) and len(values) == 1) else values
        if not isinstance(values, (tuple, list)) or len(values) != arity:
            raise SourceError("E313", f"the rule of `{self.custom.name}` gives {what} for {_count(values)} arguments, "
                              f"it has {arity}", help="give one for each argument; None stands for zero")
        found = [g for child, value in zip(self.tree.children, values, strict=True) for g in _fitted(child, value)]
        if len(found) != len(self.rest):
            raise SourceError("E313", f"the rule of `{self.custom.name}` gives {what} of another structure than its "
                              f"arguments, {self.tree}", help="give values shaped like the arguments; None is zero")
        return [g for g, x in zip(found, self.rest, strict=True) if x is None]


def _fitted(tree: Tree, value: Any) -> list[Any]:
    """The leaves of a value of this structure, in which None stands for any part. Shorter where it has another one."""
    if tree.kind == "leaf":
        return [value]
    if value is None:
        return [None] * leaf_count(tree)
    if tree.kind == "dict":
        parts = [value[k] for k in tree.keys] if isinstance(value, dict) and tree.keys == tuple(sorted(value)) else []
    else:
        parts = list(value) if isinstance(value, (tuple, list)) else []
    return [g for child, part in zip(tree.children, parts, strict=False) for g in _fitted(child, part)]


def _count(values: Any) -> str:
    return str(len(values)) if isinstance(values, (tuple, list)) else "1"


def _fitting(custom: _Custom, value: Any, like: Tensor, what: str) -> Tensor | None:
    """A (co)tangent of a rule, of the type that it must have."""
    if value is None or not is_float(like):
        return None
    found = as_tensor(value)
    if found.shape != like.shape:
        raise SourceError("E313", f"the rule of `{custom.name}` gives {what} {found.type} for {like.type}")
    return found.astype(like.dtype)


class _VjpCall(_Call):
    reverse = True

    def run(self, primals: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Any]:
        assert isinstance(self.custom, custom_vjp)
        made = self.custom.forward(*self.arguments(primals))
        if not isinstance(made, tuple) or len(made) != 2:
            raise SourceError("E313", f"the forward rule of `{self.custom.name}` must return (result, residuals)")
        return self.results(made[0]), made[1]

    def pull(
        self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], saved: Any, cts: tuple[Tensor, ...],
    ) -> Cotangents:
        assert isinstance(self.custom, custom_vjp)
        found = self.leaves(self.custom.backward(saved, self.put(cts)), "cotangents")
        return tuple(_fitting(self.custom, g, x, "a cotangent") for g, x in zip(found, primals, strict=True))

    def push(
        self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], saved: Any, tangents: Cotangents,
    ) -> Sequence[Tensor | None]:
        # ct -> pull(ct) is linear; its transpose at the tangents is what they become.
        floats = [i for i, x in enumerate(primals) if is_float(x)]

        def pulled(*cts: Tensor) -> tuple[Any, ...]:
            found = self.pull(primals, outs, saved, cts)
            return tuple(zeros_of(primals[i].type) if found[i] is None else found[i] for i in floats)

        moved = [zeros_of(primals[i].type) if (t := tangents[i]) is None else t for i in floats]
        return tuple(transposed(pulled, [out.type for out in outs], moved))

    def batched(self) -> _VjpCall:
        """The call for a batch, all of whose tensors have a leading axis."""
        assert isinstance(self.custom, custom_vjp)
        lifted = custom_vjp(vmap(self.custom.python))
        lifted.name = self.custom.name
        lifted.defvjp(vmap(self.custom.forward), vmap(self.custom.backward))
        return _VjpCall(lifted, self.rest, self.tree)


class _JvpCall(_Call):
    reverse = False

    def run(self, primals: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Any]:
        return self.results(self.custom.python(*self.arguments(primals))), None

    def push(
        self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], saved: Any, tangents: Cotangents,
    ) -> Sequence[Tensor | None]:
        assert isinstance(self.custom, custom_jvp)
        given = tuple(zeros_of(x.type) if t is None and is_float(x) else t
                      for x, t in zip(primals, tangents, strict=True))
        made = self.custom.rule(self.arguments(primals), self.arguments(given))
        if not isinstance(made, tuple) or len(made) != 2:
            raise SourceError("E313", f"the rule of `{self.custom.name}` must return (result, tangent)")
        found = [None] * len(outs) if made[1] is None else flatten(made[1])[0]
        if len(found) != len(outs):
            raise SourceError("E313", f"the rule of `{self.custom.name}` gives {len(found)} tangents for "
                              f"{len(outs)} results")
        return tuple(_fitting(self.custom, t, out, "a tangent") for t, out in zip(found, outs, strict=True))

    def pull(
        self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], saved: Any, cts: tuple[Tensor, ...],
    ) -> Cotangents:
        floats = [i for i, x in enumerate(primals) if is_float(x)]

        def pushed(*tangents: Tensor) -> tuple[Any, ...]:
            given: list[Tensor | None] = [None] * len(primals)
            for i, t in zip(floats, tangents, strict=True):
                given[i] = t
            found = self.push(primals, outs, saved, tuple(given))
            return tuple(zeros_of(out.type) if t is None else t for t, out in zip(found, outs, strict=True))

        found = dict(zip(floats, transposed(pushed, [primals[i].type for i in floats], cts), strict=True))
        return tuple(found.get(i) for i in range(len(primals)))

    def batched(self) -> _JvpCall:
        """The call for a batch, all of whose tensors have a leading axis."""
        assert isinstance(self.custom, custom_jvp)
        lifted = custom_jvp(vmap(self.custom.python))
        lifted.name = self.custom.name
        lifted.defjvp(vmap(self.custom.rule))
        return _JvpCall(lifted, self.rest, self.tree)


class _Custom:
    """A function with a rule; called like the function."""

    call: type[_VjpCall] | type[_JvpCall]

    def __init__(self, python: Callable[..., Any]) -> None:
        functools.update_wrapper(self, python)
        self.python = python
        self.name: str = getattr(python, "__name__", "function")

    def __call__(self, *args: Any) -> Any:
        leaves, tree = flatten(args)
        tensors = [as_tensor(x) if _is_tensor(x) else None for x in leaves]
        rest = [None if t is not None else x for x, t in zip(leaves, tensors, strict=True)]
        call = self.call(self, rest, tree)
        return _carried_out(call, tuple(t for t in tensors if t is not None))


#: functions whose calls are being recorded
_UNDERWAY: ContextVar[frozenset[_Custom]] = ContextVar("_UNDERWAY", default=frozenset())


def _is_tensor(x: Any) -> bool:
    return isinstance(x, Tensor) or (hasattr(x, "dtype") and hasattr(x, "shape")) or isinstance(x, float)


def _carried_out(call: _VjpCall | _JvpCall, tensors: tuple[Tensor, ...]) -> Any:
    """The result: by the interpreter that owns an argument, if it takes derivatives or batches; else plainly."""
    top = owner(tensors)
    if isinstance(top, (Tape, Forward)):
        return call.put(top.step(call, tensors))
    if isinstance(top, Recorder) and call.custom not in _UNDERWAY.get():
        # A rule may call its own function; there it is what it computes.
        token = _UNDERWAY.set(_UNDERWAY.get() | {call.custom})
        try:
            return call.put(recorded_call(call, tensors))
        finally:
            _UNDERWAY.reset(token)
    if isinstance(top, Vmap):
        lifted = call.batched()
        return _rewrapped(top, _carried_out(lifted, tuple(top.full(x) for x in tensors)))
    return call.custom.python(*call.arguments(tensors))


def _rewrapped(top: Vmap, value: Any) -> Any:
    leaves, tree = flatten(value)
    return unflatten(tree, [top.wrap(x) for x in leaves])


class custom_vjp(_Custom):
    """Decorator: a function whose reverse derivative is given by `f.defvjp(forward, backward)`.

    `forward(*args)` gives (result, residuals); `backward(residuals, ct)` gives one cotangent per argument, bare if
    there is one, None for zero. `forward` may call the function itself. The forward derivative
    is the transpose of the rule.
    """

    call = _VjpCall

    def defvjp(self, forward: Callable[..., Any], backward: Callable[..., Any]) -> None:
        """Set the rules."""
        self.rules = (forward, backward)

    rules: tuple[Callable[..., Any], Callable[..., Any]] | None = None

    @property
    def forward(self) -> Callable[..., Any]:
        return self._rules()[0]

    @property
    def backward(self) -> Callable[..., Any]:
        return self._rules()[1]

    def _rules(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        if self.rules is None:
            raise SourceError("E313", f"`{self.name}` has no rule for its derivative",
                              help=f"call {self.name}.defvjp(forward, backward)")
        return self.rules


class custom_jvp(_Custom):
    """Decorator: a function whose forward derivative is given by `f.defjvp(rule)`.

    `rule(primals, tangents)`, both tuples like the arguments, gives (result, its tangent). It must be linear in the
    tangents; the reverse derivative is its transpose.
    """

    call = _JvpCall
    given: Callable[..., Any] | None = None

    def defjvp(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """Set the rule; also as a decorator."""
        self.given = rule
        return rule

    @property
    def rule(self) -> Callable[..., Any]:
        if self.given is None:
            raise SourceError("E313", f"`{self.name}` has no rule for its derivative",
                              help=f"call {self.name}.defjvp(rule)")
        return self.given


def checkpoint(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose intermediate values are not kept for the derivative but computed again when it is taken.

    It saves memory for time: of the call only what comes in is kept. Draws and their results are the same both times.
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with segments([x for x in interpreters() if isinstance(x, Tape)]):
            return function(*args, **kwargs)

    return run



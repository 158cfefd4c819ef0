"""Reverse mode: a tape records what happens while a function runs, and is walked backwards by the `vjp` rules.

Between `Tape.begin` and `Tape.end` the tape keeps a recipe instead of values, and the values are computed again when
the walk comes there (`ts.checkpoint`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tessera.derivatives.wrapped import OperatorStep, Step, Wrapped, is_float, owned, put_back, zeros_of
from tessera.errors import SourceError, Span
from tessera.interpreters import Interpreter, apply, interpret
from tessera.operator import Operator, lookup
from tessera.pytree import flatten, unflatten
from tessera.tensor import Tensor, as_tensor
from tessera.types import TensorType

__all__ = ["Seeds", "Tape", "Taped", "segments", "vjp"]

Seeds = dict[int, Tensor]


class Taped(Wrapped):
    """A value that a tape watches, as node `node`."""

    __slots__ = ("node",)

    def __init__(self, primal: Tensor, interpreter: Interpreter, node: int) -> None:
        super().__init__(primal, interpreter)
        self.node = node


@dataclass
class _Record:
    """What happened: its operands (nodes, or None for values that are not watched) and its results (first, ..)"""

    nodes: tuple[int | None, ...]
    types: tuple[TensorType, ...]
    first: int
    step: Step
    primals: tuple[Tensor, ...]
    outs: tuple[Tensor, ...] = ()
    saved: Any = None


@dataclass
class _Segment:
    """A recipe: records without results, whose operands are nodes of the segment or values from outside."""

    first: int
    number: int
    records: list[_Record] = field(default_factory=list)
    last: int = 0


class Tape(Interpreter):
    """The interpreter of reverse mode."""

    def __init__(self) -> None:
        self.count = 0
        self.records: list[_Record | _Segment] = []
        self._segment: _Segment | None = None
        self._depth = 0
        self._segments = 0

    def leaf(self, primal: Tensor) -> Taped:
        """A watched value."""
        self.count += 1
        return Taped(primal, self, self.count - 1)

    def process(self, op: Operator, args: tuple[Tensor, ...], loc: Span | None) -> Any:
        step = OperatorStep(op)
        made = self.step(step, args)
        return made if step.several else made[0]

    def step(self, step: Step, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Carry out a step and record it."""
        nodes = tuple(x.node if isinstance(x, Taped) and owned(x, self) else None for x in args)
        primals = tuple(x.primal if isinstance(x, Taped) and owned(x, self) else x for x in args)
        outs, saved = step.run(primals)
        types = tuple(out.type for out in outs)
        segment = self._segment
        if segment is not None:
            # Also what has no derivative is part of the recipe: other steps of it may depend on it.
            inside = tuple(n is not None and n >= segment.first for n in nodes)
            kept = tuple(None if here else x for here, x in zip(inside, primals, strict=True))
            segment.records.append(_Record(nodes, types, self.count, step, kept))  # type: ignore[arg-type]
            return tuple(self.leaf(out) for out in outs)
        if not step.differentiable or not any(out.dtype.is_float for out in outs):
            return outs
        self.records.append(_Record(nodes, types, self.count, step, primals, outs, saved))
        return tuple(self.leaf(out) for out in outs)

    def begin(self) -> None:
        """From here on, keep a recipe only. Recipes in recipes are part of the outer one."""
        if self._depth == 0:
            self._segment = _Segment(self.count, self._segments)
            self._segments += 1
        self._depth += 1

    def end(self) -> None:
        """The end of what `begin` began."""
        self._depth -= 1
        if self._depth == 0 and self._segment is not None:
            self._segment.last = self.count
            self.records.append(self._segment)
            self._segment = None

    def backward(self, seeds: Seeds, wanted: Sequence[int], watched: bool = False) -> list[Tensor | None]:
        """The cotangents of the nodes `wanted`, given those of some results; None where nothing flows.

        With `watched` the walk itself is recorded, so that its results can be differentiated on this tape.
        """
        sums = _Sums(seeds, frozenset(wanted))
        for record in reversed(list(self.records)):
            if isinstance(record, _Segment):
                for again in reversed(self._replay(record, sums)):
                    self._pull(again, sums, watched)
            else:
                self._pull(record, sums, watched)
        return [sums.total(node) for node in wanted]

    def _pull(self, record: _Record, sums: _Sums, watched: bool) -> None:
        own = [sums.take(record.first + i) for i in range(len(record.types))]
        if not record.step.differentiable or all(ct is None for ct in own):
            return
        cts = tuple(zeros_of(t) if ct is None else ct for ct, t in zip(own, record.types, strict=True))
        primals, outs = record.primals, record.outs
        if watched:
            primals = tuple(x if n is None else Taped(x, self, n) for x, n in zip(primals, record.nodes, strict=True))
            outs = tuple(Taped(x, self, record.first + i) for i, x in enumerate(outs))
        for node, ct in zip(record.nodes, record.step.pull(primals, outs, record.saved, cts), strict=True):
            if node is not None and ct is not None:
                sums.add(node, ct)

    def _replay(self, segment: _Segment, sums: _Sums) -> list[_Record]:
        """The segment's records with their values, computed again from what came from outside."""
        if not any(segment.first <= node < segment.last for node in sums.nodes()):
            return []
        recompute: Callable[[int], Operator] = lookup("recompute")
        again: dict[int, Tensor] = {}
        outside: dict[int, Tensor] = {}
        records = []
        for record in segment.records:
            primals = []
            for node, x in zip(record.nodes, record.primals, strict=True):
                if node is not None and node >= segment.first:
                    primals.append(again[node])
                else:
                    # The mark keeps a compiler from taking this and the first computation for the same one.
                    if id(x) not in outside:
                        outside[id(x)] = apply(recompute(segment.number), x)
                    primals.append(outside[id(x)])
            outs, saved = record.step.run(tuple(primals))
            again.update({record.first + i: out for i, out in enumerate(outs)})
            made = _Record(record.nodes, record.types, record.first, record.step, tuple(primals), outs, saved)
            records.append(made)
        return records


class _Sums:
    """Cotangents by node. Several of one node are added in f32 or wider, and rounded once to the node's type."""

    def __init__(self, seeds: Seeds, kept: frozenset[int] = frozenset()) -> None:
        self._totals: dict[int, Tensor] = dict(seeds)
        self._kept = kept
        self._types = {node: ct.dtype for node, ct in seeds.items()}

    def nodes(self) -> Iterator[int]:
        return iter(self._totals)

    def add(self, node: int, ct: Tensor) -> None:
        before = self._totals.get(node)
        self._types.setdefault(node, ct.dtype)
        wide = self._types[node].wide
        self._totals[node] = ct if before is None else before.astype(wide) + ct.astype(wide)

    def total(self, node: int) -> Tensor | None:
        found = self._totals.get(node)
        return None if found is None else found.astype(self._types[node])

    def take(self, node: int) -> Tensor | None:
        found = self.total(node)
        if node not in self._kept:
            self._totals.pop(node, None)
        return found


def vjp(function: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """(the result, pullback). `pullback(ct)` takes a cotangent shaped like the result and gives one for each argument,
    shaped like it; None for a leaf that is not a float tensor or does not matter."""
    leaves, tree = flatten(tuple(primals))
    with interpret(Tape()) as tape:
        inputs = [tape.leaf(as_tensor(x)) if is_float(x) else x for x in leaves]
        result = function(*unflatten(tree, inputs))
    outs, out_tree = flatten(result)
    nodes = [x.node if isinstance(x, Taped) and owned(x, tape) else None for x in outs]
    values = [x.primal if isinstance(x, Taped) and owned(x, tape) else x for x in outs]

    def pullback(cotangent: Any) -> tuple[Any, ...]:
        cts, ct_tree = flatten(cotangent)
        if ct_tree != out_tree:
            raise SourceError("E313", f"the cotangent has structure {ct_tree}, the result {out_tree}")
        seeds = _Sums({})
        for node, value, ct in zip(nodes, values, cts, strict=True):
            if node is None or not value.dtype.is_float:
                continue
            ct = as_tensor(ct)
            if ct.shape != value.shape:
                raise SourceError("E313", f"a cotangent {ct.type} for a result {value.type}")
            seeds.add(node, ct.astype(value.dtype))
        taped = [x for x in inputs if isinstance(x, Taped) and owned(x, tape)]
        start = {node: ct for node in list(seeds.nodes()) if (ct := seeds.total(node)) is not None}
        found = dict(zip((x.node for x in taped), tape.backward(start, [x.node for x in taped]), strict=True))
        given = [found[x.node] if isinstance(x, Taped) and owned(x, tape) else None for x in inputs]
        # None is a structure of its own, so the leaves are put back one argument at a time.
        return tuple(put_back(p, rest) for rest in [iter(given)] for p in primals)

    return unflatten(out_tree, values), pullback


@contextmanager
def segments(tapes: Sequence[Tape]) -> Iterator[None]:
    """While open, these tapes keep recipes."""
    for tape in tapes:
        tape.begin()
    try:
        yield
    finally:
        for tape in tapes:
            tape.end()

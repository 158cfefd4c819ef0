"""Random tensor functions from a seed: DAGs of operators over symbolic sizes, traced to a graph.

A value is *exact* when every level must give the same bits: data movement, integers, and floats that no operator with
an error bound has touched. Operators that jump (comparisons, rounding, casts to ints, argmax) are applied to exact
values only, so that a permitted difference in the last bit never becomes a large one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import tessera as ts
from tessera.decorators import Function
from tessera.dtypes import DTYPES, DType
from tessera.errors import SourceError
from tessera.shapes import parse_dim
from tessera.types import TensorType
from tesseracc.frontend.trace import trace
from tesseracc.ir.value import Module

SHAPES = ("N, D", "N, D", "N, D", "D", "N", "N, 1", "1, D", "D, N", "M, N, D", "2, N, D", "N, 2*D", "N, 3", "M, 1, D",
          "", "4, 5", "M, D", "N, M", "129", "2, 3, N, D")
DTYPE_NAMES = sorted(DTYPES)
#: how often an input or a cast takes a type
COMMON = ("f32",) * 10 + ("bf16", "f16", "f64", "i32", "i64", "u8", "bool") * 2 + tuple(DTYPE_NAMES)


class Unsuitable(Exception):
    """The chosen operator does not go with the chosen operands; another one is drawn."""


@dataclass
class Node:
    x: Any
    exact: bool


@dataclass
class Writer:
    """Chooses operators while a function is traced."""

    rng: np.random.Generator
    nodes: list[Node] = field(default_factory=list)
    says: list[str] = field(default_factory=list)

    def pick(self, n: int) -> int:
        return int(self.rng.integers(n))

    def choice(self, items: Any) -> Any:
        return items[self.pick(len(items))]

    def any(self) -> Node:
        """A value, late ones preferred."""
        if self.pick(3) and len(self.nodes) > 3:
            return self.nodes[-1 - self.pick(3)]
        return self.choice(self.nodes)

    def exact(self) -> Node:
        found = [n for n in self.nodes if n.exact]
        return self.choice(found)

    def real(self, node: Node) -> Node:
        return node if node.x.dtype.is_float else Node(ts.cast(node.x, "f32"), node.exact)

    def bounded(self, node: Node) -> Node:
        """A float in [-1, 1] that keeps exactness only as a clipped value."""
        real = self.real(node)
        if self.pick(2):
            return Node(ts.clip(real.x, -1.0, 1.0), real.exact)
        return Node(ts.tanh(real.x), False)

    def axis(self, x: Any) -> int:
        if not x.ndim:
            raise Unsuitable
        return self.pick(x.ndim)

    def axes(self, x: Any) -> Any:
        if not x.ndim:
            return None
        kind = self.pick(4)
        if kind == 0:
            return None
        if kind == 1 and x.ndim > 1:
            return tuple(sorted(int(a) for a in self.rng.choice(x.ndim, 1 + self.pick(x.ndim), replace=False)))
        return self.pick(x.ndim) - (x.ndim if self.pick(2) else 0)

    def step(self) -> None:
        """Adds one value, by the first operator drawn that fits."""
        for _ in range(1000):
            name = self.choice(NAMES)
            try:
                made = STEPS[name](self)
            except (SourceError, Unsuitable):
                continue
            nodes = made if isinstance(made, list) else [made]
            if all(n.x.ndim <= 4 for n in nodes):
                self.nodes += nodes
                self.says.append(name)
                return
        raise AssertionError("no operator fits")


def unary(f: Callable[[Any], Any]) -> Callable[[Writer], Node]:
    """A function with an error bound."""
    def step(w: Writer) -> Node:
        return Node(f(w.bounded(w.any()).x), False)
    return step


def jump(f: Callable[[Any], Any]) -> Callable[[Writer], Node]:
    """A function that every level computes exactly, of exact operands."""
    def step(w: Writer) -> Node:
        return Node(f(w.exact().x), True)
    return step


def kept(f: Callable[[Any], Any]) -> Callable[[Writer], Node]:
    """A function that is exact of exact operands and continuous."""
    def step(w: Writer) -> Node:
        n = w.any()
        return Node(f(n.x), n.exact)
    return step


def pair(f: Callable[[Any, Any], Any], exact: bool = False) -> Callable[[Writer], Node]:
    def step(w: Writer) -> Node:
        a, b = (w.exact(), w.exact()) if exact else (w.any(), w.any())
        if not w.pick(4):
            b = Node(w.choice([0, 1, 2, 3, 0.5, True, -1.0]), True)
        return Node(f(a.x, b.x), a.exact and b.exact)
    return step


def _mul(w: Writer) -> Node:
    a, b = w.any(), w.any()
    if not (a.exact and b.exact):
        a = w.bounded(a)
    return Node(a.x * b.x, a.exact and b.exact)


def _div(w: Writer) -> Node:
    a, b = w.any(), w.any()
    if b.exact and w.pick(2):
        return Node(a.x / b.x, a.exact and b.exact)
    return Node(a.x / (ts.abs(w.real(b).x) + 1), a.exact and b.exact)


def _where(w: Writer) -> Node:
    c, a, b = w.exact(), w.any(), w.any()
    condition = c.x if c.x.dtype.kind == "bool" else c.x > w.pick(2)
    return Node(ts.where(condition, a.x, b.x), a.exact and b.exact)


def _cast(w: Writer) -> Node:
    n = w.any()
    to: DType = DTYPES[w.choice(COMMON)]
    if not n.exact and not to.is_float:
        n = w.exact()
    if not n.exact and to.is_narrow:
        n = w.bounded(n)
    return Node(ts.cast(n.x, to), n.exact)


def _sum(w: Writer) -> Node:
    n = w.any()
    exact = n.exact and not n.x.dtype.is_float
    x = n.x if exact else w.bounded(n).x
    f = w.choice([ts.sum, ts.sum, ts.mean]) if not exact else w.choice([ts.sum, ts.prod])
    return Node(f(x, axis=w.axes(x), keepdims=bool(w.pick(2))), exact)


def _extreme(w: Writer) -> Node:
    n = w.any()
    return Node(w.choice([ts.max, ts.min])(n.x, axis=w.axes(n.x), keepdims=bool(w.pick(2))), n.exact)


def _arg(w: Writer) -> Node:
    x = w.exact().x
    return Node(w.choice([ts.argmax, ts.argmin])(x, axis=w.axis(x), keepdims=bool(w.pick(2))), True)


def _truth(w: Writer) -> Node:
    x = w.exact().x
    return Node(w.choice([ts.any, ts.all])(x, axis=w.axes(x), keepdims=bool(w.pick(2))), True)


def _matmul(w: Writer) -> Node:
    a, b = w.any(), w.any()
    if a.exact and b.exact and a.x.dtype.is_int and b.x.dtype.is_int:
        x, y, exact = a.x, b.x, True
    else:
        x, y, exact = w.bounded(a).x, w.bounded(b).x, False
    if w.pick(2) and x.ndim >= 2:
        x = x.transpose(-1, -2)
    if w.pick(2) and y.ndim >= 2:
        y = y.transpose(-1, -2)
    return Node(x @ y, exact)


def _softmax(w: Writer) -> Node:
    x = w.bounded(w.any()).x
    f = w.choice([ts.softmax, ts.softmax, ts.log_softmax])
    return Node(f(x, axis=w.axis(x)), False)


def _norm(w: Writer) -> Node:
    x = w.bounded(w.any()).x
    if not x.ndim:
        raise Unsuitable
    return Node(w.choice([ts.layer_norm, ts.rms_norm])(x), False)


def _loss(w: Writer) -> Node:
    return Node(ts.mse(w.bounded(w.any()).x, w.bounded(w.any()).x), False)


def _logsumexp(w: Writer) -> Node:
    x = w.bounded(w.any()).x
    return Node(ts.logsumexp(x, axis=w.axis(x), keepdims=bool(w.pick(2))), False)


def _reshape(w: Writer) -> Node:
    n = w.any()
    shape = list(n.x.shape)
    if len(shape) >= 2 and w.pick(3):
        at = w.pick(len(shape) - 1)
        shape[at : at + 2] = [shape[at] * shape[at + 1]]
    elif w.pick(2):
        shape = [-1]
    else:
        at = w.pick(len(shape) + 1)
        number = w.choice([1, 2, 3])
        if number == 1 or not shape:
            shape.insert(at, 1)
        else:
            at = min(at, len(shape) - 1)
            if not isinstance(shape[at], int) and f"{number}*" not in str(shape[at]):
                raise Unsuitable
            shape[at : at + 1] = [number, shape[at] // number]
    return Node(ts.reshape(n.x, shape), n.exact)


def _transpose(w: Writer) -> Node:
    n = w.any()
    return Node(n.x.permute(*(int(a) for a in w.rng.permutation(n.x.ndim))), n.exact)


def _slice(w: Writer) -> Node:
    n = w.any()
    axis = w.axis(n.x)
    size = n.x.shape[axis]
    cuts: list[Any] = [slice(None)] * n.x.ndim
    forms = [slice(None, None, 2), slice(None, None, 3), slice(0, size // 2), slice(size // 3, None)]
    if isinstance(size, int) and size:
        forms += [slice(1, None), size // 2, -1, slice(None, -1)]
    cuts[axis] = w.choice(forms)
    return Node(n.x[tuple(cuts)], n.exact)


def _concat(w: Writer) -> Node:
    a, b = w.any(), w.any()
    axis = w.axis(a.x)
    if w.pick(2):
        b = a if w.pick(2) else Node(ts.flip(a.x, axis), a.exact)
    if w.pick(4) == 0:
        return Node(ts.stack([a.x, b.x], axis=axis), a.exact and b.exact)
    return Node(ts.concat([a.x, b.x, a.x][: 2 + w.pick(2)], axis=axis), a.exact and b.exact)


def _split(w: Writer) -> list[Node]:
    n = w.any()
    axis = w.axis(n.x)
    return [Node(x, n.exact) for x in ts.split(n.x, w.choice([2, 3]), axis=axis)]


def _pad(w: Writer) -> Node:
    n = w.any()
    if n.x.dtype.kind == "bool":
        raise Unsuitable
    return Node(ts.pad(n.x, [(w.pick(3), w.pick(2)) for _ in range(n.x.ndim)], w.choice([0, 1])), n.exact)


def _take(w: Writer) -> Node:
    n = w.any()
    indices = [m for m in w.nodes if m.exact and m.x.dtype.is_int and m.x.ndim <= 2]
    if not indices:
        raise Unsuitable
    i = w.choice(indices)
    kind = w.pick(4)
    if kind == 0:
        return Node(ts.take_along(n.x, i.x, axis=w.axis(n.x)), n.exact)
    if kind == 1 and i.x.ndim == 1:
        axis = w.axis(n.x)
        exact = n.exact and not n.x.dtype.is_float
        x = n.x if exact else w.bounded(n).x
        return Node(ts.scatter_add(x, i.x, w.choice([3, x.shape[axis]]), axis=axis), exact)
    return Node(ts.take(n.x, i.x, axis=w.axis(n.x)), n.exact)


def _broadcast(w: Writer) -> Node:
    a, b = w.any(), w.any()
    shape = b.x.shape if w.pick(2) else (w.choice([2, 3]), *a.x.shape)
    return Node(a.x.broadcast_to(*shape), a.exact)


def _squeeze(w: Writer) -> Node:
    n = w.any()
    return Node(n.x.squeeze(), n.exact) if w.pick(2) else Node(n.x.expand_dims(w.pick(n.x.ndim + 1)), n.exact)


def _constant(w: Writer) -> Node:
    shape = w.choice([(), (1,), (3,), (5,), (4, 5), (1, 1)])
    dtype = DTYPES[w.choice(COMMON)]
    return Node(ts.tensor(values(w.rng, shape, dtype, False), dtype), True)


def _iota(w: Writer) -> Node:
    n = w.any()
    axis = w.axis(n.x)
    if w.pick(2):
        return Node(ts.iota(n.x.shape[axis], w.choice(["i64", "i32", "f32"])), True)
    return Node(ts.full(n.x.shape, w.choice([1, 0, 2]), w.choice(["f32", "i32", "bf16", "u8"])), True)


def _shift(w: Writer) -> Node:
    a, b = w.exact(), w.exact()
    f = w.choice([ts.shift_left, ts.shift_right])
    return Node(f(a.x, w.choice([b.x, 1, 7])), True)


def _chain(w: Writer) -> Node:
    """A long row of cheap operators."""
    n = w.any()
    x = w.bounded(n).x
    for k in range(10 + w.pick(30)):
        x = [lambda x: -x, ts.abs, lambda x: x + 0.5, lambda x: x * 0.5, ts.relu][(k + w.pick(2)) % 5](x)
    return Node(x, False)


STEPS: dict[str, Callable[[Writer], Any]] = {
    "add": pair(lambda x, y: x + y), "sub": pair(lambda x, y: x - y), "mul": _mul, "div": _div, "where": _where,
    "cast": _cast, "sum": _sum, "extreme": _extreme, "arg": _arg, "truth": _truth, "matmul": _matmul,
    "softmax": _softmax, "norm": _norm, "loss": _loss, "logsumexp": _logsumexp, "reshape": _reshape,
    "transpose": _transpose, "slice": _slice, "concat": _concat, "split": _split, "pad": _pad, "take": _take,
    "broadcast": _broadcast, "squeeze": _squeeze, "constant": _constant, "iota": _iota, "shift": _shift,
    "chain": _chain,
    "maximum": pair(ts.maximum), "minimum": pair(ts.minimum),
    "floordiv": pair(lambda x, y: x // y, True), "mod": pair(lambda x, y: x % y, True),
    "lt": pair(lambda x, y: x < y, True), "ge": pair(lambda x, y: x >= y, True),
    "eq": pair(lambda x, y: x == y, True), "ne": pair(lambda x, y: x != y, True),
    "and": pair(lambda x, y: x & y, True), "or": pair(lambda x, y: x | y, True),
    "xor": pair(lambda x, y: x ^ y, True), "not": jump(lambda x: ~x),
    "neg": kept(lambda x: -x), "abs": kept(ts.abs), "relu": kept(ts.relu), "flip": kept(lambda x: ts.flip(x)),
    "floor": jump(ts.floor), "ceil": jump(ts.ceil), "round": jump(ts.round), "trunc": jump(ts.trunc),
    "sign": jump(ts.sign), "isnan": jump(ts.isnan),
    "exp": unary(ts.exp), "exp2": unary(ts.exp2), "expm1": unary(ts.expm1), "tanh": unary(ts.tanh),
    "sigmoid": unary(ts.sigmoid), "erf": unary(ts.erf), "gelu": unary(ts.gelu), "silu": unary(ts.silu),
    "softplus": unary(ts.softplus), "sin": unary(ts.sin), "cos": unary(ts.cos),
    "log": unary(lambda x: ts.log(ts.abs(x) + 1)), "log1p": unary(lambda x: ts.log1p(ts.abs(x))),
    "log2": unary(lambda x: ts.log2(ts.abs(x) + 1)), "sqrt": unary(lambda x: ts.sqrt(ts.abs(x) + 1)),
    "rsqrt": unary(lambda x: ts.rsqrt(ts.abs(x) + 1)), "square": unary(lambda x: x**2), "cube": unary(lambda x: x**3),
}  # fmt: skip
NAMES = (*STEPS, *("add", "mul", "where", "sum", "extreme", "matmul", "reshape", "slice", "take", "concat") * 2)


@dataclass(frozen=True)
class Program:
    """A traced function and what was chosen for it. `special` lets inputs hold NaN, infinities and extreme ints."""

    name: str
    types: tuple[TensorType, ...]
    module: Module
    says: tuple[str, ...]
    special: bool


def program(seed: int) -> Program:
    """A function of 1 to 4 tensors in 1 to 14 steps."""
    rng = np.random.default_rng([seed, 77])
    writer = Writer(rng)
    types = [TensorType.parse(f"{writer.choice(COMMON)}[{writer.choice(SHAPES)}]") for _ in range(1 + writer.pick(4))]
    # Every symbol is the size of an axis of some parameter by itself, or the guards could not know it.
    alone = {str(d) for t in types for d in t.dims}
    lacking = sorted({s for s in ("N", "D", "M") if s not in alone})
    types.append(TensorType(tuple(map(parse_dim, lacking)), DTYPES["i32"]))

    def body(*inputs: Any) -> Any:
        writer.nodes = [Node(x, True) for x in inputs]
        for _ in range(1 + writer.pick(14)):
            writer.step()
        outputs = [n.x for n in writer.nodes[-1 - writer.pick(3) :]]
        if seed % 4 == 0:
            outputs += [inputs[0], outputs[0], writer.any().x]
        return tuple(outputs)

    name = f"p{seed}"
    names = [f"x{i}" for i in range(len(types))]
    space: dict[str, Any] = {"body": body}
    exec(f"def {name}({', '.join(names)}):\n    return body({', '.join(names)})", space)
    traced = trace(Function(space[name]), dict(zip(names, types, strict=True)), "")
    return Program(name, tuple(types), traced.module, tuple(writer.says), seed % 3 == 0)


def values(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType, special: bool) -> np.ndarray[Any, Any]:
    """Random elements: small numbers, ties and halves, zeros of both signs; if `special` the ends of the type too."""
    from tessera.arrays import convert

    if dtype.kind == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.is_int:
        found = rng.integers(0 if dtype.kind == "uint" else -5, 9, shape).astype(dtype.numpy)
        if special:
            ends = np.array([dtype.min_value, dtype.max_value, dtype.max_value - 1], dtype.numpy)
            found = np.where(rng.random(shape) < 0.2, ends[rng.integers(0, 3, shape)], found)
        return np.asarray(found, dtype.numpy)
    real = np.where(rng.random(shape) < 0.3, rng.integers(-4, 5, shape) / 2.0, rng.standard_normal(shape))
    real = np.where(rng.random(shape) < 0.05, -0.0, real)
    if special:
        odd = np.array([np.nan, np.inf, -np.inf, 1e-40, 3e9, -7e-8])
        real = np.where(rng.random(shape) < 0.1, odd[rng.integers(0, len(odd), shape)], real)
    return convert(np.asarray(real, np.float64), dtype)

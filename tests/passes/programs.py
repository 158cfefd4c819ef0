"""Programs that the tests of the Graph and Schedule levels share: operator cases as modules, and composed functions."""

from collections.abc import Mapping
from typing import Any

import numpy as np

import tessera as ts
from tessera.decorators import Function
from tessera.operator import Case
from tessera.shapes import Expr, substitute, symbol, symbols_of
from tesseracc.interpret import scalar
from tesseracc.ir.builder import Builder
from tesseracc.ir.dialects.graph import attrs_of, from_lang
from tesseracc.ir.pipeline import Context, Step, parse_pipeline, run_pipeline
from tesseracc.ir.types import TensorType
from tesseracc.ir.value import Func, Module, Op, Value
from tesseracc.ir.verify import verify
from tesseracc.passes import pipelines  # registers every pass

Array = np.ndarray[Any, Any]
WEIGHT = ts.tensor(np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32))


def passes(module: Module, steps: str | tuple[Step, ...]) -> Module:
    """Runs passes, verifying after each."""
    return run_pipeline(parse_pipeline(steps) if isinstance(steps, str) else steps, module, Context())


def scheduled(module: Module) -> Module:
    """One group per primitive operator, nothing fused."""
    return passes(module, (*pipelines.GRAPH, *pipelines.SCHEDULE[:1]))


def fused(module: Module) -> Module:
    """After all schedule passes."""
    return passes(scheduled(module), pipelines.SCHEDULE[1:])


def groups(module: Module) -> list[Op]:
    return [op for func in module.funcs for op in func.body.ops if op.name == "schedule.group"]


def loops(group: Op) -> list[str]:
    """The kinds of the loops directly in a group: add, max, .., each."""
    return [op.attrs.get("kind", "each") for op in group.regions[0].ops if op.regions]


# -- operator cases -------------------------------------------------------------------------------------------------


def symbols_in(case: Case) -> list[str]:
    """The symbols of a case's types and attributes."""
    found = {name for t in case.inputs for name in t.symbols}

    def visit(value: object) -> None:
        if isinstance(value, tuple):
            for item in value:
                visit(item)
        elif isinstance(value, Expr):
            found.update(symbols_of(value))

    for value in case.op.attributes.values():
        visit(value)
    return sorted(found)


def module_of(case: Case) -> Module:
    """A function of one operation. A last parameter that nothing reads binds the symbols of attributes."""
    b = Builder()
    params = [Value(from_lang(t), f"x{i}") for i, t in enumerate(case.inputs)]
    op = b.emit(f"graph.{case.op.name}", params, **attrs_of(case.op))
    params.append(Value(TensorType(tuple(map(symbol, symbols_in(case))), "bool"), "sizes"))
    return verify(Module((Func("graph.func", "f", b.region(params, op.results)),)))


def sizes_of(case: Case, rng: np.random.Generator, least: bool = False) -> dict[str, int]:
    """Sizes within what the case allows: random, or the least ones."""
    found = {}
    for name in symbols_in(case):
        low, high = case.sizes.get(name, (0, 7))
        found[name] = low if least else int(rng.integers(low, high + 1))
    return found


def inputs_of(case: Case, env: Mapping[str, int], rng: np.random.Generator) -> list[Array]:
    """Random inputs of a case; the last one binds the symbols."""
    arrays = []
    for i, t in enumerate(case.inputs):
        shape = tuple(substitute(d, env) for d in t.dims)
        given = case.ranges[i] if i < len(case.ranges) else None
        low, high = given or ((-2.0, 2.0) if t.dtype.is_float else (-8, 8))
        if t.dtype.is_float:
            arrays.append(scalar.cast(rng.uniform(low, high, shape), "f64", t.dtype.name))
        elif t.dtype.kind == "bool":
            arrays.append(rng.integers(0, 2, shape).astype(bool))
        else:
            low = max(low, 0) if t.dtype.kind == "uint" else low
            arrays.append(rng.integers(int(low), int(high) + 1, shape).astype(t.dtype.numpy))
    return [*arrays, np.zeros(tuple(env[name] for name in sorted(env)), bool)]


# -- composed functions ---------------------------------------------------------------------------------------------


@ts.function
def softmax(x: ts.Tensor["N", "D", ts.f32]):
    return ts.softmax(x)


@ts.function
def softmax_bf16(x: ts.Tensor["A", "B", "C", ts.bf16]):
    return ts.softmax(x)


@ts.function
def log_softmax(x: ts.Tensor["N", "D", ts.f32]):
    return ts.log_softmax(x)


@ts.function
def layer_norm(x: ts.Tensor["N", "D", ts.f32], w: ts.Tensor["D", ts.f32], b: ts.Tensor["D", ts.f32]):
    return ts.layer_norm(x, w, b)


@ts.function
def rms_norm(x: ts.Tensor["N", "D", ts.f32], w: ts.Tensor["D", ts.f32]):
    return ts.rms_norm(x, w)


@ts.function
def cross_entropy(x: ts.Tensor["N", "D", ts.f32], t: ts.Tensor["N", ts.i32]):
    return ts.cross_entropy(x, t)


@ts.function
def linear_gelu(x: ts.Tensor["B", "S", 5, ts.f32], b: ts.Tensor[7, ts.f32]):
    return ts.gelu(ts.linear(x, WEIGHT, b))


@ts.function
def linear_relu_bf16(x: ts.Tensor["B", "D", ts.bf16], w: ts.Tensor["D", "K", ts.bf16], b: ts.Tensor["K", ts.bf16]):
    return ts.relu(ts.linear(x, w, b))


@ts.function
def matmul_transposed(x: ts.Tensor["B", "D", ts.f32], w: ts.Tensor["K", "D", ts.f32]):
    return x @ w.T


@ts.function
def batched(x: ts.Tensor["B", "M", "K", ts.f32], y: ts.Tensor["B", "K", "N", ts.f32]):
    return x @ y


@ts.function
def mlp(
    x: ts.Tensor["B", "D", ts.f32],
    w1: ts.Tensor["D", "H", ts.f32],
    b1: ts.Tensor["H", ts.f32],
    w2: ts.Tensor["H", "K", ts.f32],
):
    return ts.softmax(ts.relu(x @ w1 + b1) @ w2)


@ts.function
def attention(x: ts.Tensor["B", "S", 12, ts.f32], w: ts.Tensor[12, 36, ts.f32], wo: ts.Tensor[12, 12, ts.f32]):
    b, s, d = x.shape
    q, k, v = (t.reshape(b, s, 3, 4).transpose(1, 2) for t in (x @ w).split(3, dim=-1))
    p = ts.softmax(q @ k.transpose(-1, -2) * 0.5)
    return x + ts.layer_norm((p @ v).transpose(1, 2).reshape(b, s, d) @ wo)


@ts.function
def attention_any_width(x: ts.Tensor["B", "S", "D", ts.f32], w: ts.Tensor["D", "3*D", ts.f32]):
    b, s, d = x.shape
    q, k, v = (t.reshape(b, s, 2, d // 2).transpose(1, 2) for t in (x @ w).split(3, dim=-1))
    return (ts.softmax(q @ k.transpose(-1, -2) * 0.5) @ v).transpose(1, 2).reshape(b, s, d)


@ts.function
def totals(x: ts.Tensor["N", "D", ts.f32]):
    return ts.sum(ts.exp(x)), ts.mean(x)


@ts.function
def chain(x: ts.Tensor["A", "B", ts.f32], w: ts.Tensor["B", ts.f32], b: ts.Tensor["B", ts.f32]):
    return ts.gelu(x * w + b) + x


@ts.function
def residual(x: ts.Tensor["N", "D", ts.f32], r: ts.Tensor["N", "D", ts.f32]):
    h = x + r
    return {"y": h + ts.layer_norm(h), "h": h}


@ts.function
def per_channel(x: ts.Tensor["N", "C", "H", ts.f32]):
    centred = x - ts.mean(x, axis=(0, 2), keepdims=True)
    return centred * ts.rsqrt(ts.mean(centred * centred, axis=(0, 2), keepdims=True) + 1e-5)


@ts.function
def moved(x: ts.Tensor["A", "B", ts.f32], i: ts.Tensor["N", ts.i32]):
    y = ts.concat([ts.exp(x), x.T.T], axis=0)
    return ts.pad(ts.take(y, i, axis=0), ((1, 2), (0, 1)))


FUNCTIONS: dict[str, Function] = {
    value.name: value for value in list(globals().values()) if isinstance(value, Function)
}


def arrays_for(params: tuple[Value, ...], env: Mapping[str, int], rng: np.random.Generator) -> list[Array]:
    """Random arrays for a traced function; ints are class numbers below D."""
    found = []
    for param in params:
        assert isinstance(param.type, TensorType)
        shape = tuple(substitute(d, env) for d in param.type.dims)
        if param.type.dtype == "i32":
            found.append(rng.integers(0, max(env["D"], 1), shape).astype(np.int32))
        else:
            found.append(scalar.cast(rng.standard_normal(shape), "f64", param.type.dtype))
    return found

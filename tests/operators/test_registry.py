"""Every rule of every operator against another: no operator is named here, `cases` say what to try.

Comparators: `exact` for data movement, ints and bools; `bounded` for floats: a few units in the last place of the
result type plus a few of the compute type at the size of the terms.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tessera import derivatives
from tessera.arrays import Array, convert, dtype_of, widen
from tessera.dtypes import DType, f64
from tessera.errors import SourceError
from tessera.families import View
from tessera.interpreters import execute, interpret
from tessera.operator import Case, Operator, Types, lookup, registry, rule_table
from tessera.tensor import EagerTensor, Tensor
from tessera.types import TensorType
from tests.operators.scalars import ScalarInterpreter, SymbolicInterpreter, SymbolicTensor, evaluate

CASES = [case for cls in registry().values() for case in cls.cases()]
IDS = [f"{i}-{case}".replace(" ", "") for i, case in enumerate(CASES)]
DIFFERENTIABLE = [(c, i) for c, i in zip(CASES, IDS) if c.op.differentiable]

over_cases = pytest.mark.parametrize("case", CASES, ids=IDS)
over_differentiable = pytest.mark.parametrize(
    "case", [c for c, _ in DIFFERENTIABLE], ids=[i for _, i in DIFFERENTIABLE])

ULP = {"f64": 2.0**-52, "f32": 2.0**-23, "f16": 2.0**-10, "bf16": 2.0**-7, "fp8_e4m3": 2.0**-3, "fp8_e5m2": 2.0**-2,
       "fp8_e8m0": 0.5, "fp6_e2m3": 2.0**-3, "fp6_e3m2": 2.0**-2, "fp4_e2m1": 0.5}


def rng_of(case: Case) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(str(case).encode()))


def sizes(case: Case) -> Iterator[dict[str, int]]:
    """Some sizes for the symbols: least, greatest, all 1 where legal, and random ones."""
    names = sorted({s for t in case.inputs for s in t.symbols} | attribute_symbols(case.op))
    bounds = {n: case.sizes.get(n, (0, 5)) for n in names}
    rng = rng_of(case)
    yield {n: low for n, (low, _) in bounds.items()}
    yield {n: max(low, 1) for n, (low, _) in bounds.items()}
    for _ in range(2):
        yield {n: int(rng.integers(low, high + 1)) for n, (low, high) in bounds.items()}
    yield {n: high for n, (_, high) in bounds.items()}


def attribute_symbols(op: Operator) -> set[str]:
    from tessera.shapes import Expr, symbols_of

    found: set[str] = set()
    for value in op.attributes.values():
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Expr):
                found |= symbols_of(part)
    return found


def concrete(case: Case, env: dict[str, int]) -> tuple[Operator, tuple[TensorType, ...]] | None:
    """The case at these sizes; None where the operator says that they do not fit."""
    op, types = case.op.substitute(env), tuple(t.substitute(env) for t in case.inputs)
    try:
        op.infer(*types)
    except SourceError as err:
        assert err.code == "E302"
        return None
    return op, types


def sample(rng: np.random.Generator, t: TensorType, limits: tuple[float, float] | None) -> Array:
    shape = tuple(int(d) for d in t.dims)
    if t.dtype.kind == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if t.dtype.is_int:
        low, high = limits or (0 if t.dtype.kind == "uint" else -8, 8)
        low = max(low, 0) if t.dtype.kind == "uint" else low
        return rng.integers(int(low), int(high) + 1, shape).astype(t.dtype.numpy)
    low, high = limits or (-2.0, 2.0)
    return convert(rng.uniform(low, high, shape), t.dtype)


def inputs(case: Case, types: tuple[TensorType, ...], rng: np.random.Generator) -> list[Array]:
    ranges = (*case.ranges, *([None] * len(types)))
    return [sample(rng, t, r) for t, r in zip(types, ranges)]


def each(results: Any) -> tuple[Any, ...]:
    return results if isinstance(results, tuple) else (results,)


def assert_close(case: Case, got: Array, want: Array, ins: list[Array]) -> None:
    dtype = dtype_of(want)
    assert dtype_of(got) == dtype
    assert got.shape == want.shape
    a, b = widen(got).astype(np.float64), widen(want).astype(np.float64)
    if not dtype.is_float or isinstance(case.op, View):
        np.testing.assert_array_equal(a, b)
        return
    np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
    np.testing.assert_array_equal(np.isinf(a), np.isinf(b))
    np.testing.assert_array_equal(np.sign(a)[np.isinf(a)], np.sign(b)[np.isinf(b)])
    a, b = (np.nan_to_num(v, posinf=0.0, neginf=0.0) for v in (a, b))
    compute = ULP[dtype.wide.name]
    terms = max([1.0, *(float(np.abs(np.nan_to_num(widen(x).astype(np.float64))).max(initial=0.0)) for x in ins)])
    # Every value is a sum of at most 25 products of two inputs, or a function of slope below 32 on the sampled range.
    bound = 2 * ULP[dtype.name] * np.abs(b) + 64 * compute * terms**2
    assert np.all(np.abs(a - b) <= bound), float(np.max(np.abs(a - b) / bound))


@over_cases
def test_infer_is_what_ref_gives(case: Case) -> None:
    rng = rng_of(case)
    symbolic = each(case.op.infer(*case.inputs))
    tried = 0
    for env in sizes(case):
        made = concrete(case, env)
        if made is None:
            continue
        op, types = made
        tried += 1
        arrays = inputs(case, types, rng)
        before = [a.copy() for a in arrays]
        with np.errstate(all="ignore"):
            results = each(op.ref(*arrays))
        expected = each(op.infer(*types))
        assert tuple(t.substitute(env) for t in symbolic) == expected
        assert [(r.shape, dtype_of(np.asarray(r))) for r in results] == [(t.dims, t.dtype) for t in expected]
        for a, b in zip(arrays, before):
            np.testing.assert_array_equal(widen(a), widen(b))
    assert tried >= 1


@over_cases
def test_element_or_compose_is_ref(case: Case) -> None:
    rng = rng_of(case)
    assert case.op.has("element") != case.op.has("compose"), "exactly one of element and compose"
    for env in sizes(case):
        made = concrete(case, env)
        if made is None:
            continue
        op, types = made
        arrays = inputs(case, types, rng)
        with np.errstate(all="ignore"):
            want = each(op.ref(*arrays))
            if op.has("element"):
                got = tuple(evaluate(op, arrays, types))
            else:
                with interpret(ScalarInterpreter()):
                    got = tuple(r._data for r in each(op.compose(*(EagerTensor(a) for a in arrays))))
        for g, w in zip(got, want, strict=True):
            assert_close(case, g, np.asarray(w), arrays)


@over_cases
def test_rules_need_types_only(case: Case) -> None:
    """compose, vjp and jvp run on values of which only the symbolic type is known, and give the right types."""
    interpreter = SymbolicInterpreter()
    with interpret(interpreter):
        xs = tuple(SymbolicTensor(t, interpreter) for t in case.inputs)
        results = case.op.infer(*case.inputs)
        outs = tuple(SymbolicTensor(t, interpreter) for t in each(results))
        if case.op.has("compose"):
            made = each(case.op.compose(*xs))
            assert [m.type for m in made] == [o.type for o in outs]
        if not case.op.differentiable or not all(o.dtype.is_float for o in outs):
            return
        cts = case.op.vjp(xs, outs, outs)
        assert len(cts) == len(xs)
        for i, (x, ct) in enumerate(zip(xs, cts)):
            if i in case.op.nondiff or not x.dtype.is_float:
                assert ct is None
            elif ct is not None:
                assert ct.type == x.type
        tangents = tuple(x if x.dtype.is_float and i not in case.op.nondiff else None for i, x in enumerate(xs))
        if any(t is not None for t in tangents):
            for moved, out in zip(each(case.op.jvp(xs, outs, tangents)), outs, strict=True):
                assert moved is None or moved.type == out.type


# Derivatives, in f64 --------------------------------------------------------------------------------------------------


def in_f64(case: Case) -> Case | None:
    """The case with every float in f64, or None where it has no float to differentiate by."""
    op = case.op
    wide = {k: "f64" for k, v in op.attributes.items() if k == "dtype" and v and DType(v).is_float}
    if any(k == "dtype" and v and not DType(v).is_float for k, v in op.attributes.items()):
        return None
    types = tuple(t.with_dtype(f64) if t.dtype.is_float else t for t in case.inputs)
    if not any(t.dtype.is_float and i not in op.nondiff for i, t in enumerate(types)):
        return None
    changed = replace(case, op=replace(op, **wide) if wide else op, inputs=types)  # type: ignore[type-var]
    outs: Types = changed.op.infer(*types)
    return changed if all(t.dtype.is_float for t in each(outs)) else None


def moving(case: Case) -> Iterator[tuple[Operator, list[Array], list[Array | None]]]:
    """(operator, inputs, directions) at some sizes."""
    rng = rng_of(case)
    for env in sizes(case):
        made = concrete(case, env)
        if made is None:
            continue
        op, types = made
        arrays = inputs(case, types, rng)
        directions = [np.asarray(rng.standard_normal(a.shape)) if t.dtype.is_float and i not in op.nondiff else None
                      for i, (a, t) in enumerate(zip(arrays, types))]
        yield op, arrays, directions


def along(op: Operator, arrays: list[Array], directions: list[Any]) -> tuple[Any, Any]:
    """(results, tangents) by the operator's jvp rule."""
    xs = tuple(EagerTensor(a) for a in arrays)
    outs = each(execute(op, *xs))
    moved = op.jvp(xs, outs, tuple(None if d is None else EagerTensor(d) for d in directions))
    tangents = [np.zeros(o.shape) if m is None else m.numpy() for m, o in zip(each(moved), outs, strict=True)]
    return outs, tangents


@over_differentiable
def test_jvp_is_finite_differences(case: Case) -> None:
    wide = in_f64(case)
    if wide is None or not wide.smooth:
        return
    for op, arrays, directions in moving(wide):
        outs, tangents = along(op, arrays, directions)
        step = 1e-5
        ends = []
        for sign in (1, -1):
            moved = [a if d is None else a + sign * step * d for a, d in zip(arrays, directions)]
            with np.errstate(all="ignore"):
                ends.append(each(op.ref(*moved)))
        for after, before, tangent, out in zip(*ends, tangents, outs, strict=True):
            if np.all(np.isfinite(out.numpy())):
                scale = 1 + np.abs(tangent).max(initial=0.0)
                np.testing.assert_allclose(tangent, (after - before) / (2 * step), rtol=1e-5, atol=1e-6 * scale)


@over_differentiable
def test_vjp_is_the_transpose_of_jvp(case: Case) -> None:
    wide = in_f64(case)
    if wide is None:
        return
    rng = rng_of(case)
    for op, arrays, directions in moving(wide):
        outs, tangents = along(op, arrays, directions)
        if not all(np.all(np.isfinite(o.numpy())) for o in outs):
            continue
        weights = [rng.standard_normal(o.shape) for o in outs]
        cts = op.vjp(tuple(EagerTensor(a) for a in arrays), outs, tuple(EagerTensor(w) for w in weights))
        forward = sum(float(np.sum(w * t)) for w, t in zip(weights, tangents))
        backward = sum(float(np.sum(ct.numpy() * d)) for ct, d in zip(cts, directions)
                       if ct is not None and d is not None)
        assert abs(forward - backward) <= 1e-9 * (1 + abs(forward)), (forward, backward)


@over_differentiable
def test_derivatives_of_derivatives(case: Case) -> None:
    """The rules can be differentiated themselves: the jvp of the vjp is the difference of vjps."""
    wide = in_f64(case)
    if wide is None or not wide.smooth:
        return
    op, arrays, directions = next(iter(list(moving(wide))[-1:]))
    if not all(np.all(np.isfinite(np.asarray(r))) for r in each(op.ref(*arrays))):
        return
    rng = rng_of(case)
    weights = tuple(rng.standard_normal(np.asarray(r).shape) for r in each(op.ref(*arrays)))
    floats = [i for i, d in enumerate(directions) if d is not None]

    def gradient(*chosen: Tensor) -> Any:
        def forward(*inner: Tensor) -> Any:
            xs: list[Any] = [EagerTensor(a) for a in arrays]
            for i, x in zip(floats, inner):
                xs[i] = x
            return execute(op, *xs)

        out, pullback = derivatives.vjp(forward, *chosen)
        cts = tuple(EagerTensor(w) for w in weights)
        found = pullback(cts if isinstance(out, tuple) else cts[0])
        return [f for f in found if f is not None]

    primals = [EagerTensor(arrays[i]) for i in floats]
    _, second = derivatives.jvp(gradient, primals, [EagerTensor(directions[i]) for i in floats])  # type: ignore[arg-type]
    step = 1e-5
    ends = [gradient(*(EagerTensor(np.asarray(arrays[i] + s * step * directions[i])) for i in floats))  # type: ignore[operator]
            for s in (1, -1)]
    for got, after, before in zip(second, *ends, strict=True):
        want = (after.numpy() - before.numpy()) / (2 * step)
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-4, atol=1e-5 * (1 + np.abs(want).max(initial=0.0)))


# The registry itself --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", registry())
def test_rules_are_complete(name: str) -> None:
    cls = lookup(name)
    assert cls.name == name
    assert cls.__doc__
    assert cls.has("infer") and cls.has("ref") and cls.has("cases")
    assert cls.has("element") != cls.has("compose")
    if cls.differentiable:
        assert cls.has("vjp") and cls.has("jvp")
    assert list(cls.cases())


@over_cases
def test_an_operator_is_made_again_from_its_attributes(case: Case) -> None:
    again = lookup(case.op.name)(**case.op.attributes)
    assert again == case.op
    assert hash(again) == hash(case.op)


def test_the_table_lists_every_operator() -> None:
    lines = rule_table().splitlines()
    assert len(lines) == 2 + len(registry())


def test_an_operator_without_a_rule_says_which() -> None:
    class Bare(Operator):
        name = "bare"

    calls = {
        "infer": lambda op: op.infer(), "ref": lambda op: op.ref(), "vjp": lambda op: op.vjp((), (), ()),
        "jvp": lambda op: op.jvp((), (), ()), "element": lambda op: op.element(None, (), ()),
        "compose": lambda op: op.compose(), "cases": lambda op: op.cases(),
    }
    for rule, call in calls.items():
        with pytest.raises(SourceError) as caught:
            call(Bare())
        assert caught.value.code == "E310"
        assert caught.value.message == f"operator bare has no rule `{rule}`"

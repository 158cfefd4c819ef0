"""Attention as one group: recognised from its parts, equal to float64 on ragged sizes and hard values."""

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tessera as ts
import tessera_runtime
from tesseracc.arch.arch import load
from tesseracc.driver import Build, front, host_level
from tesseracc.interpret import schedule, tile
from tesseracc.ir.pipeline import Context
from tesseracc.ir.printer import module_text
from tesseracc.ir.value import Module
from tesseracc.passes.schedule import stream_weights
from tests.passes.target.native import Interpreted

Array = np.ndarray[Any, Any]
F32, BF16 = ts.f32, ts.bf16


@ts.function
def spelled(q: ts.Tensor["B", "S", "D", F32], k: ts.Tensor["B", "T", "D", F32], v: ts.Tensor["B", "T", "E", F32]):
    return ts.softmax((q @ k.mT) * 0.25, axis=-1) @ v


@ts.function
def causal(
    q: ts.Tensor["B", "H", "S", 8, F32], k: ts.Tensor["B", "H", "S", 8, F32], v: ts.Tensor["B", "H", "S", 8, F32]
):
    return ts.nn.flash_attention(q, k, v, causal=True, scale=0.25)


@ts.function
def masked(
    q: ts.Tensor["B", "S", "D", F32], k: ts.Tensor["B", "T", "D", F32], v: ts.Tensor["B", "T", "E", F32],
    bias: ts.Tensor["S", "T", F32],
):  # fmt: skip
    scores = (q @ k.mT) * 0.25 + bias
    return ts.softmax(scores, axis=-1) @ v


@ts.function
def both_used(q: ts.Tensor["S", "D", F32], k: ts.Tensor["T", "D", F32], v: ts.Tensor["T", "E", F32]):
    p = ts.softmax(q @ k.mT, axis=-1)
    return p @ v, p


@ts.function
def other_weights(q: ts.Tensor["S", "D", F32], k: ts.Tensor["T", "D", F32], v: ts.Tensor["T", "E", F32]):
    return ts.relu(q @ k.mT) @ v


@ts.function
def kept(x: ts.State["S", 8, F32], v: ts.Tensor["S", 8, F32]):
    return {"x": x + ts.softmax(x @ x.mT, axis=-1) @ v}


@ts.function
def few(q: ts.Tensor["B", 1, 16, F32], k: ts.Tensor["B", "T", 16, F32], v: ts.Tensor["B", "T", 16, F32]):
    return ts.softmax((q @ k.mT) * 0.25, axis=-1) @ v


@ts.function
def shared(q: ts.Tensor["B", 6, "S", 8, F32], k: ts.Tensor["B", 2, "T", 8, F32], v: ts.Tensor["B", 2, "T", 8, F32]):
    return ts.nn.flash_attention(q, k, v, causal=True, scale=0.25)


@ts.function
def narrow(q: ts.Tensor["B", "S", "D", BF16], k: ts.Tensor["B", "T", "D", BF16], v: ts.Tensor["B", "T", "E", BF16]):
    """Weights rounded to bf16 before they are divided by their sum."""
    return ts.nn.flash_attention(q, k, v, scale=0.25)


@ts.function
def parts(q: ts.Tensor["B", "S", "D", BF16], k: ts.Tensor["B", "T", "D", BF16], v: ts.Tensor["B", "T", "E", BF16]):
    """Rounded behind the division, and scores too."""
    return ts.softmax((q @ k.mT) * 0.25, axis=-1) @ v


@ts.function
def layer(
    x: ts.Tensor["B", "S", 32, F32], qkv: ts.Tensor[32, 96, F32], out: ts.Tensor[32, 32, F32],
    up: ts.Tensor[32, 64, F32], down: ts.Tensor[64, 32, F32],
):  # fmt: skip
    return ts.nn.transformer_layer(x, {"qkv": qkv, "out": out, "mlp": up, "down": down}, heads=4)


def reference(q: Array, k: Array, v: Array, bias: Array | float = 0.0) -> Array:
    scores = (q.astype(np.float64) @ np.swapaxes(k.astype(np.float64), -1, -2)) * 0.25 + bias
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True) @ v.astype(np.float64))


def lower_triangle(n: int) -> Array:
    return np.where(np.tril(np.ones((n, n), bool)), 0.0, -np.inf)


@cache
def module(name: str) -> Module:
    return Build(front({name: globals()[name]}), (host_level(),)).schedule


@cache
def streamed(name: str) -> Module:
    return stream_weights.run(module(name), Context(host_level()))


@cache
def native(name: str, level: str) -> tessera_runtime.BundleFunction:
    build = Build(front({name: globals()[name]}), (load(level),))
    return tessera_runtime.load(build.bundle(), threads=2)[name]


def plans(name: str) -> list[str]:
    ops = streamed(name).funcs[0].body.ops
    return [op.attrs["plan"] for op in ops if op.name == "schedule.group"]


def test_what_is_recognised() -> None:
    assert plans("spelled") == plans("masked") == ["stream"]
    assert plans("causal").count("stream") == plans("layer").count("stream") == 1
    # the weights are wanted themselves; weights that are no exponentials of differences to a maximum
    assert "stream" not in plans("both_used") + plans("other_weights")
    assert module_text(streamed("other_weights")) == module_text(module("other_weights"))


def test_state_that_other_rows_read_is_not_overwritten() -> None:
    """The last group alone reads the state at its own element; as one group with the scores it reads every row."""
    assert plans("kept").count("stream") == 1
    assert module("kept").funcs[0].attrs["updates"] == (("x", 0),)
    assert streamed("kept").funcs[0].attrs["updates"] == ()


def test_targets_that_do_not_differ_in_it_share_the_group() -> None:
    """So that a build for several levels of a CPU looks for it once."""
    found = [stream_weights.run(module("causal"), Context(load(f"x86-64-v{level}"))) for level in (2, 3)]
    assert found[0].funcs[0] is found[1].funcs[0]
    assert found[0].funcs[0] is not stream_weights.run(module("causal"), Context(load("sm_90"))).funcs[0]


def test_few_queries_on_a_gpu_keep_their_groups() -> None:
    """They run in parallel along the keys."""
    before = Build(front({"few": few}), (load("sm_90"),)).schedule
    assert module_text(stream_weights.run(before, Context(load("sm_90")))) == module_text(before)


def normal(rng: np.random.Generator, *shape: int) -> Array:
    return np.asarray(rng.standard_normal(shape), np.float32)


def close(found: Array, expected: Array) -> None:
    """Some 2^-20 of the largest weight's value: two sums of products, an exponential and the scaling round."""
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * max(1.0, float(np.abs(expected).max(initial=0))))


def test_the_group_means_what_the_groups_meant() -> None:
    rng = np.random.default_rng(0)
    q, k, v = normal(rng, 2, 5, 3), normal(rng, 2, 7, 3), normal(rng, 2, 7, 4)
    (before,), (after,) = (schedule.run(m("spelled"), "spelled", [q, k, v]) for m in (module, streamed))
    close(before, reference(q, k, v))
    close(after, reference(q, k, v))


def test_tile_level_agrees() -> None:
    rng = np.random.default_rng(1)
    arch = load("x86-64-v4")
    lowered = Build(front({"causal": causal}), (arch,)).tile(arch)
    q, k, v = (normal(rng, 1, 2, 9, 8) for _ in range(3))
    (found,) = tile.run(lowered, "causal", [q, k, v])
    close(found, reference(q, k, v, lower_triangle(9)))
    assert "f32[B*H, S, S]" not in module_text(lowered)


LEVELS = pytest.mark.parametrize("level", sorted({"x86-64-v3", host_level().name}))
SIZES = [
    (1, 1, 1, 1, 1),
    (2, 7, 5, 3, 9),
    (1, 300, 513, 16, 20),
    (3, 33, 257, 70, 65),
    (1, 5, 9, 300, 290),
    (2, 450, 31, 8, 8),
]


@LEVELS
@pytest.mark.parametrize(("b", "s", "t", "d", "e"), SIZES)
def test_any_sizes(level: str, b: int, s: int, t: int, d: int, e: int) -> None:
    rng = np.random.default_rng([s, t])
    q, k, v, bias = normal(rng, b, s, d), normal(rng, b, t, d), normal(rng, b, t, e), normal(rng, s, t)
    close(native("spelled", level)(q, k, v), reference(q, k, v))
    close(native("masked", level)(q, k, v, bias), reference(q, k, v, bias))


@LEVELS
@pytest.mark.parametrize("s", [1, 8, 255, 300, 777])
def test_causal(level: str, s: int) -> None:
    rng = np.random.default_rng(s)
    q, k, v = (normal(rng, 1, 2, s, 8) for _ in range(3))
    close(native("causal", level)(q, k, v), reference(q, k, v, lower_triangle(s)))


@LEVELS
@pytest.mark.parametrize(("s", "t"), [(1, 3), (7, 7), (130, 300), (300, 300)])
def test_shared_heads(level: str, s: int, t: int) -> None:
    """Rows of all heads that share keys lie behind each other; the limit of each is its remainder's."""
    rng = np.random.default_rng(s)
    q, k, v = normal(rng, 1, 6, s, 8), normal(rng, 1, 2, t, 8), normal(rng, 1, 2, t, 8)
    mask = np.where(np.tri(s, t, t - s, dtype=bool), 0.0, -np.inf)
    close(native("shared", level)(q, k, v), reference(q, *(np.repeat(x, 3, 1) for x in (k, v)), mask))


@LEVELS
@pytest.mark.parametrize(("s", "t"), [(1, 1), (7, 300), (130, 31)])
def test_narrow(level: str, s: int, t: int) -> None:
    """Each rounding to bf16 is one of 2^-9: of scores (of size 4 and less, as parts only), weights and results."""
    rng = np.random.default_rng(s)
    q, k, v = (normal(rng, 2, n, d).astype(ml_dtypes.bfloat16) for n, d in ((s, 20), (t, 20), (t, 33)))
    wide = [x.astype(np.float64) for x in (q, k, v)]
    want, size = reference(*wide), reference(*wide[:2], np.abs(wide[2]))
    for name, roundings in (("narrow", 2), ("parts", 20)):
        found = native(name, level)(q, k, v).astype(np.float64)
        assert (np.abs(found - want) <= roundings * 2**-9 * (size + np.abs(want))).all()


@pytest.mark.parametrize("name", ["narrow", "parts"])
def test_narrow_attention_streams_on_tile_registers(name: str) -> None:
    """No scores of all pairs in memory; what the registers multiply is computed by the interpreter of Target IR."""
    arch = load("x86-64-v4-amx")
    tile_ir = Build(front({name: globals()[name]}), (arch,)).tile(arch)
    assert "[B, S, T]" not in module_text(tile_ir)
    compiled = Interpreted(tile_ir, arch.name)
    assert "target.amx_dot" in module_text(compiled.module)
    rng = np.random.default_rng(5)
    q, k, v = (normal(rng, 2, n, d).astype(ml_dtypes.bfloat16) for n, d in ((34, 20), (31, 20), (31, 33)))
    out = np.full((2, 34, 33), 7, np.uint16)
    sizes = {"B": 2, "D": 20, "E": 33, "S": 34, "T": 31}
    compiled(f"{name}__0", [*(x.view(np.uint16) for x in (q, k, v)), out], sizes)
    wide = [x.astype(np.float64) for x in (q, k, v)]
    want, size = reference(*wide), reference(*wide[:2], np.abs(wide[2]))
    roundings = 2 if name == "narrow" else 20
    found = out.view(ml_dtypes.bfloat16).astype(np.float64)
    assert (np.abs(found - want) <= roundings * 2**-9 * (size + np.abs(want))).all()


@LEVELS
def test_hard_values(level: str) -> None:
    """Maxima that rise late, scores far below 0, rows that begin with a block of -inf, or hold nothing else."""
    rng = np.random.default_rng(3)
    s, t = 9, 700
    q, k, v = normal(rng, 1, s, 8), normal(rng, 1, t, 8), normal(rng, 1, t, 8)
    bias = normal(rng, s, t)
    bias[0] = np.linspace(-200, 200, t)
    bias[1] = np.linspace(200, -200, t)
    q[0, 2], bias[2] = 0.0, -5000.0
    bias[3, :600] = -np.inf
    bias[4, 10:] = -np.inf
    found = native("masked", level)(q, k, v, bias)
    close(found, reference(q, k, v, bias.astype(np.float64)))
    bias[5] = -np.inf
    bias[6, 300] = np.nan
    with np.errstate(invalid="ignore"):
        expected = reference(q, k, v, bias.astype(np.float64))
    found = native("masked", level)(q, k, v, bias)
    assert np.isnan(found[0, 5:7]).all() and np.isnan(expected[0, 5:7]).all()
    close(np.delete(found, [5, 6], 1), np.delete(expected, [5, 6], 1))


def test_memory_does_not_grow_with_the_square() -> None:
    function = native("causal", host_level().name)
    rng = np.random.default_rng(4)
    q, k, v = (normal(rng, 1, 1, 2048, 8) for _ in range(3))
    first = function(q, k, v)
    np.testing.assert_array_equal(first, function(q, k, v))
    one = tessera_runtime.load(Build(front({"causal": causal}), (host_level(),)).bundle(), threads=1)["causal"]
    np.testing.assert_array_equal(first, one(q, k, v))
    close(first, reference(q, k, v, lower_triangle(2048)))

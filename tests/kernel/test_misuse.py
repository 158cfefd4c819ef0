"""Words given anything: an error at the user's line, or a kernel that runs; never another failure."""

from __future__ import annotations

import random
import runpy
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tessera.errors import SourceError, Span
from tessera.kernel import KernelErrors, evaluate
from tessera.kernel.vocabulary import ELEMENT, TILE, UNARY

ATOMS = (
    "t", "u", "v", "row", "r", "s", "ring", "ring[1]", "x", "y", "x[0:16, 0:16]", "x[0, 0:16]", "s[0:4, :]", "x[0, 0]",
    "s[1, 2]", "3", "0", "-1", "2.5", "True", "None", "'a'", "ts.f32", "ts.i8", "ts.tile.local_id()", "n", "M", "(16,)",
    "(4, 4)", "[1, 2]", "t.T", "v[:, None]", "v[None, :]", "helper", "math", "ctx", "ctx.M", "t > 0.0", "ts.tile", "k",
    "lambda: 1", "helper(t)", "x.shape", "len(x)", "-t", "t.shape[0]", "i",
)  # fmt: skip
NAMES = ("accumulator", "axis", "keepdims", "dtype", "width", "swizzle", "value", "dst", "n", "cond")
WORDS = sorted(TILE | ELEMENT | set(UNARY))
FORMS = (
    "{0} + {1}", "{0} @ {1}", "{0}[{1}]", "{0}[{1}:{2}]", "{0}[{1}, {2}]", "{0}.T", "{0}.shape", "{0} if {1} else {2}",
    "{0} < {1} < {2}", "{0} and {1}", "not {0}", "~{0}", "{0} ** {1}", "min({0}, {1})", "max({0})", "abs({0})",
    "float({0})", "int({0})", "bool({0})", "len({0})", "round({0})", "math.sqrt({0})", "{0}({1})", "[{0}, {1}][{2}]",
    "{0}[:, None]", "{0}[None]", "ts.f16({0})", "helper({0})", "{0} // {1}", "{0} & {1}", "{0} % {1}",
)  # fmt: skip
STATEMENTS = (
    "{0} = {1}", "{0} += {1}", "{0}[{1}] = {2}", "{0}[0:16] = {1}", "{0}[0:16, 0:16] += {1}", "a, b = {0}",
    "if {0}:\n        c = {1}\n    d = c", "while {0} and i < 0:\n        t = {1}",
    "for j in ts.tile.range({0}):\n        t = {1}",
    "for j in {0}:\n        u = j", "for j in ts.tile.range(0, M, 16):\n        t = {0}\n    w = t + 1",
    "x[q:q + {0}, 0:16] = {1}", "ts.tile.store({0}, {1})", "return {0}", "ts.tile.fill({0}, {1})", "c: ts.f32 = {0}",
    "for j in ts.tile.range(0, M, {0}):\n        y[j] = {1}", "for j in range(3):\n        t = t + {0}",
)  # fmt: skip
HEAD = """import tessera as ts


def helper(a, b=1):
    return a * b


@ts.kernel
def misuse(x: ts.Tensor["M", "N", ts.f32], y: ts.Tensor["N", ts.bf16], n: ts.i32) -> {result}:
    ctx = ts.tile.context()
    s = ts.tile.alloc_shared((16, 16), ts.f32)
    ring = [ts.tile.alloc_shared((4,), ts.bf16) for _ in range(3)]
    r = ts.tile.alloc_register(16, dtype=ts.f32)
    s[:, :] = 1.0
    t = x[0:16, 0:16]
    u = ts.tile.zeros((16, 16), ts.bf16)
    v = ts.tile.full((16,), 2.0)
    row = ts.tile.row_max(t)
    i = n + 1
    k = ts.tile.local_id()
"""


MILD = (
    "t", "t", "u", "v", "row", "s", "x[0:16, 0:16]", "2.5", "3", "n", "v[:, None]", "row[:, None]", "v[None, :]",
    "t.T", "helper(t)", "i", "s[0:16, :]", "k", "ctx.M", "abs(t)", "x[4:20, 2:18]", "y[0:16]", "ring[1]",
)  # fmt: skip
MILD_WORDS = ("row_sum", "col_max", "mma", "maximum", "where", "exp", "sum", "sigmoid", "isnan", "causal_mask", "load",
              "reduce_max", "matmul", "minimum", "scale", "transpose", "row_min", "fill", "abs", "pow")  # fmt: skip
MILD_FORMS = ("{0} + {1}", "{0} * {1}", "{0} @ {1}", "{0} - {1}", "{0} if n > 0 else {1}", "{0} // {1}", "-{0}",
              "{0} ** 2", "{0} / {1}", "ts.cast({0}, ts.f16)", "({0} > {1}) & ({1} < 2.0)")  # fmt: skip


def mild(rng: random.Random) -> str:
    """A line that has a meaning more often than not."""
    a, b = rng.choice(MILD), rng.choice(MILD)
    if rng.random() < 0.5:
        word = rng.choice(MILD_WORDS)
        count = 3 if word == "where" else 2 if word in ("mma", "maximum", "minimum", "matmul", "scale", "pow") else 1
        text = f"ts.tile.{word}({', '.join([a, b, 't'][:count])})"
    else:
        text = rng.choice(MILD_FORMS).format(a, b)
    return rng.choice(("z = {0}", "t = {0}", "x[0:16, 0:16] = {0}", "y[0:16] = {0}", "s[:, :] = {0}")).format(text)


def line(rng: random.Random) -> str:
    def atom() -> str:
        return rng.choice(ATOMS)

    choice = rng.random()
    if choice < 0.5:
        given = [atom() for _ in range(rng.randint(0, 4))]
        if rng.random() < 0.3:
            given.append(f"{rng.choice(NAMES)}={atom()}")
        return f"z = ts.tile.{rng.choice(WORDS)}({', '.join(given)})"
    if choice < 0.75:
        return "z = " + rng.choice(FORMS).format(atom(), atom(), atom())
    return rng.choice(STATEMENTS).format(atom(), atom(), atom())


@pytest.mark.parametrize("seed", range(40))
def test_anything(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    for number in range(12):
        kind = mild if number % 2 else line
        lines = [kind(rng) for _ in range(rng.randint(1, 3))]
        result = rng.choice(["None", 'ts.Tensor["M", "N", ts.f32]', "ts.f32"])
        text = HEAD.format(result=result) + "".join(f"    {item}\n" for item in lines)
        path = tmp_path / f"m{number}.py"
        path.write_text(text)
        try:
            compile(text, str(path), "exec")
        except SyntaxError:
            continue
        try:
            kernel = runpy.run_path(str(path))["misuse"].definition
            x, y = np.ones((20, 18), np.float32), np.ones(18, ml_dtypes.bfloat16)
            evaluate(kernel, [x, y, 2])
        except KernelErrors as caught:
            assert caught.errors
            for error in caught.errors:
                assert isinstance(error, SourceError) and isinstance(error.span, Span)
        except SourceError as error:  # where the kernel runs: out of bounds, unwritten memory, a race
            assert isinstance(error.span, Span)
        except Exception as error:
            raise AssertionError("\n".join(lines)) from error

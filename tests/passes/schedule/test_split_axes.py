"""Axes and loops in two: the same accesses, seen so that rows end where axes end."""

import numpy as np
import pytest

import tessera as ts
from tesseracc.arch.arch import load
from tesseracc.driver import Build, front
from tesseracc.interpret import schedule
from tesseracc.ir.pipeline import Context
from tesseracc.ir.value import Module
from tesseracc.passes.schedule import stream_weights

F32 = ts.f32


@ts.function
def heads(x: ts.Tensor["B", "S", "3*D", F32]):
    b, s, d = x.shape[0], x.shape[1], x.shape[2] // 3
    q, k, v = (t.reshape(b, s, 4, d // 4).transpose(1, 2) for t in ts.split(x, dim=-1, sections=3))
    return ts.nn.flash_attention(q, k, v, causal=True)


@ts.function
def shared(q: ts.Tensor["B", 6, "S", 8, F32], k: ts.Tensor["B", 2, "T", 8, F32], v: ts.Tensor["B", 2, "T", 8, F32]):
    return ts.nn.flash_attention(q, k, v, causal=True)


@ts.function
def ragged(x: ts.Tensor["S", "D + 5", F32]):
    """Rows that do not divide those that they lie in."""
    q, k = x[:, 5:], x[:, 2:-3]
    return ts.softmax(q @ k.mT) @ q


def both(function: object, name: str) -> tuple[Module, Module]:
    before = Build(front({name: function}), (load("sm_90"),)).schedule
    return before, stream_weights.run(before, Context(load("sm_90")))


def dims(module: Module) -> list[str]:
    (group,) = (op for op in module.funcs[0].body.ops if op.name == "schedule.group" and op.attrs["plan"] == "stream")
    reads = {str(op["tensor"].type) for op in group.walk() if op.name == "schedule.read"}
    return [*sorted(reads), ", ".join(map(str, group.attrs["domain"]))]


@pytest.mark.parametrize(("name", "shapes", "found"), [
    ("heads", [(2, 5, 24)], ["tensor<f32[B, S, 12, D//4]>", "B, 4, S, D//4"]),
    ("shared", [(2, 6, 5, 8), (2, 2, 7, 8), (2, 2, 7, 8)],
     ["tensor<f32[2*B, T, 8]>", "tensor<f32[6*B, S, 8]>", "2*B, 3, S, 8"]),
    ("ragged", [(7, 8)], ["tensor<f32[S, D + 5]>", "S, D"]),
])  # fmt: skip
def test_split(name: str, shapes: list[tuple[int, ...]], found: list[str]) -> None:
    before, after = both(globals()[name], name)
    assert dims(after) == found
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    (want,), (got,) = (schedule.run(module, name, arrays) for module in (before, after))
    np.testing.assert_allclose(got, want, atol=2e-6)

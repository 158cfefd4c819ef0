"""Random tile kernels: cut into blocks with ragged edges they give what NumPy gives for the whole array in float64.

A program is a list of statements on tiles of three kinds: matrices, vectors with an element per row, vectors with an
element per column. Each is written twice: in the kernel language, and as a function of whole arrays.
"""

from __future__ import annotations

import random
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tessera.kernel import evaluate, specialise

Reference = Callable[[dict[str, Any]], Any]


@dataclass
class Value:
    kind: str  # matrix, row, column
    text: str
    ref: Reference


class Program:
    """A random kernel over x (M x N), r (one element per row) and c (one per column)."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.lines: list[str] = []
        self.values: list[Value] = [
            Value("matrix", "x0", lambda e: e["x"]),
            Value("row", "r0", lambda e: e["r"]),
            Value("column", "c0", lambda e: e["c"]),
        ]
        for _ in range(self.rng.randint(4, 9)):
            self.step()

    def pick(self, *kinds: str) -> Value:
        return self.rng.choice([v for v in self.values if v.kind in kinds])

    def bind(self, kind: str, text: str, ref: Reference) -> None:
        name = f"v{len(self.values)}"
        self.lines.append(f"{name} = {text}")
        self.values.append(Value(kind, name, ref))

    def step(self) -> None:
        choice = self.rng.choice(["unary", "unary", "same", "broadcast", "broadcast", "reduce", "reduce", "where"])
        if choice == "unary":
            a = self.pick("matrix", "row", "column")
            text, f = self.rng.choice(UNARY)
            self.bind(a.kind, text.format(a.text), lambda e: f(a.ref(e)))
        elif choice == "same":
            a = self.pick("matrix", "row", "column")
            b = self.pick(a.kind)
            text, g = self.rng.choice(BINARY)
            self.bind(a.kind, text.format(a.text, b.text), lambda e: g(a.ref(e), b.ref(e)))
        elif choice == "broadcast":
            a, b = self.pick("matrix"), self.pick("row", "column")
            text, g = self.rng.choice(BINARY)
            index = "[:, None]" if b.kind == "row" else "[None, :]"
            self.bind("matrix", text.format(a.text, b.text + index), lambda e: g(a.ref(e), wide(b, e)))
        elif choice == "reduce":
            a = self.pick("matrix")
            word, h = self.rng.choice([("sum", np.sum), ("max", np.max), ("min", np.min)])
            self.bind("row", f"ts.tile.row_{word}({a.text})", lambda e: h(a.ref(e), axis=1))
        else:
            a, b = self.pick("matrix"), self.pick("matrix")
            limit = self.rng.choice([-0.5, 0.0, 0.25])
            self.bind(
                "matrix",
                f"ts.tile.where({a.text} > {limit}, {b.text}, {a.text} * 0.5)",
                lambda e: np.where(a.ref(e) > limit, b.ref(e), a.ref(e) * 0.5),
            )

    def source(self, width: int) -> str:
        body = "\n".join(f"        {line}" for line in self.lines)
        last, row = self.pick("matrix"), self.pick("row")
        self.results = (last, row)
        return f"""import tessera as ts

@ts.kernel
def program(x: ts.Tensor["M", "N", ts.f32], r: ts.Tensor["M", ts.f32], c: ts.Tensor["N", ts.f32],
            y: ts.Tensor["M", "N", ts.f32], z: ts.Tensor["M", ts.f32]):
    for i in ts.tile.range(0, M, BM):
        x0 = x[i:i+BM, 0:{width}]
        r0 = r[i:i+BM]
        c0 = c[0:{width}]
{body}
        y[i:i+BM, 0:{width}] = {last.text}
        z[i:i+BM] = {row.text}
"""


def wide(v: Value, env: dict[str, Any]) -> Any:
    return v.ref(env)[:, None] if v.kind == "row" else v.ref(env)[None, :]


UNARY: list[tuple[str, Callable[[Any], Any]]] = [
    ("ts.tile.exp(-abs({}))", lambda v: np.exp(-np.abs(v))),
    ("ts.tile.maximum({}, -0.5)", lambda v: np.maximum(v, -0.5)),
    ("({} * 0.5 + 0.25)", lambda v: v * 0.5 + 0.25),
    ("-{}", lambda v: -v),
    ("ts.sigmoid({})", lambda v: 1 / (1 + np.exp(-v))),
]
BINARY: list[tuple[str, Callable[[Any, Any], Any]]] = [
    ("({} + {}) * 0.5", lambda a, b: (a + b) * 0.5),
    ("({} - {})", lambda a, b: a - b),
    ("ts.tile.minimum({}, {})", np.minimum),
    ("{} * ts.sigmoid({})", lambda a, b: a / (1 + np.exp(-b))),
]


@pytest.mark.parametrize("seed", range(60))
def test_random_program(seed: int, tmp_path: Path) -> None:
    program = Program(seed)
    rng = np.random.default_rng(seed)
    m, n = int(rng.integers(1, 40)), int(rng.integers(1, 20))
    width = n + int(rng.integers(0, 5))
    path = tmp_path / "program.py"
    path.write_text(program.source(width))
    kernel = specialise(runpy.run_path(str(path))["program"].definition, config={"BM": int(rng.choice([1, 4, 16]))})
    x, r, c = (rng.standard_normal(s).astype(np.float32) for s in ((m, n), (m,), (n,)))
    y, z = np.zeros((m, n), np.float32), np.zeros(m, np.float32)
    evaluate(kernel, [x, r, c, y, z])
    env = {"x": x.astype(np.float64), "r": r.astype(np.float64), "c": c.astype(np.float64)}
    last, row = program.results
    np.testing.assert_allclose(y, last.ref(env), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(z, row.ref(env), rtol=1e-4, atol=1e-4)

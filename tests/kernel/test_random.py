"""Random kernels: the evaluator and the Tile IR against plain Python, which runs the same source lane by lane."""

from __future__ import annotations

import random
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.kernel import evaluate
from tesseracc.frontend.kernel import lower
from tesseracc.interpret.tile import run

HEAD = """import tessera as ts

def helper(p, q):
    if p > q:
        return p - q
    if p == q:
        return 1
    return q % 7

def kernel(x: ts.Tensor["N", ts.i64], y: ts.Tensor["N", ts.i64]):
    i = ts.tile.linear_id()
    if i >= N:
        return
    a, b, c = x[i], i, 3
"""


class Writer:
    """Writes statements over the integer variables a, b, c; every value stays small, every loop ends."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.lines: list[str] = []
        self.loops = 0

    def expr(self, depth: int = 2) -> str:
        pick = self.random.randrange
        if depth == 0 or pick(4) == 0:
            return self.random.choice(["a", "b", "c", "i", "N", str(pick(-5, 9))])
        one, two = self.expr(depth - 1), self.expr(depth - 1)
        return self.random.choice([
            f"({one} + {two})",
            f"({one} - {two})",
            f"({one} % 997) * ({two} % 89)",
            f"({one} // {pick(2, 9)})",
            f"({one} % {pick(2, 9)})",
            f"min({one}, {two})",
            f"max({one}, {two}, {pick(5)})",
            f"abs({one})",
            f"({one} if {self.cond(depth - 1)} else {two})",
            f"helper({one}, {two})",
            f"x[({one}) % N]",
            f"({one} & {two})",
            f"-({one})",
        ])  # fmt: skip

    def cond(self, depth: int = 2) -> str:
        sign = self.random.choice(["<", "<=", "==", "!=", ">", ">="])
        compare = f"{self.expr(depth - 1 if depth else 0)} {sign} {self.expr(0)}"
        if depth == 0 or self.random.random() < 0.5:
            return compare
        return self.random.choice([
            f"({compare} and {self.cond(depth - 1)})",
            f"({compare} or {self.cond(depth - 1)})",
            f"not {compare}",
            f"-3 < {self.expr(1)} <= {self.expr(0)}",
        ])  # fmt: skip

    def block(self, indent: int, depth: int, loop: bool) -> None:
        pad = "    " * indent
        for _ in range(self.random.randrange(1, 4)):
            kind = self.random.randrange(9) if depth else self.random.randrange(4)
            target = self.random.choice("abc")
            if kind < 2:
                self.lines.append(f"{pad}{target} = ({self.expr()}) % 1009")
            elif kind == 2:
                self.lines.append(f"{pad}{target} {self.random.choice(['+', '-'])}= ({self.expr(1)}) % 101")
            elif kind == 3:
                self.lines.append(f"{pad}a, b = b, a")
            elif kind < 6:
                self.lines.append(f"{pad}if {self.cond()}:")
                self.block(indent + 1, depth - 1, loop)
                if loop and self.random.random() < 0.3:
                    self.lines.append(f"{pad}    continue")
                if self.random.random() < 0.6:
                    self.lines.append(f"{pad}else:")
                    self.block(indent + 1, depth - 1, loop)
            else:
                self.loops += 1
                k = f"k{self.loops}"
                if kind == 8:
                    self.lines += [f"{pad}{k} = {self.expr(1)} % 5", f"{pad}while {k} > 0:", f"{pad}    {k} -= 1"]
                else:
                    bounds = self.random.choice([f"({self.expr(1)}) % 6", f"{self.expr(0)} % 4, 7, 2", "5", "-1, 3"])
                    name = self.random.choice(["ts.tile.range", "range"])
                    self.lines.append(f"{pad}for {k} in {name}({bounds}):")
                self.lines.append(f"{pad}    {target} += {k}")
                self.block(indent + 1, depth - 1, True)

    def source(self) -> str:
        self.block(1, 3, False)
        return HEAD + "\n".join(self.lines) + "\n    y[i] = a * 3 + b * 5 + c\n"


def by_lanes(source: str, x: Any) -> Any:
    """Plain Python, one lane after the other."""
    space: dict[str, Any] = {"N": len(x), "Lane": Lane}
    exec(source.replace("import tessera as ts", "").replace("ts.", "Lane."), space)
    values, y = [int(v) for v in x], [0] * len(x)
    for lane in range(len(x)):
        Lane.tile.lane = lane
        space["kernel"](values, y)
    return np.array(y, np.int64)


class Lane:
    """What the kernel's source calls, for one lane at a time."""

    Tensor = ts.Tensor
    i64 = ts.i64

    class tile:
        lane = 0
        range = range

        @staticmethod
        def linear_id() -> int:
            return Lane.tile.lane


@pytest.mark.parametrize("seed", range(80))
def test_random_kernel(seed: int, tmp_path: Path) -> None:
    source = Writer(seed).source()
    path = tmp_path / f"random_{seed}.py"
    path.write_text(source)
    kernel = ts.kernel(runpy.run_path(str(path))["kernel"])
    n = 1 + (seed * 37) % 150
    x = np.random.default_rng(seed).integers(-40, 40, n)
    want = by_lanes(source, x)
    y, z = np.zeros(n, np.int64), np.zeros(n, np.int64)
    evaluate(kernel.definition, [x, y])
    np.testing.assert_array_equal(y, want, err_msg=source)
    run(lower(kernel.definition), "kernel", [x, z])
    np.testing.assert_array_equal(z, want, err_msg=source)

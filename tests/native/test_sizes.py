"""Compiled size arithmetic against the runtime's evaluator; places of temporaries against their lifetimes."""

from __future__ import annotations

import ctypes
import random
from itertools import combinations
from pathlib import Path

from tessera_runtime.core.errors import TesseraError
from tessera_runtime.core.shapeexpr import OPERATORS, evaluate
from tesseracc.codegen.elf import link_image
from tesseracc.codegen.pool import Request, compile_many
from tesseracc.native.entries import INTRINSICS
from tesseracc.native.memory import share
from tesseracc.native.sizes import Body

NAMES = ("A", "B", "C")
EDGES = [0, 1, -1, 2, -2, 3, 7, -7, 8, 63, 64, 1 << 31, -(1 << 31), (1 << 62) - 1, 1 << 62, (1 << 63) - 1, -(1 << 63)]


def expression(draw: random.Random, depth: int) -> tuple[int | str, ...]:
    if depth == 0 or draw.random() < 0.2:
        return (draw.choice([*NAMES, *NAMES, draw.choice(EDGES)]),)
    return (*expression(draw, depth - 1), *expression(draw, depth - 1), draw.choice(sorted(OPERATORS)))


def test_compiled_expressions(tmp_path: Path) -> None:
    draw = random.Random(5)
    programs = [(*NAMES[:2], op) for op in sorted(OPERATORS)]
    programs += [expression(draw, 4) for _ in range(150)]
    parts = [INTRINSICS]
    kept = []
    for program in programs:
        body = Body({name: f"%{name}" for name in NAMES})
        try:
            value = body.dim(program)
        except TesseraError:  # a part of constants alone that is wrong for every caller
            continue
        body.line(f"store i64 {value}, ptr %out, align 8")
        body.line(f"ret i32 {body.value(f'zext i1 {body.fault} to i32')}")
        lines = "\n".join(body.lines)
        parts.append(f"define i32 @f{len(kept)}(i64 %A, i64 %B, i64 %C, ptr %out) nounwind {{\n{lines}\n}}\n")
        kept.append(program)
    request = Request("\n".join(parts), "x86_64-unknown-linux-gnu", "x86-64", "", "object", 0, label="sizes")
    path = tmp_path / "libsizes.so"
    path.write_bytes(link_image([compile_many([request])[0].data], "x86-64"))
    library = ctypes.CDLL(str(path))
    faults = 0
    for index, program in enumerate(kept):
        for _ in range(60):
            env = {name: draw.choice([draw.choice(EDGES), draw.randrange(-50, 50)]) for name in NAMES}
            out = ctypes.c_int64()
            arguments = [ctypes.c_int64(env[name]) for name in NAMES]
            fault = library[f"f{index}"](*arguments, ctypes.byref(out))
            try:
                wanted: int | None = evaluate(program, env)
            except TesseraError:
                wanted = None
            assert fault == (wanted is None), (program, env)
            assert wanted is None or out.value == wanted, (program, env)
            faults += fault
    assert len(kept) > 100 and faults > 500


def test_temporaries_alive_together_lie_apart() -> None:
    draw = random.Random(7)
    for _ in range(300):
        count = draw.randrange(1, 12)
        lifetimes = [(first := draw.randrange(10), first + draw.randrange(6)) for _ in range(count)]
        sizes = [draw.choice("abc") for _ in range(count)]
        places = share(lifetimes, sizes)
        for a, b in combinations(range(count), 2):
            overlap = lifetimes[a][0] <= lifetimes[b][1] and lifetimes[b][0] <= lifetimes[a][1]
            assert not (overlap and places[a] == places[b])
        most = max(sum(first <= step <= last for first, last in lifetimes) for step in range(20))
        assert len(set(places)) == most, "as few places as there are alive at one time"
    assert share([(0, 1), (0, 1), (2, 3)], ["a", "b", "b"]) == [0, 1, 1], "equal sizes share a place"

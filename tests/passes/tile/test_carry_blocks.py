"""Blocks that loops update: carried where that is the same, and only there."""

from __future__ import annotations

import numpy as np
import pytest

from tesseracc.arch.arch import load
from tesseracc.interpret.tile import Memory, run_kernel
from tesseracc.ir.parser import parse_module
from tesseracc.ir.pipeline import Context, parse_pipeline, run_pipeline
from tesseracc.ir.printer import module_text
from tesseracc.ir.value import Module
from tesseracc.passes.tile import carry_blocks

PASSES = (carry_blocks,)  # importing a pass registers it

TEXT = """
tile.kernel @k(%a: buf<f32[M, K], global>, %c: buf<f32[M, N], global>) \
{{access = ["read", "readwrite"], grid = [<ceildiv(M, 8)>, <ceildiv(N, 16)>], group = 32, symbols = ["K", "M", "N"]}} {{
  %zero = arith.constant {{value = 0}} : i64
  %eight = arith.constant {{value = 8}} : i64
  %wide = arith.constant {{value = 16}} : i64
  %gx = tile.group_id {{axis = 0}} : i64
  %gy = tile.group_id {{axis = 1}} : i64
  %m = arith.mul %gx, %eight : i64
  %n = arith.mul %gy, %wide : i64
  %end = tile.dim {{expr = <K>}} : i64
  scf.for %zero, %end, %wide, [] (%k: i64) {{
    %x = tile.read %a, [%m, %k] {{axes = [0, 1]}} : tile<f32[8, 16]>
    {body}
  }}
}}
"""
READ = "%old = tile.read %c, [%m, %n] {axes = [0, 1]} : tile<f32[8, 16]>\n"
ADD = "%new = arith.add %old, %x : tile<f32[8, 16]>\n"
WRITE = "tile.write %new, %c, [%m, %n], [] {axes = [0, 1]}\n"
SUM = "%s = tile.fold %old {axis = 1, kind = \"add\"} : tile<f32[8]>\n" \
    "%t = tile.broadcast %s {axes = [0]} : tile<f32[8, 16]>\n%new = arith.add %t, %x : tile<f32[8, 16]>\n"
BODIES = {
    "update": (READ + ADD + WRITE, True),
    "update of what was updated": (READ + "%b = arith.mul %old, %x : tile<f32[8, 16]>\n"
                                   "%new = arith.add %b, %old : tile<f32[8, 16]>\n" + WRITE, True),
    "another place": (READ + ADD + WRITE.replace("%m, %n", "%m, %zero"), False),
    "a place of the iteration": ((READ + ADD + WRITE).replace("%m, %n", "%m, %k"), False),
    "rows are summed": (READ + SUM + WRITE, False),
    "written first": (WRITE.replace("%new", "%x") + READ + ADD + WRITE, False),
    "some of it": (READ + ADD + WRITE.replace("[]", "[%eight, %eight]"), False),
}  # fmt: skip


def carried(module: Module) -> Module:
    return run_pipeline(parse_pipeline("carry-blocks"), module, Context(load("sm_80")))


@pytest.mark.parametrize("name", list(BODIES))
def test_blocks(name: str) -> None:
    body, moves = BODIES[name]
    plain = parse_module(TEXT.format(body=body))
    changed = carried(plain)
    (loop,) = (op for op in changed.funcs[0].walk() if op.name == "scf.for")
    assert (len(loop.results) == 1) == moves
    assert moves or module_text(changed) == module_text(plain)
    rng = np.random.default_rng(5)
    for m, n, k in ((8, 16, 16), (13, 21, 50), (3, 40, 0)):
        a, c = rng.standard_normal((m, k)).astype(np.float32), rng.standard_normal((m, n)).astype(np.float32)
        found = []
        for module in (plain, changed):
            mine = c.copy()
            run_kernel(module.funcs[0], [Memory(a, None), Memory(mine, None)], {"M": m, "N": n, "K": k})
            found.append(mine)
        np.testing.assert_array_equal(found[0], found[1])

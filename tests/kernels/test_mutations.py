"""The bounds see every fault of `mutations`: a block left out, a mask that masks nothing, a sum kept in a narrow type.

A fault is found when one call of the kernel, for one of its types and constants, is out of its bound in the Tile
interpreter, or out of a buffer. What no call finds is listed with the reason why it is no fault.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera.kernels
from tessera.kernel import KernelDef
from tesseracc.frontend.kernel import lower
from tesseracc.interpret import tile
from tesseracc.interpret.tile_races import Finding
from tests.kernels.cases import Call, Case
from tests.kernels.matrix import CASES, fixed, worst
from tests.kernels.mutations import Mutation, mutations
from tests.kernels.seed_cases import SEEDS

EDGE = "what lies past the edge is read as 0, which adds nothing"
OTHER = "past the edge the other operand of the product is 0"
REFERENCE = "any number near the largest score will do as reference"
PRODUCT = "the product with V rounds the weights as much"
#: kind of fault, words of the source line, the variable, and why it changes no result
REDUNDANT = [
    ("narrow", "for c in range(0, N, BN)", "top", REFERENCE),
    ("narrow", "for kv_block in ts.tile.range(0, ctx.S, BN)", "m_i", REFERENCE),
    ("narrow", "for c in range(0, N, BN)", "hit", "one element of x, and zeros"),
    ("narrow", "hit += ts.tile.row_sum(", "", "one element of x, and zeros"),
    ("narrow", "here = ts.tile.row_sum(t) / count", "", "elements of x"),
    ("narrow", "for c in range(0, N, BN)", "best", "elements of x"),
    ("narrow", "for r in range(0, M, BM)", "best", "elements of x"),
    ("narrow", "l_i = alpha * l_i + ts.tile.row_sum(p)", "", PRODUCT),
    ("narrow", "m_new, l_new, scores_norm = ts.tile.online_softmax(", "", PRODUCT),
    ("mask", "hit += ", "", "no label lies past the edge"),
    ("mask", "products += y[", "", EDGE),
    ("mask", "sums += x[", "", EDGE),
    ("mask", "direct += g", "", EDGE),
    ("mask", "along += ", "", EDGE),
    ("mask", "squares += t * t", "", EDGE),
    ("mask", "weights += dy[", "", EDGE),
    ("mask", "biases += dy[", "", EDGE),
    ("mask", "acc += x[", "", EDGE),
    ("mask", "dk += ts.tile.mma(", "", OTHER),
    ("mask", "dv += ts.tile.mma(", "", OTHER),
    ("first block", "cp_async(shared_tile, A[block_m", "", "nobody looks at what is copied"),
    ("last block", "cp_async(shared_tile, A[block_m", "", "nobody looks at what is copied"),
]
#: kernels whose loops take long in the interpreter
LONG = ("flash_attention_grad_kv", "flash_attention_grad_q", "seed_flash_attention", "seed_fused_attention_kernel")

#: what the types of one kernel are tried with: 16 bits, where promotion matters, and attention of narrow heads
GROUPS: dict[str, list[Case]] = {}
for _case in CASES.values():
    _meant = _case.dtype in ("bf16", "f16") or _case.name.startswith(("seed_", "sum_parts"))
    if _meant and not _case.name.endswith(("_80", "_128", "_256")):
        GROUPS.setdefault(re.sub(r"_(32|64)$", "", _case.name), []).append(_case)


def source(name: str, line: int) -> str:
    """The line of a kernel's file."""
    folders = (Path(tessera.kernels.__file__).parent, SEEDS)
    (path,) = (folder / name for folder in folders if (folder / name).exists())
    return path.read_text().splitlines()[line - 1].strip()


def off(fault: Mutation, kernel: KernelDef, call: Call, names: list[str], given: list[Any]) -> float:
    """The largest error in bounds; an access outside of a buffer, or a race, is beyond any."""
    try:
        return worst(call, names, given, lambda *args: tile.run(fault.module, kernel.name, args))
    except Finding:
        return np.inf


def survivors(cases: list[Case]) -> tuple[int, set[tuple[str, str, str]]]:
    """How many faults there are, and the kind, the line and the variable of those that no call finds."""
    found: dict[Any, bool] = {}
    for case in cases:
        for make in case.calls:
            call = make()
            kernel, names, given = fixed(case.kernel(), call)
            if any(isinstance(x, np.ndarray) and x.size == 0 for x in given):
                continue
            numbers: Counter[Any] = Counter()
            for fault in mutations(lower(kernel), case.dtype if case.dtype != "f32" else "bf16"):
                key = (fault.kind, fault.file, fault.line, fault.name)
                numbers[key] += 1
                if not found.get((*key, numbers[key])):
                    found[(*key, numbers[key])] = off(fault, kernel, call, names, given) > 1
    left = {(kind, source(file, line), name) for (kind, file, line, name, _), seen in found.items() if not seen}
    return len(found), left


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in LONG else []) for n in GROUPS])
def test_every_fault_is_seen(name: str) -> None:
    count, left = survivors(GROUPS[name])
    known = [one for one in left if any((one[0], one[2]) == (k, v) and words in one[1] for k, words, v, _ in REDUNDANT)]
    assert left == set(known), f"of {count}"

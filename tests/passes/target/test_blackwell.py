"""Products on Blackwell: sums in tensor memory, issued by one thread; on the emulator, and what the assembler makes."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tessera_runtime.core.errors import TesseraError
from tesseracc.arch.arch import load
from tesseracc.codegen.image import Image
from tesseracc.ir.parser import parse_module
from tesseracc.ir.pipeline import Context, run_pipeline
from tesseracc.ir.printer import module_text
from tesseracc.ir.value import Module
from tesseracc.ir.verify import verify
from tesseracc.passes import pipelines
from tests.passes.target.test_gpu_tiles import built, check_product, operands
from tests.passes.target.test_hopper import machine_code
from tests.passes.target.test_lower_gpu import attempt, versions
from tests.passes.tile import kernels

#: m, n, k of a block, and lanes of the group: half of the unit's rows, all of them, columns for two groups of warps
SIZES = {"half": (64, 64, 64, 128), "whole": (128, 64, 32, 128), "two groups": (128, 128, 64, 256)}


def product(name: str, dtype: str, **options: Any) -> tuple[Module, Image]:
    m, n, k, group = SIZES[name]
    return built("sm_100", "gemm", m=m, n=n, k=k, dtype=dtype, group=group, **options)


PAIRS = [("half", "f16", (False, True))]
TRANS = [(False, False), (True, False), (False, True), (True, True)]
GRID = [(name, dtype, trans) for name in SIZES for dtype in ("f16", "bf16") for trans in TRANS]


def sampled(sample: list[Any], grid: list[Any]) -> list[Any]:
    """The sample, and the rest of the grid as slow tests."""
    return [*sample, *(pytest.param(*case, marks=pytest.mark.slow) for case in grid if case not in sample)]


@pytest.mark.parametrize(("name", "dtype", "trans"), sampled(PAIRS, GRID))
def test_product(name: str, dtype: str, trans: tuple[bool, bool]) -> None:
    module, image = product(name, dtype, trans_a=trans[0], trans_b=trans[1])
    kernel = module.funcs[0]
    fast = versions(image, kernel)[0]
    block_m, block_n, block_k, _ = SIZES[name]
    # one block; several with more k than the ring has slots, twice around, and ragged; less than a block
    for seed, (m, n, k) in enumerate(((block_m, block_n, block_k), (136, 72, 9 * block_k + 8), (8, 16, 8))):
        a, b = operands(m, n, k, dtype)
        given = [x.T.copy() if t else x for x, t in zip((a, b), trans, strict=True)]
        args = [*given, np.full((m, n), np.nan, np.float32)]
        found = attempt(kernel, image, args, {"M": m, "N": n, "K": k}, seed=seed)
        assert found is not None and found[0] in (fast.name, "gemm__tensor")
        assert not found[1].findings, [f.render() for f in found[1].findings]
        check_product(args[2], a, b)
        blocks, steps = -(-m // block_m) * -(-n // block_n), -(-k // block_k) * block_k // 16
        assert sum(found[1].counters.mma.values()) == blocks * steps and found[1].counters.bank_conflicts == 0


@pytest.mark.parametrize("n", [128, pytest.param(256, marks=pytest.mark.slow)])
def test_a_whole_kernel(n: int) -> None:
    """128 x n x 64: nothing but products, tensor copies and waits in the loops, which one thread runs."""
    module, image = built("sm_100", "gemm", m=128, n=n, k=64, dtype="bf16", group=256)
    fast, code = versions(image, module.funcs[0])[0], image.kernels[0]
    assert code.name == fast.name and code.spill_stores == code.spill_loads == code.stack == 0
    assert image.findings == () and fast.attrs["group"] == 384
    lines = machine_code(image, fast.name)
    text = "\n".join(lines)
    loop = [i for i, line in enumerate(lines) if "UTCHMMA" in line]
    assert len(loop) == 4 and all(b - a <= 9 for a, b in zip(loop, loop[1:], strict=False))
    # panels of 64 columns; of what a pair shares each brings half
    assert text.count("UTMALDG") == 3 and "UTMALDG.2D.MULTICAST" in text and text.count("USETMAXREG") == 2
    assert text.count("LDTM") == n // 128
    assert not re.search(r"\b(LDL|STL|LDGSTS|LDSM|HMMA)\b", text)


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("attention", {"rows": 64, "columns": 64, "dtype": "bf16"}, "the loop uses sums between products"),
        ("gemm", {"m": 128, "n": 64, "k": 32, "dtype": "bf16"}, None),
        ("gemm", {"m": 32, "n": 64, "k": 32, "dtype": "bf16"}, "no instruction fits"),
        ("gemm", {"m": 64, "n": 64, "k": 32, "dtype": "bf16", "group": 64}, "do not come by tensor copies"),
    ],
)
def test_a_note_says_why_products_are_not_in_tensor_memory(name: str, options: dict[str, Any], why: str | None) -> None:
    context = Context(load("sm_100"))
    run_pipeline(pipelines.TARGET["cuda"], getattr(kernels, name)(**options), context)
    found = [note.message for note in context.notes if "tensor memory" in note.message]
    assert len(found) > 0 if why else not found
    assert all(why in text for text in found if why)


@pytest.mark.parametrize(
    ("arch", "instruction"), [pytest.param("sm_100f", "tcgen05.mma", marks=pytest.mark.slow), ("sm_120", "mma.sync")]
)
def test_relatives(arch: str, instruction: str) -> None:
    """The family's code, and chips without tensor memory: what their tables have, without advisories."""
    _, image = built(arch, "gemm", m=64, n=32, k=32, dtype="bf16", group=128, trans_b=True)
    assert instruction in image.ptx and ("tcgen05" in image.ptx) == (arch == "sm_100f")
    assert "cp.async.bulk.tensor" in image.ptx and image.findings == ()
    assert all(k.stack == k.spill_stores == 0 for k in image.kernels)


def test_the_text_of_target_ir_round_trips() -> None:
    module = run_pipeline(
        pipelines.TARGET["cuda"], kernels.gemm(64, 64, 32, "bf16", group=128), Context(load("sm_100"))
    )
    text = module_text(module)
    assert text.count("target.tensor_mma") >= 2 and module_text(verify(parse_module(text))) == text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("target.tensor_alloc %p {columns = 48}", "a power of two from 32 to 512"),
        ("target.tensor_free %a {columns = 1024}", "a power of two from 32 to 512"),
        ('%r = target.tensor_load %a {repeat = 2, shape = "32x32b"} : f32', "2 results of 32 bits"),
        ('%r = target.tensor_load %a {repeat = 1, shape = "8x8b"} : f32', "no shape is called 8x8b"),
    ],
)
def test_operations_on_tensor_memory_are_verified(line: str, words: str) -> None:
    head = 'target.func @k(%p: ptr<shared>, %a: i32) {group = 128, scratch = 0, shared = 0, symbol = "k"} {\n  '
    with pytest.raises(TesseraError, match=words):
        verify(parse_module(head + line + "\n}\n"))

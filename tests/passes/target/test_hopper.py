"""Products on Hopper: tensor copies, mbarriers, warp groups; on the emulator, and what the assembler makes of them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tesseracc.codegen.image import Image, listing
from tesseracc.ir.value import Module
from tests.passes.target.test_gpu_tiles import built, check_product, operands
from tests.passes.target.test_lower_gpu import attempt, run, versions

SIZES = {"small": (64, 64, 64, 128), "two groups": (128, 64, 32, 256), "wide": (64, 256, 64, 256)}
TURNED = [(True, False), (False, True), (True, True)]
#: the small product in every orientation, the others as they stand; the rest is slow
PRODUCTS = [
    pytest.param(name, dtype, trans, marks=() if name == "small" or not any(trans) else pytest.mark.slow)
    for name, dtype in (("small", "bf16"), ("two groups", "f16"), ("wide", "bf16"))
    for trans in ((False, False), (True, False), (False, True))
]


def product(name: str, dtype: str, **options: Any) -> tuple[Module, Image]:
    m, n, k, group = SIZES[name]
    return built("sm_90", "gemm", m=m, n=n, k=k, dtype=dtype, group=group, **options)


@pytest.mark.parametrize("name,dtype,trans", PRODUCTS)
def test_product(name: str, dtype: str, trans: tuple[bool, bool]) -> None:
    module, image = product(name, dtype, trans_a=trans[0], trans_b=trans[1])
    kernel = module.funcs[0]
    *fast, general = versions(image, kernel)
    assert [f.name for f in fast] == ["gemm__cluster", "gemm__tensor"]
    assert all(f.attrs["group"] == general.attrs["group"] + 128 and len(f.attrs["maps"]) == 2 for f in fast)
    # sizes of tensor copies: one block, several blocks with more k than the ring has slots, less; then others
    for m, n, k, tensor in ((64, 64, 64, True), (136, 72, 456, True), (8, 16, 8, True), (70, 65, 33, False)):
        a, b = operands(m, n, k, dtype)
        a, b = (x.T.copy() if t else x for x, t in zip((a, b), trans, strict=True))
        args = [a, b, np.full((m, n), np.nan, np.float32)]
        ran, counters = run(module, kernel, image, args, {"M": m, "N": n, "K": k})
        a, b = (x.T if t else x for x, t in zip((a, b), trans, strict=True))
        check_product(args[2], a, b)
        assert (ran != general.name) == tensor
        if tensor:
            assert counters.bank_conflicts == 0
            blocks = -(-m // SIZES[name][0]) * -(-n // SIZES[name][1]), -(-k // SIZES[name][2])
            tile = SIZES[name][2] * (SIZES[name][0] + SIZES[name][1]) * 2
            assert counters.async_bytes["to shared"] == blocks[0] * blocks[1] * tile


@pytest.mark.parametrize("arch,m", [("sm_90", 64), ("sm_100", 128)])
def test_blocks_that_take_several_tiles(arch: str, m: int) -> None:
    """However many blocks there are, and in whatever order they run: the same bits, and nothing read twice."""
    module, image = built(arch, "gemm", m=m, n=64, k=32, dtype="bf16")
    kernel, sizes = module.funcs[0], {"M": 3 * m + 8, "N": 136, "K": 168}  # 4 x 3 tiles of 6 steps each
    a, b = operands(*sizes.values(), "bf16")
    results = []
    for seed, blocks in enumerate((0, 5, 1)):
        args = [a, b, np.full((sizes["M"], sizes["N"]), np.nan, np.float32)]
        found = attempt(kernel, image, args, sizes, blocks=blocks, seed=seed)
        assert found is not None and found[0] != "gemm" and not found[1].findings, seed
        assert found[1].counters.async_bytes["to shared"] == 12 * 6 * (m + 64) * 32 * 2
        results.append(args[2])
    check_product(results[0], a, b)
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])


@pytest.mark.parametrize("arch", ["sm_90", pytest.param("sm_100", marks=pytest.mark.slow)])
@pytest.mark.parametrize("trans", [(False, False), *(pytest.param(t, marks=pytest.mark.slow) for t in TURNED)])
def test_pairs_share_what_both_read(arch: str, trans: tuple[bool, bool]) -> None:
    """Neighbours along n multiply the same rows of a: half the bytes of a are read, and nothing else changes."""
    m, n, k = 64 if arch == "sm_90" else 128, 64, 64
    module, image = built(arch, "gemm", m=m, n=n, k=k, dtype="bf16", trans_a=trans[0], trans_b=trans[1])
    kernel, sizes = module.funcs[0], {"M": m + 8, "N": 256, "K": 264}  # 2 x 4 tiles of 5 steps
    a, b = operands(*sizes.values(), "bf16")
    given = [x.T.copy() if t else x for x, t in zip((a, b), trans, strict=True)]
    results, read = [], []
    for seed, (version, blocks) in enumerate((("tensor", 0), ("cluster", 1), ("cluster", 3))):
        args = [*given, np.full((sizes["M"], sizes["N"]), np.nan, np.float32)]
        found = attempt(kernel, image, args, sizes, seed=seed, blocks=blocks, version=f"gemm__{version}")
        assert found is not None and found[0] == f"gemm__{version}"
        assert not found[1].findings, [f.render() for f in found[1].findings]
        assert found[1].counters.bank_conflicts == 0
        results.append(args[2])
        read.append(found[1].counters.bytes_read["global"])
    check_product(results[0], a, b)
    assert all(np.array_equal(results[0], other) for other in results[1:])
    of_a, of_b = (m + 8) * 264 * 2 * 4, 264 * 256 * 2 * 2  # each element for every tile that needs it
    assert read == [of_a + of_b, *[of_a // 2 + of_b] * 2]


def test_a_whole_hopper_kernel() -> None:
    """128 x 256 x 64 with two groups of consumers: what the best hand-written loops are made of, and nothing else."""
    module, image = built("sm_90", "gemm", m=128, n=256, k=64, dtype="bf16", group=256)
    assert image.findings == ()
    found = versions(image, module.funcs[0])
    # a block of a pair brings half of b's four boxes, for both; for other sizes the threads copy themselves
    for fast, code, copies, shared in zip(found, image.kernels, (3, 5, 0), (2, 0, 0), strict=True):
        assert code.name == fast.name and code.spill_stores == code.spill_loads == code.stack == 0
        lines = machine_code(image, fast.name)
        loop = [i for i, line in enumerate(lines) if "HGMMA" in line]
        assert len(loop) == 4 and all(b - a <= 9 for a, b in zip(loop, loop[1:], strict=False))
        text = "\n".join(lines)
        assert text.count("UTMALDG") == copies and text.count("MULTICAST") == shared
        assert fast.attrs["group"] == (384 if copies else 256) and text.count("USETMAXREG") == (2 if copies else 0)
        assert bool(re.search(r"\bLDGSTS\b", text)) == (not copies)
        assert not re.search(r"\b(LDL|STL)\b", text) and (not copies or not re.search(r"\bLDSM\b", text))


@pytest.mark.parametrize("arch", ["ptx_75", "ptx_80"])
def test_code_for_later_chips_assembles(arch: str) -> None:
    _, image = built(arch, "gemm", m=64, n=64, k=32, dtype="f16", staged="async")
    assert "ldmatrix" in image.ptx and image.findings == ()


def machine_code(image: Image, name: str) -> list[str]:
    """The instructions of one kernel."""
    for part in listing(image).split(".section\t.text.")[1:]:
        if part.startswith((f"{name},", f'{name}"')):
            return [line for line in part.splitlines() if re.search(r"/\*[0-9a-f]{4,}\*/", line)]
    raise AssertionError(f"no kernel {name} in the listing")

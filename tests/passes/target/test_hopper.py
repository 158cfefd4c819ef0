"""Products on Hopper: tensor copies, mbarriers, warp groups; on the emulator, and what the assembler makes of them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tesseracc.codegen.image import Image, listing
from tesseracc.ir.value import Module
from tests.passes.target.test_gpu_tiles import built, check_product, operands
from tests.passes.target.test_lower_gpu import run, versions

SIZES = {"small": (64, 64, 64, 128), "two groups": (128, 64, 32, 256), "wide": (64, 256, 64, 256)}


def product(name: str, dtype: str, **options: Any) -> tuple[Module, Image]:
    m, n, k, group = SIZES[name]
    return built("sm_90", "gemm", m=m, n=n, k=k, dtype=dtype, group=group, **options)


@pytest.mark.parametrize("trans", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("name,dtype", [("small", "bf16"), ("two groups", "f16"), ("wide", "bf16")])
def test_product(name: str, dtype: str, trans: tuple[bool, bool]) -> None:
    module, image = product(name, dtype, trans_a=trans[0], trans_b=trans[1])
    kernel = module.funcs[0]
    fast, general = versions(image, kernel)
    assert fast.attrs["group"] == general.attrs["group"] + 128 and len(fast.attrs["maps"]) == 2
    # sizes of tensor copies: one block, several blocks with more k than the ring has slots, less; then others
    for m, n, k, tensor in ((64, 64, 64, True), (136, 72, 456, True), (8, 16, 8, True), (70, 65, 33, False)):
        a, b = operands(m, n, k, dtype)
        a, b = (x.T.copy() if t else x for x, t in zip((a, b), trans, strict=True))
        args = [a, b, np.full((m, n), np.nan, np.float32)]
        ran, counters = run(module, kernel, image, args, {"M": m, "N": n, "K": k})
        a, b = (x.T if t else x for x, t in zip((a, b), trans, strict=True))
        check_product(args[2], a, b)
        assert ran == (fast if tensor else general).name
        if tensor:
            assert counters.bank_conflicts == 0
            blocks = -(-m // SIZES[name][0]) * -(-n // SIZES[name][1]), -(-k // SIZES[name][2])
            tile = SIZES[name][2] * (SIZES[name][0] + SIZES[name][1]) * 2
            assert sum(counters.async_bytes.values()) == blocks[0] * blocks[1] * tile


def test_a_whole_hopper_kernel() -> None:
    """128 x 256 x 64 with two groups of consumers: what the best hand-written loops are made of, and nothing else."""
    module, image = built("sm_90", "gemm", m=128, n=256, k=64, dtype="bf16", group=256)
    (fast, _), (code, *_) = versions(image, module.funcs[0]), image.kernels
    assert code.name == fast.name and code.spill_stores == code.spill_loads == code.stack == 0
    assert image.findings == () and fast.attrs["group"] == 384
    lines = machine_code(image, fast.name)
    loop = [i for i, line in enumerate(lines) if "HGMMA" in line]
    assert len(loop) == 4 and all(b - a <= 9 for a, b in zip(loop, loop[1:], strict=False))
    text = "\n".join(lines)
    assert text.count("UTMALDG") == 5 and text.count("USETMAXREG") == 2
    assert not re.search(r"\b(LDL|STL|LDGSTS|LDSM)\b", text)


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

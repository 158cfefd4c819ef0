"""What the general passes make of the library's loops: machine code, and what it does on the emulator."""

from __future__ import annotations

import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tessera as ts
import tessera.kernels as K
from tessera.kernel import specialise
from tessera_runtime import load as load_bundle
from tesseracc.arch.arch import load
from tesseracc.codegen.image import listing
from tesseracc.driver import Build
from tesseracc.emulator_device import EmulatorDevice
from tesseracc.frontend.kernel import lower
from tesseracc.tuning.choice import Tuning, choose
from tests.kernels.copied import mine
from tests.kernels.seed_cases import definition

ATTENTION = specialise(K.flash_attention.of(ts.bf16).definition, dims={"D": 64})
COPIES = {"sm_80": {"LDGSTS"}, "sm_90": {"UTMALDG"}}
PRODUCTS = {"sm_80": {"HMMA", "LDSM"}, "sm_90": {"HGMMA"}}


def built(kernel: Any, arch: str) -> Build:
    return Build(lower(kernel), [load(arch)])


def operations(text: str) -> set[str]:
    return set(re.findall(r"\b(HMMA|HGMMA|LDSM|LDGSTS|UTMALDG|LDL|STL)\b", text))


@pytest.mark.parametrize("arch", ("sm_80", "sm_90"))
@pytest.mark.parametrize("name", ("matmul", "transposed", "attention"))
def test_products_use_the_matrix_units_and_asynchronous_copies(name: str, arch: str) -> None:
    transposed = K.matmul.of(ts.bf16, trans_a=True, trans_b=True)
    kernel = {"matmul": K.matmul.of(ts.bf16).definition, "transposed": transposed.definition, "attention": ATTENTION}
    (image,) = built(kernel[name], arch).images
    found = operations(listing(image))
    assert found >= COPIES[arch] | PRODUCTS[arch] and not found & {"LDL", "STL"}
    assert image.findings == () and all(k.spill_loads == k.spill_stores == k.stack == 0 for k in image.kernels)


WIDTHS = [pytest.param(a, d, marks=() if (a, d) == ("sm_80", 128) else pytest.mark.slow)
          for a in ("sm_80", "sm_90") for d in (32, 64, 128, 256)]  # fmt: skip


@pytest.mark.parametrize("arch,width", WIDTHS)
def test_attention_of_every_width_stays_in_registers(arch: str, width: int) -> None:
    """At the point that the cost model chooses for the width."""
    chosen = choose(K.flash_attention.of(ts.bf16), Tuning((load(arch),)), {"D": width})
    for causal in (False, True) if width == 64 else (width < 64,):
        kernel = specialise(chosen.kernel, {**dict(chosen.kernel.constants), "causal": causal})
        (image,) = built(kernel, arch).images
        assert image.findings == () and all(k.spill_loads == k.spill_stores == k.stack == 0 for k in image.kernels)


@pytest.mark.parametrize(
    "arch", ["sm_80", *(pytest.param(a, marks=pytest.mark.slow) for a in ("sm_86", "sm_89", "sm_120"))]
)
def test_attention_with_its_own_tile_sizes_stays_in_registers(arch: str) -> None:
    """A seed's 128 x 128 scores leave no room for the values of the second product before it: they are read there."""
    (image,) = built(definition("fused_attention_kernel"), arch).images
    assert image.findings == () and all(k.spill_loads == k.spill_stores == k.stack == 0 for k in image.kernels)
    found = operations(listing(image))
    assert found >= COPIES["sm_80"] | PRODUCTS["sm_80"] and not found & {"LDL", "STL"}


@pytest.mark.parametrize("arch", [pytest.param("sm_80", marks=pytest.mark.slow), "sm_90"])
def test_places_of_results_take_no_registers_from_loops(arch: str) -> None:
    """The cotangent of Q goes where Q came from: its places are not kept from there, but found again."""
    kernel = specialise(K.flash_attention_grad_q.of(ts.bf16).definition, dims={"D": 64})
    (image,) = built(kernel, arch).images
    assert image.findings == () and all(k.spill_loads == k.spill_stores == k.stack == 0 for k in image.kernels)


def launched(kernel: Any, arch: str, *args: Any) -> Any:
    """The counters of one call on the emulator, which must find nothing."""
    device = EmulatorDevice()
    load_bundle(built(kernel, arch).bundle(), device=device)[kernel.name](*args)
    return device.counters()["total"]


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(ml_dtypes.bfloat16)


@pytest.mark.parametrize("arch", ("sm_80", "sm_90"))
def test_products_have_no_bank_conflicts_and_move_what_the_tiling_says(arch: str) -> None:
    m, n, k = 128, 192, 256
    found = launched(K.matmul.of(ts.bf16).definition, arch, normal(m, k), normal(k, n, seed=1))
    assert found["bank_conflicts"] == 0
    blocks = (m // 64) * (n // 64) * (k // 32)
    read = sum(size for way, size in found["async_bytes"].items() if way != "to global")
    assert read == blocks * (64 + 64) * 32 * 2


def test_a_copy_under_another_name_is_the_same_code() -> None:
    """Nothing in the compiler knows a kernel of the library."""
    kernels = mine.definition, K.matmul.of(ts.bf16).definition
    ours, theirs = (
        [
            re.findall(r"/\*[0-9a-f]{4,}\*/\s+(.*?);", part)
            for part in listing(built(kernel, "sm_90").images[0]).split(".section\t.text.")[1:]
        ]
        for kernel in kernels
    )
    assert ours == theirs and len(ours) == 3 and all(len(part) > 100 for part in ours)

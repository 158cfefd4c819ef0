"""Every family for every type on every kind of target: what test_kernels draws pairwise, whole."""

from __future__ import annotations

import pytest

from tests.kernels import test_kernels as family

ARCHS = ("sm_70", "sm_75", "sm_80", "sm_89", "sm_90", "sm_100", "sm_120")
ROWS = (family.test_softmax, family.test_rms_norm, family.test_cross_entropy, family.test_sums, family.test_extrema)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("arch", ARCHS),
    pytest.mark.parametrize("dtype", ("bf16", "f16", "f32")),
]


@pytest.mark.parametrize("trans", [(False, False), (True, False), (False, True), (True, True)], ids=str)
def test_matmul(dtype: str, arch: str, trans: tuple[bool, bool]) -> None:
    family.test_matmul(dtype, arch, *trans, batched=trans[0] == trans[1])


@pytest.mark.parametrize("shape", [(1, 1), (17, 256), (9, 600)], ids=str)
def test_rows(dtype: str, arch: str, shape: tuple[int, int]) -> None:
    for test in ROWS:
        test(dtype, arch, shape)
    for offset in (0, 30):
        family.test_layer_norm(dtype, arch, shape, offset)
    family.test_transpose(dtype, arch)


@pytest.mark.parametrize("causal", (False, True))
@pytest.mark.parametrize("shape", [(1, 2, 1, 70, 130, 32), (1, 4, 2, 66, 66, 64)], ids=str)
def test_flash_attention(dtype: str, arch: str, shape: tuple[int, ...], causal: bool) -> None:
    family.test_flash_attention((dtype, arch, *shape, causal))

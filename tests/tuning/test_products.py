"""Tiles that the cost model chooses for products."""

from __future__ import annotations

import pytest

from tessera.shapes import Dim, symbol
from tesseracc.arch.arch import load
from tesseracc.tuning.products import Tile, product_tile, ring_depth, step_seconds

BF16 = (("bf16", "bf16", "f32"), (2, 2))
SIZES: dict[str, tuple[Dim, Dim, Dim]] = {
    "unknown": (symbol("M"), symbol("N"), symbol("K")), "large": (8192, 8192, 8192), "small": (256, 256, 4096),
    "flat": (16, 4096, 4096),
}  # fmt: skip


@pytest.mark.parametrize("sizes", ["unknown", "large"])
def test_large_products_take_the_largest_tiles_of_their_target(sizes: str) -> None:
    def tile(arch: str) -> Tile | None:
        return product_tile(load(arch), *BF16, SIZES[sizes])

    assert tile("sm_90") == tile("sm_100") == Tile(128, 256, 64, 8)  # rows of 128 bytes, 64 rows for four warps
    assert tile("sm_80") == tile("sm_89") == Tile(128, 128, 32, 8)
    assert tile("sm_75") is None  # no unit for bf16


def test_few_small_tiles_keep_more_multiprocessors_busy() -> None:
    for arch in ("sm_80", "sm_86", "sm_90"):
        large, small = (product_tile(load(arch), *BF16, SIZES[s]) for s in ("large", "small"))
        assert large is not None and small is not None and small.m * small.n < large.m * large.n
    flat = product_tile(load("sm_80"), *BF16, SIZES["flat"])
    assert flat is not None and flat.m <= 64


def test_operands_that_are_computed_go_to_single_warps() -> None:
    tile = product_tile(load("sm_90"), *BF16, SIZES["large"], copied=False)
    assert tile is not None and tile.k == 32 and tile.m * tile.n <= 64 * 32 * tile.warps


def test_rings_cover_the_latency() -> None:
    arch = load("sm_90")
    slow, fast = (step_seconds(arch, tile, 989e12, (2, 2)) for tile in (Tile(128, 256, 64, 8), Tile(64, 64, 32, 4)))
    assert slow == pytest.approx(2 * 128 * 256 * 64 * 132 / 989e12, rel=0.5) and fast < slow / 4
    assert ring_depth(slow) == 4 and ring_depth(fast) == 8 and ring_depth(0.0) == 8

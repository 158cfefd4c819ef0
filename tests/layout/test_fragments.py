"""Fragments against loops over lanes, as the PTX documentation numbers their elements."""

from __future__ import annotations

import pytest

from tesseracc.arch import load
from tesseracc.layout import fragments as fr
from tesseracc.layout.select import choose_mma
from tesseracc.layout.tiling import tile_product

SHAPES = [(16, 8, 16), (16, 16, 16), (16, 4, 32), (16, 8, 32), (16, 16, 8), (16, 32, 8), (8, 16, 8), (8, 4, 64),
          (16, 4, 64), (16, 16, 64), (16, 64, 4)]  # fmt: skip


@pytest.mark.parametrize(("m", "k", "bits"), SHAPES)
def test_operands_of_mma(m: int, k: int, bits: int) -> None:
    a, b = fr.mma_a(m, k, bits), fr.mma_b(k, bits)
    per = max(1, 32 // bits)
    for lane in range(32):
        row, quad = divmod(lane, 4)
        for element in range(m * k // 32):
            register, inside = divmod(element, per)
            high, block = (register % 2, register // 2) if m == 16 else (0, register)
            assert a.at(lane=lane, register=element) == (row + 8 * high, block * 4 * per + quad * per + inside)
        for element in range(k // 4):
            register, inside = divmod(element, per)
            assert b.at(lane=lane, register=element) == (register * 4 * per + quad * per + inside, row)
    assert a.is_bijective() and b.is_bijective()


@pytest.mark.parametrize("n", range(8, 257, 8))
def test_wgmma_accumulators(n: int) -> None:
    layout = fr.wgmma_c(n)
    for thread in (0, 1, 5, 31, 32, 77, 127):
        for element in range(n // 2):
            row = 16 * (thread // 32) + thread % 32 // 4 + 8 * (element // 2 % 2)
            column = element // 4 * 8 + thread % 4 * 2 + element % 2
            assert layout.at(warp=thread // 32, lane=thread % 32, register=element) == (row, column)
            assert column < n
    assert layout.in_size("register") == layout.shape[1] // 2


@pytest.mark.parametrize(("k", "bits"), [(8, 32), (16, 16), (32, 8)])
def test_wgmma_operands_in_registers(k: int, bits: int) -> None:
    layout, warp = fr.wgmma_a(k, bits), fr.mma_a(16, k, bits)
    for w in range(4):
        for lane in range(32):
            for element in range(16 * k // 32):
                row, column = warp.at(lane=lane, register=element)
                assert layout.at(warp=w, lane=lane, register=element) == (row + 16 * w, column)


def test_quads() -> None:
    """m8n8k4: quad pair q = lane / 4 mod 4 has rows from 8 (q mod 2) and columns from 8 (q / 2)."""
    a, b = fr.quad_a(), fr.quad_b()
    for lane in range(32):
        pair, place = lane // 4 % 4, lane % 4 + 4 * (lane // 16)
        for i in range(4):
            assert a.at(lane=lane, register=i) == (place + 8 * (pair % 2), i)
            assert b.at(lane=lane, register=i) == (i, place + 8 * (pair // 2))
        for i in range(8):
            row, column = 8 * (pair % 2), 8 * (pair // 2)
            assert fr.quad_c(16).at(lane=lane, register=i) == (row + place, column + i)
            x, y = lane % 2 + (i & 2) + 4 * (lane // 16), (i & 4) + (lane & 2) + i % 2
            assert fr.quad_c(32).at(lane=lane, register=i) == (row + x, column + y)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_ldmatrix(count: int) -> None:
    plain, trans = fr.ldmatrix(count), fr.ldmatrix(count, trans=True)
    for lane in range(32):
        for element in range(2 * count):
            matrix, half = divmod(element, 2)
            assert plain.at(lane=lane, register=element) == (8 * matrix + lane // 4, 2 * (lane % 4) + half)
            assert trans.at(lane=lane, register=element) == (8 * matrix + 2 * (lane % 4) + half, lane // 4)


@pytest.mark.parametrize("repeat", [1, 4, 16])
def test_tensor_memory(repeat: int) -> None:
    """tcgen05.ld: lanes and columns of tensor memory, in bits as the shapes' names give them."""
    for lane in range(32):
        for r in range(repeat):
            assert fr.tmem_load("32x32b", repeat).at(lane=lane, register=r, warp=3) == (96 + lane, r)
            row = lane // 4 + 8 * (lane % 2)
            assert fr.tmem_load("16x64b", repeat).at(lane=lane, register=r, warp=1) == (32 + row, 2 * r + lane // 2 % 2)
            for high in range(2):
                at = fr.tmem_load("16x128b", repeat).at(lane=lane, register=2 * r + high)
                assert at == (lane // 4 + 8 * high, 4 * r + lane % 4)
                for odd in range(2):
                    at = fr.tmem_load("16x256b", repeat).at(lane=lane, register=4 * r + 2 * high + odd)
                    assert at == (lane // 4 + 8 * high, 8 * r + 2 * (lane % 4) + odd)
    with pytest.raises(ValueError, match="no tensor memory shape"):
        fr.tmem_load("64x32b", 1)


@pytest.mark.parametrize("n", [8, 16, 64, 256])
def test_accumulators_from_tensor_memory(n: int) -> None:
    full = fr.tmem_fragment(128, n)
    assert full.is_bijective() and full.at(lane=5, warp=2, register=3) == (69, 3)
    for shape in ("16x64b", "16x128b", "16x256b"):
        for m in (64, 128):
            layout = fr.tmem_fragment(m, n, shape)
            assert layout.is_bijective() and layout.shape == (m, n)
    # 64 rows by 256-bit pieces: the fragment of wgmma.
    assert fr.tmem_fragment(64, n, "16x256b") == fr.wgmma_c(n)
    with pytest.raises(ValueError, match="half of the lanes"):
        fr.tmem_fragment(64, n)


def test_tiles_in_tensor_memory() -> None:
    """A result of 256 x 128 by two instructions: the second half of the rows in further columns."""
    choice = choose_mma(load("sm_100"), "bf16", "bf16", "f32", (256, 128, 64))
    assert choice is not None and choice.row.m == 128
    place = tile_product(choice, (256, 128, 64), (1, 1)).c
    assert place is not None and place.apply({"dim0": 130, "dim1": 5}) == {"lane": 2, "column": 133}
    held = fr.tmem_registers(place)
    assert held.is_bijective() and held.at(register=133, lane=2, warp=0) == (130, 5)
    pieces = fr.tmem_registers(place, "16x256b")
    assert pieces.is_bijective() and pieces.at(register=3, lane=0) == (8, 1)

"""Which instruction a target's table gives, and the cut of tile products into instructions, executed on arrays."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tesseracc
from tesseracc.arch import load, names
from tesseracc.layout.select import candidates, choose_mma
from tesseracc.layout.tiling import tile_product, warp_grid
from tests.layout.strategies import hold

BIG = (128, 256, 64)
EXPECTED = {
    ("sm_70", "f16", "f32"): ("mma.sync", "m8n8k4"),
    ("sm_70", "bf16", "f32"): None,
    ("sm_70", "i8", "i32"): None,
    ("sm_75", "f16", "f32"): ("mma.sync", "m16n8k8"),
    ("sm_75", "i8", "i32"): ("mma.sync", "m8n8k16"),
    ("sm_75", "bf16", "f32"): None,
    ("sm_80", "f16", "f32"): ("mma.sync", "m16n8k16"),
    ("sm_80", "bf16", "f32"): ("mma.sync", "m16n8k16"),
    ("sm_80", "tf32", "f32"): ("mma.sync", "m16n8k8"),
    ("sm_80", "i8", "i32"): ("mma.sync", "m16n8k32"),
    ("sm_80", "f64", "f64"): ("mma.sync", "m8n8k4"),
    ("sm_80", "f32", "f32"): None,
    ("sm_86", "bf16", "f32"): ("mma.sync", "m16n8k16"),
    ("sm_89", "fp8_e4m3", "f32"): ("mma.sync", "m16n8k32"),
    ("sm_120", "fp8_e5m2", "f32"): ("mma.sync", "m16n8k32"),
    ("sm_120", "bf16", "f32"): ("mma.sync", "m16n8k16"),
    ("sm_90", "bf16", "f32"): ("wgmma", "m64n256k16"),
    ("sm_90", "f16", "f16"): ("wgmma", "m64n256k16"),
    ("sm_90", "tf32", "f32"): ("wgmma", "m64n256k8"),
    ("sm_90", "fp8_e4m3", "f32"): ("wgmma", "m64n256k32"),
    ("sm_90", "u8", "i32"): ("wgmma", "m64n256k32"),
    ("sm_90", "f64", "f64"): ("mma.sync", "m16n8k16"),
    ("sm_100", "bf16", "f32"): ("tcgen05", "m128n256k16"),
    ("sm_100", "fp8_e5m2", "f32"): ("tcgen05", "m128n256k32"),
    ("sm_100", "i8", "i32"): ("tcgen05", "m128n256k32"),
    ("sm_100f", "i8", "i32"): ("mma.sync", "m16n8k32"),
    ("sm_100f", "tf32", "f32"): ("tcgen05", "m128n256k8"),
}


@pytest.mark.parametrize("case", EXPECTED, ids="-".join)
def test_choice(case: tuple[str, str, str]) -> None:
    target, kind, acc = case
    choice = choose_mma(load(target), kind, kind, acc, BIG)
    assert (None if choice is None else (choice.row.op, choice.spelling)) == EXPECTED[case]


def test_choices_depend_on_the_tile() -> None:
    hopper = load("sm_90")

    def spelled(*shape: int, warps: int = 4) -> str:
        choice = choose_mma(hopper, "bf16", "bf16", "f32", (shape[0], shape[1], shape[2]), warps=warps)
        return "" if choice is None else f"{choice.row.op} {choice.spelling}"

    assert spelled(64, 192, 64) == "wgmma m64n192k16"
    assert spelled(64, 8, 64) == "wgmma m64n8k16"
    assert spelled(128, 512, 64) == "wgmma m64n256k16"
    assert spelled(32, 128, 64) == spelled(128, 256, 64, warps=2) == "mma.sync m16n8k16"
    assert spelled(16, 8, 8) == "mma.sync m16n8k8" and spelled(8, 8, 16) == spelled(16, 8, 4) == ""
    # Two warp groups side by side, or one above the other.
    assert spelled(64, 128, 64, warps=8) == "wgmma m64n64k16" and spelled(128, 128, 64, warps=8) == "wgmma m64n128k16"
    assert spelled(64, 8, 64, warps=8) == "wgmma m64n8k16"  # nothing to divide
    blackwell = load("sm_100")
    half = choose_mma(blackwell, "f16", "f16", "f32", (64, 128, 64))
    assert half is not None and half.spelling == "m64n128k16" and half.row.op == "tcgen05"


def test_wider_types_and_fragments_of_unknown_layout() -> None:
    volta = load("sm_70")
    found = candidates(volta, "f16", "f16", "f32", (64, 64, 16), documented=False)
    assert [c.row.op for c in found] == ["wmma", "mma.sync"] and found[0].layout("c") is None
    choice = choose_mma(volta, "fp8_e4m3", "fp8_e5m2", "f32", (64, 64, 16))
    assert choice is not None and (choice.a_type, choice.b_type) == ("f16", "f16")
    mixed = choose_mma(load("sm_89"), "fp8_e4m3", "fp8_e5m2", "f32", (64, 64, 32))
    assert mixed is not None and (mixed.a_type, mixed.b_type) == ("fp8_e4m3", "fp8_e5m2")
    assert choose_mma(load("sm_80"), "f16", "bf16", "f32", BIG) is None
    assert choose_mma(load("sm_90"), "bf16", "bf16", "f16", BIG) is None
    hopper = choose_mma(load("sm_90"), "fp8_e4m3", "fp8_e4m3", "f32", BIG)
    assert hopper is not None and hopper.row.full_k == 128 and hopper.row.full_k % hopper.row.k == 0
    assert hopper.row.majors == ("k",)
    both = choose_mma(load("sm_90"), "f16", "f16", "f32", BIG)
    assert both is not None and both.row.majors == ("k", "mn")


@pytest.mark.parametrize("name", names())
def test_tables_are_consistent(name: str) -> None:
    arch = load(name)
    for row in arch.mma:
        assert arch.features.issuperset(row.needs), "a row that the target cannot execute"
        assert 0 < row.rate <= 1 and row.warps in (1, 4)
        assert arch.throughput.tflops.get(row.rate_key(), 0) > 0, row.rate_key()
        if arch.kind == "cuda":
            choice = choose_mma(arch, row.a, row.b, row.acc, (row.m, row.n[-1], row.k), documented=False)
            assert choice is not None and choice.tflops >= arch.throughput.tflops[row.rate_key()] * row.rate * 0.3
    for row in arch.mma if arch.kind == "cuda" else ():
        for n in row.n:
            for operand, shape in (("a", (row.m, row.k)), ("b", (row.k, n)), ("c", (row.m, n))):
                found = candidates(arch, row.a, row.b, row.acc, (row.m, n, row.k), documented=False)
                choice = next(c for c in found if c.row == row)
                layout = choice.layout(operand)
                if layout is not None and layout.ins[0][0] == "register":
                    assert layout.is_surjective() and layout.in_size("lane") == 32
                    assert layout.in_size("warp") == row.warps and layout.shape[0] == shape[0]
                    assert layout.shape[1] == 1 << (shape[1] - 1).bit_length()


def test_no_chip_is_named_in_the_code() -> None:
    folder = Path(tesseracc.__file__).parent / "layout"
    for path in sorted(folder.glob("*.py")):
        assert "sm_" not in path.read_text(), path.name


TILES = [
    ("sm_80", "bf16", (128, 128, 32), 4), ("sm_80", "bf16", (64, 32, 64), 4), ("sm_80", "tf32", (32, 64, 16), 2),
    ("sm_80", "bf16", (64, 96, 32), 2), ("sm_80", "bf16", (32, 96, 32), 4), ("sm_80", "i8", (64, 64, 64), 8),
    ("sm_70", "f16", (64, 64, 16), 4), ("sm_75", "f16", (64, 64, 32), 4), ("sm_89", "fp8_e4m3", (64, 64, 64), 1),
    ("sm_90", "bf16", (128, 256, 64), 8),  ("sm_90", "bf16", (64, 192, 32), 4), ("sm_90", "f16", (256, 128, 32), 8),
    ("sm_90", "bf16", (64, 128, 32), 8), ("sm_90", "f16", (64, 384, 32), 8), ("sm_90", "f16", (64, 320, 32), 4),
    ("sm_90", "fp8_e4m3", (128, 64, 64), 4), ("sm_80", "f64", (32, 32, 16), 4),
]  # fmt: skip


@pytest.mark.parametrize(("target", "kind", "shape", "warps"), TILES)
def test_tiled_products(target: str, kind: str, shape: tuple[int, int, int], warps: int) -> None:
    """Every warp multiplies its fragments; the accumulators' layout makes the whole product of it."""
    acc = {"i8": "i32", "f64": "f64"}.get(kind, "f32")
    choice = choose_mma(load(target), kind, kind, acc, shape, warps=warps)
    assert choice is not None
    grid = warp_grid(choice, shape, warps)
    tiling = tile_product(choice, shape, grid)
    assert grid[0] * grid[1] * choice.row.warps == warps and tiling.c is not None
    m, n, k = shape
    rng = np.random.default_rng(9)
    a, b = rng.integers(-9, 9, (m, k)), rng.integers(-9, 9, (k, n))
    padded = np.zeros((k, tiling.c.shape[1]), np.int64)
    padded[:, :n] = b
    held_c = np.zeros((warps, 32, tiling.c.in_size("register")), np.int64)
    held_a = None if tiling.a is None else hold(a.reshape(-1), tiling.a)
    held_b = None if tiling.b is None else hold(padded.reshape(-1), tiling.b)
    for i in range(tiling.steps[0]):
        for j in range(tiling.steps[1]):
            for kk in range(tiling.steps[2]):
                multiply(tiling, held_a, held_b, held_c, padded, (i, j, kk))
    blocks = [(i, j) for i in range(tiling.steps[0]) for j in range(tiling.steps[1])]
    used = sorted({r for block in blocks for r in tiling.registers("c", *block)})
    table = tiling.c.table().reshape(warps, 32, -1)[:, :, used]
    out = np.full(tiling.c.shape[0] * tiling.c.shape[1], 1 << 40)
    out[table] = held_c[:, :, used]
    assert np.array_equal(out.reshape(tiling.c.shape)[:, :n], a @ b)
    assert len(np.unique(table)) == m * n


def multiply(tiling: Any, held_a: Any, held_b: Any, held_c: Any, b: Any, at: tuple[int, int, int]) -> None:
    """One instruction of all warps: its fragments to matrices, their product added to the accumulators."""
    i, j, kk = at
    choice, row = tiling.choice, tiling.choice.row
    group = row.warps
    for first in range(0, held_c.shape[0], group):
        part = slice(first, first + group)
        matrices = []
        for operand, held, place in (("a", held_a, (i, kk)), ("b", held_b, (kk, j))):
            layout = choice.layout(operand)
            if layout is None:  # from shared memory: the columns that this warp group's accumulators stand for
                _, column = tiling.c.at(register=tiling.registers("c", i, j)[0], warp=first)
                matrices.append(b[kk * row.k : (kk + 1) * row.k, column : column + choice.n])
                continue
            matrix = np.zeros(layout.out_size("dim0") * layout.out_size("dim1"), np.int64)
            matrix[layout.table().reshape(group, 32, -1)] = held[part][:, :, list(tiling.registers(operand, *place))]
            matrices.append(matrix.reshape(layout.shape))
        product = np.zeros(choice.layout("c").shape, np.int64)
        product[:, : choice.n] = matrices[0] @ matrices[1]
        table = choice.layout("c").table().reshape(group, 32, -1)[:, :, : choice.registers]
        held_c[part][:, :, list(tiling.registers("c", i, j))] += product.reshape(-1)[table]


def test_products_that_do_not_divide() -> None:
    choice = choose_mma(load("sm_80"), "bf16", "bf16", "f32", (32, 32, 16))
    assert choice is not None
    with pytest.raises(ValueError, match="do not divide"):
        warp_grid(choice, (32, 32, 16), 32)
    with pytest.raises(ValueError, match="does not divide"):
        tile_product(choice, (32, 32, 24), (1, 1))
    tiling = tile_product(choice, (32, 32, 16), (2, 2))
    with pytest.raises(ValueError, match="outside"):
        tiling.registers("a", 1, 0)
    blackwell = choose_mma(load("sm_100"), "bf16", "bf16", "f32", (128, 64, 64))
    assert blackwell is not None and tile_product(blackwell, (128, 64, 64), (1, 1)).a is None
    with pytest.raises(ValueError, match="not in registers"):
        tile_product(blackwell, (128, 64, 64), (1, 1)).registers("a", 0, 0)
    hopper = choose_mma(load("sm_90"), "bf16", "bf16", "f32", (64, 192 * 2, 64))
    assert hopper is not None and hopper.n == 128
    with pytest.raises(ValueError, match="in a linear layout"):
        tile_product(dataclasses.replace(hopper, n=192), (64, 384, 64), (1, 1))

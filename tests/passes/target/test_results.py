"""Results on their way out of a kernel: tensor copies, changes of layout, parts, notes, and wishes of the program."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tesseracc.arch.arch import load
from tesseracc.codegen.image import build_images
from tesseracc.emulator import GlobalMemory, launch, parse_ptx
from tesseracc.frontend.kernel import lower
from tesseracc.ir.builder import Builder
from tesseracc.ir.pipeline import Context, run_pipeline
from tesseracc.ir.types import PtrType, ScalarType
from tesseracc.ir.value import Func, Module, Value
from tesseracc.layout.build import coalesced
from tesseracc.layout.fragments import wgmma_c
from tesseracc.passes import pipelines
from tesseracc.passes.target import lower_gpu
from tesseracc.passes.target.gpu_convert import convert
from tesseracc.passes.target.gpu_parts import parts_of
from tesseracc.passes.target.gpu_spread import Spread
from tests.layout.strategies import register_layouts
from tests.passes.target.result_kernels import product, wishes
from tests.passes.target.test_gpu_tiles import built, check_product, operands
from tests.passes.target.test_hopper import machine_code
from tests.passes.target.test_lower_gpu import attempt, versions

OPERATIONS = re.compile(r"\b(STSM|UTMASTG|STG|F2FP|HGMMA|LDL|STL)\b")


def test_a_bf16_result_leaves_by_matrices_and_tensor_copies() -> None:
    """128 x 256 in registers: a matrix store for 8 registers, and a tensor copy for 128 bytes of every row."""
    module, image = built("sm_90", "gemm", m=128, n=256, k=64, dtype="bf16", out="bf16", group=256)
    for version in versions(image, module.funcs[0])[:-1]:
        found = Counter(OPERATIONS.findall("\n".join(machine_code(image, version.name))))
        assert found == {"HGMMA": 4, "F2FP": 64, "STSM": 16, "UTMASTG": 4}
    assert all(k.spill_stores == k.spill_loads == k.stack == 0 for k in image.kernels) and image.findings == ()


@pytest.mark.parametrize("m,n,k", [(64, 64, 64), (136, 72, 72), (70, 65, 33), (1, 8, 8)])
def test_rounded_results(m: int, n: int, k: int) -> None:
    """One rounding to the type of the result, at whatever edge."""
    module, image = built("sm_90", "gemm", m=64, n=64, k=32, dtype="f16", out="f16", group=128)
    a, b = operands(m, n, k, "f16")
    args = [a, b, np.full((m, n), np.nan, np.float16)]
    found = attempt(module.funcs[0], image, args, {"M": m, "N": n, "K": k})
    assert found is not None and not found[1].findings
    counters, want = found[1].counters, np.maximum(a.astype(np.float64) @ b.astype(np.float64), 0)
    assert np.abs(args[2].astype(np.float64) - want).max() <= 2.0**-10 * np.abs(want).max()
    if n % 8 == 0 and k % 8 == 0:
        assert counters.async_bytes["to global"] > 0 and counters.bank_conflicts == 0


# -- layouts -----------------------------------------------------------------------------------------------------------


def conversion(source: Any, target: Any, dtype: str, arch: str) -> tuple[Func, Module]:
    """A kernel that reads a tile in one layout, register by register, and stores it in another."""
    warps = source.in_size("warp")
    kernel = Func("tile.kernel", "move", Builder().region([]), {"group": 32 * warps, "symbols": ()})
    low = lower_gpu.Lowering(kernel, load(arch))
    pointers = [Value(PtrType("global"), name) for name in ("x", "y")]

    def place(pointer: Value, layout: Any, register: int) -> Value:
        count = layout.in_size("register")
        first = low.b.op("arith.mul", low.thread(), low.b.const(count))
        return low.b.op("target.offset", pointer, low.b.op("arith.add", first, low.b.const(register)), dtype=dtype)

    size = np.dtype(dtype.replace("u", "uint")).itemsize
    held = [
        low.b.op("target.load", place(pointers[0], source, r), types=ScalarType(dtype), align=size)
        for r in range(source.in_size("register"))
    ]
    moved = convert(low, Spread(source, source.shape, dtype, elements=held), target)
    for r, value in enumerate(moved.as_elements(low.b)):
        low.b.emit("target.store", value, place(pointers[1], target, r), align=size)
    own = {"group": 32 * warps, "scratch": 0, "shared": low.shared.size, "symbol": "move"}
    attrs = {**own, "access": ("read", "write"), "symbols": (), "grid": (1,)}
    func = Func("target.func", "move", low.b.region(pointers), attrs)
    return func, Module((func,))


@settings(max_examples=6)
@given(st.data(), st.sampled_from(["u8", "u16", "u32"]), st.booleans(), st.sampled_from(["sm_75", "sm_90"]))
def test_changes_of_layout(data: Any, dtype: str, copies: bool, arch: str) -> None:
    """Random layouts of a tile, executed: by registers, shuffles, matrices or shared memory."""
    registers = 5 if copies else 4
    source = data.draw(register_layouts((16, 64), registers, warps=1, copies=copies))
    target = data.draw(register_layouts((16, 64), registers, warps=1, copies=copies))
    func, module = conversion(source, target, dtype, arch)
    image = build_images([(module, load(arch))])[0]
    kind = np.dtype(dtype.replace("u", "uint"))
    tile = np.random.default_rng(1).integers(0, 1 << 8 * kind.itemsize, 1024).astype(kind)
    x, want = (tile[layout.table().reshape(-1)] for layout in (source, target))
    memory = GlobalMemory()
    places = [memory.alloc(a.nbytes) for a in (x, want)]
    memory.write(places[0], x)
    values = [np.int64(p) for p in places]
    report = launch(parse_ptx(image.ptx), func.name, (1, 1, 1), (64, 1, 1), values, memory=memory)
    assert not report.findings, [f.render() for f in report.findings]
    np.testing.assert_array_equal(np.frombuffer(memory.read(places[1], want.nbytes), kind), want)


def test_parts_hold_every_element_once() -> None:
    layout = wgmma_c(128)
    parts = parts_of(layout, 4, "bf16")
    assert parts is not None and parts.count == 4 and parts.layout.shape == (64, 32)
    seen = {
        (row + parts.start(p)[0], column + parts.start(p)[1])
        for p in range(4)
        for row, column in (parts.layout.at(register=r, lane=i, warp=w)
                            for r in range(16) for i in range(32) for w in range(4))
    }  # fmt: skip
    assert len(seen) == 64 * 128
    assert parts_of(coalesced((16, 64), 16, 4), 2, "bf16") is None  # each thread has one vector: nothing to cut


# -- what the program asks for -----------------------------------------------------------------------------------------


def noted(kernel: Any, arch: str) -> tuple[Module, list[str]]:
    context = Context(load(arch))
    module = run_pipeline(pipelines.TARGET["cuda"], lower(kernel), context)
    return module, [f"{note.message} ({note.loc.line if note.loc else 0})" for note in context.notes]


def test_notes_say_how_products_are_made_and_why() -> None:
    line = product.definition.span.line + 2
    _, said = noted(product.definition, "sm_90")
    assert any(re.search(rf"product 64 x 64 x 64 of bf16: wgmma m64n64k16.*\({line}\)", note) for note in said), said
    _, said = noted(product.definition, "sm_80")
    assert any(re.search(rf"mma.sync m16n8k16.*\({line}\)", note) for note in said), said
    assert any("change of layout through shared memory" in note for note in said), said


def test_wishes_for_shared_memory() -> None:
    """Asked-for swizzles and alignments hold, or a note says why not; the values are those of any layout."""
    module, said = noted(wishes.definition, "sm_90")
    (func,) = module.of_kind("target.func")
    offsets = [op.attrs["offset"] for op in func.walk() if op.name == "target.shared"]
    assert len(offsets) == 3 and all(offset % 128 == 0 for offset in offsets)
    assert sum("is not followed" in note for note in said) == 1
    image = build_images([(module, load("sm_90"))])[0]
    x = np.random.default_rng(5).standard_normal(128).astype(np.float32)
    memory = GlobalMemory()
    places = [memory.alloc(x.nbytes) for _ in range(2)]
    memory.write(places[0], x)
    report = launch(parse_ptx(image.ptx), func.name, (1, 1, 1), (128, 1, 1), [*map(np.int64, places), np.int64(128)],
                    memory=memory)  # fmt: skip
    assert not report.findings
    i = np.arange(128)
    want = x[(i % 4) * 32 + i // 4] + x[(i % 32) * 4 + i // 32] + x[127 - i]
    np.testing.assert_array_equal(np.frombuffer(memory.read(places[1], x.nbytes), np.float32), want)


@pytest.mark.parametrize("turned", [False, True])
def test_operands_in_shared_memory_are_not_staged_again(turned: bool) -> None:
    """Without a unit for f32, products read the program's own buffers, which is all shared memory that there is."""
    sizes = {"m": 64, "n": 64, "k": 32, "trans_a": turned, "trans_b": turned}
    module, image = built("sm_70", "gemm", dtype="f32", staged="write", **sizes)
    (kernel,) = versions(image, module.funcs[0])
    assert kernel.attrs["shared"] == 2 * 64 * 32 * 4
    a, b = operands(70, 66, 41, "f32")
    given = [np.ascontiguousarray(x.T) if turned else x for x in (a, b)]
    args = [*given, np.full((70, 66), np.nan, np.float32)]
    found = attempt(module.funcs[0], image, args, {"M": 70, "N": 66, "K": 41})
    assert found is not None and not found[1].findings and found[1].counters.bank_conflicts == 0
    check_product(args[2], a, b)

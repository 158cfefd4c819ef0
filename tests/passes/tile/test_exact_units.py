"""Which products of f32 run on tf32 units, and that these lose nothing."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tesseracc.analysis.low_bits import TF32, known_low_bits
from tesseracc.arch.arch import load
from tesseracc.driver import Build, front
from tesseracc.ir.builder import make
from tesseracc.ir.pipeline import Context, parse_pipeline, run_pipeline
from tesseracc.ir.rewrite import map_ops
from tesseracc.ir.value import Module, Op
from tests.passes.target.test_lower_gpu import attempt, compiled
from tests.passes.tile import kernels

F32_TF32 = ts.f32 @ ts.compute(ts.tf32)


@ts.function
def rounded(x: ts.Tensor["M", "K", F32_TF32], w: ts.Tensor["K", "N", ts.f32]):
    return x @ w


@ts.function
def plain(x: ts.Tensor["M", "K", ts.f32], w: ts.Tensor["K", "N", ts.f32]):
    return x @ w


@ts.function
def half_rounded(x: ts.Tensor["M", "K", ts.f16], w: ts.Tensor["K", "N", ts.f32]):
    return ts.cast(x, ts.f32) @ w


def marked(function: Any, arch: str) -> list[str]:
    target = load(arch)
    module = Build(front({"f": function}), (target,)).tile(target)
    module = run_pipeline(parse_pipeline("maps-to-tiles,exact-units"), module, Context(target))
    return [op.attrs["units"] for f in module.funcs for op in f.walk() if op.name == "tile.mma"]


@pytest.mark.parametrize(
    ("function", "arch", "units"),
    [
        (rounded, "sm_80", "tf32"), (rounded, "sm_75", ""), (plain, "sm_80", ""),
        (half_rounded, "sm_80", ""),
    ],
)  # fmt: skip
def test_products_of_tf32_are_found(function: Any, arch: str, units: str) -> None:
    assert marked(function, arch) == [units]


def test_what_is_known_of_a_buffer_holds_for_all_that_writes_it() -> None:
    """Rounded values in a temporary that another kernel fills with others."""
    target = load("sm_80")
    module = Build(front({"f": rounded}), (target,)).tile(target)
    module = run_pipeline(parse_pipeline("maps-to-tiles"), module, Context(target))
    product = next(f for f in module.of_kind("tile.kernel") if any(op.name == "tile.mma" for op in f.walk()))
    known = known_low_bits(module)[product.name]
    assert [known.of(p) >= TF32 for p in product.params] == [True, True, False]
    program = module.of_kind("tile.program")[0]
    launches = [op for op in program.body.ops if op.name == "tile.launch"]
    # the unrounded parameter is copied over the rounded one
    copy = make("tile.copy", program.params[0], launches[0].operands[1])
    ops = tuple(o for op in program.body.ops for o in ((op, copy) if op is launches[0] else (op,)))
    changed = program.with_(body=replace(program.body, ops=ops))
    funcs = tuple(changed if f is program else f for f in module.funcs)
    known = known_low_bits(module.with_(funcs=funcs))[product.name]
    assert [known.of(p) >= TF32 for p in product.params] == [False, True, False]


def tf32(shape: tuple[int, int], seed: int) -> np.ndarray[Any, Any]:
    raw = np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)
    return (raw.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def with_units(module: Module) -> Module:
    def visit(op: Op) -> list[Op] | None:
        return [replace(op, attrs={**op.attrs, "units": "tf32"})] if op.name == "tile.mma" else None

    return module.with_(funcs=tuple(replace(f, body=map_ops(f.body, visit)) for f in module.funcs))


UNITS = {"sm_80": "mma.m16n8k8", "sm_90": "wgmma.m64n64k8", "sm_100": "tcgen05.m64n64k8"}


@pytest.mark.parametrize("arch", ["sm_100", *(pytest.param(a, marks=pytest.mark.slow) for a in ("sm_80", "sm_90"))])
def test_products_are_those_of_f32(arch: str) -> None:
    module = with_units(kernels.gemm(64, 64, 32, "f32", trans_b=True))
    image = compiled(module, arch)
    assert image.findings == () and all(k.spill_stores == 0 for k in image.kernels)
    for m, n, k in ((64, 64, 32), (72, 68, 164), (3, 5, 7)):
        a, b = tf32((m, k), 0), tf32((n, k), 1)
        out = np.full((m, n), np.nan, np.float32)
        found = attempt(module.funcs[0], image, [a, b, out], {"M": m, "N": n, "K": k})
        assert found is not None and not found[1].findings, [f.render() for f in found[1].findings]
        # one k step of f16 would be enough to fail this
        wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
        bound = (k + 2) * 2**-24 * (np.abs(wide_a) @ np.abs(wide_b).T)
        assert (np.abs(out - np.maximum(wide_a @ wide_b.T, 0)) <= bound).all()
        if k % 4 == 0:
            assert all(name.startswith(UNITS[arch]) for name in found[1].counters.mma), found[1].counters.mma

"""Attention of tensor functions on a GPU: one kernel on matrix units, and no scores in memory."""

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tessera as ts
from tessera_runtime import load as load_bundle
from tesseracc.arch.arch import load
from tesseracc.codegen.image import Image
from tesseracc.driver import Build, front
from tesseracc.emulator_device import EmulatorDevice
from tesseracc.interpret.binding import evaluate_dim
from tesseracc.interpret.tile import run as tile_run
from tesseracc.ir.types import BufType, size_of
from tesseracc.ir.value import Module

Array = np.ndarray[Any, Any]
BF16: Any = ml_dtypes.bfloat16
E = ts.bf16


def causal(
    q: ts.Tensor["B", 2, "S", 64, E], k: ts.Tensor["B", 2, "S", 64, E], v: ts.Tensor["B", 2, "S", 64, E]
):  # fmt: skip
    return ts.nn.flash_attention(q, k, v, causal=True)


def added(q: ts.Tensor["B", "S", 40, E], k: ts.Tensor["B", "T", 40, E], v: ts.Tensor["B", "T", 72, E],
          bias: ts.Tensor["S", "T", ts.f32]):  # fmt: skip
    """Rows of other widths than a tile's, and a mask in memory."""
    return ts.scaled_dot_product_attention(q, k, v, bias, scale=0.3)


FUNCTIONS = {f.__name__: ts.function(f) for f in (causal, added)}


def shared(q: ts.Tensor["B", 4, "S", 32, E], k: ts.Tensor["B", 2, "T", 32, E], v: ts.Tensor["B", 2, "T", 32, E]):
    """Heads of keys and values that two heads of queries share: the division is a group apart, in another shape."""
    return ts.nn.flash_attention(q, k, v, causal=True)


def one(q: ts.Tensor[1, 2, "S", 64, E], k: ts.Tensor[1, 2, "S", 64, E], v: ts.Tensor[1, 2, "S", 64, E]):
    """The division is part of the sums' group."""
    return ts.nn.flash_attention(q, k, v, causal=True)


def heads(x: ts.Tensor["B", "S", "3*D", E]):
    b, s, d = x.shape[0], x.shape[1], x.shape[2] // 3
    q, k, v = (t.reshape(b, s, 2, d // 2).transpose(1, 2) for t in ts.split(x, dim=-1, sections=3))
    return ts.nn.flash_attention(q, k, v, causal=True).transpose(1, 2).reshape(b, s, d)


def merged(q: ts.Tensor["B", "S", 4, 32, E], k: ts.Tensor["B", "S", 4, 32, E], v: ts.Tensor["B", "S", 4, 32, E]):
    """Heads side by side, in the result too."""
    found = ts.nn.flash_attention(*(x.transpose(1, 2) for x in (q, k, v)))
    return found.transpose(1, 2).reshape(q.shape[0], q.shape[1], 128)


def spelled(q: ts.Tensor["B", "S", 64, E], k: ts.Tensor["B", "T", 64, E], v: ts.Tensor["B", "T", 64, E]):
    """Scores round to bf16, and weights do when they are divided by their sum."""
    return ts.softmax(q @ k.mT * 0.125) @ v


def wide(q: ts.Tensor["S", 256, E], k: ts.Tensor["S", 256, E], v: ts.Tensor["S", 256, E]):
    return ts.nn.flash_attention(q, k, v)


def uneven(q: ts.Tensor["S", 160, E], k: ts.Tensor["T", 160, E], v: ts.Tensor["T", 200, E]):
    return ts.nn.flash_attention(q, k, v)


def long(q: ts.Tensor["S", 320, E], k: ts.Tensor["S", 320, E], v: ts.Tensor["S", 320, E]):
    return ts.nn.flash_attention(q, k, v)


def exact(q: ts.Tensor["S", 64, ts.f32], k: ts.Tensor["S", 64, ts.f32], v: ts.Tensor["S", 64, ts.f32]):
    return ts.nn.flash_attention(q, k, v)


@cache
def emulated(arch: str, names: tuple[str, ...] = tuple(FUNCTIONS)) -> tuple[Any, Image]:
    functions = {name: ts.function(globals()[name]) for name in names}
    build = Build(front(functions), [load(arch)])
    (image,) = build.images
    assert isinstance(image, Image)
    return load_bundle(build.bundle(), device=EmulatorDevice()), image


def reference(q: Array, k: Array, v: Array, scale: float, bias: Array | float = 0.0) -> tuple[Array, Array]:
    """The result in f64, and a bound: weights and the result round to bf16, sums of products to f32."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    scores = q @ np.swapaxes(k, -1, -2) * scale + bias
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return weights @ v, 2**-8 * (weights @ np.abs(v)) + 2**-8 * np.abs(weights @ v) + 1e-6


def normal(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(BF16)


def close(found: Any, expected: tuple[Array, Array]) -> None:
    want, bound = expected
    got = np.asarray(found).astype(np.float64)
    assert got.shape == want.shape and (np.abs(got - want) <= bound).all()


@pytest.mark.parametrize("arch,unit", [("sm_90", "wgmma"), pytest.param("sm_80", "mma.sync", marks=pytest.mark.slow)])
def test_attention(arch: str, unit: str) -> None:
    bundle, image = emulated(arch)
    assert f"{unit}." in image.ptx and image.findings == ()
    assert all(kernel.spill_loads == kernel.stack == 0 for kernel in image.kernels)
    rng = np.random.default_rng(6)
    for s in (1, 75):
        q, k, v = (normal(rng, 1, 2, s, 64) for _ in range(3))
        close(bundle["causal"](q, k, v), reference(q, k, v, 0.125, np.where(np.tri(s, dtype=bool), 0.0, -np.inf)))
    for b, s, t in ((1, 66, 5), (1, 3, 129)):
        q, k, v = normal(rng, b, s, 40), normal(rng, b, t, 40), normal(rng, b, t, 72)
        bias = (8 * rng.standard_normal((s, t))).astype(np.float32)
        bias[0, : t - 1] = -np.inf  # rows whose first blocks have no weights, and scores that rise late
        bias[1] = np.linspace(-90, 90, t)
        close(bundle["added"](q, k, v, bias), reference(q, k, v, 0.3, bias.astype(np.float64)))


@pytest.mark.slow
def test_divisions_apart() -> None:
    bundle, _ = emulated("sm_90", ("shared", "one"))
    rng = np.random.default_rng(7)
    q, k, v = normal(rng, 1, 4, 37, 32), normal(rng, 1, 2, 75, 32), normal(rng, 1, 2, 75, 32)
    seen = np.where(np.tri(37, 75, 75 - 37, dtype=bool), 0.0, -np.inf)
    close(bundle["shared"](q, k, v), reference(q, *(np.repeat(x, 2, 1) for x in (k, v)), 32**-0.5, seen))
    q, k, v = (normal(rng, 1, 2, 70, 64) for _ in range(3))
    close(bundle["one"](q, k, v), reference(q, k, v, 0.125, np.where(np.tri(70, dtype=bool), 0.0, -np.inf)))


def temporaries(module: Module, sizes: dict[str, int]) -> int:
    """Bytes of all memory that the programs take besides their arguments."""
    total = 0
    for op in (op for func in module.funcs for op in func.walk() if op.name == "tile.temp"):
        type_ = op.result.type
        assert isinstance(type_, BufType)
        total += size_of(type_.dtype) * int(np.prod([evaluate_dim(dim, sizes) for dim in type_.dims], dtype=np.int64))
    return total


@pytest.mark.parametrize("arch", ("sm_70", "sm_80", "sm_90", "sm_100"))
def test_memory_grows_with_the_length(arch: str) -> None:
    small, large = ({"B": 1, "S": s, "T": s, "D": 64} for s in (1024, 4096))
    for name in (*FUNCTIONS, "shared", "one", "heads", "merged", "wide", "exact", "spelled"):
        tile = Build(front({name: ts.function(globals()[name])}), [load(arch)]).tile(load(arch))
        assert temporaries(tile, large) <= 4 * temporaries(tile, small)


def apart(x: Array, heads: int) -> list[Array]:
    """[B, S, 3 H d] as queries, keys and values [B, H, S, d]."""
    b, s, d = x.shape
    return [part.reshape(b, s, heads, d // 3 // heads).transpose(0, 2, 1, 3) for part in np.split(x, 3, -1)]


FEW = ((9, 24), (3, 129))
MANY = ((1, 1), (70, 24), (67, 65), (66, 128), (3, 129), (33, 264))


@pytest.mark.parametrize(("arch", "lengths"), [
    ("sm_75", FEW), *(pytest.param(a, MANY, marks=pytest.mark.slow) for a in ("sm_70", "sm_75", "sm_80", "sm_90")),
])  # fmt: skip
def test_heads_of_any_size(arch: str, lengths: tuple[tuple[int, int], ...]) -> None:
    """A head size that only the call knows: each bound, ragged below it, and the version in pieces."""
    bundle, image = emulated(arch, ("heads",))
    assert len({kernel.name.partition("__tensor")[0] for kernel in image.kernels}) == 3
    assert all(kernel.spill_loads == kernel.stack == 0 for kernel in image.kernels)
    rng = np.random.default_rng(8)
    for s, d in lengths:
        x = normal(rng, 1, s, 6 * d)
        seen = np.where(np.tri(s, dtype=bool), 0.0, -np.inf)
        parts = reference(*apart(x, 2), d**-0.5, seen)
        want, bound = (part.transpose(0, 2, 1, 3).reshape(1, s, 2 * d) for part in parts)
        close(bundle["heads"](x), (want, bound))
        tile = tile_run(Build(front({"heads": ts.function(heads)}), [load(arch)]).tile(load(arch)), "heads", [x])
        close(tile[0], (want, bound))


@pytest.mark.parametrize("name,d", [("exact", 64), pytest.param("long", 320, marks=pytest.mark.slow)])
def test_without_matrix_units_and_in_pieces(name: str, d: int) -> None:
    """f32 has no unit that rounds as it does; rows of 320 are taken in pieces."""
    bundle, image = emulated("sm_90", (name,))
    assert all(kernel.spill_loads == kernel.stack == 0 for kernel in image.kernels)
    rng = np.random.default_rng(9)
    q, k, v = (normal(rng, 70, d) for _ in range(3))
    if name == "exact":
        q, k, v = (x.astype(np.float32) for x in (q, k, v))
    want, bound = reference(q, k, v, d**-0.5)
    close(bundle[name](q, k, v), (want, 2**-10 * bound if name == "exact" else bound))


@pytest.mark.parametrize(
    "arch", ["sm_90", *(pytest.param(a, marks=pytest.mark.slow) for a in ("sm_80", "sm_86", "sm_120"))]
)
def test_long_rows_whole(arch: str) -> None:
    """Scores of rows of up to 256 elements are made once, and nothing of them is spilled."""
    bundle, image = emulated(arch, ("wide", "uneven"))
    assert image.findings == () and all(kernel.spill_loads == kernel.stack == 0 for kernel in image.kernels)
    for name in ("wide", "uneven"):
        tile = Build(front({name: ts.function(globals()[name])}), [load(arch)]).tile(load(arch))
        assert [op.name for func in tile.of_kind("tile.kernel") for op in func.walk()].count("tile.mma") == 2
    rng = np.random.default_rng(12)
    q, k, v = (normal(rng, 70, 256) for _ in range(3))
    close(bundle["wide"](q, k, v), reference(q, k, v, 1 / 16))
    for s, t in ((1, 67), (130, 33)):
        q, k, v = normal(rng, s, 160), normal(rng, t, 160), normal(rng, t, 200)
        close(bundle["uneven"](q, k, v), reference(q, k, v, 160**-0.5))


def test_keys_that_nobody_sees_are_not_read() -> None:
    """The loop over keys ends with the last that a row of the tile sees, in groups of heads too."""
    bundle, _ = emulated("sm_80", ("shared",))
    rng = np.random.default_rng(10)
    q, k, v = normal(rng, 1, 4, 130, 32), normal(rng, 1, 2, 130, 32), normal(rng, 1, 2, 130, 32)
    v[:, :, 128:] = np.nan
    found = np.asarray(bundle["shared"](q, k, v)).astype(np.float64)
    want, bound = reference(q, *(np.repeat(x[:, :, :64], 2, 1) for x in (k, v)), 32**-0.5,
                            np.where(np.tri(130, 64, dtype=bool), 0.0, -np.inf))  # fmt: skip
    close(found[:, :, :64], (want[:, :, :64], bound[:, :, :64]))
    assert np.isnan(found[:, :, 128:]).all()


def test_roundings_of_the_program_are_kept() -> None:
    """O is a second pass over the keys: its weights are rounded with their sum in them, bit for bit as apart."""
    bundle, image = emulated("sm_80", ("spelled",))
    assert all(kernel.spill_loads == kernel.stack == 0 for kernel in image.kernels)
    rng = np.random.default_rng(11)
    for s, t in ((70, 75), (3, 130)):
        q, k, v = normal(rng, 1, s, 64), normal(rng, 1, t, 64), normal(rng, 1, t, 64)
        scores = rounded(rounded(q.astype(np.float64) @ k.astype(np.float64).transpose(0, 2, 1)) * 0.125)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        want = rounded(weights / weights.sum(-1, keepdims=True)) @ v.astype(np.float64)
        found = np.asarray(bundle["spelled"](q, k, v)).astype(np.float64)
        assert (found == rounded(want)).mean() > 0.99  # f32 and f64 rarely round apart; unrounded weights do at 40 %
        assert (np.abs(found - want) <= 2**-8 * np.abs(want) + 2**-11 * (weights @ np.abs(v.astype(np.float64)))).all()


def rounded(x: Array) -> Array:
    return x.astype(np.float32).astype(BF16).astype(np.float64)


def parts(x: ts.Tensor[64, 96, E]):
    """The left operand is made before the loop over keys, from parts of rows."""
    q, k, v = (part.reshape(64, 1, 32).transpose(0, 1) for part in ts.split(x, dim=-1, sections=3))
    return ts.nn.flash_attention(q, k, v, causal=True)


def test_operands_made_before_a_loop() -> None:
    """A loop may be built more than once until its barriers are right: each time from what is outside of it alone."""
    module = Build(front({"parts": ts.function(parts)}), (load("sm_90"),)).target(load("sm_90"))
    assert [func.name for func in module.of_kind("target.func")] == ["parts__0"]

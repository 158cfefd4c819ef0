"""Numeric profiles: what each allows, what it leaves alone, and where that is recorded."""

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera_runtime import load as load_bundle
from tessera_runtime.bundle import BundleFile
from tesseracc.arch.arch import load
from tesseracc.codegen.image import Image
from tesseracc.driver import Build, front, host_level
from tesseracc.emulator_device import EmulatorDevice
from tesseracc.ir.value import Module
from tesseracc.numerics import PROFILES, RULES, allows, rules_table

SPEC = Path(__file__).parents[2] / "specs" / "determinism.md"


@ts.function
def reciprocal(x: ts.Tensor["N", "M", ts.f32]):
    return x / 3.0, x / ts.sum(x * x, 1, keepdims=True)


@ts.function
def reciprocal_root(x: ts.Tensor["N", "M", ts.f32]):
    return x / ts.sqrt(x * x + 1.0)


@ts.function
def reassociate(x: ts.Tensor["N", "M", ts.f32]):
    return (x * 0.1) * 0.3, (x + 0.1) + 0.3


@ts.function
def factor_out(x: ts.Tensor["N", "M", ts.f32]):
    return ts.sum(x * 0.7, 1), (x * 0.7) @ x.T


@ts.function
def excess_precision(x: ts.Tensor["N", "M", ts.f32]):
    return ts.exp(x.astype(ts.bf16).astype(ts.f32))


@ts.function
def contract(x: ts.Tensor["N", "M", ts.f32]):
    return x * x + x, x - x * x


@ts.function
def exponential(x: ts.Tensor["N", "M", ts.f32]):
    return ts.exp(x), ts.exp2(x)


@ts.function
def split_sum(x: ts.Tensor["N", "M", ts.f32]):
    return ts.sum(x)


@ts.function
def attention(x: ts.Tensor["N", "M", ts.f32]):
    return ts.softmax(x @ x.T) @ x


@ts.function
def rounded_attention(x: ts.Tensor["N", 33, ts.f32]):
    y = (x * 0.1).astype(ts.bf16)
    return (ts.softmax(y @ y.T) @ y).astype(ts.f32)


@ts.function
def transpose_product(x: ts.Tensor["N", "M", ts.f32]):
    y = ((x * 2.0).T @ (x + 1.0)).T  # alone it is stored where it is wanted, in any profile
    return y, y @ x.T


@ts.function
def inverse_transform(x: ts.Tensor["N", 33, ts.f32]):
    pairs = ts.stack([x, x * 2.0], -1)
    return ts.ifft(ts.fft(pairs))


@ts.function
def convolution_theorem(x: ts.Tensor["N", 33, ts.f32]):
    pairs = ts.stack([x, x * 2.0], -1)
    return ts.ifft(ts.complex_mul(ts.fft(pairs), ts.fft(pairs + 1.0)))


IMAGE, WINDOW = (ts.array(np.random.default_rng(1).standard_normal(shape).astype(np.float32) / size)
                 for shape, size in (((8, 2, 64, 40), 3000), ((3, 2, 31, 25), 30)))


@ts.function
def spectral_convolution(x: ts.Tensor["N", "M", ts.f32]):
    return ts.nn.conv2d(IMAGE * ts.sum(x), WINDOW, padding=3)


FUNCTIONS = {
    "split-sum": split_sum, "stream-weights": attention, "transpose-product": transpose_product,
    "inverse-transform": inverse_transform, "convolution-theorem": convolution_theorem,
    "spectral-convolution": spectral_convolution, "reciprocal": reciprocal,
    "reciprocal-root": reciprocal_root, "reassociate": reassociate, "factor-out": factor_out,
    "scale-behind-rounding": rounded_attention, "excess-precision": excess_precision, "contract": contract,
    "approximate-exponential": exponential,
}  # fmt: skip
#: rules that a CPU has no use for
ON_A_GPU = {"scale-behind-rounding", "approximate-exponential"}


def attended(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    scores = x @ x.T
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return np.asarray(weights / weights.sum(1, keepdims=True) @ x)


def convolved(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    z = x + 2j * x
    y = np.fft.ifft(np.fft.fft(z) * np.fft.fft(z + 1 + 1j))
    return np.stack([y.real, y.imag], -1)


def filtered(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    image, window = (np.asarray(t.numpy(), np.float64) for t in (IMAGE, WINDOW))
    around = np.pad(image * x.sum(), ((0, 0), (0, 0), (3, 3), (3, 3)))
    places = np.lib.stride_tricks.sliding_window_view(around, window.shape[2:], axis=(2, 3))
    return np.einsum("bchwij,ocij->bohw", places, window, optimize=True)


@cache
def built(fn: Any, profile: str, arch: str = "") -> tuple[Build, list[str]]:
    build = Build(front({fn.name: fn}), [load(arch) if arch else host_level()], numerics=profile)
    build.target(build.archs[0])
    return build, [note.message for note in build.log.notes]


def test_every_rule_has_a_program_here() -> None:
    assert list(FUNCTIONS) == list(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_applied_where_its_profile_allows_it_and_says_so(rule: str) -> None:
    shown: dict[str, Any] = {}
    for profile in PROFILES:
        build, notes = built(FUNCTIONS[rule], profile, "sm_80" if rule in ON_A_GPU else "")
        applied = [note for note in notes if note.startswith(f"{rule}:")]
        assert bool(applied) == allows(profile, rule)
        assert all(RULES[rule].equation in note and f"numerics {RULES[rule].profile}" in note for note in applied)
        named = {note.split(":")[0] for note in notes}  # a rule, or the kernel that a note is on
        assert all(allows(profile, name) for name in named & RULES.keys())
        shown[profile] = build.text("target")
    differ = [shown[a] != shown[b] for a, b in zip(PROFILES, PROFILES[1:], strict=False)]
    assert differ[PROFILES.index(RULES[rule].profile) - 1]


def transposed(x: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], ...]:
    y = (x + 1).T @ (2 * x)
    return y, y @ x.T


@pytest.mark.parametrize("rule", RULES)
def test_results_stay_close_and_strict_is_what_eager_execution_rounds_to(rule: str) -> None:
    rng = np.random.default_rng(len(rule))
    fn, x = FUNCTIONS[rule], rng.uniform(0.2, 2.0, (7, 33)).astype(np.float32)
    wide = x.astype(np.float64)
    exact = {
        "reciprocal": (wide / 3, wide / (wide * wide).sum(1, keepdims=True)),
        "reciprocal-root": (wide / np.sqrt(wide * wide + 1),), "reassociate": (wide * 0.03, wide + 0.4),
        "factor-out": ((wide * 0.7).sum(1), (wide * 0.7) @ wide.T), "excess-precision": (np.exp(wide),),
        "contract": (wide * wide + wide, wide - wide * wide), "stream-weights": (attended(wide),),
        "split-sum": (wide.sum(),), "transpose-product": transposed(wide),
        "inverse-transform": (np.stack([wide, 2 * wide], -1),), "convolution-theorem": (convolved(wide),),
        "spectral-convolution": (filtered(wide),), "scale-behind-rounding": (attended(0.1 * wide),),
        "approximate-exponential": (np.exp(wide), np.exp2(wide)),
    }[rule]  # fmt: skip
    for profile in PROFILES:
        arch, device = ("sm_80", EmulatorDevice()) if rule in ON_A_GPU else ("", "cpu")
        bundle = load_bundle(built(fn, profile, arch)[0].bundle(), device=device)
        found = bundle[fn.name](x)
        found = found if isinstance(found, tuple) else (found,)
        narrow = rule == "scale-behind-rounding" or (rule == "excess-precision" and profile != "fast")
        near = 2e-2 if narrow else 2e-6
        for got, want in zip(found, exact, strict=True):
            np.testing.assert_allclose(got, want, rtol=near, atol=near)
        if profile != "fast" and rule in ("reassociate", "contract"):  # element by element: bit for bit
            eager = fn(x)
            for got, want in zip(found, eager, strict=True):
                np.testing.assert_array_equal(got, want.numpy())


def test_contraction_rounds_once_on_cpus_and_gpus() -> None:
    x = np.random.default_rng(9).uniform(-2, 2, (5, 40)).astype(np.float32)
    wide = x.astype(np.float64)  # the product of two f32 is exact there, the sum nearly always rounds as one would
    want = (wide * wide + wide).astype(np.float32), (wide - wide * wide).astype(np.float32)
    cpu = load_bundle(built(contract, "fast")[0].bundle(), device="cpu")["contract"](x)
    gpu = load_bundle(built(contract, "fast", "sm_80")[0].bundle(), device=EmulatorDevice())["contract"](x)
    for got, other, once in zip(cpu, gpu, want, strict=True):
        np.testing.assert_array_equal(got, once)
        np.testing.assert_array_equal(other, once)
    text, plain = (built(contract, profile)[0].text("target") for profile in ("fast", "strict"))
    assert text.count("arith.fma") >= 2 and "arith.fma" not in plain


def test_approximate_exponentials_are_within_their_bounds() -> None:
    """2 ulp for 2^x; the rounded product x log2 e costs exp more, the further from 0; small results are 0."""
    rng = np.random.default_rng(13)
    spread = np.concatenate([rng.uniform(-86, 88, 3000), rng.standard_normal(1000), rng.uniform(-126, -124, 40)])
    ends = [0.0, -0.0, 1e-40, np.inf, -np.inf, np.nan, 300.0, -300.0, -126.5]
    x = np.concatenate([spread, ends]).astype(np.float32).reshape(1, -1)
    build, usual = (built(exponential, profile, "sm_90")[0] for profile in ("fast", "deterministic"))
    assert ptx(build).count("ex2.approx.ftz.f32") == 2 and "ex2" not in ptx(usual)
    found = [np.asarray(y)[0] for y in load_bundle(build.bundle(), device=EmulatorDevice())["exponential"](x)]
    wide = x[0].astype(np.float64)
    with np.errstate(over="ignore"):
        exact = [np.exp(wide), np.exp2(wide)]
    for got, want, more in zip(found, exact, (1.173, 0.0), strict=True):
        inside = (want >= 2.0**-126) & (want < 2.0**128)
        off = np.abs(got[inside] - want[inside]) / np.spacing(want[inside].astype(np.float32))
        assert inside.sum() > 3900 and (off <= 2 + more * np.abs(wide[inside])).all()
        assert (got[want < 0.99 * 2.0**-126] == 0).all() and (got[want >= 2.0**128] == np.inf).all()
        assert np.isnan(got[np.isnan(wide)]).all()


def ptx(build: Build) -> str:
    (image,) = build.images
    assert isinstance(image, Image)
    return image.ptx


def test_targets_without_the_instruction_do_not_contract() -> None:
    _, notes = built(contract, "fast", "x86-64-v2")
    assert not any(note.startswith("contract") for note in notes)


def test_exact_divisions_and_shared_values_stay() -> None:
    @ts.function
    def shared(x: ts.Tensor[4, ts.f32]):
        y = x * 0.7
        return ts.sum(y), y, ts.cast(x / 1.5, ts.bf16)

    names = [op.name for op in functions(built(shared, "fast")[0].graph)]
    assert names.count("graph.mul") == 2  # y, and x / 1.5; the sum reads y, which is there anyway


def functions(module: Module) -> list[Any]:
    return [op for func in module.funcs for op in func.walk()]


def test_jit_takes_a_profile() -> None:
    x = np.full((1, 3), 7.0, np.float32)
    np.testing.assert_array_equal(ts.jit(reciprocal, numerics="strict")(x)[0].numpy(), x / np.float32(3))
    fast = ts.jit(reciprocal, numerics="fast")(x)[0].numpy()
    np.testing.assert_array_equal(fast, x * np.float32(1 / 3))
    with pytest.raises(ts.SourceError) as caught:
        ts.jit(reciprocal, numerics="loose")(x)
    assert caught.value.code == "E305"


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tesseracc", *args], capture_output=True, text=True, check=False)


def test_the_bundle_records_the_profile_and_can_be_rebuilt(tmp_path: Path) -> None:
    source = tmp_path / "m.py"
    source.write_text('import tessera as ts\n\n@ts.function\ndef f(x: ts.Tensor["N", ts.f32]):\n    return x / 3.0\n')
    digests = set()
    for profile in PROFILES:
        out = tmp_path / f"{profile}.tsb"
        options = ("--arch", "x86-64-v3", "--numerics", profile, "--notes", "--no-cache")
        done = run("build", str(source), *options, "-o", str(out))
        assert done.returncode == 0, done.stderr
        assert ("reciprocal: div" in done.stderr) == (profile == "fast")
        recorded = BundleFile(str(out)).manifest.provenance.options
        assert (f"--numerics={profile}" in recorded) == (profile != "deterministic")
        digests.add(BundleFile(str(out)).digest)
    assert len(digests) == 3
    verified = run("rebuild", "--verify", str(tmp_path / "fast.tsb"), "--source", str(source))
    assert verified.returncode == 0 and ": reproduced" in verified.stdout, verified.stderr
    assert run("build", str(source), "--numerics", "loose").returncode == 2


def test_the_specification_lists_the_rules() -> None:
    assert rules_table() in SPEC.read_text()

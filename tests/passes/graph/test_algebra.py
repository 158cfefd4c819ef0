"""Equations between operators: the operations before and after, which profile allows them, and that meaning is kept."""

import numpy as np
import pytest

import tessera as ts
from tessera_runtime import load as load_bundle
from tesseracc.driver import Build, front, host_level
from tesseracc.frontend.trace import trace
from tesseracc.interpret.graph import run
from tesseracc.ir.pipeline import Context, parse_pipeline, run_pipeline
from tesseracc.ir.value import Module
from tesseracc.numerics import PROFILES, RULES, allows
from tesseracc.passes.graph.algebra import EQUATIONS


@ts.function
def products(x: ts.Tensor["K", "M", ts.f32], y: ts.Tensor["N", "K", ts.f32]):
    return x.T @ y.T


@ts.function
def batched(x: ts.Tensor["B", "K", "M", ts.f32], y: ts.Tensor[1, "K", "N", ts.f32]):
    return (x.mT @ y).mT


@ts.function
def right(x: ts.Tensor["M", "K", ts.f32], y: ts.Tensor["N", "K", ts.f32]):
    return (x @ y.T).T


@ts.function
def both(x: ts.Tensor["K", "M", ts.f32], y: ts.Tensor["N", "K", ts.f32]):
    return (x.T @ y.T).T


@ts.function
def back(x: ts.Tensor["B", 60, 2, ts.f64]):
    return ts.ifft(ts.fft(x))


@ts.function
def forth(x: ts.Tensor["B", "N", 2, ts.f32]):
    return ts.fft(ts.ifft(x)) + 1.0


@ts.function
def spectrum(x: ts.Tensor["B", 13, 2, ts.f64], y: ts.Tensor[13, 2, ts.f64]):
    return ts.fft(ts.circular_convolution(x, y))


@ts.function
def short(x: ts.Tensor["B", 6, 2, ts.f64], y: ts.Tensor[6, 2, ts.f64]):
    return ts.ifft(ts.complex_mul(ts.fft(x), ts.fft(y)))


@ts.function
def long(x: ts.Tensor["B", 96, 2, ts.f64], y: ts.Tensor[96, 2, ts.f64]):
    return ts.circular_convolution(x, y)


@ts.function
def long_between(x: ts.Tensor["B", 96, 2, ts.f64], y: ts.Tensor[96, 2, ts.f64]):
    return ts.ifft(ts.complex_mul(ts.fft(ts.circular_convolution(x, y)), ts.fft(y)))


@ts.function
def wide(x: ts.Tensor[8, 2, 64, 40, ts.f64], w: ts.Tensor[3, 2, 31, 25, ts.f64]):
    return ts.nn.conv2d(x, w, padding=3)


SPECTRA = ["fourier", "fourier", "complex_mul"]
#: function -> its rule, shapes, what it is before and after
CASES = {
    products: ("transpose-product", [(5, 3), (4, 5)], ["transpose", "transpose", "matmul"], ["matmul", "transpose"]),
    batched: ("transpose-product", [(2, 5, 3), (1, 5, 4)], ["transpose", "matmul", "transpose"],
              ["transpose", "matmul"]),
    right: ("transpose-product", [(3, 5), (4, 5)], ["transpose", "matmul", "transpose"], ["transpose", "matmul"]),
    both: ("transpose-product", [(5, 3), (4, 5)], ["transpose", "transpose", "matmul", "transpose"], ["matmul"]),
    back: ("inverse-transform", [(3, 60, 2)], ["fourier", "fourier"], []),
    forth: ("inverse-transform", [(3, 7, 2)], ["fourier", "fourier", "full", "add"], ["full", "add"]),
    spectrum: ("convolution-theorem", [(3, 13, 2), (13, 2)], ["circular_convolution", "fourier"], SPECTRA),
    short: ("convolution-theorem", [(3, 6, 2), (6, 2)], [*SPECTRA, "fourier"], ["circular_convolution"]),
    long: ("convolution-theorem", [(3, 96, 2), (96, 2)], ["circular_convolution"], [*SPECTRA, "fourier"]),
    long_between: ("convolution-theorem", [(3, 96, 2), (96, 2)],
                   ["circular_convolution", "fourier", "fourier", "complex_mul", "fourier"],
                   [*SPECTRA, "complex_mul", "fourier"]),
}  # fmt: skip


def names(module: Module) -> list[str]:
    return [op.name.removeprefix("graph.") for op in module.funcs[0].body.ops]


def rewritten(module: Module, profile: str) -> tuple[Module, list[str]]:
    context = Context(numerics=profile)
    steps = parse_pipeline("algebra,canonicalize,graph-cse,graph-remove-dead")
    return run_pipeline(steps, module, context), [note.message for note in context.notes]


@pytest.mark.parametrize("fn", CASES, ids=[fn.name for fn in CASES])
def test_before_and_after(fn: ts.Function) -> None:
    rule, shapes, before, after = CASES[fn]
    module = trace(fn).module
    rng = np.random.default_rng(len(fn.name))
    arrays = [rng.standard_normal(shape).astype(fn_dtype(module)) for shape in shapes]
    assert names(module) == before
    want = run(module, fn.name, arrays)[0]
    near = {"f": 1e-5, "d": 1e-12}[want.dtype.char] * np.abs(want).max()
    for profile in PROFILES:
        done, notes = rewritten(module, profile)
        allowed = allows(profile, rule)
        assert names(done) == (after if allowed else before), profile
        applied = [note.split(":")[0] for note in notes]
        assert all(RULES[name].equation in note for name, note in zip(applied, notes, strict=True))
        assert (rule in applied) == allowed and all(allows(profile, name) for name in applied)
        np.testing.assert_allclose(run(done, fn.name, arrays)[0], want, rtol=0, atol=near)


def fn_dtype(module: Module) -> type:
    return np.float64 if "f64" in str(module.funcs[0].params[0].type) else np.float32


def test_every_rule_of_an_equation_has_a_case() -> None:
    assert {equation.rule for equation in EQUATIONS} == {rule for rule, *_ in CASES.values()} | {"spectral-convolution"}


@ts.function
def narrow_window(x: ts.Tensor[8, 2, 64, 40, ts.f64], w: ts.Tensor[3, 2, 5, 5, ts.f64]):
    return ts.nn.conv2d(x, w, padding=3)


@ts.function
def any_size(x: ts.Tensor[8, 2, "H", 40, ts.f64], w: ts.Tensor[3, 2, 31, 25, ts.f64]):
    return ts.nn.conv2d(x, w, padding=3)


@ts.function
def strides(x: ts.Tensor[8, 2, 64, 40, ts.f64], w: ts.Tensor[3, 2, 31, 25, ts.f64]):
    return ts.nn.conv2d(x, w, stride=2)


@ts.function
def in_groups(x: ts.Tensor[8, 4, 400, 7, ts.f32], w: ts.Tensor[6, 2, 201, 4, ts.f32]):
    return ts.nn.conv2d(x, w, groups=2)


def convolved(x: np.ndarray, w: np.ndarray, padding: int, groups: int = 1) -> np.ndarray:
    """Windows of the padded image times the kernel, in float64."""
    x = np.pad(x.astype(np.float64), [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    parts = []
    for one, kernel in zip(np.split(x, groups, 1), np.split(w.astype(np.float64), groups), strict=True):
        seen = np.lib.stride_tricks.sliding_window_view(one, w.shape[2:], (2, 3))
        parts.append(np.einsum("ncijkl,ockl->noij", seen, kernel, optimize=True))
    return np.concatenate(parts, 1)


@pytest.mark.parametrize(("fn", "shapes", "groups"), [
    (wide, [(8, 2, 64, 40), (3, 2, 31, 25)], 1),
    pytest.param(in_groups, [(8, 4, 400, 7), (6, 2, 201, 4)], 2, marks=pytest.mark.slow),
])  # fmt: skip
def test_large_windows_are_products_of_spectra(fn: ts.Function, shapes: list[tuple[int, ...]], groups: int) -> None:
    module = trace(fn).module
    rng = np.random.default_rng(groups)
    arrays = [rng.standard_normal(shape).astype(fn_dtype(module)) for shape in shapes]
    want = convolved(*arrays, padding=3 if fn is wide else 0, groups=groups)
    for profile in PROFILES:
        done, notes = rewritten(module, profile)
        assert ("convolution" in names(done)) == (profile != "fast")
        assert [note.split(":")[0] for note in notes] == ["spectral-convolution"] * (profile == "fast")
    build = Build(module, [host_level()], numerics="fast")
    got = load_bundle(build.bundle(), device="cpu", threads=2)[fn.name](*arrays)
    near = 1e-12 if fn is wide else 2e-6
    np.testing.assert_allclose(got, want, rtol=0, atol=near * np.abs(want).max())


@pytest.mark.parametrize("fn", [narrow_window, any_size, strides], ids=lambda fn: fn.name)
def test_other_convolutions_stay(fn: ts.Function) -> None:
    done, notes = rewritten(trace(fn).module, "fast")
    assert "convolution" in names(done) and not notes


@ts.function
def shared(x: ts.Tensor["B", 6, 2, ts.f64], y: ts.Tensor[6, 2, ts.f64]):
    spectrum = ts.fft(x)
    return ts.ifft(ts.complex_mul(spectrum, ts.fft(y))), spectrum


@ts.function
def unscaled(x: ts.Tensor["B", 6, 2, ts.f64]):
    return ts.fft(ts.fft(x))


@ts.function
def narrow(x: ts.Tensor["B", 6, 2, ts.bf16]):
    return ts.ifft(ts.fft(x))


@ts.function
def other_axes(x: ts.Tensor["K", "M", "B", ts.f32], y: ts.Tensor["B", "N", "K", ts.f32]):
    return x.permute(2, 1, 0) @ y.mT


@pytest.mark.parametrize("fn", [shared, unscaled, narrow, other_axes], ids=lambda fn: fn.name)
def test_what_an_equation_does_not_say_is_left_alone(fn: ts.Function) -> None:
    module = trace(fn).module
    done, notes = rewritten(module, "fast")
    assert names(done) == names(module) and notes == []


@ts.function
def any_size(x: ts.Tensor["B", "N", 2, ts.f64], y: ts.Tensor["N", 2, ts.f64]):
    return ts.circular_convolution(x, y)


@pytest.mark.parametrize(("size", "spectral"), [(None, False), (16, False), (101, False), (48, False), (96, True)])
def test_convolutions_are_spectral_where_that_takes_fewer_multiplications(size: int | None, spectral: bool) -> None:
    types = {"x": ts.TensorType((3, size, 2), ts.f64), "y": ts.TensorType((size, 2), ts.f64)} if size else None
    done, _ = rewritten(trace(any_size, types).module, "fast")
    assert ("fourier" in names(done)) == spectral


@pytest.mark.parametrize("fn", [both, short, long], ids=lambda fn: fn.name)
def test_compiled_programs_agree_over_profiles(fn: ts.Function) -> None:
    _, shapes, *_ = CASES[fn]
    rng = np.random.default_rng(7)
    arrays = [rng.standard_normal(s).astype(fn_dtype(trace(fn).module)) for s in shapes]
    want = fn(*arrays).numpy()
    for profile in PROFILES:
        bundle = load_bundle(Build(front({fn.name: fn}), [host_level()], numerics=profile).bundle(), device="cpu")
        near = {"f": 1e-5, "d": 1e-12}[want.dtype.char] * np.abs(want).max()
        np.testing.assert_allclose(bundle[fn.name](*arrays), want, rtol=0, atol=near)

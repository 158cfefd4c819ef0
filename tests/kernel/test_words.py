"""Words of lanes, of the grid and of the launch: the evaluator against NumPy, and every level against the evaluator."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tessera as ts
from tessera.errors import SourceError
from tessera.kernel.vocabulary import REFUSED
from tessera_runtime.core import randn
from tesseracc.arch.arch import load
from tesseracc.driver import Build
from tesseracc.frontend.kernel import lower
from tests.kernel import word_kernels as K
from tests.kernel.everywhere import everywhere

RNG = np.random.default_rng(46)


def run(kernel: Any, *args: Any) -> None:
    everywhere(kernel.definition, list(args), archs=("sm_90",))


@pytest.mark.parametrize("m", (0, 1, 6, 20))
def test_each_group_runs_its_own_part_of_a_range_in_order(m: int) -> None:
    x, y, seen = RNG.standard_normal((m, 32)).astype(np.float32), np.zeros(m, np.float32), np.zeros(m, np.int32)
    run(K.strided, x, y, seen)
    rows = np.arange(m)
    np.testing.assert_array_equal(seen, rows % 6)
    np.testing.assert_array_equal(y, x.max(1) + np.maximum(rows - 6, -1).astype(np.float32))


def test_strided_products_and_hints_of_the_decorator() -> None:
    a, b = (RNG.integers(-4, 5, s).astype(ml_dtypes.bfloat16) for s in ((75, 32), (32, 32)))
    c = np.zeros((75, 32), np.float32)
    run(K.strided_products, a, b, c)
    np.testing.assert_array_equal(c, a.astype(np.float64) @ b.astype(np.float64))
    assert dict(K.strided_products.definition.config) == {"num_stages": 2, "num_warps": 4}


@pytest.mark.parametrize(("n", "by"), ((1, 1), (150, 3), (128, -1)))
def test_shuffle(n: int, by: int) -> None:
    x, y = RNG.standard_normal(n).astype(np.float32), np.zeros(n, np.float32)
    run(K.turned, x, y, by)
    v = np.concatenate([x, np.zeros(-n % 64, np.float32)]).reshape(-1, 32)
    for k in range(3):
        v = v[:, (np.arange(32) * by + 1) % 32] + np.float32(k)
    np.testing.assert_array_equal(y, v.reshape(-1)[:n])


def test_dropout_draws_as_the_layer_does() -> None:
    key = 2**63 + 12345
    x = RNG.standard_normal((21, 35)).astype(np.float32)
    y, z = np.zeros_like(x), np.zeros_like(x)
    run(K.dropped, x, y, z, np.uint64(key))
    words = randn.words(x.size, key, 0, 0).reshape(x.shape)
    np.testing.assert_array_equal(y, np.where(words >= 2**30, x * np.float32(4 / 3), np.float32(0)))
    np.testing.assert_array_equal(z, y)
    key7 = ts.tensor(np.asarray(7, np.uint64))
    v, w = x[0], np.zeros(35, np.float32)
    run(K.dropped_elements, v, w)
    np.testing.assert_array_equal(w, ts.nn.dropout(ts.tensor(v), 0.5, key7).numpy())


def test_element_types_in_brackets() -> None:
    x, y = RNG.standard_normal(100).astype(np.float32), np.zeros(100, np.float32)
    run(K.staged, x, y)
    np.testing.assert_array_equal(y, x * 2 + 1)


@pytest.mark.parametrize("word", sorted(REFUSED))
def test_words_of_other_languages_say_what_to_write(word: str, tmp_path: Any) -> None:
    path = tmp_path / "refused.py"
    path.write_text(
        f"import tessera as ts\n@ts.kernel\ndef k(x: ts.Tensor['N', ts.f32]):\n    ts.tile.{word}(x, 0, 1)\n"
    )
    scope: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    with pytest.raises(SourceError) as told:
        _ = scope["k"].definition
    assert told.value.code == "E204" and told.value.help == REFUSED[word]


def test_warps_of_the_decorator_are_a_power_of_two() -> None:
    with pytest.raises(SourceError) as told:
        _ = ts.kernel(K.turned.python, num_warps=3).definition
    assert told.value.code == "E221"


def test_strides_of_a_grid_of_dims_and_of_one_group() -> None:
    x = np.zeros((3, 90), np.int32)
    run(K.numbered, x)
    np.testing.assert_array_equal(x.ravel(), np.arange(270))
    v = RNG.integers(-9, 10, 20).astype(np.float32)
    found = everywhere(K.strided_sum.definition, [v], archs=("sm_90",))
    assert found == v[2::3].sum()


def tf32(x: Any) -> Any:
    """Rounded to 11 significant bits, ties to even, in f64."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.rint(np.ldexp(mantissa, 11)), exponent - 11)


@pytest.mark.parametrize("arch", ("sm_80", "sm_90"))
def test_precision_of_products(arch: str) -> None:
    a, b = (RNG.standard_normal(s).astype(np.float32) for s in ((37, 29), (29, 41)))
    a[0, :2], b[:2, 0] = (1 + 2**-11, 1 + 3 * 2**-11), (1, 1)  # ties: down to 1, and up to 1 + 2**-9
    found = [np.zeros((37, 41), np.float32) for _ in range(3)]
    everywhere(K.precise.definition, [a, b, *found], archs=(arch,))
    rounded = [(tf32(a), tf32(b)), tuple(x.astype(ml_dtypes.bfloat16).astype(np.float64) for x in (a, b)), (a, b)]
    for c, (x, y) in zip(found, rounded, strict=True):
        x, y = x.astype(np.float64), y.astype(np.float64)
        assert (np.abs(c - x @ y) <= 40 * 2.0**-24 * (np.abs(x) @ np.abs(y))).all()
    ptx = Build(lower(K.precise.definition), [load(arch)]).text("ptx")
    assert "tf32" in ptx and "bf16" in ptx


@pytest.mark.parametrize(("given", "expected"), (({}, np.abs), ({"neg": True, "mode": "as it is"}, np.negative)))
def test_bools_and_texts_are_known_while_compiling(given: dict[str, Any], expected: Any) -> None:
    x, y = RNG.standard_normal((13, 9)).astype(np.float32), np.zeros((13, 9), np.float32)
    everywhere(K.chosen.definition, [x, y], given, archs=("sm_80",))
    np.testing.assert_array_equal(y, expected(x))


def test_orders_of_reductions_are_the_tree() -> None:
    x, y, z = RNG.standard_normal((37, 40)).astype(np.float32), np.zeros(37, np.float32), np.zeros(37, np.float32)
    run(K.ordered, x, y, z)
    np.testing.assert_allclose(y, x.astype(np.float64).sum(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(y, z)
    assert any("tree of halves" in note.message for note in K.ordered.definition.notes)


@pytest.mark.parametrize(("line", "words"), (
    ("ts.tile.sum(x[0:16], order='any')", '"tree" or "warp"'),
    ("ts.tile.reduce_max(1.0, order=3)", '"tree" or "warp"'),
    ("ts.tile.load(x[0:16], fast=True)", "no argument `fast`"),
    ("ts.tile.load_vector(x[0], step=4)", "width="),
    ("ts.tile.store(x[0:16], tile=1.0)", "a place and a tile"),
    ("ts.tile.mma(ts.tile.zeros((16, 16)), ts.tile.zeros((16, 16)), precision='f8')", "f32, tf32, bf16, f16"),
))  # fmt: skip
def test_unknown_options_are_refused(line: str, words: str, tmp_path: Any) -> None:
    path = tmp_path / "options.py"
    path.write_text(f"import tessera as ts\n@ts.kernel\ndef k(x: ts.Tensor['N', ts.f32]):\n    {line}\n")
    scope: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    with pytest.raises(SourceError, match="E218") as told:
        _ = scope["k"].definition
    assert words in told.value.message + (told.value.help or "") and told.value.span.line == 4


def test_an_error_in_a_loop_that_is_read_again_is_told(tmp_path: Any) -> None:
    """The loop's carried `t` gets another type, so that it is read twice; the error of the first reading stays."""
    path = tmp_path / "loop.py"
    path.write_text(
        "import tessera as ts\n@ts.kernel\ndef k(x: ts.Tensor['M', 16, ts.f32], y: ts.Tensor[16, ts.f32]):\n"
        "    t = ts.tile.zeros((16,))\n    c = 0\n    for m in ts.tile.range(0, M, 8):\n"
        "        t = t + ts.tile.col_sum(x[m : m + 8, :]) * ts.no_such_word\n        c = c + 0.5\n    y[:] = t\n"
    )
    scope: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    with pytest.raises(SourceError, match="no_such_word") as told:
        _ = scope["k"].definition
    assert told.value.span.line == 7


def test_a_group_reads_what_it_then_overwrites_in_program_order() -> None:
    """Other threads may read an element than write it; then a barrier is needed, which the emulator would miss."""
    x, y = RNG.standard_normal((13, 9)).astype(np.float32), RNG.standard_normal((13, 9)).astype(np.float32)
    old = x.copy(), y.copy()
    run(K.exchanged, x, y)
    np.testing.assert_array_equal(x, old[1])
    np.testing.assert_array_equal(y, old[0])
    x, y = RNG.standard_normal((8, 64)).astype(np.float32), np.zeros((64, 8), np.float32)
    expected = x.copy()
    for k in range(3):
        turned = expected.T + np.float32(k)
        turned[:, 0] = turned[::-1, 1]
        expected = (turned * 2).T
    run(K.passed_on, x, y)
    np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("shape", ((16, 64), (37, 70)))
def test_tiles_of_bools(shape: tuple[int, int]) -> None:
    x, y, w = RNG.random(shape) < 0.5, np.zeros(shape, bool), RNG.standard_normal(shape).astype(np.float32)
    expected = np.where(x, np.float32(1), w)
    run(K.flags, x, y, w)
    np.testing.assert_array_equal(y, ~x)
    np.testing.assert_array_equal(w, expected)

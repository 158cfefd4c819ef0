"""Shape expressions, input specifications, safetensors and the error catalogue."""

from __future__ import annotations

import json
import re
import statistics
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera_runtime.core import randn as randn_module
from tessera_runtime.core import safetensors, shapeexpr
from tessera_runtime.core.catalogue import CATALOGUE, exit_code_of
from tessera_runtime.core.errors import TesseraError
from tessera_runtime.core.inputspec import load_array, parse

# --- shape expressions -------------------------------------------------------------------------------------------


@st.composite
def programs(draw: st.DrawFn, depth: int = 4) -> list[int | str]:
    if depth == 0 or draw(st.booleans()):
        return [draw(st.one_of(st.integers(1, 9), st.sampled_from(["N", "M"])))]
    left, right = draw(programs(depth - 1)), draw(programs(depth - 1))
    return [*left, *right, draw(st.sampled_from(sorted(shapeexpr.OPERATORS)))]


def infix_value(text: str, env: dict[str, int]) -> int:
    scope = {**env, "min": min, "max": max, "ceildiv": lambda a, b: -(-a // b)}
    return int(eval(text, {"__builtins__": {}}, scope))


@settings(derandomize=True, max_examples=300)
@given(programs(), st.integers(1, 50), st.integers(1, 50))
def test_infix_text_means_the_same(program: list[int | str], n: int, m: int) -> None:
    env = {"N": n, "M": m}
    shapeexpr.validate(program, {"N", "M"})
    try:
        expected = infix_value(shapeexpr.to_infix(program), env)
    except ZeroDivisionError:
        with pytest.raises(TesseraError):
            shapeexpr.evaluate(program, env)
        return
    assert shapeexpr.evaluate(program, env) == expected


@pytest.mark.parametrize(
    "program",
    [[], ["add"], [1, 2], [1, "add"], ["K"], [1.5], [True], [1 << 63], [1] * 600, [None], ["N", "N", "pow"]],
)
def test_malformed_programs_are_refused(program: list[int | str]) -> None:
    with pytest.raises(TesseraError) as caught:
        shapeexpr.validate(program, {"N"})
    assert caught.value.code == "E624"


@pytest.mark.parametrize(
    "program", [["N", 0, "floordiv"], ["N", 0, "mod"], ["N", 1 << 62, "mul"], ["Q"], ["add"], [1, 2]]
)
def test_evaluation_errors(program: list[int | str]) -> None:
    with pytest.raises(TesseraError) as caught:
        shapeexpr.evaluate(program, {"N": 5})
    assert caught.value.code == "E710"


# --- input specifications ----------------------------------------------------------------------------------------


def test_values() -> None:
    array = load_array(parse("x=2x2xf32=[[1 2][3 4]]"))
    np.testing.assert_array_equal(array, np.array([[1, 2], [3, 4]], dtype=np.float32))
    np.testing.assert_array_equal(load_array(parse("x=2x3xi32=1, 2,3 4 5 -6")), [[1, 2, 3], [4, 5, -6]])
    splat = load_array(parse("3x5xf32=1.5e0"))
    assert splat.shape == (3, 5) and splat.dtype == np.float32 and (splat == 1.5).all()
    assert load_array(parse("x=f32=2")).shape == ()
    assert load_array(parse("f32=2")).shape == ()
    assert load_array(parse("x=0x4xf32=1")).shape == (0, 4)
    assert load_array(parse("m=2xbool=true false")).tolist() == [True, False]
    half = load_array(parse("x=3xbf16=1 1.00390625 inf"))
    assert half.dtype == ml_dtypes.bfloat16 and half.astype(np.float32).tolist() == [1.0, 1.0, np.inf]
    assert load_array(parse("x=1xu64=18446744073709551615"))[0] == 2**64 - 1


def test_scalars() -> None:
    assert load_array(parse("alpha=3.5")) == 3.5
    assert load_array(parse("n=-7")) == -7 and isinstance(load_array(parse("n=-7")), int)
    assert load_array(parse("b=true")) is True
    assert np.isnan(load_array(parse("x=nan")))
    assert parse("3.5").name is None


@pytest.mark.parametrize(
    "text",
    ["", "x=", "x=abc", "x=4x64xf32", "x=4x64xf99=1", "x=2xf32=1 2 3", "x=2xi8=1 200", "x=2xi32=1.5 2", "x=2xu8=-1 0",
     "x=2x2xf32=[[1 2][3 4]", "x=2x2xf32=[[1 2 3][4]]", "x=2x2xf32=[1 2 3 4]", "x=2xf32=[1 2]]", "x=2xf32=[[1 2]]",
     "x=2x2xf32=1 [2 3] 4", "x=2xf32=__import__('os')", "x=randn:4xi32", "x=randn:4",
     "x=@a.txt", "x=@a.npz:", "x=1xbool=2", "x=-2xf32=1"],
)  # fmt: skip
def test_bad_specifications(text: str) -> None:
    with pytest.raises(TesseraError) as caught:
        load_array(parse(text))
    assert caught.value.code == "E711" and caught.value.exit_code == 7 and caught.value.help


def test_too_large() -> None:
    for text in ("x=999999999999x999999999999xf32=0", "x=randn:4000000000x4000xf64"):
        with pytest.raises(TesseraError) as caught:
            parse(text)
        assert caught.value.code == "E713"


def test_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    a = rng.standard_normal((3, 4)).astype(np.float32)
    b = rng.integers(-5, 5, (2,)).astype(np.int64)
    np.save(tmp_path / "a.npy", a)
    np.savez(tmp_path / "ab.npz", a=a, b=b)
    (tmp_path / "ab.safetensors").write_bytes(safetensors.save({"a": a, "b": b}))
    np.testing.assert_array_equal(load_array(parse(f"x=@{tmp_path}/a.npy")), a)
    for suffix in ("npz", "safetensors"):
        np.testing.assert_array_equal(load_array(parse(f"x=@{tmp_path}/ab.{suffix}:b")), b)
        np.testing.assert_array_equal(load_array(parse(f"a=@{tmp_path}/ab.{suffix}")), a)
        for spec in (f"x=@{tmp_path}/ab.{suffix}", f"x=@{tmp_path}/ab.{suffix}:c"):
            with pytest.raises(TesseraError) as caught:
                load_array(parse(spec))
            assert caught.value.code == "E712" and caught.value.help == "its keys: a, b"
    with pytest.raises(TesseraError) as caught:
        load_array(parse("x=@missing.npy"))
    assert caught.value.code == "E802" and caught.value.exit_code == 2
    for suffix in ("npy", "npz", "safetensors"):
        (tmp_path / f"bad.{suffix}").write_bytes(b"\x93NUMPY garbage that is no array at all")
        with pytest.raises(TesseraError) as caught:
            load_array(parse(f"x=@{tmp_path}/bad.{suffix}"))
        assert caught.value.code in ("E712", "E640")
    np.save(tmp_path / "o.npy", np.array([object()], dtype=object), allow_pickle=True)
    with pytest.raises(TesseraError) as caught:
        load_array(parse(f"x=@{tmp_path}/o.npy"))
    assert caught.value.code == "E712"


def test_philox_known_answers() -> None:
    """The published vectors of Random123 for philox4x32-10, through our two-word counter: zero counter, zero key."""
    words = randn_module.philox(np.array([0], dtype=np.uint64), 0)[0]
    assert [f"{w:08x}" for w in words] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]


def test_randn_inverts_the_normal_distribution() -> None:
    words = randn_module.philox(np.arange(500, dtype=np.uint64), 7).reshape(-1)
    exact = statistics.NormalDist()
    expected = [exact.inv_cdf((int(w) + 0.5) / 2**32) for w in words]
    np.testing.assert_allclose(randn_module.randn(2000, 7), expected, rtol=2e-15, atol=1e-15)
    extreme = np.array([0, 1, 2**32 - 1, 2**31], dtype=np.uint32)
    np.testing.assert_allclose(
        randn_module.inverse_normal(extreme),
        [exact.inv_cdf((int(w) + 0.5) / 2**32) for w in extreme],
        rtol=1e-15,
        atol=1e-15,
    )


def test_randn_is_a_function_of_the_seed() -> None:
    a = load_array(parse("x=randn:37x11xf32"), seed=5)
    np.testing.assert_array_equal(a, load_array(parse("x=randn:37x11xf32"), seed=5))
    assert (a != load_array(parse("x=randn:37x11xf32"), seed=6)).all()
    np.testing.assert_array_equal(randn_module.randn(1001, 5)[:407], randn_module.randn(407, 5))
    assert abs(a.mean()) < 0.2 and abs(a.std() - 1) < 0.2


# --- safetensors -------------------------------------------------------------------------------------------------


def test_safetensors_agrees_with_the_reference_package() -> None:
    from safetensors.numpy import load as reference_load
    from safetensors.numpy import save as reference_save

    rng = np.random.default_rng(9)
    tensors = {
        "w": rng.standard_normal((5, 3)).astype(np.float32), "b": rng.integers(0, 9, (7,)).astype(np.int8),
        "empty": np.empty((0, 4), np.float64), "scalar": np.array(2.5),
    }  # fmt: skip
    ours = safetensors.load(reference_save(tensors))
    theirs = reference_load(safetensors.save(tensors))
    assert set(ours) == set(theirs) == set(tensors)
    for name, array in tensors.items():
        for other in (ours[name], theirs[name]):
            assert other.shape == array.shape and other.dtype == array.dtype
            np.testing.assert_array_equal(other, array)


def test_safetensors_keeps_narrow_types_and_is_deterministic() -> None:
    x = np.arange(6, dtype=np.float32).astype(ml_dtypes.bfloat16).reshape(2, 3)
    y = np.arange(3, dtype=np.float32).astype(ml_dtypes.float8_e4m3fn)
    data = safetensors.save({"x": x, "y": y})
    assert data == safetensors.save({"y": y, "x": x})
    assert data == safetensors.save({"x": x.view(np.uint16), "y": y.view(np.uint8)}, {"x": "bf16", "y": "fp8_e4m3"})
    back = safetensors.load(data)
    assert back["x"].dtype == ml_dtypes.bfloat16 and (back["x"] == x).all() and (back["y"] == y).all()


def raw_file(header: object, payload: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + payload


GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x01", struct.pack("<Q", 1 << 60) + b"{}", raw_file(b"[]"), raw_file(b"{"), raw_file(b" {}"),
        raw_file({"a": GOOD}), raw_file({"a": GOOD}, b"1234567"), raw_file({"a": GOOD}, b"123456789"),
        raw_file(b'{"a":' + json.dumps(GOOD).encode() + b',"a":' + json.dumps(GOOD).encode() + b"}", b"12345678"),
        raw_file({"a": {**GOOD, "dtype": "F33"}}, b"12345678"), raw_file({"a": {**GOOD, "shape": [3]}}, b"12345678"),
        raw_file({"a": {**GOOD, "shape": [-2]}}, b"12345678"),
        raw_file({"a": {**GOOD, "shape": [1 << 40, 1 << 40]}}, b"12345678"),
        raw_file({"a": {**GOOD, "data_offsets": [8, 0]}}, b"12345678"), raw_file({"a": {**GOOD, "x": 1}}, b"12345678"),
        raw_file({"a": GOOD, "b": GOOD}, b"12345678"), raw_file({"__metadata__": {"a": 1}}), raw_file({"a": 3}),
        raw_file({"a": {**GOOD, "shape": [True, 2]}}, b"12345678"), raw_file(b"{" * 5000),
    ],
)  # fmt: skip
def test_safetensors_refuses(data: bytes) -> None:
    with pytest.raises(TesseraError) as caught:
        safetensors.load(data)
    assert caught.value.code == "E640" and caught.value.exit_code == 5


# --- errors ------------------------------------------------------------------------------------------------------


def test_catalogue_is_sorted_and_complete() -> None:
    for letter in "EW":
        codes = [code for code in CATALOGUE if code[0] == letter]
        assert codes == sorted(codes)
    for code, entry in CATALOGUE.items():
        assert re.fullmatch(r"[EW][1-9]\d\d", code) and entry.title and entry.explanation.endswith((".", "?"))
        assert entry.exit_code in (0, 2, 3, 4, 5, 6, 7, 70)
    assert exit_code_of("E699") == 5 and exit_code_of("E799") == 7 and exit_code_of("X") == 70


def test_every_code_raised_by_the_runtime_is_in_the_catalogue() -> None:
    root = Path(shapeexpr.__file__).parent.parent
    used = {code for path in root.rglob("*.py") for code in re.findall(r'"([EW][1-9]\d\d)"', path.read_text())}
    assert used <= set(CATALOGUE), used - set(CATALOGUE)


def test_error_rendering() -> None:
    error = TesseraError("E711", "no", help="yes")
    assert str(error) == "error[E711]: no\n  help: yes"
    assert error.to_json() == {
        "code": "E711", "title": CATALOGUE["E711"].title, "message": "no", "help": "yes", "exit_code": 7,
    }  # fmt: skip

"""The function behind `tesseracc emulate`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tesseracc.emulator import EmulatorError
from tesseracc.emulator.tool import emulate, parse_argument, parse_dims

PTX = Path(__file__).parent / "outside/cuda/basic.ptx"


def test_a_launch_from_files_to_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.normal(size=201).astype(np.float32) for _ in range(2))
    for name, x in (("a", a), ("b", b), ("c", np.zeros_like(a))):
        np.save(tmp_path / f"{name}.npy", x)
    arguments = [f"@{tmp_path}/{n}.npy" for n in "abc"] + ["i32=201"]
    code, text = emulate(PTX, "vector_add", "2,1,1", "128,1,1", arguments, [f"2=@{tmp_path}/out.npy"], counters=True)
    assert code == 0
    assert text.startswith("no findings\n") and "global_sectors: 78" in text  # 26 sectors for each of three arrays
    assert np.array_equal(np.load(tmp_path / "out.npy"), a + b)
    code, text = emulate(PTX, "vector_add", "2", "128", [*arguments[:3], "i32=202"], as_json=True)
    assert code == 1
    findings = json.loads(text)["findings"]
    assert findings[0]["code"] == "E951" and findings[0]["source"] == "basic.cu:4"


@pytest.mark.parametrize("text", ["", "0", "1,2,3,4", "x", "1,-1"])
def test_bad_dims(text: str) -> None:
    with pytest.raises(EmulatorError):
        parse_dims(text)


@pytest.mark.parametrize("text", ["", "i32", "i32=x", "i33=1", "f32=", "i8=300", "hex=0", "@missing.npy"])
def test_bad_arguments(text: str) -> None:
    with pytest.raises(EmulatorError) as caught:
        parse_argument(text)
    assert caught.value.code == "E942"


def test_arguments() -> None:
    assert parse_argument("i32=0x10") == 16 and parse_argument("f32=1.5").dtype == np.float32
    assert parse_argument("hex=00ff") == b"\x00\xff"


def test_bad_files_and_outputs(tmp_path: Path) -> None:
    for bad in (
        lambda: emulate(tmp_path / "none.ptx", "k", "1", "1"),
        lambda: emulate(PTX, "none", "1", "1"),
        lambda: emulate(PTX, "vector_add", "1", "1", ["i32=1"], ["0=@x.npy"]),
        lambda: emulate(PTX, "vector_add", "1", "1", ["i32=1"], ["7=@x.npy"]),
    ):
        with pytest.raises(EmulatorError):
            bad()

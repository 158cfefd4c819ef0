"""The digits model: eager execution against float64 NumPy, and the demo from source to accuracy."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.samples.test_digits_data import DATA, SAMPLES, sample

ROOT = SAMPLES.parent


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    """Images, labels, the logits in float64 from the stored weights, and how far f32 logits may be from them.

    A layer z = h w + b of n products in f32, in any order, is off by at most (n + 1) u (|h| |w| + |b|), u = 2^-24, plus
    what the error e of h becomes: e |w|.
    """
    from tessera_runtime.core import safetensors

    images, labels = sample("digits_data").load(test=True)
    weights = safetensors.load((DATA / "digits.safetensors").read_bytes())
    h, error = images / 16.0, np.zeros(images.shape)
    for layer in (1, 2, 3):
        w, b = weights[f"w{layer}"].astype(np.float64), weights[f"b{layer}"].astype(np.float64)
        error = error @ abs(w) + (len(w) + 1) * 2.0**-24 * (abs(h) @ abs(w) + abs(b))
        h = h @ w + b if layer == 3 else np.maximum(h @ w + b, 0)
    return {"images": images, "labels": labels, "logits": h, "error": error.max(axis=1)}


@pytest.mark.parametrize("count", [0, 1, 37, 436])
def test_eager_model_is_the_network(reference: dict[str, np.ndarray], count: int) -> None:
    model: ModuleType = sample("digits")
    result = model.classify(reference["images"][:count])
    logits, error = reference["logits"][:count], reference["error"][:count]
    top = np.sort(logits, axis=1)
    assert (top[:, -1] - top[:, -2] > 2 * error).all(), "f32 may not decide otherwise"
    np.testing.assert_array_equal(np.asarray(result["label"]), logits.argmax(axis=1))
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = (e / e.sum(axis=1, keepdims=True)).max(axis=1)
    # Logits off by at most d move a probability by a factor within exp(+-2 d); exp, sum and division add 16 ulp.
    bound = p * (np.expm1(2 * error) + 16 * 2.0**-24)
    assert (abs(np.asarray(result["probability"], np.float64) - p) <= bound).all()


def shim(folder: Path, name: str, module: str) -> None:
    """What an installation would put on PATH."""
    script = folder / name
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom {module} import main\nsys.exit(main())\n")
    script.chmod(0o755)


def test_demo(tmp_path: Path) -> None:
    shim(tmp_path, "tesseracc", "tesseracc.cli.main")
    shim(tmp_path, "tessera-run", "tessera_runtime.cli")
    env = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ.get('PATH', '')}",
           "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "runtime")])}
    bundle = tmp_path / "digits.tsb"
    build = subprocess.run([str(tmp_path / "tesseracc"), "build", str(SAMPLES / "digits.py"), "--arch", "cpu",
                            "--arch", "sm_90", "-o", str(bundle)], env=env, capture_output=True, text=True, check=False)
    assert build.returncode == 0, build.stdout + build.stderr

    def demo(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, str(SAMPLES / "demo.py"), str(bundle), *more], env=env,
                              capture_output=True, text=True, check=False)

    shown = demo()
    assert shown.returncode == 0, shown.stdout + shown.stderr
    match = re.search(r"^accuracy  ([\d.]+) % of 436 test images", shown.stdout, re.MULTILINE)
    assert match and float(match.group(1)) == 98.62
    assert "us per image" in shown.stdout and str(bundle) in shown.stdout and shown.stdout.count(" is ") >= 4
    refused = demo("--at-least", "99.9")
    assert refused.returncode == 1 and "error: less than 99.9 %" in refused.stderr


def test_picture_shows_every_shade(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "digits_data", sample("digits_data"))
    demo = sample("demo")
    lines = demo.picture(np.arange(64, dtype=np.uint8) % 17)
    assert len(lines) == 8 and {len(line) for line in lines} == {16}
    assert set("".join(lines)) == set(demo.INK)

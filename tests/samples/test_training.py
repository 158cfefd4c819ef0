"""Training from bundles: the digits reach their accuracy; a smaller GPT learns, and its caches are right."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tessera.tensor import tensor
from tessera_runtime import load
from tessera_runtime.cli import main
from tessera_runtime.core import safetensors
from tessera_runtime.core.manifest import Copy
from tesseracc.driver import Build, front, host_level
from tesseracc.frontend import source
from tests.samples.test_digits_data import SAMPLES, sample


def build(path: Path, *entries: str) -> bytes:
    loaded = source.load(path)
    chosen = {name: entry for name, entry in loaded.entries.items() if not entries or name in entries}
    return Build(front(chosen), (host_level(),), verify_each=False).bundle()


def copies(bundle: Any, function: str) -> int:
    (plan,) = (p for p in bundle.target.plans if p.function == function)
    return sum(isinstance(step, Copy) for step in plan.steps)


def trained(data: bytes, folder: Path, steps: int, capsys: pytest.CaptureFixture[str]) -> tuple[Any, Any, list[float]]:
    """(the bundle, the trained state, the losses), by way of the command line."""
    bundle, state, log = folder / "t.tsb", folder / "s.safetensors", folder / "loss.csv"
    bundle.write_bytes(data)
    code = main([str(bundle), "--function", "step", "--repeat", str(steps), "--state", str(state), "--log", str(log)])
    assert code == 0, capsys.readouterr().err
    losses = [float(line.split(",")[1]) for line in log.read_text().splitlines()[1:]]
    assert len(losses) == steps
    return load(str(bundle), threads=2), safetensors.load(state.read_bytes()), losses


def parameters(state: Any) -> dict[str, Any]:
    return {name: array for name, array in state.items() if name.startswith("params_")}


def test_the_digits_are_learned_from_a_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, state, losses = trained(build(SAMPLES / "digits_training.py"), tmp_path, 1500, capsys)
    assert copies(bundle, "step") == 0
    assert np.mean(losses[-100:]) < 0.15 < 2.0 < losses[0]
    reached = float(bundle["accuracy"](**parameters(state)))
    # the same network in float64, on test images from the file
    images, labels = sample("digits_data").load(test=True)
    h = images / 16.0
    for i in (1, 2, 3):
        h = h @ state[f"params_w{i}"].astype(np.float64) + state[f"params_b{i}"]
        h = np.maximum(h, 0) if i < 3 else h
    assert abs(float(np.mean(h.argmax(1) == labels)) - reached) <= 1 / len(labels)
    assert reached >= 0.97


SMALL = "DIM, HEADS, LAYERS, CONTEXT, BATCH, STEPS = 32, 2, 1, 24, 8, 300"


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample with a smaller network, beside the same data."""
    folder = tmp_path_factory.mktemp("gpt")
    (folder / "data").symlink_to(SAMPLES / "data")
    lines = (SAMPLES / "char_gpt.py").read_text().splitlines()
    lines = [SMALL if line.startswith("DIM, HEADS") else line for line in lines]
    assert SMALL in lines
    (folder / "char_gpt.py").write_text("\n".join(lines) + "\n")
    return folder / "char_gpt.py"


def test_a_small_gpt_learns_and_its_caches_are_right(
    gpt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, state, losses = trained(build(gpt), tmp_path, 200, capsys)
    assert copies(bundle, "step") == 0 and copies(bundle, "next_character") == 0
    assert losses[0] > 3.5 and np.mean(losses[-30:]) < 2.75
    assert float(bundle["evaluate"](**parameters(state))) < 2.8
    # one character at a time gives the scores of the whole text at once, as far as the caches reach back
    module = source.load(gpt).entries["step"].python.__globals__
    tokens = np.array([module["ALPHABET"].index(c) for c in module["TEXT"][: module["CONTEXT"]]], np.int32)
    tree = module["START"]
    whole = module["logits"](_tree(tree, "params", state), tensor(tokens[None])).numpy()[0]
    step = bundle["next_character"]
    kept = {i.name: np.zeros(i.shape, np.int64 if i.dtype == "i64" else np.float32)
            for i in step.function.inputs if i.inout}
    for place, token in enumerate(tokens):
        found = step(**parameters(state), **kept, character=np.array(token), temperature=np.float32(1))
        scores = dict(zip(step.outputs, found, strict=True))["scores"]
        np.testing.assert_allclose(scores, whole[place], atol=2e-4)
    assert kept["place"] == len(tokens)
    written = sample("char_gpt_sample").generate(tmp_path / "t.tsb", tmp_path / "s.safetensors", "ROMEO:\n", 60, 0.5)
    assert len(written) == 67 and written.startswith("ROMEO:\n") and len(set(written[7:])) > 5


def _tree(like: Any, path: str, state: Any) -> Any:
    if isinstance(like, dict):
        return {k: _tree(v, f"{path}_{k}", state) for k, v in like.items()}
    if isinstance(like, list):
        return [_tree(v, f"{path}_{i}", state) for i, v in enumerate(like)]
    return tensor(np.array(state[path]))


def test_the_curve_is_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    curves = sample("loss_curve")
    values = [3 * 0.99**i + 0.1 * (i % 3) for i in range(500)]
    log = tmp_path / "loss.csv"
    log.write_text("call,loss\n" + "".join(f"{i},{v}\n" for i, v in enumerate(values)))
    monkeypatch.setattr("sys.argv", ["loss_curve.py", str(log), str(tmp_path / "loss.png")])
    curves.main()
    data = (tmp_path / "loss.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + length
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + 3 * width)
    assert not rows[:, 0].any()
    dark = (rows[:, 1:].reshape(height, width, 3) == curves.DARK).all(2)
    places = [np.nonzero(dark[:, x])[0].mean() for x in range(60, 700) if dark[:, x].any()]
    assert len(places) > 600 and places[0] < 60 and places[-1] > 330, "the curve falls from the left to the right"
    assert curves.ticks(0.0, 4.7) == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert curves.curve([float("nan"), 1.0]).png()

"""The digits: no test image in the training set, the files are those that the README describes, the weights fit."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SAMPLES = Path(__file__).parents[2] / "samples"
DATA = SAMPLES / "data"


def sample(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SAMPLES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def digits() -> ModuleType:
    return sample("digits_data")


def hashes(images: np.ndarray) -> set[str]:
    return {hashlib.sha256(image.tobytes()).hexdigest() for image in images}


def test_no_test_image_is_in_training(digits: ModuleType) -> None:
    train, test = digits.load(test=False), digits.load(test=True)
    assert not hashes(train.images) & hashes(test.images)
    assert len(train.images) + len(test.images) == len(np.load(digits.FILE)) == 1797


def test_split_is_the_one_described(digits: ModuleType) -> None:
    train, test = digits.load(test=False), digits.load(test=True)
    text = (DATA / "README.md").read_text()
    assert f"{len(test.images)} test and {len(train.images)} training images" in text
    assert all(int(h[:2], 16) < 64 for h in hashes(test.images))
    assert all(int(h[:2], 16) >= 64 for h in hashes(train.images))


def test_pixels_and_labels_are_in_range(digits: ModuleType) -> None:
    for part in (digits.load(test=False), digits.load(test=True)):
        assert part.images.dtype == part.labels.dtype == np.uint8
        assert part.images.shape == (len(part.labels), 64) and part.images.max() == 16
        assert set(part.labels.tolist()) == set(range(10))


def test_stored_files_have_the_hashes_of_the_readme() -> None:
    text = (DATA / "README.md").read_text()
    sections = dict(re.findall(r"^## (\S+)$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    files = {p.name for p in DATA.iterdir() if p.name != "README.md"}
    assert files == set(sections)
    for name, section in sections.items():
        assert re.findall(r"\b[0-9a-f]{64}\b", section) == [hashlib.sha256((DATA / name).read_bytes()).hexdigest()]


def test_weights_classify_the_test_images(digits: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    # The reference of the demo: the network in float64, from the file that the bundle is built from.
    from tessera_runtime.core import safetensors

    monkeypatch.setitem(sys.modules, "digits_data", digits)
    train = sample("train_digits")
    weights = safetensors.load((DATA / "digits.safetensors").read_bytes())
    assert {name: w.shape for name, w in weights.items()} == {
        "w1": (64, 128), "b1": (128,), "w2": (128, 64), "b2": (64,), "w3": (64, 10), "b3": (10,)}  # fmt: skip
    reached = train.accuracy(weights, test=True)
    assert reached >= 0.97
    assert f"{100 * reached:.2f} %" in (DATA / "README.md").read_text()


def test_training_is_deterministic_and_learns(digits: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "digits_data", digits)
    train = sample("train_digits")
    monkeypatch.setattr(train, "EPOCHS", 4)
    first, second = train.train(), train.train()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert train.accuracy(first, test=True) > 0.8


def test_gradients_are_those_of_the_loss(digits: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "digits_data", digits)
    train = sample("train_digits")
    rng = np.random.default_rng(7)
    weights = {name: w + 0.1 * rng.standard_normal(w.shape) for name, w in train.initial(rng).items()}
    x, labels = rng.random((5, 64)), rng.integers(0, 10, 5)

    def loss() -> float:
        logits = train.forward(weights, x)[-1]
        shifted = logits - logits.max(axis=1, keepdims=True)
        return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(5), labels]))

    grads = train.gradients(weights, x, labels)
    for name in weights:
        direction = rng.standard_normal(weights[name].shape)
        exact = float((grads[name] * direction).sum())
        center, h = weights[name], 1e-6
        weights[name] = center + h * direction
        above = loss()
        weights[name] = center - h * direction
        numeric = (above - loss()) / (2 * h)
        weights[name] = center
        assert abs(numeric - exact) < 1e-6 * (1 + abs(exact)), name

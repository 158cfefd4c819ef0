"""The handwritten digits of `data/digits.npy` and their fixed split. Needs NumPy only.

The split is a function of an image's pixels alone (see `data/README.md`), so two equal images always fall on the same
side and no test image can be in the training set.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FILE = Path(__file__).parent / "data" / "digits.npy"
TEST_BELOW = 64  # of 256: about a quarter of the images are test images


class Digits(NamedTuple):
    """Images of 8x8 pixels in rows of 64 (u8[N, 64], 0 white to 16 black) and their labels (u8[N], 0 to 9)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def is_test(image: NDArray[np.uint8]) -> bool:
    """Whether this image belongs to the test set: the first byte of the SHA-256 of its 64 bytes is below 64."""
    return hashlib.sha256(image.tobytes()).digest()[0] < TEST_BELOW


def load(test: bool) -> Digits:
    """The test set or the training set, in the order of the file."""
    rows: NDArray[Any] = np.load(FILE, allow_pickle=False)
    rows = rows[[is_test(row[:64]) == test for row in rows]]
    return Digits(np.ascontiguousarray(rows[:, :64]), np.ascontiguousarray(rows[:, 64]))

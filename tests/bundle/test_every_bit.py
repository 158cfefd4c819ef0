"""No single bit of a bundle can change unnoticed: every byte is hashed, or is the one that the format prescribes."""

from __future__ import annotations

import pytest

from tests.bundle.base import signed_base
from tests.bundle.test_corpus import first_reader


def unnoticed(step: int) -> list[int]:
    """Of every `step`-th bit of the file, those that a reader does not miss."""
    data = bytearray(signed_base())
    found = []
    for bit in range(0, 8 * len(data), step):
        data[bit // 8] ^= 1 << bit % 8
        if first_reader(bytes(data)) == "ok":
            found.append(bit)
        data[bit // 8] ^= 1 << bit % 8
    return found


def test_every_41st_bit() -> None:
    assert unnoticed(41) == []


@pytest.mark.slow
def test_every_bit() -> None:
    assert unnoticed(1) == []

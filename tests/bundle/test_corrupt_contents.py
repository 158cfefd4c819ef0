"""Code images outside the strict form; random damage, truncation, splices and mutated manifests."""

from __future__ import annotations

import hashlib
import random
import struct
from typing import Any

from tests.bundle.forge import Json, code_of, entry_data, files, rebuild, spell, value
from tests.runtime.support import bundle_bytes


def with_image(image: bytes) -> bytes:
    document = value()
    entry = next(e for e in document["entries"] if e["name"] == "images/cpu-base.elf")
    entry["size"], entry["sha256"] = len(image), [hashlib.sha256(image).hexdigest()]
    return rebuild({**files(), "images/cpu-base.elf": image}, spell(document))


def test_images_outside_the_strict_form() -> None:
    image = entry_data("images/cpu-base.elf")
    (phoff,) = struct.unpack_from("<Q", image, 32)
    dynamic = next(
        struct.unpack_from("<Q", image, phoff + 56 * i + 8)[0]
        for i in range(5)
        if struct.unpack_from("<I", image, phoff + 56 * i)[0] == 2
    )
    symbols = struct.unpack_from("<Q", image, dynamic + 16 * 2 + 8)[0]

    def edit(offset: int, form: str, number: int) -> bytes:
        bad = bytearray(image)
        struct.pack_into(form, bad, offset, number)
        return bytes(bad)

    bad_images = [
        b"\x7fELF",
        b"MZ" + image[2:],
        edit(16, "<H", 2),
        edit(18, "<H", 40),
        edit(32, "<Q", 1 << 40),
        edit(56, "<H", 60000),
        edit(phoff, "<I", 7),
        edit(phoff + 56 + 4, "<I", 7),
        edit(phoff + 56 + 16, "<Q", 0),
        edit(phoff + 56 + 40, "<Q", 1 << 40),
        edit(phoff + 56 + 4, "<I", 4),
        edit(dynamic, "<Q", 7),
        edit(dynamic, "<Q", 1),
        edit(dynamic, "<Q", 12),
        edit(dynamic + 8, "<Q", 1 << 50),
        edit(symbols + 24 + 8, "<Q", 3),
        edit(symbols + 24 + 8, "<Q", 1 << 60),
        edit(symbols + 24 + 6, "<H", 0),
        edit(symbols + 24 + 4, "<B", 0x11),
        edit(symbols + 24, "<I", 1 << 30),
    ]
    for bad in bad_images:
        assert code_of(with_image(bad)) == "E630"
    assert code_of(with_image(image)) == "ok"


def test_any_flipped_bit_is_found() -> None:
    """Every byte of the file is either hashed or the one that the format prescribes."""
    data = bundle_bytes()
    rng = random.Random(20)
    positions = (
        {rng.randrange(len(data)) for _ in range(400)} | set(range(64, 160)) | set(range(len(data) - 60, len(data)))
    )
    for position in sorted(positions):
        bad = bytearray(data)
        bad[position] ^= 1 << rng.randrange(8)
        assert code_of(bytes(bad)) != "ok", position


def test_truncation_and_splices() -> None:
    data = bundle_bytes()
    rng = random.Random(21)
    for _ in range(60):
        cut = rng.randrange(len(data))
        assert code_of(data[:cut]).startswith("E6")
        start, length = rng.randrange(len(data)), rng.randrange(1, 200)
        assert code_of(data[:start] + data[start + length :]).startswith("E6")
        assert code_of(data[:start] + data[cut : cut + length] + data[start:]).startswith("E6")


VALUES: list[Json] = [
    0,
    1,
    2,
    3,
    -1,
    7,
    64,
    1 << 62,
    1 << 70,
    "",
    "x",
    "y",
    "N",
    "saxpy",
    "f32",
    "add",
    [],
    {},
    None,
    True,
    False,
    ["N"],
    [3],
]


def test_mutated_manifests_behind_correct_digests() -> None:
    """The parsers and checks themselves: a random change of the manifest's values either loads or has a code."""
    rng = random.Random(22)
    outcomes: dict[str, int] = {}
    for _ in range(250):
        document = value()
        for _ in range(rng.randrange(1, 3)):
            spot: Any = document
            while True:
                keys = list(spot) if isinstance(spot, dict) else list(range(len(spot)))
                key = rng.choice(keys)
                if isinstance(spot[key], (dict, list)) and spot[key] and rng.random() < 0.9:
                    spot = spot[key]
                    continue
                # Half of the new values are of the old one's type, so that the deeper checks are reached.
                alike = [v for v in VALUES if type(v) is type(spot[key])]
                spot[key] = rng.choice(alike if alike and rng.random() < 0.5 else VALUES)
                break
        outcome = code_of(rebuild(files(), spell(document)))
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    assert set(outcomes) <= {
        "ok",
        "E620",
        "E621",
        "E622",
        "E623",
        "E624",
        "E631",
        "E640",
        "E602",
        "E604",
        "E606",
        "E611",
    }, outcomes
    assert outcomes["E621"] > 50 and outcomes["E623"] > 10

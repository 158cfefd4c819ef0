"""Every MUST of the container is one check with its own code; each is provoked by a file that breaks only it."""

from __future__ import annotations

import numpy as np
import pytest

from tessera_runtime.api import load
from tessera_runtime.bundle import BundleFile
from tessera_runtime.core import container
from tessera_runtime.core.errors import TesseraError
from tesseracc.bundle import write
from tests.bundle.forge import Json, code_of, entry_data, files, patched, places, rebuild, with_manifest
from tests.runtime.support import bundle_bytes, contents


def test_the_rebuilt_bundle_is_the_written_one() -> None:
    assert rebuild(files(), entry_data("manifest.json")) == bundle_bytes()
    assert code_of(bundle_bytes()) == "ok"


def test_container_corruptions() -> None:
    data = bundle_bytes()
    where = places()
    image = where["images/cpu-base.elf"]
    weights = where["weights.safetensors"]
    header = container.HEADER_OFFSET
    directory = max(p.data + p.size for p in where.values())
    record = data.index(b"PK\x01\x02", directory)
    cases = {
        "empty": (b"", "E601"),
        "another file": (b"\x7fELF" * 1000, "E601"),
        "magic": (patched(header, b"X"), "E601"),
        "one byte short": (data[:-1], "E602"),
        "header only": (data[: header + container.HEADER_SIZE], "E602"),
        "one byte more": (data + b"\0", "E602"),
        "prefix": (b"#" + data, "E601"),
        "container version": (patched(header + 8, b"\x02\x00"), "E603"),
        "minimum reader": (patched(header + 12, b"\x07\x00"), "E603"),
        "minor version": (patched(header + 10, b"\x01"), "E604"),
        "reserved": (patched(header + 14, b"\x02"), "E604"),
        "too many targets": (patched(header + 72, b"\xff"), "E604"),
        "bytes after the targets": (patched(header + container.HEADER_SIZE - 1, b"x"), "E604"),
        "manifest beyond the file": (patched(header + 24, b"\xff" * 7), "E604"),
        "manifest size": (patched(header + 32, b"\xff" * 8), "E604"),
        "manifest digest": (patched(header + 40, b"\0\0"), "E605"),
        "manifest byte": (patched(where["manifest.json"].data + 9, b"~"), "E605"),
        "compression": (patched(image.header + 8, b"\x08"), "E606"),
        "flags": (patched(image.header + 6, b"\x09"), "E606"),
        "date": (patched(image.header + 12, b"\x22"), "E606"),
        "size": (patched(image.header + 18, b"\x01"), "E606"),
        "first header": (patched(0, b"PX"), "E606"),
        "name": (patched(image.header + 30, b"j"), "E609"),
        "padding": (patched(image.data - 1, b"x"), "E610"),
        "central record": (patched(record + 10, b"\x08"), "E607"),
        "central name": (patched(data.index(b"images/", directory), b"j"), "E607"),
        "central offset": (patched(data.index(b"weights.safetensors", directory) - 4, b"\x99"), "E607"),
        "end record": (patched(len(data) - 1, b"\x01"), "E608"),
        "end count": (patched(len(data) - 12, b"\x09"), "E608"),
        "code": (patched(image.data + 5000, b"\xcc\xcd"), "E611"),
        "weights": (patched(weights.data + weights.size - 1, b"\x07"), "E611"),
        "test vector": (patched(where["tests/0000.safetensors"].data + 300, b"\x07"), "E611"),
    }  # fmt: skip
    assert {name: code_of(bad) for name, (bad, _) in cases.items()} == {name: code for name, (_, code) in cases.items()}


def test_checksum_in_both_headers() -> None:
    """A CRC-32 that is wrong in the same way in both places is still wrong."""
    data = bytearray(bundle_bytes())
    for name, code in (("images/cpu-base.elf", "E613"), ("tsb.header", "E613"), ("weights.safetensors", "E613")):
        place = places()[name]
        bad = bytearray(data)
        bad[place.header + 14] ^= 1
        at = bundle_bytes().index(b"PK\x01\x02" + b"", max(p.data + p.size for p in places().values()))
        at = data.index(name.encode(), at) - 46
        bad[at + 16] ^= 1
        assert code_of(bytes(bad)) == code


def test_versions_name_both_numbers() -> None:
    with pytest.raises(TesseraError) as caught:
        load(patched(container.HEADER_OFFSET + 8, b"\x09\x00"))
    assert "version 9.0" in caught.value.message and "reads version 1.0" in caught.value.message

    def newer(document: Json) -> None:
        document["versions"]["plan"] = 3
        document["brand_new"] = {}  # a newer manifest is refused for its version, not for what it added

    with pytest.raises(TesseraError) as caught:
        load(with_manifest(newer))
    assert (
        caught.value.code == "E622"
        and caught.value.message == "the bundle has plan version 3; this runtime reads version 2"
    )


def test_reordered_unlisted_and_missing_entries() -> None:
    text = entry_data("manifest.json")
    extra = rebuild({**files(), "images/zzz.elf": b"more"}, text)
    assert code_of(extra) in ("E602", "E604", "E606", "E607", "E608", "E609", "E610")
    fewer = dict(files())
    del fewer["tests/0001.safetensors"]
    assert code_of(rebuild(fewer, text)) in ("E602", "E604", "E606", "E607", "E609", "E610")
    swapped = dict(files())
    swapped["tests/0000.safetensors"], swapped["tests/0001.safetensors"] = (
        swapped["tests/0001.safetensors"],
        swapped["tests/0000.safetensors"],
    )
    assert code_of(rebuild(swapped, text)) in ("E604", "E606", "E611")


def test_weights_are_verified_when_first_used() -> None:
    """Lazily: a damaged chunk is found by the call that needs it, and only by that one."""
    big = np.ones(9 << 20, np.uint8)
    data = bytearray(write(None, contents(constants={"w": np.ones(5, np.float32), "big": big})))
    file = BundleFile(bytes(data))
    place = file._places["weights.safetensors"]
    data[place.data + (6 << 20)] ^= 1
    damaged = BundleFile(bytes(data))
    constants = {c.name: c for c in damaged.manifest.constants}
    assert len(damaged.constant(constants["w"])) == 20
    with pytest.raises(TesseraError) as caught:
        damaged.constant(constants["big"])
    assert caught.value.code == "E611" and "4194304" in caught.value.message
    assert load(bytes(data), threads=1)["chain"](np.ones((1, 5), np.float32))[0].tolist() == [[2.0] * 5]

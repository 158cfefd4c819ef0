"""Every MUST of the format is one check with its own code; each is provoked by a file that breaks only it."""

from __future__ import annotations

import hashlib
import json
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tessera_runtime.api import load
from tessera_runtime.bundle import BundleFile
from tessera_runtime.core import container
from tessera_runtime.core.errors import TesseraError
from tesseracc.bundle import write
from tests.runtime.support import bundle_bytes, contents

Json = Any


def code_of(data: bytes) -> str:
    """The code with which loading fails, or `ok`."""
    try:
        load(data, threads=1, verify_weights=True)
    except TesseraError as error:
        assert error.exit_code == 5, error
        return error.code
    return "ok"


def places() -> dict[str, container.Place]:
    return BundleFile(bundle_bytes())._places


def entry_data(name: str) -> bytes:
    place = places()[name]
    return bundle_bytes()[place.data : place.data + place.size]


def rebuild(files: dict[str, bytes], text: bytes, targets: tuple[str, ...] | None = None, **header: Any) -> bytes:
    """A container with correct digests and checksums around any manifest: what an attacker would write."""
    files = {**files, "manifest.json": text}
    order = [("tsb.header", container.HEADER_SIZE), *((name, len(files[name])) for name in sorted(files))]
    laid, end = container.lay_out(order)
    where = next(place for place in laid if place.name == "manifest.json")
    size = sum(len(container.central(place, 0)) for place in laid)
    tail = container.end_records(len(laid), end, size)
    fields = {
        "file_size": end + size + len(tail), "manifest_offset": where.data, "manifest_size": where.size,
        "manifest_sha256": hashlib.sha256(text).digest(), "targets": ("cpu-base",) if targets is None else targets,
    }  # fmt: skip
    files["tsb.header"] = container.Header(**{**fields, **header}).pack()
    crc = {name: zlib.crc32(data) for name, data in files.items()}
    parts = [container.padded_local_header(p, crc[p.name]) + files[p.name] for p in laid]
    return b"".join([*parts, *(container.central(p, crc[p.name]) for p in laid), tail])


def files() -> dict[str, bytes]:
    return {name: entry_data(name) for name in places() if name not in ("tsb.header", "manifest.json")}


def value() -> Json:
    return json.loads(entry_data("manifest.json"))


def spell(document: Json) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def with_manifest(change: Callable[[Json], None]) -> bytes:
    document = value()
    change(document)
    return rebuild(files(), spell(document))


def patched(offset: int, new: bytes) -> bytes:
    data = bytearray(bundle_bytes())
    data[offset : offset + len(new)] = new
    return bytes(data)


def test_the_rebuilt_bundle_is_the_written_one() -> None:
    assert rebuild(files(), entry_data("manifest.json")) == bundle_bytes()
    assert code_of(bundle_bytes()) == "ok"


# --- the container -----------------------------------------------------------------------------------------------


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
        "reserved": (patched(header + 14, b"\x01"), "E604"),
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
        and caught.value.message == "the bundle has plan version 3; this runtime reads version 1"
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


# --- the manifest ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"null", b"[]", b"{}", b'{"a":1,"a":1}', b'{"a":1.0}', b'{"a":NaN}', b'{"a": 1}', b'{"b":1,"a":1}',
        b'{"a":"\xc3\xa9"}', b'{"a":1}\n', b"[" * 100_000,
        b'{"a":' * 50_000, b'{"a":' + b"9" * 10_000 + b"}", b'{"a":01}', b'{"a":-0}',
        b'{"a":"\\u0041"}',
    ],
)  # fmt: skip
def test_manifest_that_is_not_canonical_json(text: bytes) -> None:
    assert code_of(rebuild(files(), text)) in ("E620", "E621")


def delete(path: str) -> Callable[[Json], None]:
    def change(document: Json) -> None:
        *parents, last = path.split(".")
        for part in parents:
            document = document[int(part)] if part.isdigit() else document[part]
        del document[int(last) if last.isdigit() else last]

    return change


def put(path: str, new: Json) -> Callable[[Json], None]:
    def change(document: Json) -> None:
        *parents, last = path.split(".")
        for part in parents:
            document = document[int(part)] if part.isdigit() else document[part]
        document[int(last) if last.isdigit() else last] = new

    return change


CHANGES: list[tuple[str, Callable[[Json], None]]] = [
    # fields: missing, unknown, of the wrong type, beyond limits
    ("E621", delete("functions")),
    ("E621", delete("versions")),
    ("E621", put("more", 1)),
    ("E621", put("functions", {})),
    ("E621", put("functions", [])),
    ("E621", put("functions.0.name", 3)),
    ("E621", put("functions.0.name", "a b")),
    ("E621", put("functions.0.name", "x" * 300)),
    ("E621", put("functions.0.inputs.0.dtype", "f33")),
    ("E621", put("functions.0.inputs.1.shape", [-1])),
    ("E621", put("functions.0.inputs.1.shape", [True])),
    ("E621", put("functions.0.inputs.1.shape", [1] * 33)),
    ("E621", put("functions.0.inputs.1.shape", [[]])),
    ("E621", put("functions.0.inputs.1.shape", [[None]])),
    ("E621", put("functions.0.inputs.1.shape", [["N"] * 1000])),
    ("E621", put("functions.0.inputs.1.inout", 1)),
    ("E621", put("functions.0.symbols.0.scale", 0)),
    ("E621", put("targets.0.kind", "gpu")),
    ("E621", put("targets.0.image", "../x")),
    ("E621", put("targets.0.image", "/x")),
    ("E621", put("targets.0.image", "images//x")),
    ("E621", put("targets.0.image", "Images/x")),
    ("E621", put("targets.0.kernels.0.group", 0)),
    ("E621", put("targets.0.kernels.0.scratch_bytes", 1 << 40)),
    ("E621", put("targets.0.kernels.0.source.file", "/home/x.py")),
    ("E621", put("targets.0.plans.0.steps.0.op", "exec")),
    ("E621", put("targets.0.plans.0.steps.0.grid", [1, 1])),
    ("E621", put("targets.0.plans.0.steps.0.kernel", 1 << 70)),
    ("E621", put("entries.0.size", 0)),
    ("E621", put("entries.0.sha256", ["00"])),
    ("E621", put("entries.0.kind", "pickle")),
    ("E621", put("tests.0.rtol", "1e-5; x")),
    ("E621", put("mesh", {"version": 1, "meshes": [1]})),
    ("E621", put("mesh.ranks", 1)),
    # versions
    ("E622", put("versions.kernel_abi", 2)),
    ("E622", put("versions.container", 0)),
    ("E622", put("mesh.version", 2)),
    ("E622", put("programs.version", 9)),
    # parts that contradict each other
    ("E623", put("targets.0.plans.0.steps.0.kernel", 77)),
    ("E623", put("targets.0.plans.0.steps.0.args.1.buffer", 2)),
    ("E623", put("targets.0.plans.0.steps.0.args.1", {"buffer": None, "dim": None, "scalar": None})),
    ("E623", put("targets.0.plans.0.steps.0.args.1", {"buffer": 0, "dim": 1, "scalar": None})),
    ("E623", put("targets.0.plans.0.steps.0.args.0.scalar", "b")),
    ("E623", delete("targets.0.plans.0.steps.0.args.1")),
    ("E623", put("targets.0.plans.0.steps.0.args.1.buffer", None)),
    ("E623", delete("targets.0.plans.1")),
    ("E623", put("targets.0.plans.0.buffers.0.ref", "q")),
    ("E623", put("targets.0.plans.0.buffers.0.shape", [3])),
    ("E623", put("targets.0.plans.0.buffers.0.dtype", "f64")),
    ("E623", put("targets.0.plans.1.buffers.1.ref", "t")),
    ("E623", put("targets.0.plans.1.steps", [])),
    ("E623", put("targets.0.plans.1.steps.2.src", 4)),
    ("E623", put("targets.0.plans.1.steps.2.dst", 400)),
    ("E623", put("targets.0.plans.1.steps.2.dst", 0)),
    ("E623", put("targets.0.plans.1.steps.1.args.2.buffer", 2)),
    ("E623", put("targets.0.kernels.0.params.1.access", "write")),
    ("E623", put("targets.0.kernels.0.params.3.dtype", "i32")),
    ("E623", put("targets.0.machine", "")),
    ("E623", put("targets.0.format", "ptx")),
    ("E623", put("targets.0.capability", {"major": 9, "minor": 0, "match": "exact"})),
    ("E623", put("targets.0.image", "images/none.elf")),
    ("E623", put("targets.0.image", "weights.safetensors")),
    ("E623", put("functions.0.symbols.0.input", "q")),
    ("E623", put("functions.0.symbols.0.axis", 1)),
    ("E623", put("functions.0.symbols.0.axis", -1)),
    ("E623", put("functions.0.symbols.0.name", "add")),
    ("E623", put("functions.0.outputs.0.alias", "x")),
    ("E623", put("functions.0.inputs.1.name", "y")),
    ("E623", put("functions.0.inputs.0.inout", True)),
    ("E623", put("functions.1.name", "saxpy")),
    ("E623", put("constants.0.size", 24)),
    ("E623", put("constants.0.offset", 1 << 40)),
    ("E623", put("constants.0.offset", 65)),
    ("E623", put("constants.0.shape", [1 << 62, 1 << 62])),
    ("E623", put("constants.0.entry", "images/cpu-base.elf")),
    ("E623", put("entries.0.sha256", ["0" * 64] * 2)),
    ("E623", put("tests.0.function", "q")),
    ("E623", put("tests.0.entry", "weights.safetensors")),
    ("E623", put("tests.0.name", "saxpy")),
    # shape expressions
    ("E624", put("functions.0.inputs.2.shape", [["Q"]])),
    ("E624", put("functions.2.guards.0.expr", ["H", "add"])),
    ("E624", put("targets.0.plans.0.steps.0.grid", [["N", 2], 1, 1])),
    ("E624", put("targets.0.plans.0.steps.0.args.3.dim", ["M"])),
    # the image and the weights, behind correct digests
    ("E631", put("targets.0.kernels.0.symbol", "nothing")),
    ("E640", put("constants.0.name", "v")),
]


@pytest.mark.parametrize(("code", "change"), CHANGES, ids=[f"{i:02d}-{code}" for i, (code, _) in enumerate(CHANGES)])
def test_manifest_fault(code: str, change: Callable[[Json], None]) -> None:
    found = code_of(with_manifest(change))
    if code == "E640":
        assert found in ("E640", "E623")  # the plan names the constant too
    else:
        assert found == code


def test_header_disagrees_with_the_manifest() -> None:
    text = entry_data("manifest.json")
    assert code_of(rebuild(files(), text, targets=("sm_90",))) == "E604"
    assert code_of(rebuild(files(), text, targets=())) == "E604"
    assert code_of(rebuild(files(), text, targets=("\x01",))) == "E604"


def test_weights_header_disagrees_with_the_manifest() -> None:
    document, changed = value(), files()
    weights = bytearray(changed["weights.safetensors"])
    weights[:] = weights.replace(b'"F32"', b'"I32"')
    changed["weights.safetensors"] = bytes(weights)
    entry = next(e for e in document["entries"] if e["name"] == "weights.safetensors")
    entry["sha256"] = [hashlib.sha256(weights).hexdigest()]
    assert code_of(rebuild(changed, spell(document))) == "E640"


# --- code images -------------------------------------------------------------------------------------------------


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


# --- random damage -----------------------------------------------------------------------------------------------


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

"""A second reader of bundles, from specs/bundle.md and specs/bundle.schema.json alone, sharing no code with the first.

Where the first builds the bytes that the format prescribes and compares, this one parses. `read` gives `ok` or a code.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tests.bundle import second_manifest, second_signature

MAGIC = bytes.fromhex("895453420D0A1A0A")
NAME = re.compile(r"[a-z0-9_-][a-z0-9_.-]*(/[a-z0-9_-][a-z0-9_.-]*){0,7}", re.ASCII)
CHUNK = 4 << 20
MACHINES = {"x86-64": 62, "aarch64": 183}
WIDE = 0xFFFFFFFF


class Refused(Exception):
    """The file breaks a rule."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def need(condition: bool, code: str) -> None:
    if not condition:
        raise Refused(code)


@cache
def schema() -> Any:
    return json.loads((Path(__file__).parents[2] / "specs" / "bundle.schema.json").read_text())


def read(data: bytes, required: bytes | None = None, beside: Mapping[str, bytes] | None = None) -> str:
    """`ok`, or the code of a rule that the file breaks. `required`: a public key that must have signed it.

    `beside`: the files of the folder that the weights of a detached bundle are looked for in.
    """
    try:
        _read(data, required, beside or {})
    except (Refused, second_manifest.Refused) as refused:
        return refused.code
    return "ok"


def _read(data: bytes, required: bytes | None, beside: Mapping[str, bytes]) -> None:
    need(len(data) >= 64 + 2128 and data[64:72] == MAGIC, "E601")
    version, minor, least, detached = struct.unpack_from("<4H", data, 72)
    need(version == 1 and least == 1, "E603")
    need(minor == 0 and detached <= 1, "E604")
    size, offset, length = struct.unpack_from("<3Q", data, 80)
    need(size == len(data), "E602")
    digest = data[104:136]
    count, signed = struct.unpack_from("<2I", data, 136)
    need(count <= 64 and signed <= 64 and length <= 64 << 20 and offset + length <= size, "E604")
    names = [data[144 + 32 * i : 176 + 32 * i] for i in range(count)]
    need(not any(data[144 + 32 * count : 64 + 2128]), "E604")
    _signatures(data, signed, digest.hex(), required)
    text = data[offset : offset + length]
    need(hashlib.sha256(text).digest() == digest, "E605")
    document = second_manifest.parse(text, schema())
    need([t["name"].encode().ljust(32, b"\0") for t in document["targets"]] == names, "E604")
    sizes = {e["name"]: e["size"] for e in document["entries"]}
    need(all(len(n) <= 200 and NAME.fullmatch(n) for n in sizes), "E621")
    weights = {e["name"] for e in document["entries"] if e["kind"] == "weights"}
    need(weights or not detached, "E604")
    outside = _outside([e for e in document["entries"] if detached and e["name"] in weights], beside)
    for name in outside:
        del sizes[name]
    sizes["manifest.json"] = length
    expected = ["tsb.header", *(["tsb.signatures"] if signed else []), *sorted(sizes)]
    sizes |= {"tsb.header": 2128, "tsb.signatures": 96 * signed}
    places = _container(data, expected, sizes)
    need(places["manifest.json"] == offset, "E604")
    _checksums(data, places, sizes, set())

    def content_of(name: str) -> bytes:
        return outside[name] if name in outside else data[places[name] :][: sizes[name]]

    for entry in document["entries"]:
        content = content_of(entry["name"])
        for i, wanted in enumerate(entry["sha256"]):
            need(hashlib.sha256(content[i * CHUNK : (i + 1) * CHUNK]).hexdigest() == wanted, "E611")
    for target in document["targets"]:
        texts = [target["ptx"], target["image"] if target["format"] == "ptx" else None]
        need(all(content_of(name).isascii() for name in texts if name is not None), "E632")
    for name in sorted(weights):
        _weights(content_of(name), [c for c in document["constants"] if c["entry"] == name])
    for target in document["targets"]:
        if target["kind"] == "cpu":
            symbols = _image(content_of(target["image"]), target["machine"])
            need(all(kernel["symbol"] in symbols for kernel in target["kernels"]), "E631")
            end = content_of(target["image"])[-40:]
            text = json.dumps(target["kernels"], sort_keys=True, separators=(",", ":")).encode()
            need(end[:8] != b"TSBKERN\0" or end[8:] == hashlib.sha256(text).digest(), "E633")
    functions = {f["name"]: f for f in document["functions"]}
    for test in document["tests"]:
        _test(content_of(test["entry"]), functions[test["function"]])


def _outside(entries: list[Any], beside: Mapping[str, bytes]) -> dict[str, bytes]:
    """The contents of the entries of a detached bundle, by rule X8."""
    found = {}
    for entry in entries:
        name = hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in entry["sha256"])).hexdigest()
        need(f"{name}.safetensors" in beside, "E614")
        found[entry["name"]] = beside[f"{name}.safetensors"]
        need(len(found[entry["name"]]) == entry["size"], "E611")
    return found


def _signatures(data: bytes, count: int, digest: str, required: bytes | None) -> None:
    end = 2240 + 96 * count
    need(end <= len(data) or not count, "E604")
    found = [(data[at : at + 32], data[at + 32 : at + 96]) for at in range(2240, end, 96)]
    keys = [key for key, _ in found]
    need(keys == sorted(set(keys)), "E650")
    if required is not None:
        need(required in keys, "E651")
        text = f"tessera bundle 1 sha256:{digest}\n".encode()
        need(second_signature.verify(required, text, dict(found)[required]), "E652")


def _container(data: bytes, names: list[str], sizes: dict[str, int]) -> dict[str, int]:
    """Walk the local headers, then the directory and the end records; the offset of each entry's data."""
    at, starts, places, sums = 0, {}, {}, {}
    for name in names:
        starts[name] = at
        need(at + 30 <= len(data), "E602")
        fields = struct.unpack_from("<IHHHHHIIIHH", data, at)
        size, extra_size = sizes[name], fields[10]
        shown = min(size, WIDE)
        fixed = (0x04034B50, 45 if size >= WIDE else 20, 0x0800, 0, 0, 0x21)
        need(fields[:6] == fixed and fields[7:9] == (shown, shown) and fields[9] == len(name), "E606")
        need(data[at + 30 : at + 30 + len(name)] == name.encode(), "E609")
        sums[name] = fields[6]
        extra = data[at + 30 + len(name) : at + 30 + len(name) + extra_size]
        head = struct.pack("<HHQQ", 1, 16, size, size) if size >= WIDE else b""
        need(extra.startswith(head), "E606")
        padding = extra[len(head) :]
        alignment = 4096 if size >= 65536 else 64
        place = at + 30 + len(name) + extra_size
        short = at + 30 + len(name) + len(head) + 4
        need(place == -(-short // alignment) * alignment and len(extra) == extra_size, "E610")
        need(padding == struct.pack("<HH", 0x5354, len(padding) - 4).ljust(len(padding), b"\0"), "E610")
        places[name] = place
        at = place + size
        need(at <= len(data), "E602")
    directory = at
    for name in names:
        size, start = sizes[name], starts[name]
        wide = [value for value in (size, size, start) if value >= WIDE]
        extra = struct.pack(f"<HH{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
        record = struct.pack(
            "<IHHHHHHIIIHHHHHII", 0x02014B50, 20, 45 if wide else 20, 0x0800, 0, 0, 0x21, sums[name], min(size, WIDE),
            min(size, WIDE), len(name), len(extra), 0, 0, 0, 0, min(start, WIDE),
        )  # fmt: skip
        record += name.encode() + extra
        need(data[at : at + len(record)] == record, "E607")
        at += len(record)
    length, count = at - directory, len(names)
    tail = b""
    if count >= 65535 or directory >= WIDE or length >= WIDE:
        tail = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, count, count, length, directory)
        tail += struct.pack("<IIQI", 0x07064B50, 0, at, 1)
    shown_count = min(count, 65535)
    tail += struct.pack(
        "<IHHHHIIH", 0x06054B50, 0, 0, shown_count, shown_count, min(length, WIDE), min(directory, WIDE), 0
    )
    need(data[at:] == tail, "E608")
    return places


def _checksums(data: bytes, places: dict[str, int], sizes: dict[str, int], unchecked: set[str]) -> None:
    for name, place in places.items():
        # Between a local header and its data there is only the name and padding.
        at = data.rindex(b"PK\x03\x04", 0, place)
        (stored,) = struct.unpack_from("<I", data, at + 14)
        need(name in unchecked or zlib.crc32(data[place : place + sizes[name]]) == stored, "E613")


def _tensors(data: bytes) -> dict[str, tuple[str, list[int], int, int]]:
    """name -> the file's element type, shape, first byte, byte after the last; the rules of safetensors files. E640."""
    need(len(data) >= 8, "E640")
    (length,) = struct.unpack_from("<Q", data)
    need(8 + length <= len(data) and data[8:9] == b"{", "E640")
    try:
        second_manifest.check_bounds(data[8 : 8 + length])
        header = json.loads(data[8 : 8 + length].decode(), object_pairs_hook=second_manifest.distinct)
    except (ValueError, RecursionError, second_manifest.Refused):
        raise Refused("E640") from None
    metadata = header.pop("__metadata__", {})
    need(isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values()), "E640")
    found, base = {}, 8 + length
    for name, tensor in header.items():
        need(isinstance(tensor, dict) and tensor.keys() == {"dtype", "shape", "data_offsets"}, "E640")
        kinds = dict(second_manifest.DTYPES.values())
        need(isinstance(tensor["dtype"], str) and tensor["dtype"] in kinds, "E640")
        shape, span = tensor["shape"], tensor["data_offsets"]
        for numbers in (shape, span):
            need(isinstance(numbers, list) and len(numbers) <= 32, "E640")
            need(all(type(n) is int and 0 <= n < 1 << 62 for n in numbers), "E640")
        need(len(span) == 2, "E640")
        size = kinds[tensor["dtype"]]
        for extent in shape:
            size *= extent
            need(size < 1 << 63, "E640")
        need(span[1] - span[0] == size, "E640")
        found[name] = (tensor["dtype"], shape, base + span[0], base + span[1])
    position = base
    for _, _, start, stop in sorted(found.values(), key=lambda item: item[2:]):
        need(start == position, "E640")
        position = stop
    need(position == len(data), "E640")
    return found


def _weights(data: bytes, constants: list[Any]) -> None:
    tensors = _tensors(data)
    for c in constants:
        code = second_manifest.DTYPES[c["dtype"]][0]
        need(tensors.get(c["name"]) == (code, c["shape"], c["offset"], c["offset"] + c["size"]), "E640")


def _test(data: bytes, function: Any) -> None:
    tensors = _tensors(data)
    inputs = {f"in/{item['name']}" for item in function["inputs"]}
    outputs = {f"out/{item['name']}" for item in function["outputs"]}
    need(inputs <= tensors.keys() <= inputs | outputs, "E641")


def _image(data: bytes, machine: str) -> set[str]:
    """The names of an image's symbols. E630."""
    ok = lambda condition: need(bool(condition), "E630")  # noqa: E731
    ok(len(data) >= 64 and data[:16] == b"\x7fELF\x02\x01\x01".ljust(16, b"\0"))
    kind, number, version = struct.unpack_from("<HHI", data, 16)
    (headers,) = struct.unpack_from("<Q", data, 32)
    own_size, entry_size, count = struct.unpack_from("<HHH", data, 52)
    ok((kind, number, version, own_size, entry_size) == (3, MACHINES[machine], 1, 64, 56) and 1 <= count <= 16)
    ok(headers + 56 * count <= len(data))
    loads: list[tuple[int, int, int]] = []
    dynamic: list[tuple[int, int]] = []
    for i in range(count):
        segment, flags, offset, address, _, in_file, in_memory, _ = struct.unpack_from(
            "<IIQQQQQQ", data, headers + 56 * i
        )
        ok(segment in (0, 1, 2, 0x6474E551))
        if segment in (1, 2):
            ok(offset == address and in_file == in_memory and offset + in_file <= len(data))
        if segment == 1:
            ok(flags & 4 and flags & 3 != 3 and all(offset >= stop for _, stop, _ in loads))
            loads.append((offset, offset + in_file, flags))
        if segment == 2:
            dynamic.append((offset, in_file))
    ok(len(dynamic) == 1 and dynamic[0][1] % 16 == 0 and dynamic[0][1] <= 1024)
    tags: dict[int, int] = {}
    for at in range(dynamic[0][0], sum(dynamic[0]), 16):
        tag, value = struct.unpack_from("<QQ", data, at)
        if tag == 0:
            break
        ok(tag in (4, 5, 6, 10, 11, 14) and tag not in tags)
        tags[tag] = value
    ok({4, 5, 6, 10} <= tags.keys() and tags.get(11, 24) == 24)
    ok(tags[4] + 8 <= len(data) and tags[5] + tags[10] <= len(data))
    (count,) = struct.unpack_from("<I", data, tags[4] + 4)
    ok(1 <= count <= 262144 and tags[6] + 24 * count <= len(data))
    strings = data[tags[5] : tags[5] + tags[10]]
    found: set[str] = set()
    for i in range(1, count):
        at, info, _, section, value, extent = struct.unpack_from("<IBBHQQ", data, tags[6] + 24 * i)
        ok(at < len(strings) and section != 0 and info & 15 in (0, 2))
        name = strings[at : at + 1025].split(b"\0")[0]
        ok(len(name) <= 1024 and at + len(name) < len(strings))
        ok(any(start <= value and value + max(extent, 1) <= stop and flags & 1 for start, stop, flags in loads))
        ok(name.decode("ascii", "replace") not in found)
        found.add(name.decode("ascii", "replace"))
    return found

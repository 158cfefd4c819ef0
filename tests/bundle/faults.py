"""One way or more to break every rule of specs/bundle.md, each a file that is right in everything else."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from tessera_runtime.bundle import BundleFile
from tests.bundle.base import (
    CODE,
    DYNAMIC,
    HASH,
    KEYS,
    PROGRAM_HEADERS,
    STRINGS,
    SYMBOLS,
    Json,
    base,
    build,
    document,
    image,
    parts,
    signatures,
    signed_base,
    spell,
)

HEADER = 64
DROP: Any = object()


class Fault(NamedTuple):
    """Breaks `rule`; readers give `code`, or one of several where a fault cannot but break more rules than one.

    `required`: a key that the reader is told to require.
    """

    rule: str
    name: str
    code: str  # words separated by spaces
    make: Callable[[], bytes]
    required: bytes | None = None


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def changed(path: str, new: Json) -> Json:
    """The manifest with the value at a dotted path replaced, or removed."""
    found = value = document()
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parents:
        found = found[part]
    if new is DROP:
        del found[last]
    else:
        found[last] = new
    return value


def _raw(rule: str, name: str, code: str, at: int, new: bytes) -> Fault:
    return Fault(rule, name, code, lambda: patched(base(), at, new))


def _place(name: str) -> Any:
    return BundleFile(base())._places[name]


def _central(name: str) -> int:
    """Where the central record of an entry begins."""
    return base().rindex(name.encode()) - 46


def detached_base() -> bytes:
    """The bundle without its weights."""
    text, files = parts()
    return build(text.encode(), {k: v for k, v in files.items() if k != "weights.safetensors"}, detached=True)


def _weightless(**header: Any) -> bytes:
    """The part of the bundle that needs no weights."""
    value = document()
    for holder, key in [(value, "functions"), *((target, "plans") for target in value["targets"])]:
        holder[key] = [item for item in holder[key] if "same" in (item.get("name"), item.get("function"))]
    value["entries"] = [entry for entry in value["entries"] if entry["kind"] == "code"]
    names = {entry["name"] for entry in value["entries"]}
    value |= {"constants": [], "tests": []}
    return build(value, {name: data for name, data in parts()[1].items() if name in names}, **header)


def _container() -> list[Fault]:
    image_at, manifest_at = _place("images/cpu.elf"), _place("manifest.json")
    h = HEADER
    size = len(base())
    extra = {**parts()[1], "images/more.elf": b"more"}
    fewer = {name: data for name, data in parts()[1].items() if not name.startswith("tests")}
    text = parts()[0].encode()
    record = _central("images/cpu.elf")
    return [
        _raw("H1", "magic", "E601", h, b"X"),
        Fault("H1", "short", "E601", lambda: base()[:2000]),
        Fault("H1", "empty", "E601", lambda: b""),
        Fault("C1", "prefix", "E601", lambda: b"#" + base()),
        _raw("C1", "local-header", "E606", 0, b"PX"),
        _raw("C1", "name", "E609", 30, b"x"),
        _raw("C1", "padding", "E610", 63, b"x"),
        _raw("H2", "container-version", "E603", h + 8, b"\2\0"),
        _raw("H3", "minor-version", "E604", h + 10, b"\1"),
        _raw("H4", "least-reader", "E603", h + 12, b"\7\0"),
        _raw("H5", "unknown", "E604", h + 14, b"\2"),
        Fault("H5", "detached-without-weights", "E604", lambda: _weightless(detached=True)),
        Fault("X8", "weights-not-there", "E614", detached_base),
        _raw("X8", "weights-inside", "E607 E614", h + 14, b"\1"),
        Fault("H6", "cut", "E602", lambda: base()[:-1]),
        Fault("H6", "longer", "E602", lambda: base() + b"\0"),
        _raw("H6", "size", "E602", h + 16, struct.pack("<Q", size + 1)),
        Fault("H6", "entries-beyond", "E602 E606 E607", lambda: build(_longer_entry(), rehash=False)),
        _raw("H7", "outside", "E604", h + 24, b"\xff" * 7),
        _raw("H8", "outside", "E604", h + 32, b"\xff" * 8),
        _raw("H8", "beyond-64-MiB", "E604", h + 32, struct.pack("<Q", (64 << 20) + 1)),
        Fault("H7", "moved", "E604 E606", lambda: _moved_manifest(text)),
        _raw("H9", "digest", "E605", h + 40, b"\0\0\0"),
        _raw("H9", "manifest", "E605", manifest_at.data + 9, b"~"),
        _raw("H10", "too-many", "E604", h + 72, b"\x41"),
        _raw("H11", "too-many", "E604", h + 76, b"\x41"),
        Fault("H11", "beyond-the-file", "E604", lambda: _weightless(signatures=64)),
        _raw("H12", "rest", "E604", h + 2127, b"x"),
        _raw("H12", "padding", "E604", h + 80 + 31, b"x"),
        _raw("H12", "not-ascii", "E604", h + 80, b"\xff"),
        Fault("H12", "other-name", "E604", lambda: build(text, targets=("cpu-v2", "sm_90"))),
        Fault("H12", "other-order", "E604", lambda: build(text, targets=("sm_90", "cpu-v1"))),
        Fault("H12", "fewer", "E604", lambda: build(text, targets=("cpu-v1",))),
        Fault("C2", "uncounted", "E609 E604 E606", lambda: _resign(signed_base(), 0)),
        Fault("C2", "missing", "E609 E604 E606", lambda: _resign(base(), 1)),
        Fault("C3", "unlisted-entry", "E609 E604 E606", lambda: build(text, extra)),
        Fault("C3", "missing-entry", "E609 E606 E607", lambda: build(text, fewer)),
        _raw("C3", "name", "E609", image_at.header + 30, b"j"),
        _raw("C4", "signature", "E606", image_at.header, b"PX"),
        _raw("C4", "version", "E606", image_at.header + 4, b"\x15"),
        _raw("C4", "encrypted", "E606", image_at.header + 6, b"\1"),
        _raw("C4", "descriptor", "E606", image_at.header + 6, b"\x08"),
        _raw("C4", "compressed", "E606", image_at.header + 8, b"\x08"),
        _raw("C4", "time", "E606", image_at.header + 10, b"\1"),
        _raw("C4", "date", "E606", image_at.header + 12, b"\x22"),
        _raw("C4", "size", "E606", image_at.header + 18, b"\1"),
        _raw("C4", "name-length", "E606", image_at.header + 26, b"\1"),
        _raw("C6", "zip64-version", "E606", image_at.header + 4, b"\x2d"),
        _raw("C6", "zip64-size", "E606", image_at.header + 18, b"\xff" * 8),
        _raw("C5", "padding", "E610", image_at.data - 1, b"x"),
        _raw("C5", "field-id", "E610", image_at.header + 30 + len("images/cpu.elf"), b"\1\0"),
        _raw("C5", "field-size", "E610 E606", image_at.header + 28, b"\1"),
        _raw("C7", "signature", "E607", record, b"PX"),
        _raw("C7", "method", "E607", record + 10, b"\x08"),
        _raw("C7", "crc", "E607", record + 16, bytes(4)),
        _raw("C7", "size", "E607", record + 24, b"\1\1"),
        _raw("C7", "comment", "E607", record + 32, b"\1"),
        _raw("C7", "attributes", "E607", record + 38, b"\1"),
        _raw("C7", "offset", "E607", record + 42, b"\1"),
        _raw("C7", "name", "E607", record + 46, b"j"),
        _raw("C8", "signature", "E608", size - 22, b"PX"),
        _raw("C8", "disk", "E608", size - 18, b"\1"),
        _raw("C8", "count", "E608", size - 12, b"\x63"),
        _raw("C8", "size", "E608", size - 10, b"\1"),
        _raw("C8", "offset", "E608", size - 6, b"\1"),
        _raw("C8", "comment", "E608", size - 2, b"\1"),
        *(Fault("C9", name.replace("/", "-"), "E613", lambda name=name: _wrong_sum(name)) for name in (
            "images/cpu.elf", "manifest.json", "tsb.header", "tests/0000.safetensors")),
    ]  # fmt: skip


def _longer_entry() -> Json:
    """The manifest tells of more bytes of the last entry than the file has behind its beginning."""
    value = document()
    value["entries"][-1]["size"] += 1 << 20
    return value


def _moved_manifest(text: bytes) -> bytes:
    """The header names a copy of the manifest that lies inside another entry."""
    files = {**parts()[1], "images/sm_90.cubin": b"\x7fELF" + text}
    value = document()
    inner = build(value, files)
    manifest = spell(value)
    copy = {**files, "images/sm_90.cubin": b"\x7fELF" + manifest}
    # The copy names its own entry's old digest; what is tried is only whether the place is believed.
    data = build(manifest, copy)
    at = data.index(b"\x7fELF" + manifest) + 4
    assert len(inner) > 0
    header = patched(data, HEADER + 24, struct.pack("<Q", at))
    return _with_sum(header, "tsb.header", 64, 2128)


def _with_sum(data: bytes, name: str, at: int, size: int) -> bytes:
    """The file with the right CRC-32 of one entry in both places."""
    crc = struct.pack("<I", zlib.crc32(data[at : at + size]))
    local = data.rindex(b"PK\3\4", 0, at)
    return patched(patched(data, local + 14, crc), data.rindex(name.encode()) - 46 + 16, crc)


def _wrong_sum(name: str) -> bytes:
    crc = bytes(4)
    return patched(patched(base(), _place(name).header + 14, crc), _central(name) + 16, crc)


def _resign(data: bytes, count: int) -> bytes:
    """The header counts other signatures than there are."""
    return _with_sum(patched(data, HEADER + 76, struct.pack("<I", count)), "tsb.header", 64, 2128)


def _signatures() -> list[Fault]:
    text = parts()[0].encode()
    good = signatures(text)
    reverse = good[96:] + good[:96]

    def other(at: int, new: bytes) -> bytes:
        return build(text, signed=patched(good, at, new))

    low_s = int.from_bytes(good[64:96], "little") + (1 << 252) + 27742317777372353535851937790883648493
    small = (1).to_bytes(32, "little")
    return [
        Fault("S1", "order", "E650", lambda: build(text, signed=reverse)),
        Fault("S1", "twice", "E650", lambda: build(text, signed=good[:96] * 2)),
        Fault("S2", "unsigned", "E651", base, KEYS[0]),
        Fault("S2", "another-key", "E651", signed_base, bytes(range(32))),
        Fault("S3", "changed", "E652", lambda: other(70, b"\1\2\3"), KEYS[0]),
        Fault("S3", "another-digest", "E652", lambda: build(text, signed=signatures(text + b" ")), KEYS[0]),
        Fault("S3", "large-s", "E652", lambda: other(64, low_s.to_bytes(32, "little")), KEYS[0]),
        Fault("S3", "small-r", "E652", lambda: other(32, small + bytes(32)), KEYS[0]),
        Fault("S3", "not-a-point", "E652", lambda: other(32, b"\xff" * 32), KEYS[0]),
    ]


def _json() -> list[Fault]:
    text = parts()[0]
    other = {
        "empty": "", "not-json": "{", "space": text.replace('":', '": ', 1), "order": '{"b":1,"a":1}',
        "twice": text[:-1] + ',"versions":{}}', "float": text.replace('"axis":0', '"axis":0.0'), "nan": '{"a":NaN}',
        "zero": text.replace('"axis":0', '"axis":-0'), "escape": text.replace('"m.py"', '"\\u006d.py"'),
        "line-feed": text + "\n", "deep": "[" * 50000 + "]" * 50000, "deep-17": "[" * 17 + "]" * 17,
        "long-number": text.replace('"axis":0', '"axis":' + "9" * 40), "unbalanced": "[" * 9,
    }  # fmt: skip
    faults = [Fault("M1", name, "E620", lambda body=body: build(body.encode())) for name, body in other.items()]
    return [*faults, Fault("M1", "not-ascii", "E620", lambda: build(text.replace("m.py", "\u00e9.py").encode()))]


def manifest_fault(rule: str, name: str, code: str, path: str, new: Json) -> Fault:
    """A fault by one changed value of the manifest."""
    return Fault(rule, name, code, lambda: build(changed(path, new), rehash=False))


def _fields() -> list[Fault]:
    given: list[tuple[str, str, Json]] = [
        ("missing", "functions.0.doc", DROP), ("unknown", "functions.0.more", 1), ("type", "functions", {}),
        ("none", "functions", []), ("name", "functions.0.name", "a b"), ("long-name", "functions.0.name", "x" * 257),
        ("name-line-feed", "functions.0.name", "scale\n"), ("surrogate", "functions.0.doc", "\ud800"),
        ("escape", "functions.0.doc", "\x1b[2J"), ("dtype", "functions.0.inputs.0.dtype", "f33"),
        ("negative", "functions.0.inputs.0.shape", [-1]), ("flag", "functions.0.inputs.0.shape", [True]),
        ("rank", "functions.0.inputs.0.shape", [1] * 33), ("no-items", "functions.0.inputs.0.shape", [[]]),
        ("long-expression", "functions.0.inputs.0.shape", [["N"] * 513]), ("number", "functions.0.inputs.0.inout", 1),
        ("beyond-64-bits", "constants.0.offset", 1 << 63), ("scale", "functions.0.symbols.0.scale", 0),
        ("kind", "targets.0.kind", "gpu"), ("parent", "targets.0.image", "../x"), ("absolute", "targets.0.image", "/x"),
        ("capital", "targets.0.image", "Images/x"), ("deep", "targets.0.image", "a/" * 9 + "a"),
        ("group", "targets.0.kernels.0.group", 0), ("scratch", "targets.0.kernels.0.scratch_bytes", 1 << 40),
        ("source-path", "targets.0.kernels.0.source.file", "a/b.py"), ("op", "targets.0.plans.0.steps.0.op", "exec"),
        ("grid", "targets.0.plans.0.steps.0.grid", [1, 1]), ("digest", "entries.0.sha256.0", "0" * 63 + "G"),
        ("entry-kind", "entries.0.kind", "pickle"), ("tolerance", "tests.0.rtol", "1e-5; x"),
        ("infinite", "tests.0.rtol", "1e999"), ("reserved-mesh", "mesh.meshes", [1]), ("null", "provenance", None),
        ("entry-size", "entries.0.size", 0), ("text", "functions.0.doc", 5), ("object", "functions.0", 5),
        ("item", "functions.0.guards.0.expr", [None]), ("item-beyond-64-bits", "functions.0.guards.0.expr", [1 << 63]),
        ("spelled-out", "targets.0.kernels.0.maps", []), ("versions", "versions", DROP),
        ("step", "targets.0.plans.0.steps.0", 5), ("axis", "functions.0.symbols.0.axis", -2),
    ]  # fmt: skip
    versions = [("versions.container", 2), ("versions.plan", 0), ("versions.kernel_abi", 2), ("mesh.version", 2),
                ("programs.version", 9)]  # fmt: skip
    expressions: list[tuple[str, str, Json]] = [
        ("unknown-symbol", "functions.0.guards.0.expr", ["Q"]),
        ("no-operand", "functions.0.guards.0.expr", ["N", "add"]),
        ("two-values", "functions.0.guards.0.expr", ["N", "N"]),
        ("grid", "targets.0.plans.0.steps.0.grid", [["M"], 1, 1]),
        ("dim", "targets.0.plans.0.steps.0.args.4.dim", ["M"]),
        ("kernel-grid", "targets.0.kernels.0.grid", [["M"], 1, 1]),
        ("kernel-shared", "targets.0.kernels.0.dynamic_shared", ["M"]),
        ("kernel-shape", "targets.0.kernels.0.params.1.shape", [["add"], 4]),
        ("shared", "targets.0.plans.0.steps.0.dynamic_shared", ["Q"]), ("input", "functions.1.inputs.0.shape", [["N"]]),
    ]  # fmt: skip
    return [
        *(manifest_fault("M2", path.replace(".", "-"), "E622", path, new) for path, new in versions),
        Fault(
            "M2",
            "newer-with-more",
            "E622",
            lambda: build({**changed("versions.plan", 3), "brand_new": {}}, rehash=False),
        ),
        Fault("M2", "steps-of-version-2", "E623", lambda: build(_old_with_repeat(), rehash=False)),
        *(manifest_fault("M3", name, "E621", path, new) for name, path, new in given),
        *(manifest_fault("M5", name, "E624", path, new) for name, path, new in expressions),
    ]


def _old_with_repeat() -> Json:
    value = document()
    value["targets"][0]["plans"][0]["steps"].append({"op": "repeat", "count": 1, "body": 0})
    return value


def _with_image(data: bytes) -> bytes:
    return build(document(), {**parts()[1], "images/cpu.elf": data})


def _images() -> list[Fault]:
    whole, first, second, dynamic, symbol = image(), PROGRAM_HEADERS, PROGRAM_HEADERS + 56, DYNAMIC, SYMBOLS + 24
    edits: list[tuple[str, int, str, int]] = [
        ("kind", 16, "<H", 2), ("machine", 18, "<H", 183), ("version", 20, "<I", 2), ("abi", 7, "<B", 3),
        ("headers-outside", 32, "<Q", 1 << 40), ("header-size", 52, "<H", 63), ("headers-size", 54, "<H", 57),
        ("no-headers", 56, "<H", 0), ("many-headers", 56, "<H", 17), ("segment", first, "<I", 7),
        ("writable-code", first + 4, "<I", 7), ("unreadable", first + 4, "<I", 1),
        ("not-executable", first + 4, "<I", 4),
        ("address", first + 16, "<Q", 4096), ("memory", first + 40, "<Q", 1 << 40), ("file", first + 32, "<Q", 1 << 40),
        ("no-dynamic", second, "<I", 0), ("two-dynamic", first, "<I", 2), ("dynamic-size", second + 32, "<Q", 95),
        ("relocations", dynamic + 64, "<Q", 7), ("needed", dynamic + 64, "<Q", 1),
        ("constructor", dynamic + 64, "<Q", 12),
        ("text-relocations", dynamic + 64, "<Q", 22), ("negative-tag", dynamic + 64, "<q", -1),
        ("tag-twice", dynamic + 64, "<Q", 4),
        ("no-hash", dynamic, "<Q", 14), ("symbol-size", dynamic + 72, "<Q", 25),
        ("hash-outside", dynamic + 8, "<Q", 1 << 50),
        ("strings-outside", dynamic + 24, "<Q", 1 << 50), ("symbols-outside", dynamic + 40, "<Q", 1 << 50),
        ("no-symbols", HASH + 4, "<I", 0), ("many-symbols", HASH + 4, "<I", 1 << 30), ("imported", symbol + 6, "<H", 0),
        ("data-symbol", symbol + 4, "<B", 0x11), ("symbol-before", symbol + 8, "<Q", 1 << 60),
        ("symbol-long", symbol + 16, "<Q", 4096),
        ("name-outside", symbol, "<I", 1 << 30),
    ]  # fmt: skip

    def edited(at: int, form: str, number: int) -> bytes:
        return patched(whole, at, struct.pack(form, number))

    unterminated = patched(whole, DYNAMIC + 56, struct.pack("<Q", 4))
    assert whole[STRINGS : STRINGS + 6] == b"\0scale" and whole[CODE] == 0xC3
    return [
        Fault("X3", "short", "E630", lambda: _with_image(b"\x7fELF")),
        Fault("X3", "magic", "E630", lambda: _with_image(b"MZ" + whole[2:])),
        Fault("X3", "name-unterminated", "E630", lambda: _with_image(unterminated)),
        *(Fault("X3", name, "E630", lambda e=edit: _with_image(edited(*e))) for name, *edit in edits),
        manifest_fault("X4", "no-symbol", "E631", "targets.0.kernels.0.symbol", "other"),
    ]


def _otherwise_described() -> bytes:
    """The image says how its kernels are described; the manifest gives one of them less scratch memory."""
    value = changed("targets.0.kernels.0.scratch_bytes", 64)
    kernels = hashlib.sha256(spell(document()["targets"][0]["kernels"])).digest()
    return build(value, {**parts()[1], "images/cpu.elf": image() + b"TSBKERN\0" + kernels})


def _contents() -> list[Fault]:
    files = parts()[1]
    weights, test = files["weights.safetensors"], files["tests/0000.safetensors"]

    def with_file(name: str, data: bytes) -> bytes:
        return build(document(), {**files, name: data})

    def swapped(name: str, old: bytes, new: bytes) -> Callable[[], bytes]:
        assert old in files[name] and len(old) == len(new)
        return lambda: with_file(name, files[name].replace(old, new, 1))

    def headed(text: str) -> Callable[[], bytes]:
        return lambda: with_file("tests/0000.safetensors", struct.pack("<Q", len(text)) + text.encode() + b"data")

    entry = '{"a":{"data_offsets":[0,4],"dtype":"F32","shape":[%s]}}'

    def altered(what: str, name: str, offset: int, new: bytes) -> Fault:
        """Another byte, and the checksum that goes with it: only the digest is wrong."""
        at = _place(name).data
        return Fault("X1", what, "E611",
                     lambda: _with_sum(patched(base(), at + offset, new), name, at, len(files[name])))  # fmt: skip

    return [
        altered("code", "images/cpu.elf", CODE, b"\xcc"),
        altered("cubin", "images/sm_90.cubin", 5, b"A"),
        altered("weights", "weights.safetensors", len(weights) - 1, b"\7"),
        altered("weights-header", "weights.safetensors", 12, b"~"),
        altered("tests", "tests/0000.safetensors", len(test) - 1, b"\7"),
        Fault("X2", "dtype", "E640", swapped("weights.safetensors", b'"F32"', b'"I32"')),
        Fault("X2", "name", "E640", swapped("weights.safetensors", b'"w"', b'"v"')),
        Fault("X2", "shape", "E640", swapped("weights.safetensors", b'"shape":[4]', b'"shape":[2]')),
        Fault(
            "X2", "offsets", "E640", swapped("weights.safetensors", b'"data_offsets":[0,16]', b'"data_offsets":[1,17]')
        ),
        Fault("X2", "length", "E640", lambda: with_file("weights.safetensors", b"\xff" * 8 + weights[8:])),
        Fault("X2", "not-json", "E640", lambda: with_file("weights.safetensors", weights[:8] + b"x" + weights[9:])),
        Fault("X2", "not-json-inside", "E640", swapped("weights.safetensors", b'":', b'";')),
        Fault("X2", "unknown-dtype", "E640", swapped("weights.safetensors", b'"F32"', b'"F33"')),
        Fault("X2", "unknown-key", "E640", swapped("weights.safetensors", b'"dtype"', b'"dtypo"')),
        Fault("X2", "no-shape", "E640", swapped("weights.safetensors", b'"shape":[4]', b'"shape":444')),
        Fault("X2", "twice", "E640", swapped("weights.safetensors", b'"z"', b'"w"')),
        Fault("X7", "description", "E633", _otherwise_described),
        Fault("X5", "ptx", "E632", lambda: with_file("images/sm_90.ptx", b".version 8.0 \xe9\n")),
        Fault("X6", "name", "E641", swapped("tests/0000.safetensors", b"in/x", b"in/y")),
        Fault("X6", "neither", "E641", swapped("tests/0000.safetensors", b"out/out", b"put/out")),
        Fault("X6", "output", "E641", swapped("tests/0000.safetensors", b"out/out", b"out/oot")),
        Fault("X6", "short", "E640", lambda: with_file("tests/0000.safetensors", b"abc")),
        Fault("X6", "deep", "E640", headed('{"a":' + "[" * 17 + "]" * 17 + "}")),
        Fault("X6", "metadata", "E640", headed('{"__metadata__":[1]}')),
        Fault("X6", "large", "E640", headed(entry % "4611686018427387903,4")),
        Fault("X6", "file", "E640", lambda: with_file("tests/0000.safetensors", test[:-1])),
    ]


def all_faults() -> list[Fault]:
    """Every fault, those of section 3 included, in order of rule and name."""
    from tests.bundle.faults_together import together

    found = [*_container(), *_signatures(), *_json(), *_fields(), *together(), *_images(), *_contents()]
    return sorted(found, key=lambda fault: (fault.rule[0], int(fault.rule[1:]), fault.name))

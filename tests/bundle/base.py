"""A bundle of a few kilobytes with one of everything that the format knows, and variants of it with right digests."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from functools import cache
from typing import Any

import numpy as np

from tessera_runtime.bundle import BundleFile
from tessera_runtime.core import container, ed25519
from tessera_runtime.core.manifest import (
    Arg,
    Buffer,
    Capability,
    Copy,
    Function,
    Guard,
    Input,
    Kernel,
    Launch,
    Output,
    Param,
    Plan,
    Provenance,
    Source,
    Symbol,
    Target,
)  # fmt: skip
from tessera_runtime.signature import message
from tesseracc.bundle import Contents, TestCase, write

Json = Any
SEEDS = (bytes(range(32)), bytes(range(100, 132)))
KEYS = tuple(sorted(ed25519.public_key(seed) for seed in SEEDS))

# Offsets in `image`
PROGRAM_HEADERS, SYMBOLS, STRINGS, HASH, DYNAMIC, CODE = 64, 176, 224, 236, 256, 352


def image() -> bytes:
    """The smallest CPU image: one function, `scale`, whose body is `ret`."""
    code = b"\xc3".ljust(16, b"\xcc")
    size = CODE + len(code)
    parts = [
        struct.pack(
            "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, 62, 1, 0, PROGRAM_HEADERS, 0, 0, 64, 56, 2, 0, 0, 0
        ),
        struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, size, size, 4096),
        struct.pack("<IIQQQQQQ", 2, 4, DYNAMIC, DYNAMIC, DYNAMIC, 96, 96, 8),
        bytes(24) + struct.pack("<IBBHQQ", 1, 0x12, 0, 1, CODE, 1),
        b"\0scale\0".ljust(12, b"\0"),
        struct.pack("<5I", 1, 2, 1, 0, 0),
        struct.pack("<12Q", 4, HASH, 5, STRINGS, 6, SYMBOLS, 10, 12, 11, 24, 0, 0),
        code,
    ]
    return b"".join(parts)


def _kernel(group: int) -> Kernel:
    n4: Any = (("N",), 4)
    params = (
        Param("scalar", "f32"), Param("buffer", "f32", "read", n4), Param("buffer", "f32", "read", (4,)),
        Param("buffer", "f32", "write", n4), Param("dim", "i64"),
    )  # fmt: skip
    grid: Any = (("N", 2, "ceildiv"), 1, 1)
    return Kernel("scale", "scale", params, ("N",), grid, 0, group=group, source=Source("m.py", 7))


def _plans() -> tuple[Plan, ...]:
    n4: Any = (("N",), 4)
    args = (Arg(scalar="a"), Arg(buffer=0), Arg(buffer=1), Arg(buffer=2), Arg(dim=("N",)))
    buffers = (Buffer("input", "x", "f32", n4), Buffer("constant", "w", "f32", (4,)), Buffer("temp", "", "f32", n4),
               Buffer("output", "out", "f32", n4))  # fmt: skip
    return (
        Plan("scale", buffers, (Launch(0, (("N", 2, "ceildiv"), 1, 1), args), Copy(2, 3))),
        Plan("same", (Buffer("input", "y", "i32", (("M", 2, "mul"),)),), ()),
    )


@cache
def base() -> bytes:
    """The bundle, not signed."""
    n4: Any = (("N",), 4)
    functions = (
        Function("scale", "a * x + w\nfor each row", (Symbol("N", "x", 0),),
                 (Input("x", "tensor", "f32", n4), Input("a", "scalar", "f32")), (Output("out", "f32", n4),),
                 (Guard((1000, "N", "sub"), "ge", "N <= 1000"),)),
        Function("same", "", (Symbol("K", "k", -1), Symbol("M", "y", 0, 2)),
                 (Input("y", "tensor", "i32", (("M", 2, "mul"),), True), Input("k", "scalar", "i64")),
                 (Output("y", "i32", (("M", 2, "mul"),), "y"),)),
    )  # fmt: skip
    targets = (
        Target("cpu-v1", "cpu", "elf", "images/cpu.elf", 1, (_kernel(1),), _plans(), "x86-64", ("sse2",)),
        Target("sm_90", "cuda", "cubin", "images/sm_90.cubin", 5, (_kernel(32),), _plans(),
               capability=Capability(9, 0, "minor"), ptx="images/sm_90.ptx"),
    )  # fmt: skip
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    images = {
        "images/cpu.elf": image(),
        "images/sm_90.cubin": b"\x7fELF a cubin",
        "images/sm_90.ptx": b".version 8.0\n",
    }
    weights = {"w": np.array([0.5, -1.25, 3, 7], np.float32), "z": np.ones(3, np.int8)}
    tests = (TestCase("one", "scale", {"x": x, "a": np.float32(2)}, {"out": 2 * x + weights["w"]}, rtol="1e-6"),)
    made = Provenance("0.1.0", "", "", ("--arch=cpu",), "ab" * 32)
    return write(None, Contents(functions, targets, images, weights, provenance=made, tests=tests))


@cache
def parts() -> tuple[str, dict[str, bytes]]:
    """The manifest's text and the entries that it lists."""
    file = BundleFile(base())
    found = {entry.name: bytes(file.raw(entry.name)) for entry in file.manifest.entries}
    return bytes(file.raw("manifest.json")).decode(), found


def document() -> Json:
    """The manifest as JSON, to be changed."""
    return json.loads(parts()[0])


def spell(value: Json) -> bytes:
    """Canonical JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def signatures(text: bytes, seeds: tuple[bytes, ...] = SEEDS) -> bytes:
    """The data of `tsb.signatures` for a manifest."""
    signed = message(hashlib.sha256(text).hexdigest())
    return b"".join(sorted(ed25519.public_key(seed) + ed25519.sign(seed, signed) for seed in seeds))


def build(
    value: Json | bytes,
    files: dict[str, bytes] | None = None,
    *,
    signed: bytes = b"",
    rehash: bool = True,
    **header: Any,
) -> bytes:
    """A container with right digests, checksums and places around any manifest: what an attacker would write.

    `rehash` puts the digests and sizes of `files` into the manifest's entries. `header` overrides fields.
    """
    given = dict(parts()[1] if files is None else files)
    if not isinstance(value, bytes) and rehash:
        for entry in value["entries"]:
            data = given.get(entry["name"])
            if data is not None:
                step = range(0, len(data), 4 << 20)
                entry["size"], entry["sha256"] = (
                    len(data),
                    [hashlib.sha256(data[i : i + (4 << 20)]).hexdigest() for i in step],
                )
    text = value if isinstance(value, bytes) else spell(value)
    given["manifest.json"] = text
    count = len(signed) // 96
    laid, end = container.lay_out(container.in_order({name: len(data) for name, data in given.items()}, count))
    where = next(place for place in laid if place.name == "manifest.json")
    size = sum(len(container.central(place, 0)) for place in laid)
    tail = container.end_records(len(laid), end, size)
    fields = {
        "file_size": end + size + len(tail), "manifest_offset": where.data, "manifest_size": where.size,
        "manifest_sha256": hashlib.sha256(text).digest(), "targets": ("cpu-v1", "sm_90"), "signatures": count,
    }  # fmt: skip
    given["tsb.header"] = container.Header(**{**fields, **header}).pack()
    given["tsb.signatures"] = signed
    crc = {name: zlib.crc32(data) for name, data in given.items()}
    pieces = [container.padded_local_header(p, crc[p.name]) + given[p.name] for p in laid]
    return b"".join([*pieces, *(container.central(p, crc[p.name]) for p in laid), tail])


@cache
def signed_base() -> bytes:
    """The bundle with two signatures."""
    text = parts()[0].encode()
    return build(text, signed=signatures(text))

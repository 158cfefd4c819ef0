"""Damaged and hostile bundles: mutant number i of a bundle is the same bytes everywhere, for ever.

Half of the mutants change bytes of the file and leave digests as they are; the other half are changed inside and put
together again with every digest, checksum, size and place right, so that parsers and checks see them.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
import struct
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

from tessera_runtime.bundle import BundleFile
from tests.bundle.base import build, signatures, spell

Json = Any
Rng = random.Random

NUMBERS = [0, 1, 2, 3, 4, 7, 8, 16, 63, 64, 65, 127, 128, 255, 256, 4095, 4096, 65535, 65536, (1 << 31) - 1, 1 << 31,
           (1 << 32) - 1, 1 << 32, (1 << 62), (1 << 63) - 1, 1 << 63, (1 << 64) - 1]  # fmt: skip
VALUES: list[Json] = [0, 1, 2, 3, -1, 7, 64, 1 << 20, 1 << 62, 1 << 70, "", "x", "N", "f32", "i64", "add", [], {}, None,
                      True, False, ["N"], [3], ["N", 2, "mul"], ["N", 0, "floordiv"], "\ud800", "a" * 300]  # fmt: skip


class Mutant(NamedTuple):
    """`kind`: raw, or what was changed inside: plan, manifest, text, weights, tests, image, signatures, entries.

    `beside`: the files with the weights of a detached bundle, if they are not the original's.
    """

    kind: str
    data: bytes
    beside: Mapping[str, bytes] = {}


class Opened(NamedTuple):
    """A bundle taken apart."""

    data: bytes
    text: bytes
    files: dict[str, bytes]
    kinds: dict[str, str]
    signed: bytes
    detached: bool


@cache
def opened(data: bytes, folder: str | None) -> Opened:
    file = BundleFile(data, weights=folder)
    files = {entry.name: bytes(file.raw(entry.name)) for entry in file.manifest.entries}
    kinds = {entry.name: entry.kind for entry in file.manifest.entries}
    signed = b"".join(signature.key + signature.value for signature in file.signatures)
    return Opened(data, bytes(file.raw("manifest.json")), files, kinds, signed, file.header.detached)


def mutant(data: bytes, seed: int, number: int, folder: str | None = None) -> Mutant:
    """The mutant of that number; `folder` is where the weights of a detached bundle lie."""
    rng = random.Random(f"{seed}/{number}")
    whole = opened(data, folder)
    if number % 2 == 0:
        return _beside(whole, rng, False) if whole.detached and rng.random() < 0.1 else Mutant("raw", _raw(data, rng))
    kind, change = rng.choices(_INSIDE, _WEIGHTS)[0]
    if kind == "weights" and whole.detached:
        return _beside(whole, rng, True)
    return Mutant(kind, change(whole, rng))


def _beside(whole: Opened, rng: Rng, rehash: bool) -> Mutant:
    """A file of weights beside the bundle changed; with `rehash` under its new name, which the manifest gives."""
    value = json.loads(whole.text)
    entry = rng.choice([entry for entry in value["entries"] if entry["kind"] == "weights"])
    old = whole.files[entry["name"]]
    if not rehash:
        new = old
        while new == old:
            new = rng.choice((flip, overwrite, splice, cut))(old, rng)
        return Mutant("raw", whole.data, {_file_of(entry): new})
    head = old[: rng.choice((64, 512, len(old)))]
    new = (rng.choice((flip, overwrite, overwrite, splice, cut))(head, rng) + old[len(head) :]) or b"\0"
    step = range(0, len(new), 4 << 20)  # the format's chunks
    entry["size"], entry["sha256"] = len(new), [hashlib.sha256(new[i : i + (4 << 20)]).hexdigest() for i in step]
    data = _put(whole, value, whole.files, targets=_targets(value, ()))
    return Mutant("weights", data, {_file_of(entry): new})


def _file_of(entry: Json) -> str:
    """The name of the file that holds an entry of weights (X8)."""
    return hashlib.sha256(bytes.fromhex("".join(entry["sha256"]))).hexdigest() + ".safetensors"


def _put(whole: Opened, value: Json | bytes, files: dict[str, bytes], **options: Any) -> bytes:
    """A bundle with right digests and places, without its weights if the original has none."""
    if whole.detached:
        files = {name: data for name, data in files.items() if whole.kinds.get(name) != "weights"}
        options["detached"] = True
    return build(value, files, **{"signed": whole.signed, **options})


# --- bytes of the file ------------------------------------------------------------------------------------------------


def _spot(data: bytes, rng: Rng) -> int:
    """A place in the file; often in the parts that are structure: the beginning, the end, and around local headers."""
    choice = rng.random()
    if choice < 0.35:
        return rng.randrange(len(data))
    if choice < 0.5:
        return rng.randrange(min(2400, len(data)))
    if choice < 0.7:
        return len(data) - 1 - rng.randrange(min(800, len(data)))
    marks = [at for mark in (b"PK\3\4", b"PK\1\2", b'{"constants"', b"\x7fELF") for at in _finds(data, mark)]
    return min(rng.choice(marks or [0]) + rng.randrange(96), len(data) - 1)


@cache
def _finds(data: bytes, mark: bytes) -> tuple[int, ...]:
    found, at = [], data.find(mark)
    while at >= 0:
        found.append(at)
        at = data.find(mark, at + 1)
    return tuple(found)


def flip(data: bytes, rng: Rng) -> bytes:
    """One to eight single bits."""
    new = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        new[_spot(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(new)


def overwrite(data: bytes, rng: Rng) -> bytes:
    """A number of 1 to 8 bytes, such as a size or a count at its limit, or one near the old."""
    at, size = _spot(data, rng), rng.choice((1, 2, 4, 8))
    old = int.from_bytes(data[at : at + size], "little")
    value = rng.choice(NUMBERS) if rng.random() < 0.6 else old + rng.choice((-64, -4, -1, 1, 4, 64))
    return data[:at] + (value % (1 << (8 * size))).to_bytes(size, "little") + data[at + size :]


def cut(data: bytes, rng: Rng) -> bytes:
    """Shorter or longer at the end, or shorter at the beginning."""
    choice = rng.random()
    if choice < 0.6:
        return data[: rng.randrange(len(data))]
    if choice < 0.8:
        return data + rng.randbytes(rng.choice((1, 4, 22, 64, 4096)))
    return data[rng.randrange(1, 200) :]


def splice(data: bytes, rng: Rng) -> bytes:
    """A piece removed, repeated, moved, overwritten by another, or zeroed."""
    a, length = _spot(data, rng), rng.choice((1, 2, 4, 16, 30, 46, 64, 200, 4096))
    b = _spot(data, rng)
    piece = data[b : b + length]
    choice = rng.randrange(5)
    if choice == 0:
        return data[:a] + data[a + length :]
    if choice == 1:
        return data[:a] + piece + data[a:]
    if choice == 2:
        return data[:a] + piece + data[a + len(piece) :]
    if choice == 3:
        return data[:a] + bytes(length) + data[a + length :]
    return data[:a] + rng.randbytes(length) + data[a + length :]


def zip_trick(data: bytes, rng: Rng) -> bytes:
    """What confuses readers of ZIP files: records twice, missing or out of order, comments, prefixes, two archives."""
    records = _finds(data, b"PK\1\2")
    first, end = (records or (len(data) - 22,))[0], data.rfind(b"PK\5\6")
    pieces = [data[a:b] for a, b in zip(records, [*records[1:], end], strict=True)]
    choice = rng.randrange(9)
    if choice == 0:
        pieces.append(rng.choice(pieces))
    elif choice == 1:
        pieces.remove(rng.choice(pieces))
    elif choice == 2:
        rng.shuffle(pieces)
    elif choice == 3:
        return data[:-2] + struct.pack("<H", 5) + b"hello"
    elif choice == 4:
        return rng.randbytes(rng.choice((1, 64, 4096))) + data
    elif choice == 5:
        return data + data
    elif choice == 6:
        return data[:first] + data
    elif choice == 7:  # a ZIP64 record where none belongs
        wide = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, len(pieces), len(pieces), end - first, first)
        return data[:end] + wide + struct.pack("<IIQI", 0x07064B50, 0, end, 1) + data[end:]
    else:
        name = rng.choice((b"../../x", b"/etc/passwd", b"a\\b", b"A", b"manifest.json", b"tsb.header"))
        at = rng.choice(_finds(data, b"PK\3\4")) + 30
        return data[:at] + name + data[at + len(name) :]
    directory = b"".join(pieces)
    tail = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, len(pieces), len(pieces), len(directory), first, 0)
    return data[:first] + directory + tail


_RAW = (flip, flip, flip, overwrite, overwrite, cut, splice, splice, zip_trick)


def _raw(data: bytes, rng: Rng) -> bytes:
    new = data
    while new == data:
        new = rng.choice(_RAW)(data, rng)
    return new


# --- inside, with digests ---------------------------------------------------------------------------------------------


def _spots(value: Json) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    found, stack = [], [value]
    while stack:
        item = stack.pop()
        for key in list(item) if isinstance(item, dict) else range(len(item)):
            found.append((item, key))
            if isinstance(item[key], (dict, list)):
                stack.append(item[key])
    return found


def _change(value: Json, rng: Rng) -> None:
    """One change somewhere in a JSON value: deep places and shallow ones equally often by their number."""
    holder, key = rng.choice(_spots(value))
    old = holder[key]
    choice = rng.randrange(10)
    if choice < 2:
        holder[key] = rng.choice(VALUES)
    elif choice < 5:  # of the same type
        if isinstance(old, bool):
            holder[key] = not old
        elif isinstance(old, int):
            holder[key] = rng.choice((old + 1, old - 1, old * 2, old // 2, old + 64, *NUMBERS))
        elif isinstance(old, str):
            words = [h[k] for h, k in _spots(value) if isinstance(h[k], str)]
            holder[key] = rng.choice(words)
        elif isinstance(old, list) and old:
            at = rng.randrange(len(old))
            holder[key] = rng.choice((old[:at], old[:at] + old[at + 1 :], [*old[: at + 1], *old[at:]], old[::-1]))
    elif choice < 7:  # another part of the same kind, from elsewhere in the manifest
        alike = [h[k] for h, k in _spots(value) if type(h[k]) is type(old) and h[k] != old]
        if isinstance(old, dict):
            alike = [item for item in alike if item.keys() == old.keys()]
        if alike:
            holder[key] = copy.deepcopy(rng.choice(alike))
    elif choice == 7 and isinstance(holder, list):
        other = rng.randrange(len(holder))
        holder[key], holder[other] = holder[other], holder[key]
    elif choice == 8 and isinstance(holder, list):
        holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(old))
    else:
        del holder[key]


def _targets(value: Json, default: tuple[str, ...]) -> tuple[str, ...]:
    """The target names for the header, where they can be spelled there."""
    try:
        names = tuple(str(target["name"]) for target in value["targets"])
        return names if len(names) <= 64 and all(n.isascii() and len(n) <= 32 for n in names) else default
    except (TypeError, KeyError):
        return default


def _build(whole: Opened, value: Json, files: dict[str, bytes]) -> bytes:
    """Put together as well as it goes, under the old signatures; entries that were renamed keep their data."""
    default = tuple(target["name"] for target in json.loads(whole.text)["targets"])
    targets = _targets(value, default)
    try:
        names = [entry["name"] for entry in value["entries"]]
        if all(isinstance(n, str) and n.isascii() and 0 < len(n) < 300 for n in names) and len(names) == len(files):
            files = dict(zip(names, files.values(), strict=True))
        data = _put(whole, value, files, targets=targets, rehash=False)
    except (TypeError, KeyError, ValueError, AttributeError, struct.error):
        data = _put(whole, spell(value), whole.files, targets=targets)
    return data


def _manifest(whole: Opened, rng: Rng) -> bytes:
    value = json.loads(whole.text)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if _spots(value):
            _change(value, rng)
    return _build(whole, value, whole.files)


def _extents(value: Json) -> list[tuple[Any, Any]]:
    """Where functions and plans (not kernels) have extents: shapes, grids, dim arguments, guards."""
    found: list[tuple[Any, Any]] = []
    for function in value["functions"]:
        found += [
            (item["shape"], i)
            for part in ("inputs", "outputs")
            for item in function[part]
            for i in range(len(item["shape"]))
        ]
        found += [(guard, "expr") for guard in function["guards"]]
    for plan in (plan for target in value["targets"] for plan in target["plans"]):
        found += [(buffer["shape"], i) for buffer in plan["buffers"] for i in range(len(buffer["shape"]))]
        for step in plan["steps"]:
            if step["op"] == "launch":
                found += [(step["grid"], i) for i in range(3)]
                found += [(arg, "dim") for arg in step["args"] if arg["dim"] is not None]
    return found


def _extent(value: Json, old: Json, rng: Rng) -> Json:
    """Another extent than `old`: a number near it, an expression from elsewhere, or the old one in some arithmetic."""
    choice = rng.randrange(4)
    if choice == 0:
        return rng.choice((0, 1, 2, 5, 8, 13, 64, 4096, 1 << 40, (1 << 63) - 1))
    if choice == 1:
        return copy.deepcopy(rng.choice([holder[key] for holder, key in _extents(value)]))
    base = old if isinstance(old, list) else [old]
    number = rng.choice((0, 1, 2, 3, 128, 1 << 62))
    return [*base, number, rng.choice(("add", "sub", "mul", "floordiv", "ceildiv", "mod", "min", "max"))]


def _control(step: Json, buffers: int, rng: Rng) -> None:
    """A branch, when, repeat, loop or a copy of rows, changed in one place."""
    key = rng.choice([name for name in step if name != "op"])
    if key in ("on", "src", "dst"):
        step[key] = rng.randrange(buffers)
    elif key == "reverse":
        step[key] = not step[key]
    elif key in ("count", "unless"):
        old = step[key] if isinstance(step[key], list) else [1]
        step[key] = rng.choice((0, 1, 2, 3, 7, 1 << 20, [*old, 1, "add"]))
    else:  # the length of a block
        step[key] = max(0, step[key] + rng.choice((-2, -1, 1, 2, 5)))


def _plan(whole: Opened, rng: Rng) -> bytes:
    """Well-typed changes of functions and plans, made in all the places that must agree: what only the plan's checks,
    at loading or when a call has its extents, can refuse."""
    value = json.loads(whole.text)
    plans = [plan for target in value["targets"] for plan in target["plans"]]
    for _ in range(rng.choice((1, 1, 2, 3))):
        choice, plan = rng.randrange(11), rng.choice(plans)
        steps, buffers = plan["steps"], plan["buffers"]
        launches = [step for step in steps if step["op"] == "launch"]
        if choice <= 2 and (spots := _extents(value)):  # an extent, here or wherever it stands
            holder, key = rng.choice(spots)
            old = copy.deepcopy(holder[key])
            new = _extent(value, old, rng)
            for h, k in spots if choice else [(holder, key)]:
                if h[k] == old:
                    h[k] = copy.deepcopy(new)
        elif choice == 3 and (symbols := [s for f in value["functions"] for s in f["symbols"]]):
            symbol, part = rng.choice(symbols), rng.choice(("axis", "scale", "offset"))
            symbol[part] = max(-1, symbol[part] + rng.choice((-1, 1, 2, -5, 7)))
        elif choice == 4 and launches:
            arg = rng.choice(rng.choice(launches)["args"] or [{"buffer": None}])
            if arg["buffer"] is not None:
                arg["buffer"] = rng.randrange(len(buffers))
        elif choice == 5 and steps:
            at, to = rng.randrange(len(steps)), rng.randrange(len(steps) + 1)
            steps.insert(to, copy.deepcopy(steps[at]) if rng.random() < 0.5 else steps.pop(at))
        elif choice == 6 and buffers and steps:
            found = {"op": "copy", "src": rng.randrange(len(buffers)), "dst": rng.randrange(len(buffers))}
            steps[rng.randrange(len(steps))] = found
        elif choice >= 9 and (control := [step for step in steps if step["op"] not in ("launch", "copy")]):
            _control(rng.choice(control), len(buffers), rng)
        elif choice == 7 and launches:
            rng.choice(launches)["kernel"] = rng.randrange(4)
        elif choice == 8:
            one, two = rng.choice(plans), rng.choice(plans)
            one["steps"], two["steps"] = two["steps"], one["steps"]
    return _build(whole, value, whole.files)


def _text(whole: Opened, rng: Rng) -> bytes:
    """The manifest's text: bytes, and what JSON parsers disagree about."""
    text = whole.text
    at = rng.randrange(len(text))
    tricks: list[Callable[[], bytes]] = [
        lambda: flip(text, rng),
        lambda: cut(text, rng),
        lambda: (
            text[:at]
            + rng.choice((b" ", b"\n", b"\0", b"\xc3\xa9", b"\xff", b'"', b"{", b"[", b",", b"\\u0041"))
            + text[at:]
        ),
        lambda: text[:-1] + b"," + text[1:],  # every key twice
        lambda: text.replace(
            b":0", rng.choice((b":0.0", b":-0", b":00", b":1e0", b":NaN", b":" + b"9" * 60, b":true")), 1
        ),
        lambda: text[:at] + b"[" * rng.choice((17, 1000, 100_000)) + text[at:],
        lambda: text.replace(b"a", b"\\u0061", 1),
        lambda: text[: text.rindex(b"}")] + b',"zz":' + b"[" * 20 + b"]" * 20 + b"}",
        lambda: rng.choice((b"", b"null", b"[]", b"{}", b"0", b'""', b"[" * 200_000, b'{"a":' * 90_000)),
    ]
    return _put(whole, rng.choice(tricks)(), whole.files, targets=_targets(json.loads(text), ()))


def _bytes_of(kind: str) -> Callable[[Opened, Rng], bytes]:
    def change(whole: Opened, rng: Rng) -> bytes:
        names = [name for name, found in whole.kinds.items() if found == kind]
        if not names:
            return _manifest(whole, rng)
        name = rng.choice(names)
        old = whole.files[name]
        head = old[: rng.choice((64, 512, len(old)))] or b"\0"
        new = rng.choice((flip, overwrite, overwrite, splice, cut))(head, rng) + old[len(head) :]
        return _replaced(whole, {**whole.files, name: new or b"\0"})

    return change


def _replaced(whole: Opened, files: dict[str, bytes]) -> bytes:
    value = json.loads(whole.text)
    return _put(whole, value, files, targets=_targets(value, ()))


def _entries(whole: Opened, rng: Rng) -> bytes:
    """Data of two entries exchanged, or one emptied, repeated or doubled."""
    a, b = rng.choice(list(whole.files)), rng.choice(list(whole.files))
    files = dict(whole.files)
    choice = rng.randrange(3)
    if choice == 0:
        files[a], files[b] = files[b], files[a]
    elif choice == 1:
        files[a] = files[a] * 2
    else:
        files[a] = bytes(rng.choice((1, 8, 64, 65536)))
    return _replaced(whole, files)


def _signed(whole: Opened, rng: Rng) -> bytes:
    signed = whole.signed or signatures(whole.text)
    new = rng.choice((flip, overwrite, splice))(signed, rng)
    new = new.ljust(-(-len(new) // 96) * 96, b"\0")[: 96 * 64]
    return _put(whole, whole.text, whole.files, signed=new, targets=_targets(json.loads(whole.text), ()))


_INSIDE = [("plan", _plan), ("manifest", _manifest), ("text", _text), ("weights", _bytes_of("weights")),
           ("tests", _bytes_of("tests")), ("image", _bytes_of("code")), ("entries", _entries),
           ("signatures", _signed)]  # fmt: skip
_WEIGHTS = [35, 30, 10, 6, 4, 10, 3, 2]

"""Every MUST of the manifest, behind correct digests: canonical JSON, fields, versions, parts that fit together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest

from tests.bundle.forge import Json, code_of, entry_data, files, rebuild, spell, value, with_manifest


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

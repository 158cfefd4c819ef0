"""The writer: the same bytes for the same contents, readable by any ZIP tool, all or nothing on disk."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load as reference_load

from tessera_runtime.bundle import BundleFile
from tessera_runtime.core import container, manifest
from tessera_runtime.core.errors import BundleError, TesseraError, UsageError
from tesseracc.bundle import write
from tests.runtime.support import bundle_bytes, contents, cpu_target, functions


def test_same_contents_same_bytes(tmp_path: Path) -> None:
    constants = {"b": np.arange(3.0), "a": np.arange(4, dtype=np.int8)}
    backwards = dict(reversed(constants.items()))
    first = write(tmp_path / "one.tsb", contents(constants={**constants, "w": np.ones(5, np.float32)}))
    second = write(None, contents(constants={"w": np.ones(5, np.float32), **backwards}))
    assert first == second == (tmp_path / "one.tsb").read_bytes()


def test_any_zip_tool_reads_it() -> None:
    with zipfile.ZipFile(io.BytesIO(bundle_bytes())) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert names[0] == "tsb.header" and names[1:] == sorted(names[1:])
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        described = manifest.from_json(archive.read("manifest.json"))
        weights = reference_load(archive.read("weights.safetensors"))
        for constant in described.constants:
            raw = archive.read(constant.entry)[constant.offset : constant.offset + constant.size]
            assert raw == weights[constant.name].tobytes()


def test_alignment() -> None:
    big = np.random.default_rng(0).standard_normal(50_000).astype(np.float32)
    data = write(None, contents(constants={"w": np.ones(5, np.float32), "big": big, "c": np.ones(3, np.int8)}))
    assert data[container.HEADER_OFFSET : container.HEADER_OFFSET + 4] == b"\x89TSB"
    file = BundleFile(data)
    for place in file._places.values():
        assert place.data % (4096 if place.size >= container.LARGE else 64) == 0
    for constant in file.manifest.constants:
        assert constant.offset % 64 == 0
        address = np.frombuffer(file.constant(constant), np.uint8).ctypes.data
        assert address % 64 == 0
    found = next(c for c in file.manifest.constants if c.name == "big")
    np.testing.assert_array_equal(np.frombuffer(file.constant(found), np.float32), big)


def test_narrow_constants_from_raw_integers() -> None:
    w = np.arange(5, dtype=np.float32).astype(ml_dtypes.bfloat16)
    typed = write(None, contents(constants={"w": np.ones(5, np.float32), "v": w}))
    raw = write(
        None, contents(constants={"w": np.ones(5, np.float32), "v": w.view(np.uint16)}, constant_dtypes={"v": "bf16"})
    )
    assert typed == raw
    for arrays, dtypes in (({"v": w}, {"v": "f32"}), ({"~1": np.ones(3)}, {})):
        with pytest.raises(BundleError) as caught:
            write(None, contents(constants={"w": np.ones(5, np.float32), **arrays}, constant_dtypes=dtypes))
        assert caught.value.code == "E640"


def test_a_constant_of_several_chunks_and_an_empty_one() -> None:
    big = np.random.default_rng(1).integers(0, 255, 9 << 20, dtype=np.uint8)
    data = write(
        None, contents(constants={"w": np.ones(5, np.float32), "big": big, "none": np.empty((0, 3), np.float32)})
    )
    file = BundleFile(data, verify_weights=True)
    constants = {c.name: c for c in file.manifest.constants}
    assert bytes(file.constant(constants["big"])) == big.tobytes() and len(file.constant(constants["none"])) == 0
    entry = next(e for e in file.manifest.entries if e.kind == "weights")
    assert len(entry.sha256) == 3


def test_nothing_is_left_behind_when_writing_fails(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        write(tmp_path / "no" / "m.tsb", contents())
    assert caught.value.code == "E803" and caught.value.exit_code == 2
    (tmp_path / "folder.tsb").mkdir()
    with pytest.raises(UsageError):
        write(tmp_path / "folder.tsb", contents())
    assert os.listdir(tmp_path) == ["folder.tsb"]
    old = tmp_path / "old.tsb"
    old.write_bytes(b"old")
    with pytest.raises(TesseraError):
        write(old, contents(images={}))
    assert old.read_bytes() == b"old"


def test_zip64(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the 32-bit limit moved down, every ZIP64 record is written; Python's zipfile reads them."""
    monkeypatch.setattr(container, "_LIMIT16", 3)
    plain = BundleFile(write(None, contents()))
    with zipfile.ZipFile(io.BytesIO(bytes(plain._view))) as archive:
        assert archive.testzip() is None and len(archive.namelist()) == 6
    place = container.Place("weights.safetensors", 5 << 30, (5 << 30) + 4096, 6 << 30)
    local = container.padded_local_header(place._replace(header=place.data - 128), 7)
    assert local[4:6] == b"\x2d\x00" and local[18:26] == b"\xff" * 8 and (6 << 30).to_bytes(8, "little") * 2 in local
    record = container.central(place, 7)
    assert record.endswith((6 << 30).to_bytes(8, "little") * 2 + (5 << 30).to_bytes(8, "little"))
    end = container.end_records(3, 11 << 30, 400)
    assert end.startswith(b"PK\x06\x06") and end[56:60] == b"PK\x06\x07" and end[-22:-18] == b"PK\x05\x06"


def test_the_writer_refuses_contents_that_contradict_themselves() -> None:
    for changes in (
        {"images": {}},
        {"functions": functions()[:2]},
        {"targets": (cpu_target(kernels=()),)},
        {"constants": {}},
    ):
        with pytest.raises(BundleError) as caught:
            write(None, contents(**changes))
        assert caught.value.code == "E623"


def test_manifest_round_trip() -> None:
    described = BundleFile(bundle_bytes()).manifest
    text = manifest.to_json(described)
    assert manifest.from_json(text) == described and manifest.to_json(manifest.from_json(text)) == text
    assert b"." not in text.replace(b".safetensors", b"").replace(b".elf", b"").replace(b".py", b"").replace(
        b"0.1.0", b""
    )


def test_records_are_immutable_values() -> None:
    a, b = manifest.Source("m.py", 3), manifest.Source(line=3, file="m.py")
    assert (
        a == b and hash(a) == hash(b) and a != manifest.Source("m.py", 4) and repr(a) == "Source(file='m.py', line=3)"
    )
    assert manifest.Symbol("N", "x", 0).scale == 1
    for change in (lambda: setattr(a, "line", 4), lambda: delattr(a, "line")):
        with pytest.raises(AttributeError):
            change()
    for args, kwargs in (
        (("m.py",), {}),
        (("m.py", 3, 4), {}),
        (("m.py", 3), {"column": 1}),
        (("m.py", 3), {"line": 3}),
    ):
        with pytest.raises(TypeError):
            manifest.Source(*args, **kwargs)

"""Writing files: whole or not at all, through links, into pipes, and never in place of a device."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from tessera_runtime.core.errors import UsageError
from tessera_runtime.core.files import write_atomic
from tesseracc.textio import write_bytes


def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    """As `-o /dev/null` and `-o /dev/stdout` are, which root could replace by a file."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for write in (write_bytes, write_atomic):
        got: list[bytes] = []
        reader = threading.Thread(target=lambda got=got: got.append(pipe.read_bytes()))
        reader.start()
        write(str(pipe), b"all of it")
        reader.join(10)
        assert got == [b"all of it"] and stat.S_ISFIFO(pipe.stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_link_stays(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link, target = tmp_path / "latest", tmp_path / "there" / "v1"
    link.symlink_to(target)
    for data in (b"first", b"second"):  # what the link points to does not exist at first
        write_bytes(link, data)
        assert link.is_symlink() and target.read_bytes() == data and not target.is_symlink()
    assert os.listdir(tmp_path / "there") == ["v1"]


def test_the_longest_name_and_the_mask(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    mask = os.umask(0o027)
    try:
        write_bytes(path, b"x")
        write_atomic(str(tmp_path / "key"), [b"k", b"ey"], mode=0o600)
    finally:
        os.umask(mask)
    assert path.read_bytes() == b"x" and path.stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "key").read_bytes() == b"key" and (tmp_path / "key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["", ".", "none/x", "file/x", "n" * 256])
def test_where_nothing_can_be_written(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"old")
    for write in (write_bytes, write_atomic):
        with pytest.raises(UsageError, match="E803"):
            write(name, b"x")
    assert os.listdir(tmp_path) == ["file"] and (tmp_path / "file").read_bytes() == b"old"

"""The build cache: the same bytes with it and without, whatever happens to it, also from many processes at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tesseracc.cache import Cache, Record, default_folder, key_of
from tesseracc.codegen import image
from tesseracc.recipe import Recipe, load_recipe
from tests.cli.run import Runner
from tests.cli.samples import MODEL, build, write_model

ROOT = Path(__file__).parents[2]
CPU = ("--arch", "x86-64-v2")


@pytest.fixture
def tesseracc(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One item for every time that code is made."""
    calls: list[int] = []
    original = image.build_images

    def counted(*args: object, **kwargs: object) -> object:
        calls.append(1)
        return original(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(image, "build_images", counted)
    return calls


def entries(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("??/*") if p.is_file())


def test_hit_gives_the_same(tesseracc: Runner, tmp_path: Path, compiled: list[int]) -> None:
    source, folder = write_model(tmp_path / "src"), tmp_path / "cache"
    plain = build(tesseracc, source, tmp_path / "a.tsb", *CPU, "--no-cache").read_bytes()
    use = (*CPU, "--cache-dir", folder)
    said = [tesseracc("build", source, *use, "-o", tmp_path / f"{i}.tsb", "--json") for i in range(2)]
    assert len(compiled) == 2 and len(entries(folder)) == 1
    assert all((tmp_path / f"{i}.tsb").read_bytes() == plain for i in range(2))
    first, second = (json.loads(s.out) for s in said)
    for told in (first, second):
        told.pop("seconds"), told.pop("bundle")
    assert (first.pop("cached"), second.pop("cached")) == (False, True)
    assert first == second and first["notes"]
    elsewhere = write_model(tmp_path / "other" / "place")
    assert build(tesseracc, elsewhere, tmp_path / "b.tsb", *use).read_bytes() == plain and len(compiled) == 2
    said_now = tesseracc("build", source, *use, "--notes", "--timing", "-o", tmp_path / "c.tsb")
    assert said_now.err.endswith("the rest is from the build cache\n")
    assert len(compiled) == 2


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (MODEL.replace("seed=5", "seed=6"), ()),
        (MODEL.replace("ts.relu", "ts.abs"), ()),
        (MODEL + "\n# a comment\n", ()),
        ("\n" + MODEL, ()),
        (MODEL, ("--embed-tests",)),
        (MODEL, ("--entry", "model")),
        (MODEL, ("--arch", "x86-64-v3")),
    ],
)
def test_what_changes_the_bytes_changes_the_key(
    tesseracc: Runner, tmp_path: Path, compiled: list[int], model: str, options: tuple[str, ...]
) -> None:
    use = (*CPU, "--cache-dir", tmp_path / "cache")
    build(tesseracc, write_model(tmp_path / "a"), tmp_path / "a.tsb", *use)
    other = write_model(tmp_path / "b", model)
    found = build(tesseracc, other, tmp_path / "b.tsb", *use, *options).read_bytes()
    assert len(compiled) == 2
    assert found == build(tesseracc, other, tmp_path / "c.tsb", *CPU, *options, "--no-cache").read_bytes()


def test_data_that_a_module_reads_is_in_the_key(tesseracc: Runner, tmp_path: Path, compiled: list[int]) -> None:
    text = MODEL.replace("ts.randn(24, 12, seed=5)", "ts.tensor(np.load(pathlib.Path(__file__).with_name('w.npy')))")
    source = write_model(tmp_path / "src", "import pathlib\nimport numpy as np\n" + text)
    use = (*CPU, "--cache-dir", tmp_path / "cache")
    seen = set()
    for seed in (1, 2):
        np.save(tmp_path / "src" / "w.npy", np.random.default_rng(seed).standard_normal((24, 12)).astype(np.float32))
        seen.add(build(tesseracc, source, tmp_path / "m.tsb", *use).read_bytes())
    assert len(seen) == len(compiled) == 2


def test_damaged_entries_are_built_again(tesseracc: Runner, tmp_path: Path, compiled: list[int]) -> None:
    source, folder = write_model(tmp_path / "src"), tmp_path / "cache"
    use = (*CPU, "--cache-dir", folder)
    good = build(tesseracc, source, tmp_path / "m.tsb", *use).read_bytes()
    (path,) = entries(folder)
    entry = path.read_bytes()
    random = np.random.default_rng(3)
    damaged = [b"", entry[:40], entry[:-1], entry + b"\0", b"X" + entry[1:]]
    for at in random.integers(0, len(entry), 8):
        flipped = bytearray(entry)
        flipped[at] ^= 1 << int(random.integers(8))
        damaged.append(bytes(flipped))
    assert all(Record.unpack(data) is None for data in damaged)
    for count, data in enumerate(damaged[:4], 2):
        path.write_bytes(data)
        assert build(tesseracc, source, tmp_path / "m.tsb", *use).read_bytes() == good
        assert len(compiled) == count and path.read_bytes() == entry


def test_every_bit_of_an_entry_is_covered() -> None:
    record = Record(b"bundle bytes", [{"code": "W1"}], [{"message": "m", "file": "", "line": 0}])
    entry = record.pack()
    assert Record.unpack(entry) == record
    for at in range(8 * len(entry)):
        flipped = bytearray(entry)
        flipped[at // 8] ^= 1 << at % 8
        assert Record.unpack(bytes(flipped)) is None


@pytest.mark.parametrize("kind", ["pipe", "endless", "huge", "link", "dangling", "loop"])
def test_what_is_no_entry_makes_way(tmp_path: Path, kind: str) -> None:
    """Nobody waits for a pipe, reads without end, or writes where a link leads."""
    folder, key, other = Cache(tmp_path / "c"), "ab" * 32, tmp_path / "other"
    path = folder._path(key)
    path.parent.mkdir(parents=True)
    other.write_bytes(b"mine")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "huge":
        path.touch()
        os.truncate(path, 1 << 36)
    else:
        os.symlink({"endless": "/dev/zero", "link": other, "dangling": tmp_path / "none", "loop": path}[kind], path)
    assert folder.get(key) is None and not os.path.lexists(path)
    folder.put(key, Record(b"bundle"))
    assert folder.get(key) == Record(b"bundle")
    assert other.read_bytes() == b"mine" and not (tmp_path / "none").exists()


def test_a_lock_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    folder, other = Cache(tmp_path / "c"), tmp_path / "other"
    folder.folder.mkdir()
    other.write_bytes(b"mine")
    os.symlink(other, folder.folder / "ab.lock")
    with folder.locked("ab" * 32):
        assert other.read_bytes() == b"mine"
    assert other.read_bytes() == b"mine"


def test_a_cache_that_cannot_be_used_costs_nothing(tesseracc: Runner, tmp_path: Path) -> None:
    source = write_model(tmp_path / "src")
    (tmp_path / "file").write_text("")
    said = tesseracc("build", source, *CPU, "--cache-dir", tmp_path / "file" / "x", "-o", tmp_path / "m.tsb")
    assert said.code == 0 and (tmp_path / "m.tsb").is_file()
    said = tesseracc("build", source, *CPU, "--cache-dir", tmp_path / "file", "-o", tmp_path / "n.tsb")
    assert said.code == 2 and not (tmp_path / "n.tsb").exists()


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TESSERA_CACHE_DIR", "")
    assert default_folder() is None
    monkeypatch.setenv("TESSERA_CACHE_DIR", str(tmp_path / "t"))
    assert default_folder() == tmp_path / "t"
    monkeypatch.delenv("TESSERA_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert default_folder() == tmp_path / "x" / "tessera"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says its specification
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "tessera"


def test_it_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tesseracc.cache.LIMIT", 3500)
    cache = Cache(tmp_path / "cache")
    keys = [f"{i:02x}" + "0" * 62 for i in range(5)]
    for i, key in enumerate(keys[:3]):
        cache.put(key, Record(bytes(1000)))
        os.utime(cache.folder / key[:2] / key[2:], (i + 1, i + 1))
    assert cache.get(keys[0]) is not None  # now it is the one used last
    cache.put(keys[3], Record(bytes(1000)))
    assert [cache.get(key) is not None for key in keys] == [True, False, True, True, False]


def test_key_is_stable(tmp_path: Path) -> None:
    recipe = Recipe(("x86-64-v2",))
    a = load_recipe(str(write_model(tmp_path / "a")), recipe)
    b = load_recipe(str(write_model(tmp_path / "b")), recipe)
    assert key_of(a, recipe) == key_of(b, recipe) != key_of(a, Recipe(("x86-64-v3",)))


def started(source: Path, output: Path, folder: Path) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'runtime'}"}
    command = [sys.executable, "-m", "tesseracc", "build", str(source), *CPU, "-o", str(output)]
    command += ["--cache-dir", str(folder)]
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def test_a_stopped_build_is_named_and_holds_up_nobody(
    tesseracc: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever needs what a stopped process was to build says so, waits a while, and builds it; others hit that."""
    source, folder = write_model(tmp_path / "src"), tmp_path / "cache"
    recipe = Recipe(("x86-64-v2",))
    key = key_of(load_recipe(str(source), recipe), recipe)
    code = "import sys, time; from pathlib import Path; from tesseracc.cache import Cache\n"
    code += "with Cache(Path(sys.argv[1])).locked(sys.argv[2]): print(flush=True); time.sleep(600)"
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'runtime'}"}
    with subprocess.Popen([sys.executable, "-c", code, folder, key], env=env, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == b"\n"
            holder.send_signal(signal.SIGSTOP)
            monkeypatch.setattr("tesseracc.cache.NOTICE", 0.1)
            monkeypatch.setattr("tesseracc.cache.PATIENCE", 0.4)
            for said_of_it in (True, False):
                said = tesseracc("build", source, *CPU, "--cache-dir", folder, "-o", tmp_path / "m.tsb", "--json")
                assert said.code == 0 and json.loads(said.out)["functions"]
                notes = [line for line in said.err.splitlines() if f"process {holder.pid}" in line]
                assert [("waiting for" in line, "building beside" in line) for line in notes] == (
                    [(True, False), (False, True)] if said_of_it else []
                )
                assert not notes or all(str(folder / f"{key[:2]}.lock") in line for line in notes)
        finally:
            holder.kill()


def test_parallel_builds(tmp_path: Path) -> None:
    """Six processes at once on one cache, two programs: right bytes everywhere, one entry for each program."""
    folder = tmp_path / "cache"
    sources = [write_model(tmp_path / "a"), write_model(tmp_path / "b", MODEL.replace("ts.relu", "ts.abs"))]
    running = [started(sources[i % 2], tmp_path / f"{i}.tsb", folder) for i in range(6)]
    for process in running:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err.decode()
    bundles = [(tmp_path / f"{i}.tsb").read_bytes() for i in range(6)]
    assert bundles[0] == bundles[2] == bundles[4] != bundles[1] == bundles[3] == bundles[5]
    found = [Record.unpack(path.read_bytes()) for path in entries(folder)]
    assert {r.data for r in found if r} == set(bundles) and len(found) == 2


def test_killed_builds_leave_it_sound(tesseracc: Runner, tmp_path: Path) -> None:
    """SIGKILL at eight points of a build: afterwards every entry is whole, no lock is held, and a build is right."""
    source, folder = write_model(tmp_path / "src"), tmp_path / "cache"
    good = build(tesseracc, source, tmp_path / "good.tsb", *CPU, "--no-cache").read_bytes()
    for i in range(8):
        process = started(source, tmp_path / "m.tsb", folder)
        time.sleep(0.25 + 0.12 * i)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert all(Record.unpack(path.read_bytes()) for path in entries(folder) if not path.name.startswith("."))
        assert not (tmp_path / "m.tsb").exists() or (tmp_path / "m.tsb").read_bytes() == good
        if i == 3:
            for path in entries(folder):
                path.unlink()
    assert build(tesseracc, source, tmp_path / "n.tsb", *CPU, "--cache-dir", folder).read_bytes() == good

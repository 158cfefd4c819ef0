"""Bundles made to cost time or memory are refused soon; reading needs no writable file system; launches are held."""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tessera_runtime.api import load
from tessera_runtime.bundle import BundleFile
from tessera_runtime.core.errors import InputError, TesseraError
from tessera_runtime.core.schema import is_bounded
from tessera_runtime.devices.elf import read_symbols
from tessera_runtime.plan import instantiate
from tests.bundle.base import CODE, DYNAMIC, HASH, base, build, document, image, parts
from tests.bundle.campaign import GOLDEN
from tests.bundle.faults import patched
from tests.bundle.second_manifest import Refused, check_bounds
from tests.bundle.second_reader import read
from tests.bundle.test_corpus import first_reader

ROOT = Path(__file__).parents[2]

# Run in a process of its own with 1 GiB of address space: the seconds that refusing took, and the peak in MiB.
MEASURE = """
import resource, sys, time
from tessera_runtime.bundle import BundleFile
from tessera_runtime.core.errors import TesseraError
with open(sys.argv[1], "rb") as file:
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    begin = time.process_time()
    try:
        BundleFile(file.fileno())
        code = "ok"
    except TesseraError as error:
        code = error.code
    print(code, time.process_time() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
"""


def measured(path: Path) -> tuple[str, float, int]:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "runtime")}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    code, seconds, peak = done.stdout.split()
    return code, float(seconds), int(peak)


BOMBS: dict[str, Callable[[], bytes]] = {
    "lists": lambda: b"[" + b"[]," * (20 << 20) + b"[]]",
    "objects": lambda: b'{"a":[' + b"{}," * (20 << 20) + b"{}]}",
    "numbers": lambda: b"[" + b"0," * (31 << 20) + b"0]",
    "deep": lambda: b"[" * (32 << 20) + b"]" * (32 << 20),
    "digits": lambda: b'{"a":' + b"9" * (60 << 20) + b"}",
    "string": lambda: b'{"a":"' + b"x" * (60 << 20) + b'"}',
    "escapes": lambda: b'{"a":"' + b"\\u0041" * (10 << 20) + b'"}',
    "as many objects as allowed": lambda: b'{"a":[' + b"{}," * ((2 << 20) - 9) + b"{}]}",
    "as many strings as allowed": lambda: b'{"a":[' + b'"abc",' * ((2 << 20) - 9) + b'""]}',
    "quotes": lambda: b'"' * (60 << 20),
}


@pytest.mark.parametrize("name", sorted(BOMBS))
def test_manifests_of_64_mebibytes(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.tsb"
    path.write_bytes(build(BOMBS[name]()))
    code, seconds, peak = measured(path)
    assert code in ("E620", "E621") and seconds < 10 and peak < 900, (code, seconds, peak)


def test_many_functions_and_targets() -> None:
    """A large manifest without fault is read in time that grows with its size, not with its square."""
    took = []
    for count in (250, 1000):
        value = document()
        function, target = value["functions"][1], value["targets"][0]
        plan = target["plans"][1]
        value["functions"] += [{**function, "name": f"f{i}"} for i in range(count)]
        target["plans"] += [{**plan, "function": f"f{i}"} for i in range(count)]
        value["targets"] = [{**target, "name": f"t{i}"} for i in range(8)]
        value["entries"] = [e for e in value["entries"] if "sm_90" not in e["name"]]
        files = {name: data for name, data in parts()[1].items() if "sm_90" not in name}
        data = build(value, files, targets=tuple(f"t{i}" for i in range(8)))
        begin = time.process_time()
        BundleFile(data)
        took.append(time.process_time() - begin)
    assert took[1] < 10 * took[0] + 0.1, took


def test_symbol_tables_that_repeat_work() -> None:
    """200000 symbols whose names run to the end of a megabyte."""
    count, strings = 200_000, b"x" * (1 << 20)
    whole = image()
    table = bytes(24) + struct.pack("<IBBHQQ", 1, 0x12, 0, 1, CODE, 1) * (count - 1)
    data = whole.ljust(4096, b"\0") + strings + table
    data = patched(data, HASH + 4, struct.pack("<I", count))
    for at, number in ((24, 4096), (40, 4096 + len(strings)), (56, len(strings))):
        data = patched(data, DYNAMIC + at, struct.pack("<Q", number))
    begin = time.process_time()
    with pytest.raises(TesseraError) as caught:
        read_symbols(data, "x86-64")
    assert caught.value.code == "E630" and time.process_time() - begin < 2


def test_a_launch_is_held_against_its_kernel() -> None:
    """P1: grids, and the bytes of buffers, are those that the kernel declares."""
    names: list[tuple[str, Any, str]] = [
        ("", None, "ok"),
        ("targets.0.plans.0.steps.0.grid", [["N"], 1, 1], "E625"),
        ("targets.0.plans.0.steps.0.args.4.dim", ["N", 2, "mul"], "E625"),
        ("targets.0.plans.0.steps.0.dynamic_shared", 64, "E625"),
        ("targets.0.kernels.0.dynamic_shared", ["N", 8, "mul"], "E625"),
        ("targets.0.kernels.0.dynamic_shared", None, "ok"),
        ("targets.0.plans.0.steps.0.args.4.dim", ["N", 100, "sub"], "E710"),
        ("targets.0.plans.0.buffers.2.shape", [["N"], 3], "E625"),
        ("targets.0.plans.0.steps.0.args.2.buffer", 0, "E625"),
    ]
    for path, new, code in names:
        value = document()
        holder, last = value, ""
        for part in path.split(".") if path else ():
            if last:
                holder = holder[int(last) if last.isdigit() else last]
            last = part
        if last:
            holder[int(last) if last.isdigit() else last] = new
        data = build(value)
        assert first_reader(data) == read(data) == "ok"
        target = BundleFile(data).manifest.targets[0]
        try:
            instantiate(target.plans[0], target.kernels, {"N": 5})
            found = "ok"
        except TesseraError as error:
            found = error.code
        assert found == code, (path, new)


def test_reading_writes_nothing(tmp_path: Path) -> None:
    """With no file larger than 0 bytes allowed and no folder for temporary files, everything works."""
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "import tessera_runtime, numpy as np\n"
        "b = tessera_runtime.load(sys.argv[1], require_signature=sys.argv[2])\n"
        "print(b['saxpy'](a=2.0, x=np.ones(3, np.float32), y=np.ones(3, np.float32)).tolist())"
    )
    from tessera_runtime.signature import public_pem
    from tests.bundle.base import KEYS

    folder = tmp_path / "read only"
    folder.mkdir()
    (folder / "m.tsb").write_bytes(GOLDEN.read_bytes())
    (folder / "k.pub").write_bytes(public_pem(KEYS[0]))
    folder.chmod(0o500)
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "runtime"),
        "TMPDIR": str(tmp_path / "none"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-c", program, str(folder / "m.tsb"), str(folder / "k.pub")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    folder.chmod(0o700)
    assert done.stdout == "[3.0, 3.0, 3.0]\n", done.stderr


def test_sources(tmp_path: Path) -> None:
    """A path, any buffer, a descriptor, which stays open and where it was; never a pipe, a folder or a device."""
    path = tmp_path / "m.tsb"
    path.write_bytes(base())
    digest = hashlib.sha256(parts()[0].encode()).hexdigest()
    with open(path, "rb") as file:
        file.seek(5)
        sources = [path, str(path), os.fsencode(path) and base(), bytearray(base()), memoryview(base()), file.fileno(),
                   np.frombuffer(base(), np.uint8).data]  # fmt: skip
        assert {BundleFile(source).digest for source in sources} == {digest}
        assert file.tell() == 5
    os.mkfifo(tmp_path / "pipe")
    reading, writing = os.pipe()
    for bad in (tmp_path / "pipe", tmp_path, "/dev/zero", reading, 10_000, tmp_path / "none", "a\0b"):
        with pytest.raises(TesseraError) as caught:
            BundleFile(bad)
        assert caught.value.code == "E802", bad
    os.close(reading)
    os.close(writing)
    for empty in (b"", tmp_path / "empty"):
        if isinstance(empty, Path):
            empty.write_bytes(b"")
        with pytest.raises(TesseraError) as caught:
            BundleFile(empty)
        assert caught.value.code == "E601"


def test_a_file_that_shrinks_or_changes_after_opening(tmp_path: Path) -> None:
    """Small files are read as a whole: what happens to the file later is nothing to the bundle."""
    path = tmp_path / "m.tsb"
    path.write_bytes(GOLDEN.read_bytes())
    bundle = load(path, threads=1)
    path.write_bytes(b"x")
    x = np.ones(4, np.float32)
    assert bundle["saxpy"](a=2.0, x=x, y=x.copy()).tolist() == [3.0] * 4
    assert bundle["embed"](np.array([0], np.int32), np.float32(0).reshape(())).tolist() == [[0.0] * 4]


def test_results_too_large_for_any_machine() -> None:
    value = document()
    for target in value["targets"]:
        target["plans"][0]["buffers"][2]["shape"] = [["N"], 1 << 60]
    target = BundleFile(build(value)).manifest.targets[0]
    with pytest.raises(InputError) as caught:
        instantiate(target.plans[0], target.kernels, {"N": 5})
    assert caught.value.code == "E713"


def test_the_look_before_parsing_agrees_with_a_scanner() -> None:
    """On random JSON with brackets, quotes and backslashes inside strings, of depths around the limit."""
    rng = random.Random(8)

    def value(depth: int) -> Any:
        if depth == 0:
            return rng.choice(
                (0, -1, 10**38, 10**39, None, True, "", '"', "\\", '\\"', "[{", "]}", "\\\\", "é\n", "0" * 50)
            )
        items = [value(depth - 1), *(value(rng.randrange(min(depth, 3))) for _ in range(rng.randrange(3)))]
        return (
            items
            if rng.random() < 0.5
            else {f"{rng.choice(chr(92) + chr(34) + '[x')}{i}": v for i, v in enumerate(items)}
        )

    seen = set()
    for _ in range(400):
        text = json.dumps(value(rng.randrange(20))).encode()
        try:
            check_bounds(text)
            wanted = True
        except Refused:
            wanted = False
        assert is_bounded(text) == wanted, text
        seen.add(wanted)
    assert seen == {True, False}

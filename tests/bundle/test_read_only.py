"""Nothing that reads bundles writes: every file is opened for reading, and a read-only file system is enough."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tessera_runtime.bundle import BundleFile
from tesseracc.bundle.detach import write_detached
from tests.bundle.campaign import GOLDEN

ROOT = Path(__file__).parents[2]

# What the interpreter reports of files: opening, and everything that changes a folder or a file's name or rights.
WATCH = """
import json, os, sys

found = []
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
           "os.chown", "os.utime", "shutil.copyfile", "shutil.move", "tempfile.mkstemp", "tempfile.mkdtemp"}

def hook(event, args):
    if event == "open":
        path, mode, flags = args
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        if writes and not isinstance(path, int) and path not in ("/dev/null", "/dev/shm"):  # no descriptor it has
            found.append([event, str(path), flags])
    elif event in CHANGES or event in ("ctypes.dlopen", "os.system", "subprocess.Popen", "socket.connect"):
        if event != "ctypes.dlopen" or args[0] is not None:
            found.append([event, str(args[0])])

sys.addaudithook(hook)
sys.dont_write_bytecode = True
module, *sys.argv = sys.argv[1:]
try:
    code = __import__(module, fromlist=["main"]).main()
except SystemExit as error:
    code = error.code
print("\\nWATCHED" + json.dumps([code or 0, found]))
"""


COMMANDS = [
    ("tessera_runtime.cli", "tessera-run", "{}", "--validate"),
    ("tessera_runtime.cli", "tessera-run", "{}", "--list", "--verify"),
    ("tesseracc.cli.main", "tesseracc", "verify", "{}"),
    ("tesseracc.cli.main", "tesseracc", "check", "{}"),
    ("tesseracc.cli.main", "tesseracc", "inspect", "{}"),
    ("tesseracc.cli.main", "tesseracc", "diff", "{}", "{}"),
]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A bundle with weights and tests, and the same one without its weights, these beside it."""
    folder = tmp_path_factory.mktemp("shipped")
    shutil.copy(GOLDEN, folder / "whole.tsb")
    write_detached(folder / "thin.tsb", BundleFile(GOLDEN))
    return [folder / "whole.tsb", folder / "thin.tsb"]


def watched(bundle: Path, command: tuple[str, ...]) -> tuple[int, list[object]]:
    """The exit code of a command, and what it did besides reading."""
    given = [part.format(bundle) for part in command]
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'runtime'}"}
    done = subprocess.run([sys.executable, "-c", WATCH, *given], env=env, capture_output=True, text=True, check=False)
    assert "WATCHED" in done.stdout, done.stderr
    code, found = json.loads(done.stdout.rpartition("WATCHED")[2])
    return code, found


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[1:]).replace("{}", "m.tsb"))
def test_nothing_is_written(bundles: list[Path], command: tuple[str, ...]) -> None:
    for bundle in bundles:
        assert watched(bundle, command) == (0, [])


def test_the_watch_sees_what_is_written(bundles: list[Path], tmp_path: Path) -> None:
    command = ("tesseracc.cli.main", "tesseracc", "strip", "{}", "--tests", "-o", str(tmp_path / "s.tsb"))
    code, found = watched(bundles[0], command)
    assert code == 0 and any(event == "open" for event, *_ in found) and any(e == "os.rename" for e, *_ in found)  # type: ignore[misc]


def test_on_a_read_only_file_system(bundles: list[Path]) -> None:
    """Mounted so, where that may be tried: rights alone do not keep the superuser from writing."""
    folder = bundles[0].parent
    mount = f"mount --bind '{folder}' '{folder}' && mount -o remount,ro,bind '{folder}'"
    unshare = ["unshare", "-m", "sh", "-c"]
    may = shutil.which("unshare") and os.geteuid() == 0
    if not may or subprocess.run([*unshare, mount], capture_output=True, check=False).returncode != 0:
        return
    lines = [f"! touch '{folder}/x'"]
    for module, *command in COMMANDS:
        arguments = " ".join(part.format(f"'{bundles[1]}'") for part in command[1:])
        lines.append(f"{sys.executable} -c 'from {module} import main; raise SystemExit(main())' {arguments}")
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'runtime'}"}
    script = f"{mount} && " + " && ".join(lines)
    done = subprocess.run([*unshare, script], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

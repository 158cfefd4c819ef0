"""Kills processes that write bundles or states, at random moments, and looks at what they leave.

`python -m tests.bundle.kill` is the long run. After every kill the file is one of those that whole runs write, byte
for byte, and nothing else is visible beside it.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tessera_runtime.bundle import BundleFile
from tessera_runtime.core import safetensors
from tessera_runtime.core.files import write_atomic
from tessera_runtime.signature import parse_private, private_pem
from tesseracc.bundle import write
from tesseracc.bundle.sign import attach, make
from tesseracc.cache import Record
from tests.bundle.base import SEEDS
from tests.runtime.support import contents

ROOT = Path(__file__).parents[2]
MODEL = """
import tessera as ts
w = ts.randn(65536, seed=4)

@ts.function
def f(x: ts.Tensor["N", 65536, ts.f32]):
    return x * {} + w
"""
TRAIN = """
import tessera as ts
START = {"calls": ts.zeros(1, dtype=ts.i32), "x": ts.zeros(65536)}

@ts.function
def init():
    return {"s": START}

@ts.function
def step(s: ts.State[START]):
    return {"s": {"calls": s["calls"] + 1, "x": s["x"] * 0.999 + 1.0}}
"""


def _visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def _kill_after(pid: int, seconds: float) -> bool:
    """Whether the process was still running when it was killed."""
    time.sleep(seconds)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def signing(rounds: int, rng: random.Random, megabytes: int = 6) -> int:
    """Forks children that sign, sign again and remove signatures in a loop, as `tesseracc sign` does. How many died."""
    big = np.random.default_rng(1).integers(0, 255, megabytes << 20, dtype=np.uint8)
    plain = write(None, contents(constants={"w": np.ones(5, np.float32), "big": big}))
    file = BundleFile(plain)
    variants = [attach(file, [make(file.digest, seed) for seed in seeds]) for seeds in ((), SEEDS[:1], SEEDS)]
    whole = {b"".join(parts) for parts in variants}
    died = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "m.tsb"
        for number in range(rounds):
            path.write_bytes(plain)
            child = os.fork()
            if child == 0:
                try:
                    while True:
                        for parts in variants:
                            write_atomic(str(path), parts)
                except BaseException:
                    os._exit(3)
            died += _kill_after(child, rng.uniform(0.0005, 0.08))
            _, status = os.waitpid(child, 0)
            assert os.WIFSIGNALED(status), f"round {number}: the child ended by itself: {status}"
            assert path.read_bytes() in whole, f"round {number}: a file that no run writes"
            assert _visible(folder) == ["m.tsb"], _visible(folder)
    return died


def commands(rounds: int, rng: random.Random) -> int:
    """Kills `tesseracc build`, `sign`, `merge` and `strip` over older files. How many were killed while they ran.

    Every visible file is one that a whole run writes, and every visible entry of the build cache is sound.
    """
    died = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache, jobs = folder / "cache", _jobs(folder)
        whole: dict[str, set[bytes]] = {}
        took = dict.fromkeys(range(len(jobs)), 60.0)
        for _ in range(2):  # the second time builds come from the cache
            for number, job in enumerate(jobs):
                begin = time.perf_counter()
                subprocess.run(job, env=_environment(), check=True, capture_output=True)
                took[number] = min(took[number], time.perf_counter() - begin)
                for file in _visible(folder):
                    if file != "cache":
                        whole.setdefault(file, set()).add((folder / file).read_bytes())
        for number in range(rounds):
            if rng.random() < 0.4:
                shutil.rmtree(cache, ignore_errors=True)
            if rng.random() < 0.3:
                for file in _visible(folder):
                    if file.startswith("out-"):
                        (folder / file).unlink()
            choice = number % len(jobs)
            running = subprocess.Popen(
                jobs[choice], env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            died += _kill_after(running.pid, rng.uniform(0.2, 1.0) * took[choice]) and running.wait() == -signal.SIGKILL
            running.wait()
            for file in set(_visible(folder)) - {"cache"}:
                assert (folder / file).read_bytes() in whole[file], f"round {number}: {file} is one that no run writes"
            for entry in cache.glob("??/[!.]*"):
                record = Record.unpack(entry.read_bytes())
                assert record is not None and record.data in whole["m.tsb"], f"round {number}: a damaged entry"
        for job in jobs:  # what the kills have left disturbs no later run
            subprocess.run(job, env=_environment(), check=True, capture_output=True)
        assert all((folder / file).read_bytes() in whole[file] for file in set(_visible(folder)) - {"cache"})
    return died


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'runtime'}"}


def _jobs(folder: Path) -> list[list[str]]:
    """Commands that write into a folder, which they may also find full."""
    key = folder / "k.pem"
    key.write_bytes(private_pem(SEEDS[0]))
    assert parse_private(key.read_bytes(), "k.pem") == SEEDS[0]
    for i in (0, 1):
        (folder / f"{i}.py").write_text(MODEL.format(i + 2))
    command = [sys.executable, "-m", "tesseracc"]
    out = str(folder / "m.tsb")

    def build(source: int, level: str, output: str, *options: str) -> list[str]:
        return [*command, "build", str(folder / f"{source}.py"), "--arch", level, "-o", output, *options]

    parts = [str(folder / f"part-{level}.tsb") for level in ("x86-64-v2", "x86-64-v3")]
    for level, part in zip(("x86-64-v2", "x86-64-v3"), parts, strict=True):
        subprocess.run(build(0, level, part, "--no-cache"), env=_environment(), check=True, capture_output=True)
    cached = ("--cache-dir", str(folder / "cache"))
    return [
        build(0, "x86-64-v2", out, *cached),
        [*command, "sign", "--key", str(key), out],
        build(1, "x86-64-v2", out, *cached),
        [*command, "sign", "--key", str(key), out],
        [*command, "merge", *parts, "-o", str(folder / "out-both.tsb")],
        [*command, "strip", parts[0], "--external-weights", "-o", str(folder / "out-thin.tsb")],
    ]


def training(rounds: int, rng: random.Random) -> int:
    """Kills `tessera-run --repeat --state --save-every 1`, which each time goes on where the state was. How many died.

    The state is always one that so many whole calls give.
    """
    died = 0
    command = [sys.executable, "-m", "tessera_runtime.cli", "train.tsb", "--function", "step"]
    command += ["--repeat", "1000000", "--save-every", "1", "--state", "s.safetensors"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "train.py").write_text(TRAIN)
        build = [sys.executable, "-m", "tesseracc", "build", "train.py", "--arch", "x86-64-v2", "--no-cache"]
        subprocess.run(build, cwd=folder, env=_environment(), check=True, capture_output=True)
        calls, value, first = 0, np.float32(0), 0.0
        for number in range(rounds):
            begin = time.perf_counter()
            running = subprocess.Popen(
                command, cwd=folder, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            while not first and running.poll() is None:  # how long it takes to the first state
                time.sleep(0.01)
                first = (folder / "s.safetensors").exists() * (time.perf_counter() - begin)
            died += _kill_after(running.pid, rng.uniform(0.5, 2) * first)
            _, said = running.communicate()
            assert running.returncode == -signal.SIGKILL, said.decode()
            assert set(_visible(folder)) <= {"__pycache__", "train.py", "train.tsb", "s.safetensors"}
            state = safetensors.load((folder / "s.safetensors").read_bytes())
            (count,), (x,) = ([a for a in state.values() if (a.size > 1) == large] for large in (False, True))
            assert int(count[0]) >= calls, f"round {number}: {int(count[0])} calls after {calls}"
            for _ in range(int(count[0]) - calls):
                value = value * np.float32(0.999) + np.float32(1)
            calls = int(count[0])
            assert bool((x == value).all()), f"round {number}: this is no state after {calls} calls"
        assert calls > 0
    return died


def main() -> None:
    """The long run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--writes", type=int, default=400)
    parser.add_argument("--commands", type=int, default=120)
    parser.add_argument("--trainings", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    print(f"{signing(options.writes, rng)} of {options.writes} writers killed; every file whole")
    print(f"{commands(options.commands, rng)} of {options.commands} commands killed; every file whole, the cache sound")
    print(f"{training(options.trainings, rng)} of {options.trainings} trainings killed; every state whole")


if __name__ == "__main__":
    main()

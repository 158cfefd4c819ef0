"""Kills processes that write bundles, at random moments, and looks at what is left: `python -m tests.bundle.kill`.

After every kill the file is one of those that whole runs write, byte for byte, and nothing else is visible beside it.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tessera_runtime.bundle import BundleFile
from tessera_runtime.core.files import write_atomic
from tessera_runtime.signature import parse_private, private_pem
from tesseracc.bundle import write
from tesseracc.bundle.sign import attach, make
from tests.bundle.base import SEEDS
from tests.runtime.support import contents

ROOT = Path(__file__).parents[2]
MODEL = "import tessera as ts\n\n@ts.function\ndef f(x: ts.Tensor['N', ts.f32]):\n    return x * {}\n"


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
    """Kills `tesseracc build` and `tesseracc sign` over an older bundle. How many were killed while they ran."""
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'runtime'}"}
    died = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out, key = folder / "m.tsb", folder / "k.pem"
        key.write_bytes(private_pem(SEEDS[0]))
        assert parse_private(key.read_bytes(), "k.pem") == SEEDS[0]
        command = [sys.executable, "-m", "tesseracc"]
        builds = [[*command, "build", str(folder / f"{i}.py"), "--arch", "x86-64-v2", "-o", str(out)] for i in (0, 1)]
        sign = [*command, "sign", "--key", str(key), str(out)]
        whole: set[bytes] = set()
        took = 60.0
        for i, build in enumerate(builds):
            (folder / f"{i}.py").write_text(MODEL.format(i + 2))
            begin = time.perf_counter()
            subprocess.run(build, env=env, check=True, capture_output=True)
            took = min(took, time.perf_counter() - begin)
            whole.add(out.read_bytes())
            subprocess.run(sign, env=env, check=True, capture_output=True)
            whole.add(out.read_bytes())
        for number in range(rounds):
            running = subprocess.Popen(
                (sign, *builds)[number % 3], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            died += _kill_after(running.pid, rng.uniform(0.0, 0.8) * took) and running.wait() == -signal.SIGKILL
            running.wait()
            assert out.read_bytes() in whole, f"round {number}: a file that no run writes"
            assert _visible(folder) == ["0.py", "1.py", "k.pem", "m.tsb"], _visible(folder)
    return died


def main() -> None:
    """The long run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--writes", type=int, default=400)
    parser.add_argument("--commands", type=int, default=120)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    print(f"{signing(options.writes, rng)} of {options.writes} writers killed; every file whole")
    print(f"{commands(options.commands, rng)} of {options.commands} commands killed; every file whole")


if __name__ == "__main__":
    main()

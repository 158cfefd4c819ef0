"""One loaded bundle, called from 16 threads a thousand times each: right results, no growth, no deadlock."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tessera_runtime.devices.cpu import machine

ROOT = Path(__file__).parents[2]
PROGRAM = """
import faulthandler, sys, threading
import numpy as np
import tessera_runtime
from tests.bundle.golden.make import HERE, calls, results

faulthandler.dump_traceback_later(100, exit=True)  # a deadlock ends the process, with every thread's stack
count, pool = int(sys.argv[1]), int(sys.argv[2])
bundle = tessera_runtime.load(HERE / "v1" / "golden.tsb", threads=pool)
expected = results(tessera_runtime.load(HERE / "v1" / "golden.tsb", threads=1))
rng = np.random.default_rng(4)
sizes = {n: rng.standard_normal((n, 8)).astype(np.float32) for n in (0, 1, 5, 64, 700)}
layers = {n: bundle["layer"](x)[0].tobytes() for n, x in sizes.items()}
wrong, start = [], threading.Barrier(16)

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

def work(number):
    start.wait()
    given = calls()
    for turn in range(count):
        n = list(sizes)[(turn + number) % len(sizes)]
        if bundle["layer"](sizes[n])[0].tobytes() != layers[n]:
            wrong.append(("layer", n))
        y = given["saxpy"]["y"].copy()
        out = bundle["saxpy"](a=1.5, x=given["saxpy"]["x"], y=y)
        if out.tobytes() != expected["saxpy/y"].tobytes() or out is not y:
            wrong.append(("saxpy", turn))
        try:
            bundle["embed"](given["embed"]["i"], "not a number")
            wrong.append(("embed", turn))
        except tessera_runtime.TesseraError as error:
            if error.code != "E708":
                wrong.append(("embed", error.code))

def round():
    threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return resident()

first = round()
last = round()
assert not wrong, wrong[:5]
assert last - first < 8 << 20, (first, last)
print("ok", first >> 20, last >> 20)
"""


def run(calls: int, pool: int) -> None:
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'runtime'}"}
    command = [sys.executable, "-c", PROGRAM, str(calls), str(pool)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("ok"), done.stderr


@pytest.mark.parametrize("pool", [1, 3])
def test_sixteen_threads(pool: int) -> None:
    if machine() == "x86-64":  # the golden image's machine
        run(60, pool)


@pytest.mark.slow
@pytest.mark.parametrize("pool", [1, 4])
def test_sixteen_threads_a_thousand_times(pool: int) -> None:
    if machine() == "x86-64":
        run(1000, pool)

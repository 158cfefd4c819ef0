"""Calls that are cut short: by what a signal's handler raises, by a fork between them, by a system without threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType

import numpy as np
import pytest

import tessera_runtime
from tessera_runtime.core.errors import InputError
from tessera_runtime.devices.threads import Pool
from tessera_runtime.memory import Arena
from tests.runtime.support import bundle_bytes


class Stop(Exception):
    """What a handler raises, as that of Ctrl-C raises KeyboardInterrupt."""


@pytest.mark.parametrize("caller", ["works", "waits"])
def test_nobody_works_when_an_interrupted_call_is_left(caller: str) -> None:
    """Else threads write to memory that the caller has taken back."""
    pool, busy, over = Pool(2), threading.Event(), threading.Event()
    states: list[str] = []

    def stop(number: int, frame: FrameType | None) -> None:
        states.append("stop")
        if len(states) == 2:  # the second one finds the caller waiting for the other thread
            signal.setitimer(signal.ITIMER_REAL, 0)
            over.set()
        raise Stop

    def work(begin: int, end: int, slot: int) -> None:
        if slot:
            busy.set()
            assert over.wait(20)
            time.sleep(0.05)
            states.append("done")
            return
        assert busy.wait(20)
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        if caller == "works":
            time.sleep(20)

    before = signal.signal(signal.SIGALRM, stop)
    try:
        for _ in range(3):
            states.clear()
            busy.clear()
            over.clear()
            with pytest.raises(Stop):
                pool.run(work, 2, 1.0)
            assert states == ["stop", "stop", "done"]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    seen: list[int] = []
    pool.run(lambda begin, end, slot: seen.extend(range(begin, end)), 1000, 1.0)
    assert sorted(seen) == list(range(1000))


def test_a_system_that_gives_no_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def at_most_one(self: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(self)
        start(self)

    monkeypatch.setattr(threading.Thread, "start", at_most_one)
    for threads in (4, 3):
        pool, seen = Pool(threads), np.zeros(1000, np.int64)
        for _ in range(3):
            seen[:] = 0

            def work(begin: int, end: int, slot: int, seen: np.ndarray = seen) -> None:
                seen[begin:end] += 1

            pool.run(work, 1000, 1.0)
            assert (seen == 1).all()
        assert len(pool._others) == (threads == 4)


def test_a_child_waits_for_no_lock_that_another_thread_of_its_parent_held() -> None:
    code = (
        "import os, sys, threading, warnings; warnings.simplefilter('ignore')\n"
        "import numpy as np, tessera_runtime\n"
        "from tessera_runtime.core import locks\n"
        "f = tessera_runtime.load(sys.stdin.buffer.read(), threads=2)['reverse']\n"
        "held, over = threading.Event(), threading.Event()\n"
        "def hold():\n"
        "    [made.acquire() for made in list(locks._MADE)]\n"
        "    held.set(); over.wait()\n"
        "threading.Thread(target=hold, daemon=True).start(); held.wait()\n"
        "if os.fork() == 0:\n"
        "    x = np.arange(6, dtype=np.float32).reshape(2, 3)\n"
        "    os._exit(0 if len(locks._MADE) > 4 and f(x).shape == x.T.shape[::-1] else 1)\n"
        "os._exit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(tessera_runtime.__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", code], input=bundle_bytes(), env=environment, timeout=60)
    assert done.returncode == 0


def test_a_copy_that_there_is_no_memory_for() -> None:
    reverse = tessera_runtime.load(bundle_bytes(), threads=1)["reverse"]
    endless = np.lib.stride_tricks.as_strided(np.ones(1, np.float32), (1 << 44, 1), (0, 0))
    with pytest.raises(InputError, match="dense copy of input 'x'") as caught:
        reverse(endless)
    assert caught.value.code == "E713"


def test_an_arena_whose_making_was_interrupted() -> None:
    Arena.__new__(Arena).__del__()

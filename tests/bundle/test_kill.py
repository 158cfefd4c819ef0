"""No half-written bundle is ever seen, whenever its writer is killed; `python -m tests.bundle.kill` is the long run."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from tests.bundle import kill


def test_killed_writers_leave_whole_files() -> None:
    # In a process of its own: it forks, which a test process with threads should not.
    code = "import random; from tests.bundle import kill; assert kill.signing(20, random.Random(3), 2) == 20"
    env = {**kill.os.environ, "PYTHONPATH": f"{kill.ROOT}{kill.os.pathsep}{kill.ROOT / 'runtime'}"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=kill.ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_killed_commands_leave_whole_files() -> None:
    assert kill.commands(6, random.Random(5)) >= 1


def test_killed_trainings_leave_whole_states() -> None:
    assert kill.training(2, random.Random(6)) == 2

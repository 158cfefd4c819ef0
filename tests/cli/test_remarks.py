"""What a build says of a program beside its bundle: errors at the user's line, warnings that nobody asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.run import Runner

KERNELS = """import tessera as ts

@ts.kernel(group=32)
def turned(x: ts.Tensor["n", ts.f32], y: ts.Tensor["n", ts.f32]):
    s = ts.tile.alloc_shared((n,), ts.f32)
    for i in range(n):
        s[i] = x[i]
    ts.tile.barrier()
    for i in range(n):
        y[i] = s[n - 1 - i]
"""


@pytest.fixture
def tesseracc(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)


@pytest.mark.parametrize("arch", ["sm_90", "cpu"])
def test_shared_memory_of_a_size_that_nothing_says(tesseracc: Runner, tmp_path: Path, arch: str) -> None:
    path = tmp_path / "k.py"
    path.write_text(KERNELS)
    said = tesseracc("build", path, "--arch", arch, "--check-only")
    assert said.code == 3 and "error[E221]: the extent `n` of the shared memory `s`" in said.err
    assert "k.py:5:9" in said.err and said.err.rstrip().endswith("--specialize n=128")
    assert tesseracc("build", path, "--arch", arch, "--check-only", "--specialize", "n=100").code == 0

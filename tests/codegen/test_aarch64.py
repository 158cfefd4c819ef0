"""aarch64 images, executed by qemu's user-mode emulator where it and a cross compiler for the test's caller are found.

Elsewhere they are only built and linked, and their execution is unproven.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tesseracc.arch.arch import load
from tesseracc.codegen.elf import read_image
from tesseracc.codegen.image import build_images
from tesseracc.interpret import tile
from tesseracc.interpret.binding import evaluate_dim, solve_dims
from tesseracc.ir.pipeline import Context, run_pipeline
from tesseracc.passes import pipelines
from tests.passes.schedule.test_to_tile import CASES, lowered

QEMU, COMPILER = shutil.which("qemu-aarch64"), shutil.which("aarch64-linux-gnu-gcc")
SOURCE = Path(__file__).with_name("call_image.c")
#: the machine in an ELF header
AARCH64 = 183


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """The program that calls a kernel; None where the means are missing: execution is unproven there."""
    if QEMU is None or COMPILER is None:
        return None
    program = tmp_path_factory.mktemp("caller") / "call_image"
    subprocess.run([COMPILER, "-O1", "-static", "-Wall", "-Werror", str(SOURCE), "-o", str(program)], check=True)
    return program


@pytest.mark.parametrize("name", sorted(CASES))
def test_strategy(name: str, caller: Path | None, tmp_path: Path) -> None:
    arch = load("aarch64")
    module = lowered(CASES[name][0], arch.name)
    target = run_pipeline(pipelines.TARGET["cpu"], module, Context(arch))
    (image,) = build_images([(target, arch)])
    (tmp_path / "image").write_bytes(image.data)
    kernel, code = module.of_kind("tile.kernel")[0], target.of_kind("target.func")[0]
    offset = read_image(image.data)[code.attrs["symbol"]]
    assert int.from_bytes(image.data[18:20], "little") == AARCH64 and 0 < offset < len(image.data)
    if caller is None:
        return
    rng = np.random.default_rng(23)
    for shapes in CASES[name][2]:
        inputs: list[Any] = [rng.standard_normal(s).astype(np.float32) for s in shapes]
        expected = tile.run(module, "f", inputs)
        found = [np.full(e.shape, 7, e.dtype) for e in expected]
        declared = [p.type.dims for p in module.func("f").params]  # type: ignore[union-attr]
        symbols = solve_dims(declared, [x.shape for x in inputs])
        groups = int(np.prod([evaluate_dim(d, symbols) for d in kernel.attrs["grid"]]))
        slots: list[str] = []
        for i, array in enumerate([*inputs, *found]):
            (tmp_path / f"{i}").write_bytes(array.tobytes())
            slots += ["f", str(tmp_path / f"{i}")]
        for symbol in kernel.attrs["symbols"]:
            slots += ["i", str(symbols[symbol])]
        place = [str(tmp_path / "image"), str(offset), "0", str(groups), str(code.attrs["scratch"])]
        subprocess.run([str(QEMU), str(caller), *place, *slots], check=True, timeout=60)
        for i, (array, want) in enumerate(zip(found, expected, strict=True), len(inputs)):
            got = np.frombuffer((tmp_path / f"{i}").read_bytes(), array.dtype).reshape(array.shape)
            np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-6)

"""How tests run native code: accesses outside of arrays are faults, and a large process is no cause of any."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.style.project import ROOT

TOUCH = """
import ctypes, sys
import numpy as np
from tests.guarded import guarded
(x,) = guarded([np.arange(5, dtype=np.uint8)], sys.argv[1])
print(ctypes.c_uint8.from_address(x.ctypes.data + int(sys.argv[2])).value)
"""
#: runs a product whose constants find room in single free pages, its code only some GiB below
SCATTERED = """
import ctypes, mmap
import numpy as np
from tests.passes.target import cpu_kernels, native
level = native.levels()[-1]
compile_cpu = native.compile_cpu
def scatter(ir, arch, opt):
    code = compile_cpu(ir, arch, opt=opt)
    PAGE, ANONYMOUS, FIXED = mmap.PAGESIZE, 0x4022, 0x100000  # private and never backed; only where nothing is
    reserve = ctypes.CDLL(None).mmap
    reserve.restype = ctypes.c_void_p
    reserve.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    below = reserve(None, 5 << 30, 0, ANONYMOUS, -1, 0)
    with open("/proc/self/maps") as file:
        areas = [[int(end, 16) for end in line.split()[0].split("-")] for line in file if "[stack]" not in line]
    gaps = [(end, start) for (_, end), (start, _) in zip(areas, areas[1:]) if below < end < start]
    for end, start in gaps:
        reserve(end + PAGE, start - end - PAGE, 0, ANONYMOUS | FIXED, -1, 0)
    return code
native.compile_cpu = scatter
code = native.Native(cpu_kernels.matmul(30, 96, 48, "i8", "i32", transposed=True), level)
rng = np.random.default_rng(1)
a, b, bias = (rng.integers(-9, 9, shape, dtype) for shape, dtype in (((7, 5), "i1"), ((3, 7), "i1"), (3, "i4")))
found = np.zeros((5, 3), np.int32)
code("mm", [a, b, bias, found], {"M": 5, "N": 3, "K": 7})
assert (found == a.T.astype(int) @ b.T + bias).all()
"""


def python(program: str, *args: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(map(str, (ROOT, ROOT / "runtime")))
    return subprocess.run([sys.executable, "-c", program, *args], env={**os.environ, "PYTHONPATH": path},
                          capture_output=True, text=True, timeout=100)  # fmt: skip


@pytest.mark.parametrize(("side", "inside", "outside"), [("below", 0, -1), ("above", 4, 5)])
def test_an_access_outside_is_a_fault(side: str, inside: int, outside: int) -> None:
    assert python(TOUCH, side, str(inside)).stdout == f"{inside}\n"
    assert python(TOUCH, side, str(outside)).returncode == -signal.SIGSEGV


def test_code_finds_its_constants_in_a_large_process() -> None:
    done = python(SCATTERED)
    assert done.returncode == 0, done.stderr

"""The machine: what it is, and what it can do at best, measured by our own kernels beside NumPy's copy."""

from __future__ import annotations

import os
import platform
from typing import Any

import numpy as np

import tessera
import tessera_runtime
from benchmarks.timing import interleaved
from benchmarks.workloads import empty, normal
from tessera_runtime.devices.cpu import cpu_features
from tesseracc.arch.arch import Arch
from tesseracc.driver import Build, host_level
from tesseracc.ir.parser import parse_module
from tesseracc.ir.verify import verify

STEPS = 1 << 20
#: chains of dependent fma, each a native vector: more than latency times units of any CPU that we know
CHAINS = 10


def describe() -> dict[str, Any]:
    """Hardware and versions, without anything that names the machine."""
    import llvmlite

    levels = ("avx512f", "avx2", "avx", "sse4_2", "asimd")
    return {
        "cpu": _cpu_model(),
        "vectors": next((level for level in levels if level in cpu_features()), "none"),
        "processors": len(os.sched_getaffinity(0)),
        "compiled for": host_level().name,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"],
        "llvmlite": llvmlite.__version__,
        "tessera": tessera.__version__,
    }


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            fields = dict(line.partition(":")[::2] for line in file.read().partition("\n\n")[0].splitlines())
    except OSError:
        return platform.processor() or platform.machine()
    found = {key.strip(): value.strip() for key, value in fields.items()}
    family = f" (family {found['cpu family']}, model {found['model']})" if "cpu family" in found else ""
    return found.get("model name", platform.machine()) + family


def _peak_text(arch: Arch) -> str:
    """A kernel of nothing but fma on `CHAINS` independent native vectors."""
    lanes = arch.vector_bits // 32
    args = ", ".join(f"%c{i}: lanes<f32>" for i in range(CHAINS))
    names = ", ".join(f"%d{i}" for i in range(CHAINS))
    work = "\n".join(f"    %d{i} = arith.fma %c{i}, %a, %b : lanes<f32>" for i in range(CHAINS))
    types = ", ".join(["lanes<f32>"] * CHAINS)
    results = ", ".join(f"%r{i}" for i in range(CHAINS))
    last = ["r0", *(f"t{i}" for i in range(1, CHAINS))]
    total = "\n".join(f"  %t{i} = arith.add %{last[i - 1]}, %r{i} : lanes<f32>" for i in range(1, CHAINS))
    attrs = f'access = ["read", "write"], grid = [1], group = {lanes}, symbols = ["N"]'
    return f"""
tile.kernel @peak__0(%x: buf<f32[N], global>, %y: buf<f32[N], global>) {{{attrs}}} {{
  %i = tile.local_id : lanes<i64>
  %a = tile.load %x, [%i] : lanes<f32>
  %b = tile.load %x, [%i] : lanes<f32>
  %zero = arith.constant {{value = 0}} : i64
  %one = arith.constant {{value = 1}} : i64
  %steps = arith.constant {{value = {STEPS}}} : i64
  {results} = scf.for %zero, %steps, %one, [{', '.join(['%a'] * CHAINS)}] (%k: i64, {args}) {{
{work}
    yield {names}
  }} : {types}
{total}
  tile.store %t{CHAINS - 1}, %y, [%i]
}}

tile.program @peak(%x: buf<f32[N], global>) -> (buf<f32[N], global>) {{outputs = ["out"]}} {{
  %0 = tile.temp : buf<f32[N], global>
  tile.launch %x, %0 {{kernel = "peak__0"}}
  yield %0
}}
"""


# a copy with one operation on the way: a plain copy would be left to the C library
NEGATE = """
schedule.func @negate(%x: tensor<f32[N]>) -> (tensor<f32[N]>) {
  %y = schedule.group {domain = [<N>]} (%i: i64) {
    %v = schedule.read %x, [%i] : f32
    %n = arith.neg %v : f32
    schedule.write %n, [%i] {result = 0}
  } : tensor<f32[N]>
  yield %y
}
"""


def _compiled(text: str, name: str, arch: Arch) -> tessera_runtime.BundleFunction:
    return tessera_runtime.load(Build(verify(parse_module(text)), (arch,)).bundle(), threads=1)[name]


def limits(rounds: int, count: int = 1 << 24) -> dict[str, float]:
    """GB/s from memory to memory (bytes read and written), by NumPy and by our code; GFLOP/s of fma."""
    arch = host_level()
    rng = np.random.default_rng(0)
    source, target = normal(rng, count), empty((count,))
    target[...] = 0
    lanes = arch.vector_bits // 32
    # a factor below 1 keeps the sums finite
    start = normal(rng, lanes, scale=0.1)
    negate, peak = _compiled(NEGATE, "negate", arch), _compiled(_peak_text(arch), "peak", arch)
    times = interleaved(
        {
            "numpy copy": lambda: np.copyto(target, source),
            "negate": lambda: negate.into({"out": target}, source),
            "fma": lambda: peak(start),
        },
        rounds,
    )
    return {
        "copy by NumPy, GB/s": 8e-9 * count / times["numpy copy"].median,
        "y = -x by our code, GB/s": 8e-9 * count / times["negate"].median,
        "fma f32, GFLOP/s": 2e-9 * lanes * CHAINS * STEPS / times["fma"].median,
    }

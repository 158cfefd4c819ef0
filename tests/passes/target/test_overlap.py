"""Loops whose products are under way: attention on warp groups, from machine code and on the emulator."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tesseracc.codegen.image import Image
from tesseracc.emulator import EmulatorError
from tesseracc.ir.value import Module
from tests.emulator.test_deletions import SYNCHRONISING, without
from tests.passes.target.test_gpu_tiles import DTYPES, built
from tests.passes.target.test_hopper import machine_code
from tests.passes.target.test_lower_gpu import attempt

Array = np.ndarray[Any, Any]
SMALL = {"rows": 64, "columns": 32, "width": 64, "dtype": "bf16", "group": 128}


def inputs(size: int, width: int) -> list[Array]:
    made = (np.random.default_rng([size, i]).standard_normal((size, width)) for i in range(3))
    return [x.astype(DTYPES["bf16"]) for x in made]


def exact(q: Array, k: Array, v: Array) -> Array:
    """Causal attention, scores over 8, in float64."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    scores = q @ k.T / 8
    scores[np.triu_indices(len(q), 1)] = -np.inf
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(p / p.sum(axis=1, keepdims=True) @ v)


def outcome(built: tuple[Module, Image], size: int, width: int, *, seed: int, ptx: str = "", **options: Any) -> str:
    """"" where a launch is right, else how it shows that it is not."""
    module, image = built
    args = [*inputs(size, width), np.full((size, width), np.nan, np.float32)]
    try:
        found = attempt(module.funcs[0], image, args, {"S": size}, ptx=ptx, seed=seed, **options)
    except EmulatorError as error:
        return error.code
    assert found is not None and found[0].endswith("__tensor")
    if found[1].findings:
        return found[1].findings[0].render()
    # weights are rounded to bf16, their sum is not
    right = np.allclose(args[3], exact(*args[:3]), rtol=0, atol=2.0**-8 * np.abs(args[2].astype(np.float64)).max())
    return "" if right else "value"


@pytest.mark.parametrize("size", [1, 32, 50, 136, 200])
def test_attention(size: int) -> None:
    """No block of keys, one, one that is ragged, several: the loop, its first and its last half iteration."""
    for seed in range(2):
        assert outcome(built("sm_90", "attention", **SMALL), size, 64, seed=seed) == ""


def test_softmax_runs_under_the_second_product() -> None:
    _, image = built("sm_90", "attention", rows=128, columns=64, width=128, dtype="bf16", group=256)
    assert image.findings == ()
    kernel = next(k for k in image.kernels if k.name == "attention__tensor")
    assert kernel.spill_stores == kernel.spill_loads == kernel.stack == 0
    lines = machine_code(image, kernel.name)
    text = "\n".join(lines)
    assert "UTMALDG" in text and text.count("USETMAXREG") == 2 and not re.search(r"\b(LDL|STL)\b", text)
    # of the loop: the wait that leaves the last product under way, and the next wait, which ends it
    start = next(i for i, line in enumerate(lines) if re.search(r"DEPBAR\.LE gsb0, 0x1", line))
    products = [line for line in lines[:start] if "HGMMA" in line]
    assert re.search(r"HGMMA\.64x128x16.*gsb0", products[-1]) and "HGMMA.64x64x16" in products[-5]
    end = next(i for i in range(start + 1, len(lines)) if "DEPBAR.LE gsb0" in lines[i])
    under = lines[start:end]
    assert not any("HGMMA" in line for line in under)
    work = sum(bool(re.search(r"\b(FFMA|FMUL|FADD|FMNMX|MUFU)", line)) for line in under)
    assert work > 10 * 32, "softmax of 32 elements a thread, with its exponentials"


@pytest.mark.slow
def test_everything_that_orders_is_needed() -> None:
    """As in test_removed_order, for a loop in two stages with five blocks of keys and two of queries."""
    code = built("sm_90", "attention", **SMALL)
    lines = code[1].ptx.split("\n")
    start = next(i for i, line in enumerate(lines) if ".entry" in line and "attention__tensor(" in line)
    end = next((i for i in range(start + 1, len(lines)) if ".entry" in lines[i]), len(lines))
    numbers = [i for i in range(start, end) if SYNCHRONISING.search(lines[i])]
    survivors = []
    for number in numbers:
        changed = "\n".join([*lines[:number], without(lines[number]), *lines[number + 1 :]])
        tries = (outcome(code, 136, 64, seed=seed, ptx=changed, max_steps=60_000, blocks=1) for seed in range(3))
        if not any(tries):
            survivors.append(lines[number].strip())
    # initialisation is known inside a block by the barrier behind it; what one fence or wait orders another one, nearby
    # on every path, orders too
    covered = {"fence.mbarrier_init.release.cluster", "fence.proxy.async.shared::cta", "wgmma.fence.sync.aligned"}
    covered |= {"wgmma.wait_group.sync.aligned", "bar.sync"}
    assert {line.split(";")[0].split()[0] for line in survivors} <= covered, survivors
    assert len(survivors) <= len(numbers) // 4, (len(numbers), survivors)

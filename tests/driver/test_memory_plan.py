"""The memory that a call takes for temporaries, beside the least that lifetimes allow: what is live at one step."""

from __future__ import annotations

import numpy as np
import pytest

import tessera_runtime
from benchmarks import programs
from tessera_runtime.memory import ALIGN
from tessera_runtime.plan import CopyStep, Instance, instantiate
from tesseracc.driver import Build, front, host_level

ENTRIES = {
    "layer": ("B", "S"),
    "train_step": ("N", "D", "H", "O"),
    "mlp": ("N", "D", "H"),
    "causal_attention": ("B", "H", "S"),
}


@pytest.fixture(scope="module")
def bundle() -> tessera_runtime.Bundle:
    module = front({name: getattr(programs, name) for name in ENTRIES})
    return tessera_runtime.load(Build(module, (host_level(),)).bundle())


def least(instance: Instance) -> int:
    """The most bytes of temporaries, in whole aligned blocks, that are live at one step."""
    spans: dict[int, tuple[int, int]] = {}
    for at, step in enumerate(instance.steps):
        used = [step.src, step.dst] if isinstance(step, CopyStep) else [v for kind, v in step.args if kind == "buffer"]
        for index in used:
            assert isinstance(index, int)
            if instance.offsets[index] >= 0:
                spans[index] = (spans.get(index, (at, at))[0], at)
    sizes = {index: -(-instance.nbytes[index] // ALIGN) * ALIGN for index in spans}
    return max(
        sum(sizes[index] for index, (first, last) in spans.items() if first <= at <= last)
        for at in range(len(instance.steps))
    )


@pytest.mark.parametrize("entry", sorted(ENTRIES))
def test_the_arena_is_within_a_tenth_of_what_is_live_at_once(bundle: tessera_runtime.Bundle, entry: str) -> None:
    target = bundle.manifest.targets[0]
    (plan,) = [plan for plan in target.plans if plan.function == entry]
    rng = np.random.default_rng(len(entry))
    for _ in range(8):
        sizes = {name: int(rng.integers(1, 700)) for name in ENTRIES[entry]}
        instance = instantiate(plan, target.kernels, sizes)
        bound = least(instance)
        assert bound <= instance.arena <= 1.1 * bound, sizes

"""The memory that a call takes for temporaries, beside the least that lifetimes allow: what is live at one step."""

from __future__ import annotations

import numpy as np
import pytest

import tessera as ts
import tessera_runtime
from benchmarks import programs
from tessera_runtime.memory import ALIGN
from tessera_runtime.plan import CopyStep, Instance, instantiate
from tesseracc.driver import Build, front, host_level
from tests.models import test_models as models

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
    check(bundle, entry, ENTRIES[entry])


#: models with their gradients, and what is open in them
MODELS = {"vit": ("B",), "unet": ("N", "H"), "experts": ("T",)}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_arena_of_a_model_and_of_its_gradients(name: str) -> None:
    model = models.MODELS[name][0]
    module = front({"forward": ts.function(model), "gradients": ts.function(models.gradients_of(model))})
    bundle = tessera_runtime.load(Build(module, (host_level(),)).bundle())
    for entry in ("forward", "gradients"):
        check(bundle, entry, MODELS[name])


def check(bundle: tessera_runtime.Bundle, entry: str, names: tuple[str, ...]) -> None:
    """Random sizes; the largest share beyond the least is printed (`pytest -s`)."""
    target = bundle.manifest.targets[0]
    (plan,) = [plan for plan in target.plans if plan.function == entry]
    rng = np.random.default_rng(len(entry))
    most = 1.0
    for _ in range(8):
        sizes = {name: int(rng.integers(1, 700)) for name in names}
        instance = instantiate(plan, target.kernels, sizes)
        bound = least(instance)
        most = max(most, instance.arena / max(bound, 1))
        assert bound <= instance.arena <= 1.1 * bound, sizes
    print(f"{entry}: {len(plan.steps)} steps, arena at most {most:.3f} of what is live at once")

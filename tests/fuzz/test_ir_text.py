"""Mutated IR text of every level: E4xx or a module that prints and parses back identically; nothing else."""

from __future__ import annotations

import random
import time
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera_runtime.core.errors import TesseraError
from tesseracc.arch.arch import load
from tesseracc.driver import Build
from tesseracc.frontend.merge import merge
from tesseracc.ir.parser import parse_module
from tesseracc.ir.pipeline import Context, run_pipeline
from tesseracc.ir.printer import module_text
from tesseracc.ir.verify import verify
from tesseracc.passes import pipelines
from tests.fuzz.mutate import mutated
from tests.fuzz.profile import examples
from tests.fuzz.programs import program
from tests.passes.programs import attention, cross_entropy, moved, residual

LEVELS = ("graph", "schedule", "tile x86-64-v3", "tile sm_90", "target x86-64-v3", "target sm_90")


@cache
def texts(level: str) -> tuple[str, ...]:
    """The text of small modules at a level: one function each."""
    from tesseracc.frontend.trace import trace

    modules = [trace(f, None, "").module for f in (residual, cross_entropy, moved, attention)]
    modules += [program(seed).module for seed in range(20, 26)]
    name, _, arch = level.partition(" ")
    found = []
    for module in modules:
        build = Build(merge([module]), [load(arch)] if arch else [])
        found.append(build.text(name, load(arch) if arch else None, locations=True))
    return tuple(sorted(found, key=len)[: 6 if name == "target" else None])


def survives(text: str) -> bool:
    """Whether the text is a module; it is then one that survives printing and parsing."""
    start = time.monotonic()
    try:
        module = verify(parse_module(text))
    except TesseraError as error:
        assert error.code[:2] == "E4", error
        assert time.monotonic() - start < 10
        return False
    printed = module_text(module, locations=True)
    again = verify(parse_module(printed))
    assert module_text(again, locations=True) == printed
    return True


@pytest.mark.parametrize("level", LEVELS)
def test_text_survives(level: str) -> None:
    for text in texts(level):
        assert survives(text)
        assert module_text(parse_module(text), locations=True) == text


@pytest.mark.parametrize("level", LEVELS)
def test_mutated_text(level: str) -> None:
    @examples(150)
    @given(st.integers(0, 2**32))
    def run(seed: int) -> None:
        rng = random.Random(seed)
        survives(mutated(rng.choice(texts(level)), rng))

    run()


@pytest.mark.parametrize("level", ["graph", "schedule", "tile x86-64-v3", "tile sm_90"])
def test_passes_take_what_verifies(level: str) -> None:
    """Behind the verifier a module is either lowered or refused with an error of its own."""
    name, _, arch = level.partition(" ")
    steps = {
        "graph": (*pipelines.GRAPH, *pipelines.SCHEDULE), "schedule": pipelines.SCHEDULE[1:],
        "tile": pipelines.TARGET[load(arch or "sm_90").kind],
    }[name]  # fmt: skip

    @examples(40)
    @given(st.integers(0, 2**32))
    def run(seed: int) -> None:
        rng = random.Random(seed)
        text = mutated(rng.choice(texts(level)), rng)
        try:
            module = verify(parse_module(text))
            run_pipeline(steps, module, Context(load(arch) if arch else None))
        except TesseraError:
            pass

    run()

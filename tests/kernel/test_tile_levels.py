"""The tests of tile kernels once more, with every evaluation held against the levels below."""

from __future__ import annotations

import pytest

from tests.kernel import test_pipelines, test_random_tiles, test_tile_semantics
from tests.kernel.everywhere import everywhere
from tests.kernel.test_pipelines import *  # noqa: F403 - the tests themselves
from tests.kernel.test_random_tiles import *  # noqa: F403
from tests.kernel.test_tile_semantics import *  # noqa: F403


@pytest.fixture(autouse=True)
def compare_all_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (test_pipelines, test_random_tiles, test_tile_semantics):
        monkeypatch.setattr(module, "evaluate", everywhere)

"""What all tests share: Hypothesis profiles, the `--bless` switch, and memory given back after every file."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# No test takes a bundle from the build cache of whoever runs it; those of the cache name a folder.
os.environ["TESSERA_CACHE_DIR"] = ""

# The default is reproducible: examples are derived from the test itself and no timing decides about success.
settings.register_profile("default", derandomize=True, database=None, deadline=None, print_blob=True,
                          suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fuzz", parent=settings.get_profile("default"), derandomize=False, max_examples=5000)
settings.load_profile("default")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bless", action="store_true", help="write the actual output over the expected one")


@pytest.fixture(scope="session")
def bless(request: pytest.FixtureRequest) -> bool:
    """Whether expectations are to be rewritten rather than compared."""
    return bool(request.config.getoption("--bless"))


def pytest_collection_finish() -> None:
    """Collected tests stay to the end: tests that look for garbage need not walk over them."""
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def emptied_caches(request: pytest.FixtureRequest) -> Iterator[None]:
    """Drops what a file's cached functions have compiled; gigabytes in all."""
    yield
    for value in vars(request.module).values():
        home = getattr(value, "__module__", None) or ""
        if hasattr(value, "cache_clear") and home.rpartition(".")[2].startswith("test_"):
            value.cache_clear()

"""What all tests share: Hypothesis profiles and the `--bless` switch."""

from __future__ import annotations

import os

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

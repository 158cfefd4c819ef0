"""How many examples a property gets: a fixed few in a normal run, the profile's number in `make fuzz`."""

from __future__ import annotations

from hypothesis import settings

#: whether Hypothesis was told to run for long (`make fuzz`)
LONG = settings().max_examples > settings.get_profile("default").max_examples


def examples(count: int) -> settings:
    """Settings for `count` examples, or for as many as the fuzz profile says."""
    return settings() if LONG else settings(max_examples=count)

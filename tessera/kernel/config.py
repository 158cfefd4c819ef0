"""The schedule parameters that a kernel is given: hints of the launch, and names that its body reads."""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping

from tessera.errors import Span, did_you_mean
from tessera.kernel.report import fail
from tessera.kernel.syntax import Source

__all__ = ["HINTS", "check_config", "lanes_of"]

#: keys that no kernel needs to read: `num_warps` gives the lanes of a group, 32 each; `num_stages` is advice on the
#: depth of pipelines
HINTS = ("num_warps", "num_stages")


LANES = 128  # of a group that neither `group=` nor `num_warps` says


def lanes_of(source: Source, config: Mapping[str, int], group: int | None) -> int:
    """The lanes of a group: what `group=` or `num_warps` says. Raises E221 at `group=` where both do."""
    if "num_warps" not in config:
        return LANES if group is None else group
    lanes = 32 * config["num_warps"]
    if group is not None:
        raise fail("E221", f"a group has {group} lanes by group=, and {lanes} by num_warps={config['num_warps']}",
                   _place(source, "group"), "leave out one of them")  # fmt: skip
    return lanes


def check_config(source: Source, config: Collection[str], used: Collection[str]) -> None:
    """Every key is a hint, was read, or stands in the body (perhaps in a branch not taken). Raises E221 at the key."""
    named = {n.id if isinstance(n, ast.Name) else n.attr for s in source.node.body for n in ast.walk(s)
             if isinstance(n, (ast.Name, ast.Attribute))}  # fmt: skip
    for key in config:
        if key not in HINTS and key not in used and key not in named:
            known = sorted((set(used) | {n for n in named if n.isupper()} | set(HINTS)) - {key})
            help = did_you_mean(key, known) or f"the kernel reads no such name; hints are {', '.join(HINTS)}"
            raise fail("E221", f"the kernel has no schedule parameter `{key}`", _place(source, key), help)


def _place(source: Source, key: str) -> Span:
    """The key in the decorator; the kernel's name where it is not spelled there."""
    for decorator in source.node.decorator_list:
        for node in ast.walk(decorator):
            if isinstance(node, ast.keyword) and node.arg == key:
                return source.span(node)
            if isinstance(node, ast.Constant) and node.value == key:
                return source.span(node)
    return source.name_span()

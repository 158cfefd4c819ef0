"""CUDA graphs: all steps of a call as one launch, one graph per function and extents.

A graph is built from the plan, not captured from a stream, so its nodes are known: when a call comes with other
pointers or scalars, the nodes that they change are set before the launch. Beyond `limit` graphs the one that was not
used for longest is given up; with `strict` that is an error, as is everything else that keeps a call out of a graph.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from tessera_runtime.core.errors import DeviceError
from tessera_runtime.core.locks import lock
from tessera_runtime.devices.cuda_driver import Driver, Handle, Node

__all__ = ["Capture", "Graphs"]


class Capture(NamedTuple):
    """Whether calls run as graphs: so many graphs at most, and whether a call without one is refused (E909)."""

    limit: int = 16
    strict: bool = False


class Graphs:
    """The graphs of one program."""

    def __init__(self, driver: Driver, capture: Capture) -> None:
        self._driver, self.capture = driver, capture
        self._held: OrderedDict[Hashable, tuple[Handle, list[Node]]] = OrderedDict()
        self._lock = lock()  # a graph's operands are set and launched by one call at a time

    def __len__(self) -> int:
        return len(self._held)

    def clear(self) -> None:
        """Give all graphs back."""
        with self._lock:
            while self._held:
                _, (graph, _) = self._held.popitem()
                self._driver.free_graph(graph)

    def launch(self, key: Hashable, nodes: Sequence[Node], stream: int, what: str) -> None:
        """Launch these nodes as the graph of `key`. Nodes under one key differ in pointers and scalars only."""
        with self._lock:
            found = self._held.get(key)
            if found is None:
                found = self._make(key, nodes, what)
            graph, old = found
            self._held.move_to_end(key)
            try:
                for index, (before, now) in enumerate(zip(old, nodes, strict=True)):
                    if before != now:
                        self._driver.graph_set(graph, index, now)
                        old[index] = now
                self._driver.graph_launch(graph, stream)
            except DeviceError:  # its operands are not known any more
                del self._held[key]
                self._driver.free_graph(graph)
                raise

    def _make(self, key: Hashable, nodes: Sequence[Node], what: str) -> tuple[Handle, list[Node]]:
        if len(self._held) >= self.capture.limit:
            if self.capture.strict:
                raise DeviceError(
                    "E909", f"{what}: these extents need graph number {len(self._held) + 1} of {self.capture.limit}",
                    help="call with fewer sets of extents, or allow more graphs: graph_limit",
                )  # fmt: skip
            _, (graph, _) = self._held.popitem(last=False)
            self._driver.free_graph(graph)
        found = self._driver.graph(nodes), list(nodes)
        self._held[key] = found
        return found

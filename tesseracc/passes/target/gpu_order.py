"""Program order of a group's accesses: a barrier where other threads made those that come before."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace

from tesseracc.ir.types import BufType
from tesseracc.ir.value import Value
from tesseracc.passes.target.gpu_flow import Flow
from tesseracc.passes.target.gpu_memory import EVERYWHERE, Outside, Span, overlap


class Order(Flow):
    """What a lowering asks before it touches memory. `changed`: see `changed_outside`."""

    spans: dict[Value, Span]
    changed: frozenset[Value]
    in_map: bool

    @abstractmethod
    def barrier(self) -> None: ...

    # -- shared memory ---------------------------------------------------------------------------------------------

    def span(self, ptr: Value) -> Span:
        """The bytes that an address stands for; all, where it is chosen while running."""
        return self.spans.get(ptr, EVERYWHERE)

    def before_read(self, *ptrs: Value) -> None:
        """Before threads read shared memory that others may have written."""
        if any(overlap(self.state.written, self.span(ptr)) for ptr in ptrs):
            self.barrier()
        for ptr in ptrs:
            self.state = self.state.read(self.span(ptr))

    def before_write(self, *ptrs: Value) -> None:
        """Before threads write shared memory that others may still read."""
        self.unused(*ptrs)
        for ptr in ptrs:
            self.state = self.state.wrote(self.span(ptr))

    def unused(self, *ptrs: Value) -> None:
        """Until no thread reads some shared memory any more."""
        if any(overlap(self.state.used, self.span(ptr)) for ptr in ptrs):
            self.barrier()

    def touch(self, buf: Value, *, write: bool) -> None:
        """An access of single elements: behind what operations on tiles wrote, and known to those that follow."""
        if self.in_map or not isinstance(buf.type, BufType) or buf.type.space != "shared":
            self.reach(Outside(buf, False, write))
            return
        if self.state.tiles and not self.varying:
            self.barrier()
        span = self.span(self.get(buf))
        self.state = self.state.wrote(span, tiles=False) if write else self.state.read(span)

    # -- global memory ---------------------------------------------------------------------------------------------

    def reach(self, access: Outside) -> None:
        """Before an access of global memory: behind those of other threads that program order puts before it."""
        if not self.in_map and not self.varying and any(before.conflicts(access) for before in self.state.outside):
            self.barrier()
        self.reached(access)

    def reached(self, access: Outside) -> None:
        """Behind an access of global memory, if another one may conflict with it."""
        if not self.in_map and access.buf in self.changed:
            self.state = replace(self.state, outside=self.state.outside | {access})

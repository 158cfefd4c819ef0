"""What devices report of a plan's steps."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from tessera_runtime.control import CopyStep, LaunchStep
from tessera_runtime.core.manifest import Kernel
from tessera_runtime.core.recording import Span
from tessera_runtime.plan import Instance

__all__ = ["span", "traffic"]


def traffic(instance: Instance, kernel: Kernel, step: LaunchStep) -> int:
    """The bytes that a launch moves at least: every buffer that it reads, and every one that it writes, once."""
    read, written = set(), set()
    for (kind, value), param in zip(step.args, kernel.params, strict=True):
        if kind == "buffer" and isinstance(value, int):
            if param.access != "write":
                read.add(value)
            if param.access != "read":
                written.add(value)
    return sum(instance.nbytes[index] for index in (*read, *written))


def span(
    instance: Instance, kernels: Sequence[Kernel], number: int, step: LaunchStep | CopyStep, start: int, stop: int,
    device: str,
) -> Span:  # fmt: skip
    """The span of one run of step `number`, as `tessera_runtime.control.walk` gives it."""
    thread, function = threading.get_ident(), instance.plan.function
    if isinstance(step, CopyStep):
        return Span("copy", "copy", start, stop, device, thread, function, number, 2 * step.nbytes)
    kernel = kernels[step.kernel]
    file, line = (kernel.source.file, kernel.source.line) if kernel.source is not None else ("", 0)
    moved = traffic(instance, kernel, step)
    return Span("launch", kernel.name, start, stop, device, thread, function, number, moved, file, line, step.grid)

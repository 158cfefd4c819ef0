"""What devices report of a plan's steps."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from tessera_runtime.core.manifest import Kernel
from tessera_runtime.core.recording import Span
from tessera_runtime.plan import CopyStep, Instance, LaunchStep

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
    instance: Instance, kernels: Sequence[Kernel], number: int, start: int, stop: int, device: str
) -> Span:  # fmt: skip
    """The span of step `number` of `instance.steps`."""
    step, thread = instance.steps[number], threading.get_ident()
    function = instance.plan.function
    if isinstance(step, CopyStep):
        return Span("copy", "copy", start, stop, device, thread, function, number, 2 * step.nbytes)
    kernel = kernels[step.kernel]
    file, line = (kernel.source.file, kernel.source.line) if kernel.source is not None else ("", 0)
    moved = traffic(instance, kernel, step)
    return Span("launch", kernel.name, start, stop, device, thread, function, number, moved, file, line, step.grid)

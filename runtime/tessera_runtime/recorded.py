"""What devices report of a plan's steps."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from tessera_runtime.control import CopyStep, LaunchStep
from tessera_runtime.core.errors import TesseraError
from tessera_runtime.core.manifest import Kernel
from tessera_runtime.core.places import place
from tessera_runtime.core.recording import Span
from tessera_runtime.core.shapeexpr import evaluate
from tessera_runtime.plan import Instance

__all__ = ["arithmetic", "span", "traffic"]


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


def arithmetic(kernel: Kernel, step: LaunchStep) -> tuple[int | None, float]:
    """The floating-point operations of a launch, and the cycles that they take at least of all units together.

    Different units work at the same time. (None, 0) where the kernel does not say, or they are beyond 64 bits.
    """
    values = [value for kind, value in step.args if kind == "dim"]
    env = {name: value for name, value in zip(kernel.symbols, values, strict=False) if isinstance(value, int)}
    try:
        counts = [f.count if isinstance(f.count, int) else evaluate(f.count, env) for f in kernel.flops]
    except TesseraError:
        return None, 0.0
    if not counts or min(counts) < 0:
        return None, 0.0
    return sum(counts), max(count / f.rate for count, f in zip(counts, kernel.flops, strict=True))


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
    return Span(
        "launch", kernel.name, start, stop, device, thread, function, number, moved, file, line, step.grid,
        *arithmetic(kernel, step), " ".join(kernel.ops), place(kernel),
    )  # fmt: skip

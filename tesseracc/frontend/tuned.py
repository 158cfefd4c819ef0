"""Kernels with a space of schedule parameters: the points that are chosen for the targets, as one module."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tessera.decorators import Kernel
from tessera.kernel import KernelDef, specialise
from tesseracc.arch.arch import Arch
from tesseracc.frontend import kernel as kernels
from tesseracc.frontend.places import near
from tesseracc.ir.pipeline import Note
from tesseracc.ir.value import Module
from tesseracc.tuning.choice import Tuning, Variant, choose
from tesseracc.tuning.record import beside, read_records
from tesseracc.tuning.split import decide, numbered

__all__ = ["kernel_module", "tuning_for"]


def tuning_for(entry: object, archs: tuple[Arch, ...]) -> tuple[Tuning, str]:
    """What a kernel is tuned by where no file is named, as `tesseracc build` does: the records beside its module, and
    their file ("": none)."""
    file = beside(entry.file) if isinstance(entry, Kernel) and entry.space and Path(entry.file).is_file() else None
    if file is None or not file.is_file():
        return Tuning(archs), ""
    return Tuning(archs, read_records(file)), str(file)


def kernel_module(
    entry: Kernel, tuning: Tuning | None, fixed: Mapping[str, int], notes: list[Note] | None = None,
    constants: Mapping[str, object] | None = None,
) -> Module:  # fmt: skip
    """The kernel at the points that are chosen for the targets, or, without `tuning`, at the first one of its space.

    `fixed` gives dims numbers, `constants` values of compile-time parameters.
    """
    root = os.path.dirname(entry.file)
    definition: KernelDef = entry.definition
    cases: tuple[Variant, ...] = ()

    def known(kernel: KernelDef) -> KernelDef:
        sizes = {n: fixed[n] for n in kernel.symbols if n in fixed}
        return replace(specialise(kernel, constants, dims=sizes), name=entry.name)

    if tuning is not None and entry.space:
        choice = choose(entry, tuning, fixed)
        definition, cases = choice.kernel, choice.variants
        if notes is not None:
            notes += [Note(text, near(definition.span, root)) for text in choice.notes]
    if notes is not None:
        notes += kernels.notes(known(definition), root)
    forms = {definition.config: definition} | {case.kernel.config: case.kernel for case in cases}
    by_point = decide([(case.box, case.kernel.config) for case in cases], definition.config)
    tree, taken = numbered(by_point, definition.config)
    first, *others = (known(forms[config]) for config in taken)
    return kernels.lower(first, root, others, tree)

"""Bundles of the same program put together (`merge`), and bundles with fewer targets (`strip`).

Both keep entries byte for byte and write what building for the same targets at once would have written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tessera_runtime.bundle import BundleFile
from tessera_runtime.core import manifest as M
from tessera_runtime.core.dtypes import storage_dtype
from tessera_runtime.core.errors import BundleError, UsageError, about
from tesseracc.bundle.edit import changed, payloads
from tesseracc.bundle.weights import SOURCES, WEIGHTS, pack_weights
from tesseracc.bundle.write import seal

__all__ = ["merge", "strip"]

_ARCH = "--arch="
Payloads = dict[str, tuple[str, bytes]]


def merge(files: Sequence[BundleFile]) -> bytes:
    """One bundle with the targets of all, in order. E661, naming its file, for one that is not of the first's program.

    Signatures are dropped: they are of other contents. A target that several bundles have must be the same in all.
    """
    first = files[0].manifest
    targets: dict[str, M.Target] = {}
    entries: Payloads = {}
    constants: dict[str, M.Constant] = {}
    arrays: dict[str, NDArray[Any]] = {}
    options = list(first.provenance.options)
    assembler = ""
    for number, file in enumerate(files):
        m, where = file.manifest, _Place(file.path, number + 1)
        _same(where, "functions", m.functions, first.functions)
        _same(where, "embedded tests", m.tests, first.tests)
        for what in ("compiler", "llvm", "source_sha256"):
            _same(where, f"provenance ({what})", getattr(m.provenance, what), getattr(first.provenance, what))
        _same(where, "options", _others(m.provenance.options), _others(first.provenance.options))
        if m.provenance.assembler:
            _same(where, "provenance (assembler)", m.provenance.assembler, assembler or m.provenance.assembler)
            assembler = m.provenance.assembler
        options += [option for option in m.provenance.options if option not in options]
        for name, payload in payloads(file).items():
            if name == WEIGHTS:
                continue  # put together anew below
            _same(where, f"entry {name}", payload, entries.setdefault(name, payload))
        for target in m.targets:
            _same(where, f"target {target.name}", target, targets.setdefault(target.name, target))
        for constant in m.constants:
            if constant.entry == SOURCES:
                constants[constant.name] = constant
                continue
            array = _array(file, constant)
            known = constants.setdefault(constant.name, constant)
            _same(where, f"constant {constant.name}", (constant.dtype, array.tobytes()),
                  (known.dtype, arrays.setdefault(constant.name, array).tobytes()))  # fmt: skip
    described = changed(
        first,
        targets=tuple(targets.values()),
        provenance=changed(first.provenance, assembler=assembler, options=_in_order(options)),
    )
    return _sealed(described, entries, constants, arrays)


def strip(file: BundleFile, keep: Sequence[str], *, tests: bool = True, sources: bool = True) -> bytes:
    """The bundle with only the targets named, and only the constants that they use. E805 for a target it lacks."""
    m = file.manifest
    names = [target.name for target in m.targets]
    missing = [name for name in keep if name not in names]
    with about(file.path, UsageError):
        if missing:
            known = ", ".join(names)
            raise UsageError("E805", f"the bundle has no target {missing[0]!r}", help=f"its targets: {known}")
        targets = tuple(target for target in m.targets if target.name in keep)
        if not targets:
            raise BundleError("E661", "no target would be left", help=f"keep one of {', '.join(names)}")
    used = {b.ref for t in targets for p in t.plans for b in p.buffers if b.kind == "constant"}
    wanted = {name for target in targets for name in (target.image, target.ptx) if name}
    entries = {
        name: payload
        for name, payload in payloads(file).items()
        if name in wanted or (payload[0] == "tests" and tests) or (name == SOURCES and sources)
    }
    constants = {
        c.name: c for c in m.constants if (c.entry == SOURCES and sources) or (c.entry != SOURCES and c.name in used)
    }
    arrays = {name: _array(file, constant) for name, constant in constants.items() if constant.entry != SOURCES}
    dropped = {_ARCH + name for name in names if name not in keep}
    if not tests:
        dropped.add("--embed-tests")
    if not sources:
        dropped.add("--embed-source")
    provenance = changed(
        m.provenance,
        options=tuple(option for option in m.provenance.options if option not in dropped),
        assembler=m.provenance.assembler if any(target.kind == "cuda" for target in targets) else "",
    )
    described = changed(m, targets=targets, tests=m.tests if tests else (), provenance=provenance)
    return _sealed(described, entries, constants, arrays)


class _Place(NamedTuple):
    """Which of several bundles: its path, where it has one, and its number."""

    path: str | None
    number: int


def _same(where: _Place, what: str, found: object, wanted: object) -> None:
    if found != wanted:
        with about(where.path):
            raise BundleError("E661", f"bundle {where.number} differs in its {what}", help="`tesseracc diff` shows how")


def _others(options: Sequence[str]) -> list[str]:
    return [option for option in options if not option.startswith(_ARCH)]


def _in_order(options: Sequence[str]) -> tuple[str, ...]:
    """Targets first, as `tesseracc build` records them."""
    return (*(option for option in options if option.startswith(_ARCH)), *_others(options))


def _array(file: BundleFile, constant: M.Constant) -> NDArray[Any]:
    data = file.constant(constant)
    return np.frombuffer(data, storage_dtype(constant.dtype)).reshape(constant.shape)


def _sealed(
    described: M.Manifest, entries: Payloads, constants: Mapping[str, M.Constant], arrays: Mapping[str, NDArray[Any]]
) -> bytes:
    """The bundle, its weights packed anew."""
    placed: tuple[M.Constant, ...] = ()
    if arrays:
        data, placed = pack_weights(arrays, {name: constants[name].dtype for name in arrays})
        entries = {**entries, WEIGHTS: ("weights", data)}
    carried = tuple(constants[name] for name in sorted(constants) if name not in arrays)
    return seal(changed(described, constants=(*placed, *carried)), entries)

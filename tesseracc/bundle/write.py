"""The bundle writer (specs/bundle.md). Deterministic; atomic on disk; never writes what the reader would refuse."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_runtime.core import container, manifest, safetensors
from tessera_runtime.core.check import check
from tessera_runtime.core.dtypes import DTYPES, dtype_of, np_dtype
from tessera_runtime.core.errors import BundleError, TesseraError
from tessera_runtime.core.files import write_atomic
from tesseracc.bundle.edit import changed
from tesseracc.bundle.pack import pack
from tesseracc.bundle.weights import SOURCES, WEIGHTS, pack_sources, pack_weights

__all__ = ["Contents", "TestCase", "bundle_of", "image_entry", "seal", "write"]


@dataclass(frozen=True)
class TestCase:
    """Inputs of a function and what it must give, within |actual - expected| <= atol + rtol |expected|.

    Tolerances are decimal text (`"1e-5"`), so that the manifest holds no floating-point numbers.
    """

    __test__ = False  # not for pytest to collect

    name: str
    function: str
    inputs: Mapping[str, NDArray[Any] | float | int | bool]
    expected: Mapping[str, NDArray[Any]]
    atol: str = "0"
    rtol: str = "0"


@dataclass(frozen=True)
class Contents:
    """What a bundle holds. `images` maps the entry names that targets use (see `image_entry`) to their bytes.

    `constants` are arrays by name; `constant_dtypes` names the element type of those held as raw integers. `sources`
    are files to carry along.
    """

    functions: Sequence[manifest.Function]
    targets: Sequence[manifest.Target]
    images: Mapping[str, bytes]
    constants: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    constant_dtypes: Mapping[str, str] = field(default_factory=dict)
    provenance: manifest.Provenance = field(default_factory=manifest.Provenance)
    tests: Sequence[TestCase] = ()
    sources: Mapping[str, bytes] = field(default_factory=dict)


def image_entry(target: str, kind: str) -> str:
    """The entry name of a target's image or text, `kind` being its format: `images/sm_90.cubin`."""
    return f"images/{target}.{kind}"


def write(path: str | os.PathLike[str] | None, contents: Contents) -> bytes:
    """The bundle's bytes; also written to `path` if one is given, all or nothing.

    Raises E6xx for contents that contradict themselves, E803 when the file cannot be written.
    """
    data = _assemble(contents)
    if path is not None:
        write_atomic(os.fspath(path), data)
    return data


def bundle_of(contents: Contents) -> bytes:
    """The bundle of a compiled program. Raises E407 for a program with more or other than the format can say."""
    try:
        return write(None, contents)
    except BundleError as error:
        if error.code != "E621":
            raise
        said = error.message.removeprefix("manifest field ")
        raise TesseraError("E407", f"no bundle can hold the program: {said}") from error


def _assemble(contents: Contents) -> bytes:
    payloads: dict[str, tuple[str, bytes]] = {name: ("code", bytes(image)) for name, image in contents.images.items()}
    constants: tuple[manifest.Constant, ...] = ()
    if contents.constants:
        weights, constants = pack_weights(contents.constants, contents.constant_dtypes)
        payloads[WEIGHTS] = ("weights", weights)
    if contents.sources:
        carried, files = pack_sources(contents.sources)
        payloads[SOURCES] = ("weights", carried)
        constants += files
    tests = []
    functions = {function.name: function for function in contents.functions}
    for index, case in enumerate(contents.tests):
        entry = f"tests/{index:04d}.safetensors"
        payloads[entry] = ("tests", _test_data(case, functions.get(case.function)))
        tests.append(manifest.Test(case.name, case.function, entry, case.atol, case.rtol))
    described = manifest.Manifest(
        functions=tuple(contents.functions),
        targets=tuple(contents.targets),
        entries=(),
        constants=constants,
        tests=tuple(tests),
        provenance=contents.provenance,
    )
    return seal(described, payloads)


def seal(described: manifest.Manifest, payloads: Mapping[str, tuple[str, bytes]]) -> bytes:
    """The bundle of a manifest whose entries are `payloads`: kind and bytes by name. E62x if the parts do not fit."""
    entries = tuple(
        manifest.Entry(name, payloads[name][0], len(payloads[name][1]), digests(payloads[name][1]))
        for name in sorted(payloads)
    )
    versions = changed(described.versions, plan=_plan_version(described))
    text = manifest.to_json(changed(described, entries=entries, versions=versions))
    check(manifest.from_json(text))  # what the reader will do; a fault here is a fault of the caller
    files = {name: payload for name, (_, payload) in payloads.items()} | {container.MANIFEST_NAME: text}
    return b"".join(pack(files, [target.name for target in described.targets]))


def _plan_version(described: manifest.Manifest) -> int:
    """The version that the plans need: 1 has launches and copies only, no tensor maps and nothing of operations."""
    steps = (step for target in described.targets for plan in target.plans for step in plan.steps)
    plain = all(isinstance(step, (manifest.Launch, manifest.Copy)) for step in steps)
    kernels = [kernel for target in described.targets for kernel in target.kernels]
    more = any(kernel.maps or kernel.flops or kernel.ops or kernel.parts for kernel in kernels)
    return 1 if plain and not more else manifest.PLAN_VERSION


def digests(data: bytes) -> tuple[str, ...]:
    """SHA-256 of each 4 MiB of `data`."""
    view = memoryview(data)
    return tuple(
        hashlib.sha256(view[start : start + manifest.CHUNK]).hexdigest()
        for start in range(0, len(data), manifest.CHUNK)
    )


def _test_data(case: TestCase, function: manifest.Function | None) -> bytes:
    declared = {item.name: item.dtype for item in function.inputs} if function is not None else {}
    tensors: dict[str, NDArray[Any]] = {}
    dtypes: dict[str, str] = {}
    for name, value in case.inputs.items():
        kind = declared.get(name) or dtype_of(np.asarray(value).dtype)
        tensors[f"in/{name}"] = value if isinstance(value, np.ndarray) else np.array(value, dtype=np_dtype(kind))
        dtypes[f"in/{name}"] = kind
    results = {item.name: item.dtype for item in function.outputs} if function is not None else {}
    for name, array in case.expected.items():
        tensors[f"out/{name}"] = array
        dtypes[f"out/{name}"] = results.get(name) or dtype_of(array.dtype)
    assert all(kind in DTYPES for kind in dtypes.values())
    return safetensors.save(tensors, dtypes)

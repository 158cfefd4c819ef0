"""`ts.aot.compile`: a function or kernel of this process to a bundle, as `tesseracc build` would from its file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tessera.decorators import Function, Kernel
from tessera.errors import SourceError
from tessera.tensor import Tensor, as_tensor
from tessera.types import check_spec
from tessera_runtime.core.errors import UsageError
from tesseracc.driver import DEFAULT_TARGETS, Build, front, lowered
from tesseracc.frontend.tuned import tuning_for
from tesseracc.ir.pipeline import Note
from tesseracc.ir.value import Module
from tesseracc.python_warnings import Warnings
from tesseracc.recipe import Loaded, Recipe, input_files
from tesseracc.specialisation import Specialisation, specialise
from tesseracc.static_values import spelled
from tesseracc.textio import write_bytes
from tesseracc.tuning.choice import Tuning

__all__ = ["compile"]


def compile(
    fn: Any,
    example_inputs: Sequence[Any] | Mapping[str, Any],
    output_path: str | os.PathLike[str],
    target_archs: str | Sequence[str] | None = None,
    *,
    embed_tests: bool = False,
) -> str:
    """Compile `fn` for `target_archs` and write a bundle; returns its path. See `tessera.aot.compile`."""
    entry = _entry(fn)
    arguments = _arguments(entry, example_inputs)
    wanted = specialise(entry, arguments)
    _check(entry, arguments, wanted)
    recipe = Recipe(
        (target_archs,) if isinstance(target_archs, str) else tuple(target_archs or DEFAULT_TARGETS),
        (entry.name,),
        tuple(f"{name}={type_}" for name, type_ in wanted.types.items()),
        tuple(f"{name}={size}" for name, size in wanted.fixed.items()),
        embed_tests,
    )
    tuning, file = tuning_for(entry, recipe.targets)  # E805 for an unknown target, before any work
    recipe = replace(recipe, tuning=file)
    path = _path(output_path, entry.name)
    notes: list[Note] = []
    loaded = Loaded(_module(entry, wanted, notes, tuning), _files(entry, recipe), notes)
    warnings = Warnings(entry)
    warnings.of_program(notes)
    recipe = recipe.for_program(loaded.module)
    provenance = loaded.provenance(recipe)
    if wanted.static:  # no option spells Python values: the recipe says that it is not whole
        extra = tuple(f"--static={name}={spelled(value)}"[:4096] for name, value in wanted.static.items())
        provenance = type(provenance)(
            provenance.compiler, provenance.llvm, provenance.assembler, provenance.options + extra,
            provenance.source_sha256,
        )  # fmt: skip
    root = os.path.dirname(entry.file)
    build = Build(loaded.module, recipe.targets, provenance=provenance, embed_tests=embed_tests, root=root)
    data = build.bundle()
    warnings.of_code(build.log)
    _make_folder(path)
    write_bytes(path, data)
    return str(path)


def _entry(fn: Any) -> Function | Kernel:
    if isinstance(fn, (Function, Kernel)):
        return fn
    return Function(fn)


def _arguments(entry: Function | Kernel, examples: Sequence[Any] | Mapping[str, Any]) -> dict[str, Any]:
    """The example inputs by parameter name. E314 when they do not fit the signature."""
    by_name = isinstance(examples, Mapping)
    bound = entry.bind(() if by_name else tuple(examples), dict(examples) if by_name else {})
    return dict(bound.arguments)


def _check(entry: Function | Kernel, arguments: Mapping[str, Any], wanted: Specialisation) -> None:
    """Hold the examples against the annotations, as a call would: a bundle refuses what does not fit. E307."""
    env: Any = {}
    for parameter in entry.parameters:
        value = arguments[parameter.name]
        if parameter.tensor is None or parameter.name in wanted.static:
            continue
        if not isinstance(value, (Tensor, np.ndarray, np.generic, int, float)):
            raise SourceError(
                "E311", f"`{parameter.name}` of `{entry.name}` needs a tensor, got {type(value).__name__}",
                help=f"it is declared {parameter.tensor}",
            )  # fmt: skip
        if isinstance(value, (Tensor, np.ndarray)):
            env = check_spec(f"`{entry.name}`", parameter.name, parameter.tensor, as_tensor(value).type, env)


def _module(entry: Function | Kernel, wanted: Specialisation, notes: list[Note], tuning: Tuning) -> Module:
    if wanted.static:
        return lowered(entry, wanted, tuning, notes)[0]
    return front({entry.name: entry}, {entry.name: wanted.types}, notes, wanted.fixed, tuning=tuning)


def _files(entry: Function | Kernel, recipe: Recipe) -> dict[str, bytes]:
    """What is read, for digests: the module's text, its helpers' and its tuning records; nothing for a function of an
    interactive session."""
    file = Path(entry.file)
    return input_files(file, recipe) if file.is_file() else {"interactive.py": b""}


def _path(output: str | os.PathLike[str], name: str) -> Path:
    text = os.fspath(output)
    if not text:
        raise UsageError("E803", "output_path is empty", help="give a file, or a folder with / at the end")
    return Path(text) / f"{name}.tsb" if text.endswith(("/", os.sep)) else Path(text)


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError("E803", f"cannot write {path}: {error.strerror}") from None

"""Building a bundle again from the recipe that it records, which proves where it comes from."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tessera_runtime.bundle import BundleFile
from tessera_runtime.core.errors import BundleError, TesseraError, UsageError, about
from tesseracc.bundle.weights import sources_of
from tesseracc.driver import Build
from tesseracc.recipe import Recipe, input_files, load_recipe, recorded_recipe, same_files
from tesseracc.report import write_out

__all__ = ["rebuild"]


def rebuild(file: BundleFile, source: str | None = None, *, jobs: int = 2) -> bytes:
    """The bundle that this compiler builds from the recorded options and `source`, or from the sources carried along.

    Nothing of the source is executed before it has the recorded digests. Raises E660 where that or a version differs or
    the bundle records too little, and whatever a build raises.
    """
    with about(file.path):
        return _rebuild(file, source, jobs)


def _rebuild(file: BundleFile, source: str | None, jobs: int) -> bytes:
    recipe, inputs = recorded_recipe(file.manifest.provenance.options)
    _same_versions(file, recipe)
    alone = source is None
    with tempfile.TemporaryDirectory() as folder:
        if source is None:
            carried = sources_of(file)
            if not carried:
                raise BundleError(
                    "E660", f"the bundle does not carry its source, {next(iter(inputs))}",
                    help="give it with --source, or build with --embed-source",
                )  # fmt: skip
            same_files(carried, inputs)
            source = write_out(Path(folder), {name: carried[name] for name in inputs})
            recipe = replace(recipe, tuning=str(Path(folder, recipe.tuning))) if recipe.tuning else recipe
        else:
            recipe = _beside(source, recipe)
            same_files(_files(source, recipe), inputs)
        with _told(alone):
            loaded = load_recipe(source, recipe)
        same_files(loaded.files, inputs)
        build = Build(
            loaded.module,
            recipe.targets,
            jobs=jobs,
            provenance=loaded.provenance(recipe),
            sources=loaded.files if recipe.embed_source else None,
            embed_tests=recipe.embed_tests,
            numerics=recipe.numerics,
            root=str(Path(source).parent),
        )
        return build.bundle()


@contextmanager
def _told(alone: bool) -> Iterator[None]:
    """What goes wrong with a source that is carried `alone` is that something is not here which was there."""
    try:
        yield
    except TesseraError as error:
        if alone:
            error.help = "a bundle carries its source, not the data and packages that it reads: give it with --source"
        raise


def _beside(source: str, recipe: Recipe) -> Recipe:
    """The recipe with its tuning records in the folder of the source."""
    return replace(recipe, tuning=str(Path(source).with_name(recipe.tuning))) if recipe.tuning else recipe


def _files(source: str, recipe: Recipe) -> dict[str, bytes]:
    path = Path(source)
    if not path.is_file():
        raise UsageError("E802", f"cannot read {source}: no such file")
    if path.suffix != ".tir":
        return input_files(path, recipe)
    beside = path.with_name("constants.safetensors")
    return {p.name: p.read_bytes() for p in (path, beside) if p.is_file()}


def _same_versions(file: BundleFile, recipe: Recipe) -> None:
    from tesseracc.provenance import assembler, compiler, llvm

    recorded = file.manifest.provenance
    for what, was, is_ in (
        ("compiler", recorded.compiler, compiler()),
        ("LLVM", recorded.llvm, llvm()),
        ("assembler", recorded.assembler, assembler(recipe.targets)),
    ):
        if was != is_:
            raise BundleError("E660", f"the bundle's {what} was {was or 'none'}, here it is {is_ or 'none'}")

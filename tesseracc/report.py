"""What the page of a bundle shows beyond the bundle itself: the program's text, and its IR, from the recipe."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from tessera_runtime.bundle import BundleFile
from tessera_runtime.core.errors import BundleError, TesseraError, about
from tessera_runtime.core.files import read_bytes
from tesseracc.bundle.page import Levels
from tesseracc.bundle.weights import sources_of
from tesseracc.driver import Build
from tesseracc.ir.printer import module_text
from tesseracc.ir.value import Module
from tesseracc.recipe import Recipe, imported, load_recipe, recorded_recipe, same_files

__all__ = ["levels", "sources"]


def sources(file: BundleFile, source: str | None) -> dict[str, str]:
    """Texts of the program by name: from the file given, else those that the bundle carries.

    Raises E802 for a file that cannot be read, E660 for one that the bundle was not built from.
    """
    if source is not None:
        path, data = Path(source), read_bytes(source, regular=True)
        found = {path.name: data} if path.suffix == ".tir" else imported(path, data)
        with about(file.path):
            recipe, inputs = recorded_recipe(file.manifest.provenance.options)
            besides = {recipe.tuning, "constants.safetensors"}  # inputs that are no text of the program
            same_files(found, {name: digest for name, digest in inputs.items() if name not in besides})
    else:
        carried = sources_of(file)
        recorded = Recipe.parse(file.manifest.provenance.options)[1] if carried else {}
        found = {name: carried[name] for name in (*recorded, *carried) if name in carried}  # the module comes first
    return {name: data.decode("utf-8", "replace") for name, data in found.items()}


def levels(file: BundleFile, source: str | None, texts: Mapping[str, str], *, trust: bool = False) -> Levels:
    """The IR of every function and kernel, if the program is at hand and builds; else nothing, or why not.

    Building a program executes it: one that only the bundle carries is built where the caller trusts it.
    """
    if not texts or (source is None and not trust):
        return Levels()
    try:
        recipe, _ = Recipe.parse(file.manifest.provenance.options)
        with tempfile.TemporaryDirectory() as folder:
            if source is None:
                source = write_out(Path(folder), texts)
            build = Build(load_recipe(source, recipe).module, recipe.targets)
            graphs = {f.name: _text(build.graph, f.name) for f in build.graph.of_kind("graph.func")}
            tiles = {
                arch.name: {f.name: _text(build.tile(arch), f.name) for f in build.tile(arch).of_kind("tile.kernel")}
                for arch in recipe.targets
            }
    except TesseraError as error:
        return Levels(missing=f"its source does not build here: {error.message}")
    return Levels(graphs, tiles)


def write_out(folder: Path, texts: Mapping[str, str | bytes]) -> str:
    """Puts the files of a program into a folder; returns the path of the module, which is the first.

    Raises E660 for a name that leads out of the folder, or is no file's.
    """
    for name, text in texts.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise BundleError("E660", f"the carried source {name!r} leads out of its folder")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode() if isinstance(text, str) else text)
        except (FileExistsError, IsADirectoryError, NotADirectoryError):
            raise BundleError("E660", f"the carried source {name!r} is the name of a folder") from None
    return str(folder / next(iter(texts)))


def _text(module: Module, name: str) -> str:
    return module_text(module.with_(funcs=tuple(f for f in module.funcs if f.name == name)))

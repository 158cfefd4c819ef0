"""The recipe of a bundle: from which options and files it is made, as the bundle records it and as it is repeated.

`provenance.options` lists the options that its bytes depend on, spelled as on the command line, then its input files as
`NAME=sha256:DIGEST`: the module first, then the modules beside it that it imports, or the constants of IR text.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tessera.errors import SourceError, Span
from tessera_runtime.core.errors import BundleError
from tessera_runtime.core.manifest import Provenance
from tesseracc.arch.arch import Arch, load, resolve
from tesseracc.frontend.packages import package_of
from tesseracc.ir.pipeline import Note
from tesseracc.ir.types import PtrType, element
from tesseracc.ir.value import Module
from tesseracc.numerics import DEFAULT, PROFILES

__all__ = ["Loaded", "Recipe", "imported", "input_files", "load_recipe", "recorded_recipe", "same_files"]

_DIGEST = "=sha256:"
_FILE = re.compile(rf"(.+){_DIGEST}([0-9a-f]{{64}})", re.DOTALL)


@dataclass(frozen=True)
class Recipe:
    """The options that a bundle's bytes depend on; the files are given apart."""

    archs: tuple[str, ...]
    entries: tuple[str, ...] = ()
    specs: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    embed_tests: bool = False
    embed_source: bool = False
    numerics: str = DEFAULT
    tuning: str = ""  # the file with tuning records; its name alone is recorded, its digest as an input's

    @property
    def targets(self) -> tuple[Arch, ...]:
        """The targets, each once."""
        return resolve(self.archs)

    def for_program(self, module: Module) -> Recipe:
        """The recipe with the targets that it means for this program, by name."""
        dtypes = {
            element(value.type)
            for func in module.funcs
            for value in (*func.params, *(result for op in func.walk() for result in op.results))
            if not isinstance(value.type, PtrType)
        }
        return self.keeping([arch.name for arch in resolve(self.archs, dtypes)])

    def options(self, inputs: Mapping[str, str]) -> tuple[str, ...]:
        """The text of `provenance.options`; `inputs` are digests of files by name."""
        return (
            *(f"--arch={arch.name}" for arch in self.targets),
            *(f"--entry={name}" for name in self.entries),
            *(f"--input-spec={spec}" for spec in self.specs),
            *(f"--specialize={text}" for text in sorted(self.fixed)),
            *([f"--numerics={self.numerics}"] if self.numerics != DEFAULT else []),
            *([f"--tuning={Path(self.tuning).name}"] if self.tuning else []),
            *(["--embed-tests"] if self.embed_tests else []),
            *(["--embed-source"] if self.embed_source else []),
            *(f"{name}{_DIGEST}{digest}" for name, digest in inputs.items()),
        )

    @staticmethod
    def parse(options: Sequence[str]) -> tuple[Recipe, dict[str, str]]:
        """The recipe and the inputs' digests that a bundle records. Raises E660 for an option that is not known."""
        lists = ("--arch", "--entry", "--input-spec", "--specialize", "--numerics", "--tuning")
        found: dict[str, list[str]] = {name: [] for name in lists}
        flags = {"--embed-tests": False, "--embed-source": False}
        inputs: dict[str, str] = {}
        for text in options:
            name, equals, value = text.partition("=")
            if equals and name in found:
                found[name].append(value)
            elif text in flags:
                flags[text] = True
            elif (file := _FILE.fullmatch(text)) is not None:  # its name may begin as an option does
                inputs[file[1]] = file[2]
            else:
                raise BundleError("E660", f"the bundle's recipe has the option {text!r}, which this compiler lacks")
        archs, entries, specs, fixed, profiles, tunings = (tuple(values) for values in found.values())
        for arch in archs:
            load(arch)
        numerics = profiles[-1] if profiles else DEFAULT
        if numerics not in PROFILES:
            raise BundleError("E660", f"the bundle's recipe has the profile {numerics!r}, which this compiler lacks")
        return Recipe(
            archs, entries, specs, fixed, flags["--embed-tests"], flags["--embed-source"], numerics,
            Path(tunings[-1]).name if tunings else "",
        ), inputs

    def keeping(self, archs: Sequence[str]) -> Recipe:
        """The same recipe for other targets."""
        return replace(self, archs=tuple(archs))


@dataclass(frozen=True)
class Loaded:
    """A module through the front end, and the files that it was made from, by name, the module itself first."""

    module: Module
    files: dict[str, bytes]
    notes: list[Note] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)  # what the user is told: entries left out, calls while loading

    def provenance(self, recipe: Recipe) -> Provenance:
        """The record for the manifest: versions, options and digests; no paths, no times."""
        from tesseracc.provenance import assembler, compiler, llvm

        digests = {name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()}
        return Provenance(
            compiler=compiler(),
            llvm=llvm(),
            assembler=assembler(recipe.targets),
            options=recipe.options(digests),
            source_sha256=next(iter(digests.values())),
        )


def load_recipe(file: str, recipe: Recipe, constants: str | None = None) -> Loaded:
    """The module in `file`, Python or IR text, through the front end. Raises E1xx to E4xx, E801, E802."""
    return _parse(file, constants) if file.endswith(".tir") else _front(file, recipe)


def _parse(file: str, constants: str | None) -> Loaded:
    from tessera_runtime.core.files import as_text, read_bytes
    from tesseracc.ir.parser import parse_module
    from tesseracc.ir.verify import verify
    from tesseracc.textio import CONSTANTS_LIMIT, parse_constants, with_types

    files = {Path(file).name: read_bytes(file, regular=True)}
    text = as_text(files[Path(file).name], file)
    beside = Path(file).with_name("constants.safetensors")
    if constants is None and beside.is_file():
        constants = str(beside)
    arrays = {}
    if constants is not None:
        files["constants.safetensors"] = read_bytes(constants, CONSTANTS_LIMIT, regular=True)
        arrays = parse_constants(files["constants.safetensors"], constants)
    module = with_types(verify(parse_module(text, file, arrays)))
    if not module.funcs:
        raise SourceError("E104", f"{Path(file).name} defines no function", span=Span(file, 1))
    return Loaded(module, files)


def _front(file: str, recipe: Recipe) -> Loaded:
    from tesseracc.driver import front
    from tesseracc.frontend import source
    from tesseracc.frontend.specs import parse_fixed, parse_specs, parse_variants, without_types
    from tesseracc.frontend.variants import check_variants
    from tesseracc.tuning.choice import Tuning
    from tesseracc.tuning.record import read_records

    loaded = source.load(file)
    notes: list[Note] = []
    remarks = []
    for name, span in loaded.calls:
        where = f" ({Path(span.file).name}:{span.line})" if span else ""
        remarks.append(f"the module calls `{name}` while it loads; that runs eagerly, here and now{where}")
    chosen = source.choose(loaded, recipe.entries)
    given = parse_specs(recipe.specs, chosen)
    if not recipe.entries:
        skipped = without_types(chosen, given)
        if len(skipped) < len(chosen):  # else the front end says it, as an error
            for name in skipped:
                remarks.append(
                    f"`{name}` is not built: its parameters have no types (give --entry {name} and --input-spec)"
                )
                del chosen[name]
    tuning = Tuning(recipe.targets, read_records(recipe.tuning) if recipe.tuning else ())
    wanted = parse_variants(recipe.fixed)
    module = front(chosen, given, notes, parse_fixed(recipe.fixed), wanted, tuning)
    check_variants(module, chosen, wanted)
    source.check_file_name(Path(file))
    return Loaded(module, input_files(Path(file), recipe, loaded.data), notes, remarks)


def input_files(file: Path, recipe: Recipe, data: bytes | None = None) -> dict[str, bytes]:
    """What a build of the module reads: the module (its bytes are `data` where they are known), those that it imports,
    and the tuning records. Raises E802."""
    from tessera_runtime.core.files import read_bytes

    found = imported(file, data)
    if recipe.tuning:
        found[Path(recipe.tuning).name] = read_bytes(recipe.tuning, regular=True)
    return found


def imported(file: Path, data: bytes | None = None) -> dict[str, bytes]:
    """A module's text and those of the modules in its folder or its package that it imports, directly or not, by path
    from the folder that holds the package, or else from its own.

    Import statements are what counts, at any depth; a module that is imported by a computed name is not seen.
    """
    file = file.absolute()
    root, packages = package_of(file)
    first = file.relative_to(root).as_posix()
    found = {first: file.read_bytes() if data is None else data}
    waiting = [file]

    def add(base: Path, candidate: tuple[str, ...]) -> None:
        for path in (base.joinpath(*candidate).with_suffix(".py"), base.joinpath(*candidate, "__init__.py")):
            name = path.relative_to(root).as_posix()
            if name not in found and path.is_file():
                found[name] = path.read_bytes()
                waiting.append(path)

    for depth in range(len(packages)):  # they are executed before the module
        add(root, packages[: depth + 1])
    while waiting:
        current = waiting.pop(0)
        at = current.parent.relative_to(root).parts
        for candidate in sorted(_imports(found[current.relative_to(root).as_posix()], at)):
            if candidate[0] in packages[:1]:
                add(root, candidate)
            add(file.parent, candidate)
    return {name: found[name] for name in [first, *sorted(set(found) - {first})]}


def recorded_recipe(options: Sequence[str]) -> tuple[Recipe, dict[str, str]]:
    """The recipe and the inputs' digests, the module first. Raises E660 where a bundle records no inputs."""
    recipe, inputs = Recipe.parse(options)
    if not inputs:
        raise BundleError("E660", "the bundle does not record what it was built from")
    return recipe, inputs


def same_files(found: Mapping[str, bytes], recorded: Mapping[str, str]) -> None:
    """E660 unless these files, the module first, are those that a bundle records, by name and digest."""
    module, given = next(iter(recorded)), next(iter(found), "nothing")
    if module not in found:
        raise BundleError("E660", f"the bundle was built from {module}, not {given}")
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in found.items()}
    for name in dict.fromkeys((*recorded, *digests)):
        if name not in digests:
            raise BundleError("E660", f"the bundle was built from {name} as well, which the source lacks")
        if name not in recorded:
            raise BundleError("E660", f"the bundle was not built from {name}, but from {', '.join(recorded)}")
        if digests[name] != recorded[name]:
            raise BundleError("E660", f"{name} is not the file that the bundle was built from: its digest differs")


def imports_language(file: Path) -> bool:
    """Whether a module imports `tessera`, itself or through modules of its folder; what is no Python: if it names it.
    """
    for text in imported(file).values():
        try:
            ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            if b"tessera" in text:
                return True
        else:
            if ("tessera",) in _imports(text, ()):
                return True
    return False


def _imports(text: bytes, package: tuple[str, ...]) -> set[tuple[str, ...]]:
    """The dotted names that a module of `package` may import, with all their parents."""
    names: set[tuple[str, ...]] = set()
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # imported by nobody, or the module catches it
        return names
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wanted = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = (*above, *(node.module.split(".") if node.module else ()))
            wanted = [base, *((*base, alias.name) for alias in node.names)]
        else:
            continue
        names |= {name[:stop] for name in wanted for stop in range(1, len(name) + 1)}
    return {name for name in names if name and "*" not in name}

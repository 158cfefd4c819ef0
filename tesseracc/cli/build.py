"""`tesseracc build`: a module to a bundle, or to the text of any level on the way."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tesseracc.cli.options import Target, Whole
from tesseracc.numerics import DEFAULT, PROFILES

if TYPE_CHECKING:
    from tesseracc.arch.arch import Arch
    from tesseracc.cache import Cache, Record
    from tesseracc.driver import Build
    from tesseracc.recipe import Loaded, Recipe

LEVELS = ("graph", "schedule", "tile", "target", "llvm", "ptx", "sass", "asm")
_KINDS = {"ptx": "cuda", "sass": "cuda", "asm": "cpu"}  # of the targets that have a level; others are of all
FORMATS = ("text", "json", "sarif", "junit")


@dataclass
class Options:
    """The command line."""

    file: str
    output: str | None
    archs: tuple[str, ...]
    entries: tuple[str, ...]
    specs: tuple[str, ...]
    fixed: tuple[str, ...]
    emit: str | None
    dump_dir: str | None
    constants: str | None
    locations: bool
    notes: bool
    timing: bool
    jobs: int
    embed_tests: bool
    embed_source: bool
    numerics: str
    tuning: str | None
    external_weights: bool
    check_only: bool
    whole: bool
    form: str
    cache_dir: str | None
    no_cache: bool
    as_json: bool

    def __post_init__(self) -> None:
        if self.as_json and self.form != "text":
            raise click.UsageError("--json and --diagnostics-format exclude each other")
        if self.emit and (self.check_only or self.whole):
            raise click.UsageError("--emit goes neither with --check-only nor with --all")
        if self.emit and (self.embed_tests or self.embed_source or self.external_weights):
            raise click.UsageError("--embed-tests, --embed-source, --external-weights are for bundles, not for --emit")
        if self.emit in LEVELS and self.output:
            raise click.UsageError("--emit prints; -o goes with a bundle or --emit c")
        if self.emit in LEVELS and self.form != "text":
            raise click.UsageError("--emit and --diagnostics-format both write to stdout; --emit goes with --json")
        if self.whole and (self.entries or self.specs or self.dump_dir or self.constants):
            raise click.UsageError("--all takes options for one module only without --entry and the like")

    @property
    def quiet(self) -> bool:
        """Whether stdout is for one document."""
        return self.as_json or self.form != "text"


@click.command("build")
@click.argument("file", type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="The bundle to write; default: FILE with the suffix .tsb.")
@click.option(
    "--arch", "archs", multiple=True, type=Target("", ("cpu",)), metavar="NAME",
    help="A target; repeats. Default: cpu and sm_90.",
)  # fmt: skip
@click.option("--entry", "entries", multiple=True, metavar="NAME", help="Build only this function; repeats.")
@click.option(
    "--input-spec",
    "specs",
    multiple=True,
    metavar="[F.]X=TYPE",
    help="Type of an unannotated parameter: x=f32[B,64]; repeats.",
)
@click.option(
    "--specialize",
    "fixed",
    multiple=True,
    metavar="DIM=N,..",
    help="Code of its own for these sizes: B=1,S=512; repeats. Functions keep their general code, kernels do not.",
)
@click.option(
    "--emit", type=click.Choice((*LEVELS, "c")),
    help="Print this level instead of writing a bundle; c: a shared library and its header in the folder -o.",
)  # fmt: skip
@click.option(
    "--dump-dir", type=click.Path(file_okay=False), help="Write the IR after every pass, numbered, to this folder."
)
@click.option("--constants", type=click.Path(), help="Safetensors file with the named arrays of IR text.")
@click.option("--locations", is_flag=True, help="Print source locations in IR.")
@click.option("--notes", is_flag=True, help="Say which rules were applied and what was decided.")
@click.option("--timing", is_flag=True, help="Say where the time went.")
@click.option("--jobs", default=2, show_default=True, type=Whole(1, 64), help="Targets compiled at once.")
@click.option("--embed-tests", is_flag=True, help="Put test vectors into the bundle, for tessera-run --validate.")
@click.option("--embed-source", is_flag=True, help="Put the module and its helpers into the bundle, for rebuild.")
@click.option("--external-weights", is_flag=True, help="Put the weights into a file beside the bundle.")
@click.option("--numerics", type=click.Choice(PROFILES), default=DEFAULT, show_default=True,
              help="Which rewrites may change rounding; --notes names those applied.")
@click.option("--tuning", type=click.Path(), help="Tuning records; default: MODULE.tuning.yaml beside it, if any.")
@click.option("--check-only", is_flag=True, help="Check the module for the targets; write nothing.")
@click.option("--all", "whole", is_flag=True, help="FILE is a folder: build every module in it; -o is a folder.")
@click.option(
    "--diagnostics-format", "form", type=click.Choice(FORMATS), default="text", show_default=True,
    help="Print errors, warnings and notes on stdout in this format.",
)  # fmt: skip
@click.option("--cache-dir", type=click.Path(file_okay=False), help="Folder of the build cache; default: see specs.")
@click.option("--no-cache", is_flag=True, help="Neither read nor write the build cache.")
@click.option("--json", "as_json", is_flag=True, help="Report as one JSON object on stdout.")
def command(**given: Any) -> None:
    """Compile the Tessera module FILE to a bundle. FILE may also be IR text of any level (`.tir`).

    \b
    tesseracc build model.py --arch sm_90 --arch cpu -o model.tsb
    tesseracc build model.py --arch sm_80 --emit ptx
    tesseracc build model.py --entry f --input-spec x=f32[B,64] --emit tile
    tesseracc build model.py --emit c --arch x86-64-v3 -o native/
    tesseracc build model.py --check-only --diagnostics-format sarif > model.sarif
    tesseracc build models/ --all -o bundles/ --jobs 8

    Exit codes: 0, 2 usage and files, 3 the source, 4 the toolchain, 70 a fault of the compiler.
    """
    options = Options(**given)
    if options.whole:
        from tesseracc.cli.build_all import build_all

        build_all(options)
    else:
        from tesseracc.ir.pipeline import collector_paused

        with collector_paused():  # to the end, when nearly all is free without it
            _run(options) if options.form == "text" else _reported(options)


def _reported(options: Options) -> None:
    """One document on stdout, whether the build succeeds or not."""
    from tessera_runtime.core.errors import TesseraError
    from tesseracc.cli.remarks import placeless, rendered
    from tesseracc.diagnostics import Diagnostic, Report, of_error, write

    try:
        result = _run(options)
        folder = Path(options.file).parent
        told = [
            Diagnostic("warning", w["code"], placeless(w), file=str(folder / w["file"]) if w["file"] else "",
                       line=w["line"], column=w["column"], end_line=w["line"] if w["end_column"] else 0,
                       end_column=w["end_column"], target=w["target"], rendered=rendered(w, folder))
            for w in result["warnings"]
        ]  # fmt: skip
        if options.notes:
            told += [
                Diagnostic("note", "", n["message"], file=str(folder / n["file"]) if n["file"] else "", line=n["line"])
                for n in result["told"]
            ]
        report = Report(options.file, tuple(told), 0, {k: v for k, v in result.items() if k != "told"})
    except TesseraError as error:
        report = Report(options.file, tuple(of_error(error)), error.exit_code)
    sys.stdout.write(write(options.form, [report]))
    if report.exit_code:
        raise click.exceptions.Exit(report.exit_code)


def _run(options: Options) -> dict[str, Any]:
    """Does it; what is to be told in the end."""
    from tessera_runtime.core.errors import UsageError
    from tessera_runtime.core.files import check_apart, check_output
    from tesseracc.cli.remarks import rendered, warnings
    from tesseracc.driver import DEFAULT_TARGETS
    from tesseracc.recipe import Recipe, load_recipe

    recipe = Recipe(
        options.archs or DEFAULT_TARGETS, options.entries, options.specs, options.fixed,
        options.embed_tests, options.embed_source, options.numerics,
        _tuning(options),
    )  # fmt: skip
    targets = _having(recipe.targets, options.emit)
    if os.path.isdir(options.file):
        raise UsageError("E802", f"cannot read '{options.file}': it is a folder", help="--all builds what is in one")
    writes = options.emit is None and not options.check_only
    beside = os.path.splitext(options.file)[0] + ".tsb"
    output = beside if options.output is None else options.output
    if writes:
        check_apart(output, options.file, options.constants, options.tuning)
        check_output(output)
    cache = _cache(options) if writes and not options.dump_dir else None
    if cache is None and not options.check_only and options.emit not in ("graph", "schedule", "tile", "target"):
        _prestart(options, len(targets))  # LLVM loads while the front end works
    progress = _progress(options.quiet)
    progress("front end")
    loaded = load_recipe(options.file, recipe, options.constants)
    recipe = recipe.for_program(loaded.module)
    targets = _having(recipe.targets, options.emit)
    if not options.quiet or options.as_json:
        for remark in loaded.remarks:
            click.echo(f"note: {remark}", err=True)
    build = _build(loaded, recipe, options, progress)
    if options.emit == "c":
        from tesseracc.cli.emit_c import emit_c

        files = emit_c(build, options.file, options.output, bool(options.archs))
        progress("")
        result: dict[str, Any] = {"files": files, "warnings": warnings(loaded.notes), "told": []}
        if options.as_json:
            import json

            click.echo(json.dumps({"files": files}, sort_keys=True))
        elif not options.quiet:
            click.echo("\n".join(files))
    elif options.emit is not None:
        listings = _listings(build, options.emit, targets, options.locations)
        result = {"emit": options.emit, "listings": listings, "warnings": warnings(loaded.notes), "told": []}
        progress("")
        _print(result, options.as_json)
    elif options.check_only:
        for arch in targets:
            build.target(arch)
        progress("")
        result = _checked(build, options)
    else:
        from tesseracc.textio import write_bytes

        record, found = _cached(build, loaded, recipe, options, cache)
        size = len(record.data)
        if options.external_weights:
            size = _write_apart(output, record.data)
        else:
            write_bytes(output, record.data)
        progress("")
        result = _summary(build, record, found, output, size, options)
    result["told"] = [{"message": remark, "file": "", "line": 0} for remark in loaded.remarks] + result["told"]
    if not options.quiet:
        for warning in result["warnings"]:
            click.echo(rendered(warning, Path(options.file).parent), err=True)
    if options.notes and not options.quiet:
        for note in result["told"][len(loaded.remarks) :]:
            where = f" ({note['file']}:{note['line']})" if note["file"] else ""
            click.echo(f"note: {note['message']}{where}", err=True)
    if options.timing and not options.quiet:
        for stage, seconds in build.log.seconds.items():
            click.echo(f"{stage:<10} {seconds * 1e3:8.1f} ms", err=True)
        if result.get("cached"):
            click.echo("the rest is from the build cache", err=True)
    return result


def _tuning(options: Options) -> str:
    """The file with tuning records: that of --tuning, else the one beside the module, else none."""
    from tesseracc.tuning.record import beside

    default = beside(options.file)
    return options.tuning or (str(default) if options.file.endswith(".py") and default.is_file() else "")


def _prestart(options: Options, targets: int) -> None:
    from tesseracc.codegen.pool import prestart

    prestart(min(options.jobs, targets))


def _cache(options: Options) -> Cache | None:
    from tesseracc.cache import Cache, default_folder

    folder = Path(options.cache_dir) if options.cache_dir else default_folder()
    return None if options.no_cache or folder is None else Cache(folder)


def _build(loaded: Loaded, recipe: Recipe, options: Options, progress: Any) -> Build:
    from tesseracc.cli.dump import dumper
    from tesseracc.driver import Build

    build = Build(
        loaded.module,
        recipe.targets,
        jobs=options.jobs,
        observe=dumper(options.dump_dir, loaded.module) if options.dump_dir else None,
        progress=progress,
        provenance=loaded.provenance(recipe),
        sources=loaded.files if recipe.embed_source else None,
        embed_tests=recipe.embed_tests,
        numerics=recipe.numerics,
        root=os.path.dirname(options.file),
    )
    build.log.notes += loaded.notes
    return build


def _cached(
    build: Build, loaded: Loaded, recipe: Recipe, options: Options, cache: Cache | None
) -> tuple[Record, bool]:
    """The bundle and what is told of it, and whether they were found in the cache; else made now and put there."""
    from tesseracc.cache import Record, key_of
    from tesseracc.cli.remarks import notes

    def make() -> Record:
        return Record(build.bundle(), _findings(build), notes(build.log.notes))

    if cache is None:
        return make(), False
    key = key_of(loaded, recipe)
    record = cache.get(key)
    if record is not None:
        return record, True
    with cache.locked(key, lambda text: click.echo(f"note: {text}", err=True)):
        record = cache.get(key)  # perhaps of the build that was waited for
        if record is not None:
            return record, True
        _prestart(options, len(recipe.targets))
        record = make()
        cache.put(key, record)
    return record, False


def _findings(build: Build) -> list[dict[str, Any]]:
    from tesseracc.cli.remarks import finding
    from tesseracc.codegen.findings import Finding
    from tesseracc.codegen.image import Image

    images = [image for image in build.images if isinstance(image, Image)]
    found = [finding(image.arch.name, f) for image in images for f in image.findings]
    return found + [finding("", Finding("W807", name, why)) for name, why in build.log.untested]


def _having(targets: tuple[Arch, ...], level: str | None) -> tuple[Arch, ...]:
    """Those of the targets that have a level. Raises E801 where none has."""
    from tessera_runtime.core.errors import UsageError

    kind = _KINDS.get(level or "")
    found = tuple(arch for arch in targets if kind is None or arch.kind == kind)
    if not found:
        names = ", ".join(arch.name for arch in targets)
        told = "--emit asm is for CPUs" if kind == "cpu" else "--emit ptx and sass are for GPUs, asm for CPUs"
        raise UsageError("E801", f"there is no {level} for {names}", help=told)
    return found


def _progress(as_json: bool) -> Any:
    """A line on a terminal that says what is being done; nothing elsewhere."""
    if as_json or not sys.stderr.isatty():
        return lambda _: None
    return lambda stage: click.echo(f"\r\x1b[K{stage}", nl=False, err=True)


def _listings(build: Build, level: str, targets: tuple[Arch, ...], locations: bool) -> list[dict[str, str | None]]:
    """The text of a level for every target, or for all."""
    if level in ("graph", "schedule"):
        return [{"target": None, "text": build.text(level, locations=locations)}]
    return [{"target": arch.name, "text": build.text(level, arch, locations=locations)} for arch in targets]


def _print(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        import json

        click.echo(json.dumps({"emit": result["emit"], "listings": result["listings"]}, sort_keys=True))
        return
    for listing in result["listings"]:
        if len(result["listings"]) > 1:
            sys.stdout.write(f"// {result['emit']} for {listing['target']}\n")
        sys.stdout.write(listing["text"])


def _checked(build: Build, options: Options) -> dict[str, Any]:
    """What --check-only says of a module without errors."""
    from tesseracc.cli.remarks import notes, warnings

    kernels = {arch.name: len(build.target(arch).of_kind("target.func")) for arch in build.archs}
    functions = [p.name for p in build.tile(build.archs[0]).of_kind("tile.program")]
    told = notes(build.log.notes)
    result = {
        "bundle": None, "functions": functions, "kernels": kernels, "warnings": warnings(build.log.notes),
        "notes": [note["message"] for note in told],
    }  # fmt: skip
    if options.as_json:
        import json

        click.echo(json.dumps(result, sort_keys=True))
    elif not options.quiet:
        click.echo(f"{options.file}: {', '.join(functions)} for {', '.join(kernels)}: no errors")
    return {**result, "told": told}


def _write_apart(output: str, data: bytes) -> int:
    """Writes the bundle and its weights apart; the size of the bundle's file."""
    from tessera_runtime.bundle import BundleFile
    from tesseracc.bundle.detach import write_detached

    write_detached(output, BundleFile(data))
    return Path(output).stat().st_size


def _summary(
    build: Build, record: Record, cached: bool, output: str, size: int, options: Options
) -> dict[str, Any]:
    from tessera_runtime.bundle import BundleFile
    from tesseracc.cli.remarks import warnings

    manifest = BundleFile(record.data).manifest
    kernels = {target.name: len(target.kernels) for target in manifest.targets}
    functions = [function.name for function in manifest.functions]
    result = {
        "bundle": output,
        "bytes": size,
        "functions": functions,
        "kernels": kernels,
        "warnings": [*warnings(build.log.notes), *record.warnings],
        "seconds": {stage: round(value, 4) for stage, value in build.log.seconds.items()},
        "notes": [note["message"] for note in record.notes],
        "cached": cached,
    }
    if options.as_json:
        import json

        click.echo(json.dumps(result, sort_keys=True))
    elif not options.quiet:
        counts = ", ".join(f"{name} ({count} kernel{'s' if count != 1 else ''})" for name, count in kernels.items())
        click.echo(f"{output}: {', '.join(functions)} for {counts}; {size:,} bytes")
    return {**result, "told": record.notes}

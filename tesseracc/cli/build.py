"""`tesseracc build`: a module to a bundle, or to the text of any level on the way."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tesseracc.arch.arch import Arch
    from tesseracc.driver import Build
    from tesseracc.ir.value import Module
    from tesseracc.recipe import Recipe

LEVELS = ("graph", "schedule", "tile", "target", "llvm", "ptx", "sass")


@click.command("build")
@click.argument("file", type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="The bundle to write; default: FILE with the suffix .tsb.")
@click.option("--arch", "archs", multiple=True, metavar="NAME", help="A target; repeats. Default: cpu and sm_90.")
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
    metavar="DIM=N",
    help="Give a dim of the kernels a number: D=64; repeats. Other sizes are then refused.",
)
@click.option("--emit", type=click.Choice(LEVELS), help="Print this level instead of writing a bundle.")
@click.option(
    "--dump-dir", type=click.Path(file_okay=False), help="Write the IR after every pass, numbered, to this folder."
)
@click.option("--constants", type=click.Path(), help="Safetensors file with the named arrays of IR text.")
@click.option("--locations", is_flag=True, help="Print source locations in IR.")
@click.option("--notes", is_flag=True, help="Say which rules were applied and what was decided.")
@click.option("--timing", is_flag=True, help="Say where the time went.")
@click.option("--jobs", default=2, show_default=True, type=click.IntRange(1, 64), help="Targets compiled at once.")
@click.option("--embed-tests", is_flag=True, help="Put test vectors into the bundle, for tessera-run --validate.")
@click.option("--embed-source", is_flag=True, help="Put the module and its helpers into the bundle, for rebuild.")
@click.option("--json", "as_json", is_flag=True, help="Report as one JSON object on stdout.")
def command(
    file: str,
    output: str | None,
    archs: tuple[str, ...],
    entries: tuple[str, ...],
    specs: tuple[str, ...],
    fixed: tuple[str, ...],
    emit: str | None,
    dump_dir: str | None,
    constants: str | None,
    locations: bool,
    notes: bool,
    timing: bool,
    jobs: int,
    embed_tests: bool,
    embed_source: bool,
    as_json: bool,
) -> None:
    """Compile the Tessera module FILE to a bundle. FILE may also be IR text of any level (`.tir`).

    \b
    tesseracc build model.py --arch sm_90 --arch cpu -o model.tsb
    tesseracc build model.py --arch sm_80 --emit ptx
    tesseracc build model.py --entry f --input-spec x=f32[B,64] --emit tile
    """
    from tesseracc.codegen.pool import prestart
    from tesseracc.driver import DEFAULT_TARGETS
    from tesseracc.recipe import Recipe

    recipe = Recipe(archs or DEFAULT_TARGETS, entries, specs, fixed, embed_tests, embed_source)
    targets = recipe.targets
    output = output or str(Path(file).with_suffix(".tsb"))
    if emit is None:
        _check_writable(output)
    if emit not in ("graph", "schedule", "tile", "target"):
        prestart(min(jobs, len(targets)))  # LLVM loads while the front end works
    progress = _progress(as_json)
    build = _load(file, recipe, constants, jobs, progress, dump_dir)
    if emit is not None:
        _emit(build, emit, targets, locations)
    else:
        from tesseracc.textio import write_bytes

        data = build.bundle()
        write_bytes(output, data)
        progress("")
        _summary(build, output, len(data), as_json)
    if notes and not as_json:
        for note in build.log.notes:
            where = f" ({note.loc.file}:{note.loc.line})" if note.loc else ""
            click.echo(f"note: {note.message}{where}", err=True)
    if timing and not as_json:
        for stage, seconds in build.log.seconds.items():
            click.echo(f"{stage:<10} {seconds * 1e3:8.1f} ms", err=True)


def _check_writable(output: str) -> None:
    """Finds out before the work, not after it, that the bundle cannot be written. Raises E803."""
    import os

    from tessera_runtime.core.errors import UsageError

    folder = Path(output).absolute().parent
    if Path(output).is_dir():
        raise UsageError("E803", f"cannot write {output}: it is a folder")
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(
            "E803", f"cannot write {output}: {'no such folder' if not folder.is_dir() else 'permission denied'}"
        )


def _progress(as_json: bool) -> Any:
    """A line on a terminal that says what is being done; nothing elsewhere."""
    if as_json or not sys.stderr.isatty():
        return lambda _: None
    return lambda stage: click.echo(f"\r\x1b[K{stage}", nl=False, err=True)


def _load(file: str, recipe: Recipe, constants: str | None, jobs: int, progress: Any, dump_dir: str | None) -> Build:
    from tesseracc.driver import Build
    from tesseracc.recipe import load_recipe

    progress("front end")
    loaded = load_recipe(file, recipe, constants)
    for remark in loaded.remarks:
        click.echo(f"note: {remark}", err=True)
    build = Build(
        loaded.module,
        recipe.targets,
        jobs=jobs,
        observe=_dumper(dump_dir, loaded.module) if dump_dir else None,
        progress=progress,
        provenance=loaded.provenance(recipe),
        sources=loaded.files if recipe.embed_source else None,
        embed_tests=recipe.embed_tests,
    )
    build.log.notes += loaded.notes
    return build


def _dumper(folder: str, module: Module) -> Any:
    """Writes `NN.level.pass.tir` after every pass, and the constants once."""
    from tessera_runtime.core.errors import UsageError
    from tesseracc.ir.printer import module_text
    from tesseracc.textio import constants_bytes, write_bytes, write_text

    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError("E803", f"cannot write {folder}: {error.strerror}") from None
    if module.constants:
        write_bytes(path / "constants.safetensors", constants_bytes(module.constants))
    write_text(path / "00.front.tir", module_text(module, locations=True))
    count = [0]

    def observe(level: str, name: str, after: Module) -> None:
        count[0] += 1
        write_text(path / f"{count[0]:02d}.{level}.{name}.tir", module_text(after, locations=True))

    return observe


def _emit(build: Build, level: str, targets: tuple[Arch, ...], locations: bool) -> None:
    if level in ("graph", "schedule"):
        sys.stdout.write(build.text(level, locations=locations))
        return
    shown = (
        [a for a in targets if a.kind == "cuda"]
        if level in ("ptx", "sass") and any(a.kind == "cuda" for a in targets)
        else targets
    )
    for arch in shown:
        if len(shown) > 1:
            sys.stdout.write(f"// {level} for {arch.name}\n")
        sys.stdout.write(build.text(level, arch, locations=locations))


def _summary(build: Build, output: str, size: int, as_json: bool) -> None:
    from tesseracc.codegen.image import Image

    images = [image for image in build.images if isinstance(image, Image)]
    kernels = {image.arch.name: len(build.target(image.arch).of_kind("target.func")) for image in images}
    functions = [p.name for p in build.tile(images[0].arch).of_kind("tile.program")]
    findings = [(image.arch.name, finding) for image in images for finding in image.findings]
    if as_json:
        import json

        document = {
            "bundle": output,
            "bytes": size,
            "functions": functions,
            "kernels": kernels,
            "warnings": [
                {"target": name, "code": f.code, "subject": f.subject, "message": f.text} for name, f in findings
            ],
            "seconds": {stage: round(value, 4) for stage, value in build.log.seconds.items()},
            "notes": [note.message for note in build.log.notes],
        }
        click.echo(json.dumps(document, sort_keys=True))
        return
    for name, finding in findings:
        click.echo(f"warning[{finding.code}]: {finding.subject} for {name}: {finding.text}", err=True)
    counts = ", ".join(f"{name} ({count} kernel{'s' if count != 1 else ''})" for name, count in kernels.items())
    click.echo(f"{output}: {', '.join(functions)} for {counts}; {size:,} bytes")

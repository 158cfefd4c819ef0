"""`tesseracc opt`: runs passes on IR text, as given, and prints the result."""

from __future__ import annotations

import json
import sys

import click

from tesseracc.cli.options import Target
from tesseracc.numerics import DEFAULT, PROFILES


def _names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """What the shell may complete a list of passes to: another one behind the last comma."""
    from tesseracc.ir.pipeline import PASSES
    from tesseracc.passes import pipelines as _registered  # noqa: F401

    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in sorted(PASSES) if name.startswith(last)]


@click.command("opt")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("-p", "--passes", default="", shell_complete=_names, help="Passes in order: a,b{n=2}.")
@click.option("--arch", "arch_name", type=Target(), help="The target, for passes that need one.")
@click.option("--numerics", type=click.Choice(PROFILES), default=DEFAULT, help="The numeric profile.")
@click.option("--constants", type=click.Path(dir_okay=False), help="Safetensors file with the module's named arrays.")
@click.option("--verify-each/--no-verify-each", default=True, help="Verify after every pass.")
@click.option("--print-after-all", is_flag=True, help="Print the module after every pass, to stderr.")
@click.option("--locations", is_flag=True, help="Print source locations.")
@click.option(
    "--list", "list_passes", is_flag=True, is_eager=True, help="List the passes.", callback=lambda c, p, v: _list(c, v)
)
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="Write here instead of printing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    file: str,
    passes: str,
    arch_name: str | None,
    numerics: str,
    constants: str | None,
    verify_each: bool,
    print_after_all: bool,
    locations: bool,
    list_passes: bool,
    output: str | None,
    as_json: bool,
) -> None:
    """Run passes on the IR text in FILE (`-` reads stdin). Several modules in one file are split by `// -----`.

    \b
    tesseracc opt -p decompose,graph-to-schedule,fuse dump/00.front.tir
    tesseracc opt --list

    Exit codes: 0, 2 usage and files, 3 the text or a pass.
    """
    from tessera_runtime.core.files import check_apart, check_output, read_text
    from tesseracc.arch.arch import load
    from tesseracc.ir.parser import parse_module
    from tesseracc.ir.pipeline import Context, Step, parse_pipeline, run_pipeline
    from tesseracc.ir.printer import module_text
    from tesseracc.ir.value import Module
    from tesseracc.ir.verify import verify
    from tesseracc.passes import pipelines as _registered  # noqa: F401
    from tesseracc.textio import load_constants, with_types, write_text

    check_apart(output, constants)  # but over the text itself: a pass edits a file in place
    check_output(output)
    steps = parse_pipeline(passes)
    context = Context(load(arch_name) if arch_name else None, numerics)
    arrays = load_constants(constants) if constants else {}

    def observe(step: Step, module: Module) -> None:
        if print_after_all:
            click.echo(f"// after {step}\n{module_text(module, locations=locations)}", err=True)

    results = []
    for part in read_text(file).split("// -----"):
        module = with_types(verify(parse_module(part, file, arrays)), whole=False)
        module = run_pipeline(steps, module, context, verify_each=verify_each, observe=observe)
        results.append(module_text(module, locations=locations))
    text = "\n// -----\n\n".join(results)
    if output is not None:
        write_text(output, text)
    if as_json:
        click.echo(json.dumps({"output": output, "modules": results if output is None else None}, sort_keys=True))
    elif output is None:
        sys.stdout.write(text)


def _list(ctx: click.Context, wanted: bool) -> None:
    if not wanted:
        return
    from tesseracc.ir.pipeline import PASSES
    from tesseracc.passes import pipelines as _registered  # noqa: F401

    width = max(map(len, PASSES))
    for name in sorted(PASSES, key=lambda n: (PASSES[n].level, n)):
        click.echo(f"{name:<{width}}  {PASSES[name].level:<8}  {PASSES[name].doc}")
    ctx.exit()

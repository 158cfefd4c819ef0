"""`tesseracc targets`."""

from __future__ import annotations

import json

import click


@click.command("targets")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def command(as_json: bool) -> None:
    """The targets that --arch accepts, with what they are.

    \b
    tesseracc targets
    tesseracc targets --json

    Exit codes: 0, 2 usage.
    """
    from tesseracc.arch.arch import default_cpu_levels, load, names

    found = [load(name) for name in names()]
    if as_json:
        rows = [
            {"name": a.name, "kind": a.kind, "aliases": list(a.aliases), "description": a.description} for a in found
        ]
        click.echo(json.dumps(rows, sort_keys=True))
        return
    width = max(len(a.name) for a in found)
    click.echo(f"{'cpu':<{width}}  {', '.join(default_cpu_levels())}, and what a program's element types add")
    for arch in found:
        aliases = f" (also {', '.join(arch.aliases)})" if arch.aliases else ""
        click.echo(f"{arch.name:<{width}}  {arch.description}{aliases}")

"""`tesseracc explain CODE`."""

from __future__ import annotations

import json
import textwrap

import click


def _codes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """What the shell may complete a code to."""
    from tessera_runtime.core.catalogue import CATALOGUE

    return [code for code in CATALOGUE if code.startswith(incomplete.upper())]


@click.command("explain")
@click.argument("code", shell_complete=_codes)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def command(code: str, as_json: bool) -> None:
    """What CODE (such as E302) means and how to put it right.

    \b
    tesseracc explain E302
    tesseracc explain E302 --json

    Exit codes: 0, 2 no such code.
    """
    from tessera_runtime.core.catalogue import CATALOGUE
    from tessera_runtime.core.errors import UsageError

    entry = CATALOGUE.get(code.upper())
    if entry is None:
        from difflib import get_close_matches

        near = ", ".join(get_close_matches(code.upper(), CATALOGUE, 3))
        raise UsageError("E801", f"no error has the code {code!r}", help=f"codes like it: {near}" if near else None)
    if as_json:
        click.echo(json.dumps(entry._asdict(), sort_keys=True))
        return
    what = f"exit code {entry.exit_code}" if entry.code[0] == "E" else "a warning"
    click.echo(f"{entry.code}: {entry.title} ({what})\n")
    click.echo(textwrap.fill(entry.explanation, 100))

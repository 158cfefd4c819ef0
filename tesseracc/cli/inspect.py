"""`tesseracc inspect`: what a bundle holds, as text, JSON or a page."""

from __future__ import annotations

import click


@click.command("inspect")
@click.argument("bundle", type=click.Path())
@click.option("--html", type=click.Path(), help="Write a self-contained page with graphs, code and memory.")
@click.option("--source", type=click.Path(), help="The module, for the page to show its lines and the IR.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def command(bundle: str, html: str | None, source: str | None, as_json: bool) -> None:
    """Show what BUNDLE holds: functions, kernels, plans, sizes, provenance, signatures. Every byte is verified first.

    \b
    tesseracc inspect m.tsb
    tesseracc inspect m.tsb --json
    tesseracc inspect m.tsb --html m.html --source model.py

    Exit codes: 0, 2 files, 5 the bundle is invalid.
    """
    from pathlib import Path

    from tessera_runtime.bundle import BundleFile
    from tessera_runtime.core.errors import UsageError
    from tesseracc.bundle.describe import document, json_text, text

    if source and not html:
        raise UsageError("E801", "--source goes with --html")
    file = BundleFile(bundle, verify_weights=True)
    about = document(file)
    name = Path(bundle).name
    if html:
        from tesseracc.bundle.page import page
        from tesseracc.report import levels, sources
        from tesseracc.textio import write_text

        found = sources(file, source)
        write_text(html, page(file, about, name, found, levels(file, source, found)))
    if as_json:
        click.echo(json_text({"bundle": bundle, **about}))
    elif html:
        click.echo(f"{html}: {len(about['targets'])} targets of {name}")
    else:
        click.echo(text(about, name), nl=False)

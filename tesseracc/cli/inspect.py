"""`tesseracc inspect`: what a bundle holds, as text, JSON or a page."""

from __future__ import annotations

import click

from tesseracc.cli.options import weights_option


@click.command("inspect")
@click.argument("bundle", type=click.Path(), required=False)
@click.option("--html", type=click.Path(), help="Write a self-contained page with graphs, code and memory.")
@click.option("--source", type=click.Path(), help="The module, for the page to show its lines and the IR.")
@click.option("--trust-source", is_flag=True, help="Show the IR of a source that the bundle carries; this executes it.")
@click.option("--layout", metavar="TEXT", help="Draw a layout instead: its text or name, such as mma.m16n8k16.c.")
@click.option("--shapes", is_flag=True, help="Only what is asked of sizes: symbols, equalities, guards, variants.")
@weights_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def command(
    bundle: str | None, html: str | None, source: str | None, trust_source: bool, layout: str | None, shapes: bool,
    weights: str | None, as_json: bool,
) -> None:
    """Show what BUNDLE holds: functions, kernels, plans, sizes, provenance, signatures. Every byte is verified first.

    \b
    tesseracc inspect m.tsb
    tesseracc inspect m.tsb --json
    tesseracc inspect m.tsb --shapes
    tesseracc inspect m.tsb --html m.html --source model.py
    tesseracc inspect m.tsb --html m.html --trust-source    built with --embed-source
    tesseracc inspect --layout wgmma.m64n64.c

    Exit codes: 0, 2 files, 3 the layout is not understood, 5 the bundle is invalid.
    """
    from pathlib import Path

    from tessera_runtime.bundle import BundleFile
    from tessera_runtime.core.errors import UsageError
    from tessera_runtime.core.files import check_apart, check_output
    from tesseracc.bundle.describe import document, json_text, text

    if (layout is None) == (bundle is None):
        raise UsageError("E801", "inspect takes a bundle or --layout")
    if layout is not None and (html or source or shapes):
        raise UsageError("E801", "--html, --source and --shapes go with a bundle")
    if shapes and html:
        raise UsageError("E801", "--shapes and --html exclude each other")
    if layout is not None:
        _draw(layout, as_json)
        return
    assert bundle is not None
    if (source or trust_source) and not html:
        raise UsageError("E801", "--source and --trust-source go with --html")
    check_apart(html, bundle, source)
    check_output(html)
    file = BundleFile(bundle, verify_weights=True, weights=weights, require_signature=None if trust_source else ())
    if shapes:
        from tesseracc.bundle.shapes import shapes as shapes_of
        from tesseracc.bundle.shapes import shapes_text

        found_shapes = shapes_of(file.manifest)
        click.echo(json_text({"bundle": bundle, "functions": found_shapes}) if as_json else shapes_text(found_shapes))
        return
    about = document(file)
    name = Path(bundle).name
    if html:
        from tesseracc.bundle.page import page
        from tesseracc.report import levels, sources
        from tesseracc.textio import write_text

        found = sources(file, source)
        shown = levels(file, source, found, trust=trust_source)
        write_text(html, page(file, about, name, found, shown))
        if shown.missing:
            click.echo(f"note: the page of {name} has no IR: {shown.missing}", err=True)
    if as_json:
        click.echo(json_text({"bundle": bundle, **about}))
    elif html:
        click.echo(f"{html}: {len(about['targets'])} targets of {name}")
    else:
        click.echo(text(about, name), nl=False)


def _draw(layout: str, as_json: bool) -> None:
    """The picture of a layout; the `#` of a name may be left out, which a shell would take for a comment."""
    import json

    from tesseracc.layout.picture import picture
    from tesseracc.layout.text import parse_layout

    found = parse_layout(layout if layout.lstrip().startswith("#") else f"#{layout}")
    if as_json:
        ins, outs = ({name: 1 << bits for name, bits in dims} for dims in (found.ins, found.outs))
        click.echo(json.dumps({"layout": str(found), "in": ins, "out": outs}, sort_keys=True))
    else:
        click.echo(picture(found), nl=False)

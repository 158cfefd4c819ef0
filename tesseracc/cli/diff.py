"""`tesseracc diff`: what differs between two bundles."""

from __future__ import annotations

import click

from tesseracc.cli.options import weights_option


@click.command("diff")
@click.argument("a", type=click.Path())
@click.argument("b", type=click.Path())
@weights_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def command(a: str, b: str, weights: str | None, as_json: bool) -> None:
    """Show what differs between the bundles A and B: functions, guards, kernels, code, weights, options.

    Signatures do not count: bundles with one content digest are equal.

    \b
    tesseracc diff old.tsb new.tsb
    tesseracc diff old.tsb new.tsb --json

    Exit codes: 0 equal, 1 different, 2 files, 5 a bundle is invalid.
    """
    import json

    from tessera_runtime.bundle import BundleFile
    from tesseracc.bundle.difference import differences

    first, second = (BundleFile(path, verify_weights=True, weights=weights) for path in (a, b))
    found = differences(first, second)
    if as_json:
        document = {
            "a": {"bundle": a, "digest": first.digest}, "b": {"bundle": b, "digest": second.digest},
            "equal": not found, "differences": [change.to_json() for change in found],
        }  # fmt: skip
        click.echo(json.dumps(document, sort_keys=True))
    elif not found:
        click.echo(f"equal: sha256:{first.digest}")
    for change in () if as_json else found:
        click.echo(change.text())
    if found:
        raise click.exceptions.Exit(1)

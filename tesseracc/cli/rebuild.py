"""`tesseracc rebuild`: a bundle again, from the recipe that it records."""

from __future__ import annotations

import click

from tesseracc.cli.options import Whole, weights_option


@click.command("rebuild")
@click.argument("bundle", type=click.Path())
@click.option("--verify", is_flag=True, help="Compare what was built with BUNDLE.")
@click.option("--source", type=click.Path(), help="The module; needed unless BUNDLE carries it.")
@click.option("-o", "--output", type=click.Path(), help="Write what was built here.")
@click.option("--jobs", default=2, show_default=True, type=Whole(1, 64), help="Targets compiled at once.")
@weights_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def command(
    bundle: str, verify: bool, source: str | None, output: str | None, jobs: int, weights: str | None, as_json: bool
) -> None:
    """Build BUNDLE again from the options, versions and source digests that it records, and prove that it is the same.

    The module is executed, after its digests were compared. Signatures are not part of what is compared.

    \b
    tesseracc rebuild --verify m.tsb --source model.py
    tesseracc rebuild --verify m.tsb                        built with --embed-source
    tesseracc rebuild m.tsb --source model.py -o again.tsb

    Exit codes: 0 the same, 1 different, 2 files, 3 and 4 as of a build, 5 the bundle or its recipe (E660).
    """
    import json

    from tessera_runtime.bundle import BundleFile
    from tessera_runtime.core.errors import UsageError
    from tessera_runtime.core.files import check_apart, check_output, write_atomic
    from tesseracc.bundle.difference import differences
    from tesseracc.rebuild import rebuild

    if not verify and output is None:
        raise UsageError("E801", "nothing to do: give --verify or -o")
    check_apart(output, source)
    check_output(output)
    # What a source is executed for must be signed as the environment demands.
    file = BundleFile(bundle, verify_weights=True, weights=weights, require_signature=None)
    data = rebuild(file, source, jobs=jobs)
    if output is not None:
        write_atomic(output, data)
    again = BundleFile(data)
    same = again.digest == file.digest
    found = differences(file, again) if verify else []
    if as_json:
        document = {
            "bundle": bundle, "digest": file.digest, "rebuilt": again.digest, "same": same,
            "differences": [change.to_json() for change in found],
        }  # fmt: skip
        click.echo(json.dumps(document, sort_keys=True))
    elif verify:
        click.echo(f"{bundle}: {'reproduced' if same else 'not reproduced'}, sha256:{file.digest}")
        for change in found:
            click.echo(f"  {change.text()}")
    else:
        click.echo(f"{output}: sha256:{again.digest}")
    if verify and not same:
        raise click.exceptions.Exit(1)

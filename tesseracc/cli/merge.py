"""`tesseracc merge`: one bundle from several of the same program."""

from __future__ import annotations

import click

from tesseracc.cli.options import weights_option


@click.command("merge")
@click.argument("bundles", nargs=-1, required=True, type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(), help="The bundle to write.")
@weights_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def command(bundles: tuple[str, ...], output: str, weights: str | None, as_json: bool) -> None:
    """Put the targets of BUNDLES, built from the same program, into one. Signatures are dropped.

    The result is what building for all the targets at once gives, byte for byte.

    \b
    tesseracc merge cpu.tsb gpu.tsb -o both.tsb

    Exit codes: 0, 2 files, 5 a bundle is invalid or they do not go together (E661).
    """
    import json

    from tessera_runtime.bundle import BundleFile
    from tessera_runtime.core.files import check_output, write_atomic
    from tesseracc.bundle.combine import merge

    check_output(output)
    data = merge([BundleFile(path, verify_weights=True, weights=weights) for path in bundles])
    write_atomic(output, data)
    result = BundleFile(data)
    targets = [target.name for target in result.manifest.targets]
    if as_json:
        document = {"bundle": output, "bytes": len(data), "digest": result.digest, "targets": targets}
        click.echo(json.dumps(document, sort_keys=True))
    else:
        click.echo(f"{output}: {', '.join(targets)}; {len(data):,} bytes, sha256:{result.digest}")

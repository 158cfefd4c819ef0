"""`tesseracc verify`: every byte of a bundle, and its signatures."""

from __future__ import annotations

import click

from tesseracc.cli.options import weights_option


@click.command("verify")
@click.argument("bundle", type=click.Path())
@click.option("--key", "keys", multiple=True, type=click.Path(), metavar="PUBLIC",
              help="Require a signature by this key; repeats, all are required.")  # fmt: skip
@click.option("--keyring", type=click.Path(file_okay=False), metavar="FOLDER",
              help="Require a signature by any .pem or .pub key of this folder.")  # fmt: skip
@weights_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def command(bundle: str, keys: tuple[str, ...], keyring: str | None, weights: str | None, as_json: bool) -> None:
    """Verify every byte of BUNDLE, weights included, and all its signatures. Runs nothing of it.

    Without --key or --keyring, any signatures must be right, but none is required, and keys are only named.

    \b
    tesseracc verify m.tsb
    tesseracc verify m.tsb --key release.pem.pub --json
    tesseracc verify m.tsb --keyring /etc/tessera/keys
    tesseracc verify thin.tsb --weights shared/            built with --external-weights

    Exit codes: 0, 2 files and keys, 5 the bundle is invalid or not signed as required (E651, E652).
    """
    import json

    from tessera_runtime.audit import audit
    from tessera_runtime.bundle import BundleFile
    from tessera_runtime.signature import Trust, require

    required = [*keys, *([keyring] if keyring else [])]
    file = BundleFile(bundle, verify_weights=True, weights=weights, require_signature=required)
    audit(file)
    for signature in file.signatures:
        require([signature], file.digest, [Trust((signature.key,), "it")])
    found = [signature.key.hex() for signature in file.signatures]
    if as_json:
        document = {"bundle": bundle, "digest": file.digest, "keys": found, "trusted": bool(required)}
        click.echo(json.dumps(document, sort_keys=True))
        return
    click.echo(f"{bundle}: intact, sha256:{file.digest}")
    for key in found:
        click.echo(f"  signed by {key}")
    if not required:
        click.echo("  no key was required" if found else "  not signed")

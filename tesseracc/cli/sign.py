"""`tesseracc sign`: a signature into a bundle, atomically."""

from __future__ import annotations

import click

from tesseracc.cli.options import weights_option


@click.command("sign")
@click.argument("bundle", type=click.Path())
@click.option("--key", "keys", multiple=True, type=click.Path(), metavar="PRIVATE", help="Sign with this key; repeats.")
@click.option("--remove", is_flag=True, help="Remove the signatures that the bundle has; --key adds new ones.")
@click.option("-o", "--output", type=click.Path(), help="Write the signed bundle here instead of in place.")
@weights_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def command(
    bundle: str, keys: tuple[str, ...], remove: bool, output: str | None, weights: str | None, as_json: bool
) -> None:
    """Sign BUNDLE. Every byte of it is verified first. Its contents and content digest stay as they are.

    Several processes may sign one bundle at once: each waits for the others, and all signatures stay. A file of -o that
    holds the same bundle with signatures that would be lost is not overwritten.

    \b
    tesseracc sign --key release.pem m.tsb
    tesseracc verify m.tsb --key release.pem.pub
    tessera-run m.tsb --require-signature release.pem.pub

    Exit codes: 0, 2 files and keys, 5 the bundle is invalid.
    """
    import json
    import os

    from tessera_runtime.bundle import BundleFile
    from tessera_runtime.core.errors import UsageError
    from tessera_runtime.core.files import alone, check_apart, check_output, same_file, write_atomic
    from tessera_runtime.signature import parse_private, read_key
    from tesseracc.bundle.sign import attach, check_kept, make

    if not keys and not remove:
        raise UsageError("E801", "nothing to do: give --key, or --remove", help="`tesseracc keygen` makes keys")
    check_apart(output, *keys)
    check_output(output)
    seeds = [parse_private(read_key(path), path) for path in keys]
    with alone(bundle, *([] if output is None else [output])):
        file = BundleFile(bundle, verify_weights=True, weights=weights)
        found = {} if remove else {signature.key: signature for signature in file.signatures}
        for seed in seeds:
            signature = make(file.digest, seed)
            found[signature.key] = signature
        written = bundle if output is None else output
        mode = os.stat(bundle).st_mode & 0o777 if same_file(written, bundle) else 0o666  # in place: never more readable
        if not remove:
            check_kept(written, file.digest, found)
        write_atomic(written, attach(file, list(found.values())), mode=mode)
    if as_json:
        document = {"bundle": written, "digest": file.digest, "keys": sorted(key.hex() for key in found)}
        click.echo(json.dumps(document, sort_keys=True))
        return
    click.echo(f"{written}: sha256:{file.digest}")
    for key in sorted(found):
        click.echo(f"  signed by {key.hex()}")

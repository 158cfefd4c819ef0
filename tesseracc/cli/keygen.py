"""`tesseracc keygen`: a pair of keys for signing bundles."""

from __future__ import annotations

import click


@click.command("keygen")
@click.argument("private", type=click.Path())
@click.option("--public", type=click.Path(), help="The public key's file; default: PRIVATE with .pub added.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def command(private: str, public: str | None, as_json: bool) -> None:
    """Make an Ed25519 key and write it to PRIVATE, readable by its owner alone, and its public half beside it.

    \b
    tesseracc keygen release.pem                  writes release.pem and release.pem.pub
    openssl pkey -in release.pem -pubout          the same public key; PEM keys made by openssl serve as well

    Exit codes: 0, 2 files; none is overwritten.
    """
    import json
    import os
    import secrets
    from contextlib import suppress

    from tessera_runtime.core import ed25519
    from tessera_runtime.core.errors import UsageError
    from tessera_runtime.core.files import same_file, write_atomic
    from tessera_runtime.signature import private_pem, public_pem

    public = public or f"{private}.pub"
    if same_file(private, public):
        raise UsageError("E803", f"'{public}' would be both keys", help="each half goes into a file of its own")
    if os.path.lexists(public):  # before the work; what comes meanwhile is refused as well
        raise UsageError("E803", f"'{public}' exists already, and is not overwritten")
    seed = secrets.token_bytes(ed25519.KEY_SIZE)
    key = ed25519.public_key(seed)
    # Each name goes to one process alone, and whoever has the first and not the second gives it back: of several
    # processes with names in common, the halves that stay belong together.
    write_atomic(private, private_pem(seed), mode=0o600, new=True)
    try:
        write_atomic(public, public_pem(key), new=True)
    except BaseException:
        with suppress(OSError):
            os.unlink(private)
        raise
    if as_json:
        click.echo(json.dumps({"key": key.hex(), "private": private, "public": public}, sort_keys=True))
    else:
        click.echo(f"{private}: private key\n{public}: public key {key.hex()}")

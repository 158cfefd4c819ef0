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

    from tessera_runtime.core import ed25519
    from tessera_runtime.core.errors import UsageError
    from tessera_runtime.core.files import write_atomic
    from tessera_runtime.signature import private_pem, public_pem

    public = public or f"{private}.pub"
    for path in (private, public):
        if os.path.lexists(path):
            raise UsageError("E803", f"'{path}' exists already", help="keys are never overwritten; choose another name")
    seed = secrets.token_bytes(ed25519.KEY_SIZE)
    key = ed25519.public_key(seed)
    write_atomic(public, public_pem(key))
    try:
        write_atomic(private, private_pem(seed), mode=0o600)
    except UsageError:  # neither without the other
        os.unlink(public)
        raise
    if as_json:
        click.echo(json.dumps({"key": key.hex(), "private": private, "public": public}, sort_keys=True))
    else:
        click.echo(f"{private}: private key\n{public}: public key {key.hex()}")

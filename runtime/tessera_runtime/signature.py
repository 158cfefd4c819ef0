"""Who signed a bundle, and whose signature is required. Keys are PEM files, as `openssl genpkey` makes them.

What is signed is the text `tessera bundle 1 sha256:<content digest>` and a line feed. The content digest covers the
manifest, which covers every entry; the signatures themselves lie outside it (specs/bundle.md).
"""

from __future__ import annotations

import base64
import binascii
import os
import select
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from tessera_runtime.core import ed25519
from tessera_runtime.core.container import SIGNATURE_RECORD
from tessera_runtime.core.errors import BundleError, UsageError

__all__ = [
    "ENVIRONMENT", "Signature", "Trust", "from_environment", "message", "parse_private", "parse_public", "private_pem",
    "public_pem", "read_key", "require", "requirements", "unpack",
]  # fmt: skip

ENVIRONMENT = "TESSERA_REQUIRE_SIGNATURE"
_PUBLIC = bytes.fromhex("302a300506032b6570032100")  # SubjectPublicKeyInfo of Ed25519; the key follows
_PRIVATE = bytes.fromhex("302e020100300506032b657004220420")  # PKCS #8 of Ed25519; the key follows
_LIMIT = 1 << 16  # bytes of a key file
_PATIENCE = 10.0  # seconds; a file is there at once, a pipe may be another process's
_KEYRING = (".pem", ".pub")


class Signature(NamedTuple):
    """A public key and what it signed with."""

    key: bytes
    value: bytes


class Trust(NamedTuple):
    """One requirement: the bundle is signed by any of these keys. `name` is for messages."""

    keys: tuple[bytes, ...]
    name: str


def message(digest: str) -> bytes:
    """What is signed, for a content digest in hexadecimal."""
    return f"tessera bundle 1 sha256:{digest}\n".encode("ascii")


def unpack(data: bytes) -> tuple[Signature, ...]:
    """The signatures in the data of `tsb.signatures`: sorted by key, one for each key; E650."""
    found = [
        Signature(data[at : at + ed25519.KEY_SIZE], data[at + ed25519.KEY_SIZE : at + SIGNATURE_RECORD])
        for at in range(0, len(data), SIGNATURE_RECORD)
    ]
    if any(a.key >= b.key for a, b in zip(found, found[1:], strict=False)):
        raise BundleError("E650", "the signatures are not sorted by key, or a key has two")
    return tuple(found)


def require(signatures: Sequence[Signature], digest: str, trust: Sequence[Trust]) -> None:
    """Check that every requirement is met: E651 no signature of such a key, E652 its signature is wrong."""
    for wanted in trust:
        made = [signature for signature in signatures if signature.key in wanted.keys]
        if not made:
            state = "signed by other keys only" if signatures else "not signed"
            raise BundleError("E651", f"the bundle is {state}, and a signature by {wanted.name} is required")
        for signature in made:
            if not ed25519.verify(signature.key, message(digest), signature.value):
                raise BundleError("E652", f"the signature by the key {signature.key.hex()} is wrong")


def requirements(required: Any) -> tuple[Trust, ...]:
    """What `load(require_signature=..)` asks for: nothing, a key, a keyring, or a list of these, each to be met.

    A key is 32 bytes or the path of a public key; a keyring is the path of a folder of `.pem` and `.pub` files, of
    which any will do. None stands for what the environment variable TESSERA_REQUIRE_SIGNATURE names, if anything.
    E802 for files that cannot be read, E806 for what is no public key.
    """
    if required is None:
        required = from_environment()
    if isinstance(required, (bytes, str, os.PathLike)):
        required = [required]
    return tuple(_trust(item) for item in required)


def from_environment() -> list[str]:
    """The paths in TESSERA_REQUIRE_SIGNATURE; none where it is not set.

    E806 for an empty part: it is what remains of a name that was not set, and would silently require less.
    """
    given = os.environ.get(ENVIRONMENT)
    if given is None:
        return []
    parts = given.split(os.pathsep)
    if not all(parts):
        raise UsageError("E806", f"{ENVIRONMENT} has an empty part: {given!r}", help="unset it to require no signature")
    return parts


def _trust(item: bytes | str | os.PathLike[str]) -> Trust:
    if isinstance(item, bytes):
        if not ed25519.is_public_key(item):
            raise UsageError("E806", "the bytes given are not an Ed25519 public key")
        return Trust((item,), f"the key {item.hex()}")
    path = os.fspath(item)
    if not os.path.isdir(path):
        return Trust((parse_public(read_key(path), path),), f"'{path}'")
    try:
        names = sorted(name for name in os.listdir(path) if name.endswith(_KEYRING))
    except OSError as error:
        raise UsageError("E802", f"cannot read '{path}': {error.strerror}") from error
    if not names:
        raise UsageError("E806", f"the keyring '{path}' holds no .pem or .pub files")
    files = [os.path.join(path, name) for name in names]
    return Trust(tuple(parse_public(read_key(file), file) for file in files), f"a key of '{path}'")


def read_key(path: str) -> bytes:
    """The contents of a key file, or of a pipe into which somebody writes within `_PATIENCE` seconds; E802."""
    found, end = b"", time.monotonic() + _PATIENCE
    try:
        # Without O_NONBLOCK, opening a pipe would wait for somebody to write into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            while len(found) < _LIMIT:
                if not select.select([descriptor], [], [], max(0.0, end - time.monotonic()))[0]:
                    raise TimeoutError(None, f"nobody has written a key into it for {_PATIENCE:g} s")
                part = os.read(descriptor, _LIMIT - len(found))
                if not part:
                    break
                found += part
            return found
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise UsageError("E802", f"cannot read '{path}': {getattr(error, 'strerror', None) or error}") from error


def _body(text: bytes, label: str, prefix: bytes, path: str) -> bytes:
    """The 32 bytes after `prefix` in the one PEM block of a file; E806."""
    other = "PRIVATE" if label == "PUBLIC" else "PUBLIC"
    if f"-----BEGIN {other} KEY-----".encode() in text:
        raise UsageError("E806", f"'{path}' holds a {other.lower()} key; a {label.lower()} one is expected here")
    head, tail = f"-----BEGIN {label} KEY-----".encode(), f"-----END {label} KEY-----".encode()
    lines = [line.strip() for line in text.strip().splitlines()]
    if len(lines) >= 3 and (lines[0], lines[-1]) == (head, tail):
        try:
            der = base64.b64decode(b"".join(lines[1:-1]), validate=True)
        except binascii.Error:
            der = b""
        if der.startswith(prefix) and len(der) == len(prefix) + ed25519.KEY_SIZE:
            return der[len(prefix) :]
    raise UsageError(
        "E806", f"'{path}' is not an Ed25519 {label.lower()} key in PEM form", help="`tesseracc keygen` makes keys"
    )


def parse_public(text: bytes, path: str) -> bytes:
    """The public key in a PEM file (SubjectPublicKeyInfo); E806."""
    key = _body(text, "PUBLIC", _PUBLIC, path)
    if not ed25519.is_public_key(key):
        raise UsageError("E806", f"the key in '{path}' is no usable point of the curve")
    return key


def parse_private(text: bytes, path: str) -> bytes:
    """The private key in a PEM file (PKCS #8, not encrypted); E806."""
    return _body(text, "PRIVATE", _PRIVATE, path)


def _pem(label: str, der: bytes) -> bytes:
    return f"-----BEGIN {label} KEY-----\n{base64.b64encode(der).decode()}\n-----END {label} KEY-----\n".encode()


def public_pem(key: bytes) -> bytes:
    """The PEM file of a public key."""
    return _pem("PUBLIC", _PUBLIC + key)


def private_pem(seed: bytes) -> bytes:
    """The PEM file of a private key."""
    return _pem("PRIVATE", _PRIVATE + seed)

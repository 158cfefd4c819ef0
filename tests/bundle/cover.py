"""Coverage-guided attack on the reader. Needs `pip install atheris`; then

    python -m tests.bundle.cover CORPUS_FOLDER -max_total_time=600 -rss_limit_mb=1024 -timeout=10

The first byte of an input says what the rest is: a whole file; a manifest's text, weights, an image or a test, around
which a bundle with right digests is built; a key file; signatures. Anything but a coded refusal is a finding, and so is
a manifest that the two readers judge differently.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["tessera_runtime"]):
    from tessera_runtime import audit, signature
    from tessera_runtime.bundle import BundleFile
    from tessera_runtime.core import safetensors
    from tessera_runtime.core.errors import TesseraError
    from tessera_runtime.devices import elf

from tests.bundle.base import base, build, document, image, parts, signed_base
from tests.bundle.second_reader import read

PARTS = ("weights.safetensors", "images/cpu.elf", "tests/0000.safetensors")


def _bundle(data: bytes) -> None:
    try:
        audit.audit(BundleFile(data, verify_weights=True))
        first = "ok"
    except TesseraError as error:
        assert error.exit_code == 5, error
        first = error.code
    assert (first == "ok") == (read(data) == "ok"), (first, read(data))


def one(data: bytes) -> None:
    """One input."""
    if not data:
        return
    kind, rest = data[0] % 8, data[1:]
    if kind == 0:
        _bundle(rest)
    elif kind == 1:
        _bundle(build(rest))
    elif kind == 2:  # the text need not be canonical here: what counts is its value
        try:
            value = json.loads(rest)
            text = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
        except (ValueError, RecursionError):
            return
        _bundle(build(text))
    elif kind in (3, 4, 5):
        name = PARTS[kind - 3]
        _bundle(build(document(), {**parts()[1], name: rest or b"\0"}))
    else:
        try:
            if kind == 6:
                signature.parse_public(rest, "k")
                signature.parse_private(rest, "k")
            else:
                elf.read_symbols(rest, "x86-64")
                safetensors.parse_header(rest)
        except TesseraError:
            return


def _seeds(folder: Path) -> None:
    """What to begin with: one good input of each kind."""
    folder.mkdir(exist_ok=True)
    text, files = parts()
    seeds = [base(), text.encode(), text.encode(), *(files[name] for name in PARTS),
             signature.public_pem(bytes(range(32))), image(), signed_base()]  # fmt: skip
    for kind, data in enumerate(seeds):
        (folder / f"seed{kind}").write_bytes(bytes([kind % 8]) + data)


def main() -> None:
    """The command line is libFuzzer's."""
    folders = [Path(argument) for argument in sys.argv[1:] if not argument.startswith("-")]
    for folder in folders[:1]:
        _seeds(folder)
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

"""Signatures: Ed25519 by the RFC's vectors and by OpenSSL's, what strict verification refuses, and what is required."""

from __future__ import annotations

import json
import os
import random
import threading
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera_runtime import cli
from tessera_runtime.api import load
from tessera_runtime.bundle import BundleFile
from tessera_runtime.core import container, ed25519
from tessera_runtime.core.errors import TesseraError
from tessera_runtime.signature import (
    ENVIRONMENT,
    Signature,
    message,
    parse_private,
    parse_public,
    private_pem,
    public_pem,
)
from tesseracc.bundle.sign import attach, make
from tests.bundle.forge import code_of
from tests.cli.run import Runner
from tests.runtime.support import bundle_bytes

# RFC 8032, section 7.1: private key, public key, message, signature
VECTORS = [
    ("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
     "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
     "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
     "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"),
    ("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
     "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
     "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
     "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"),
    ("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
     "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025", "af82",
     "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
     "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"),
    ("833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
     "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
     "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
     "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
     "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b589"
     "09351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704"),
]  # fmt: skip
P, L = (1 << 255) - 19, (1 << 252) + 27742317777372353535851937790883648493
# The eight points whose order divides 8, and strings that a lax decoder takes for some of them.
_EIGHT = [int.from_bytes(bytes.fromhex(text), "little") for text in (
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a")]  # fmt: skip
SMALL = [1, P - 1, 0, 1 << 255, *_EIGHT, *(y | 1 << 255 for y in _EIGHT)]
LAX = [1 | 1 << 255, (P - 1) | 1 << 255, P, P + 1, P | 1 << 255, (P + 1) | 1 << 255, (1 << 255) - 1, (1 << 256) - 1]
SEED = bytes(range(32))
OTHER = bytes(range(1, 33))
# Made for this test and used for nothing else.
OPENSSL_PRIVATE = (
    b"-----BEGIN PRIVATE KEY-----\n"
    b"MC4CAQAwBQYDK2VwBCIEIAsDuW0IwoCKymmEqEh1xBWbdzwVoSd/kZKfmO2g/F4U\n-----END PRIVATE KEY-----\n"
)
OPENSSL_PUBLIC = (
    b"-----BEGIN PUBLIC KEY-----\n"
    b"MCowBQYDK2VwAyEADN4FWckbuZ6ylRRc7WEYWzYHfSLVbZe7KV/nnPzQmDU=\n-----END PUBLIC KEY-----\n"
)
OPENSSL_SIGNATURE = (
    "1c2b2b07d187161f20f0c05631a7ea4db250573062bcef5e5971789a070bc969"
    "79e5ffd391f28a99c58e47ee818e7669713baf1f0f5430f0a8441591789e2b0c"
)


@pytest.mark.parametrize(("seed", "key", "text", "value"), VECTORS)
def test_vectors_of_the_rfc(seed: str, key: str, text: str, value: str) -> None:
    assert ed25519.public_key(bytes.fromhex(seed)).hex() == key
    assert ed25519.sign(bytes.fromhex(seed), bytes.fromhex(text)).hex() == value
    assert ed25519.verify(bytes.fromhex(key), bytes.fromhex(text), bytes.fromhex(value))
    assert ed25519.is_public_key(bytes.fromhex(key))


def test_any_change_is_refused() -> None:
    rng = random.Random(3)
    key, text = ed25519.public_key(SEED), b"a message"
    value = ed25519.sign(SEED, text)
    for part in (key, text, value):
        for _ in range(20):
            at, bit = rng.randrange(len(part)), 1 << rng.randrange(8)
            bad = part[:at] + bytes([part[at] ^ bit]) + part[at + 1 :]
            given = [bad if part is other else other for other in (key, text, value)]
            assert not ed25519.verify(*given)
    for cut in (b"", value[:-1], value + b"\0"):
        assert not ed25519.verify(key, text, cut)
    assert not ed25519.verify(key[:-1], text, value)


def test_only_the_canonical_s() -> None:
    """S and S + L give the same point; only one of them is a signature."""
    key, text = ed25519.public_key(SEED), b"a message"
    value = ed25519.sign(SEED, text)
    s = int.from_bytes(value[32:], "little")
    for other in (s + L, s + 2 * L, s | 1 << 255):
        assert not ed25519.verify(key, text, value[:32] + other.to_bytes(32, "little"))


@pytest.mark.parametrize("encoded", SMALL + LAX)
def test_small_and_non_canonical_points(encoded: int) -> None:
    """With A of small order, S B = R + k A holds for S = 0, R = -k A and a message of eight; refused all the same."""
    point = encoded.to_bytes(32, "little")
    assert (ed25519._decode(point) is not None) == (encoded in SMALL)
    assert not ed25519.is_public_key(point)
    identity = (1).to_bytes(32, "little")
    for text in (b"", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8"):
        assert not ed25519.verify(point, text, identity + bytes(32))
        assert not ed25519.verify(point, text, point + bytes(32))
    key, value = ed25519.public_key(SEED), ed25519.sign(SEED, b"")
    assert not ed25519.verify(key, b"", point + value[32:])


def signed(*seeds: bytes, data: bytes | None = None) -> bytes:
    file = BundleFile(bundle_bytes() if data is None else data)
    return b"".join(attach(file, [make(file.digest, seed) for seed in seeds]))


def outcome(data: bytes, required: Any) -> str:
    try:
        load(data, threads=1, require_signature=required)
    except TesseraError as error:
        return error.code
    return "ok"


def test_signing_changes_no_content() -> None:
    plain, once, twice = BundleFile(bundle_bytes()), BundleFile(signed(SEED)), BundleFile(signed(OTHER, SEED))
    assert plain.digest == once.digest == twice.digest
    assert plain.manifest == once.manifest == twice.manifest
    assert [len(file.signatures) for file in (plain, once, twice)] == [0, 1, 2]
    assert signed(OTHER, SEED) == signed(SEED, OTHER)
    assert b"".join(attach(twice, [])) == bundle_bytes()
    assert signed(SEED)[container.SIGNATURES_OFFSET :].startswith(ed25519.public_key(SEED))
    assert outcome(signed(SEED), ()) == "ok"


def test_requirements(tmp_path: Path) -> None:
    a, b = ed25519.public_key(SEED), ed25519.public_key(OTHER)
    for name, key in (("a.pub", a), ("b.pem", b)):
        (tmp_path / name).write_bytes(public_pem(key))
    only_b, empty = tmp_path / "ring", tmp_path / "empty"
    only_b.mkdir()
    empty.mkdir()
    (only_b / "b.pub").write_bytes(public_pem(b))
    (only_b / "notes.txt").write_text("not a key")
    by_a, both = signed(SEED), signed(SEED, OTHER)
    cases: list[tuple[bytes, Any, str]] = [
        (bundle_bytes(), a, "E651"),
        (by_a, a, "ok"),
        (by_a, b, "E651"),
        (by_a, [a, b], "E651"),
        (both, [a, b], "ok"),
        (by_a, tmp_path / "a.pub", "ok"),
        (by_a, str(tmp_path / "b.pem"), "E651"),
        (by_a, tmp_path, "ok"),  # a keyring: any of its keys
        (by_a, only_b, "E651"),
        (both, [only_b, tmp_path / "a.pub"], "ok"),
        (by_a, (), "ok"),
        (by_a, empty, "E806"),
        (by_a, bytes(32), "E806"),
        (by_a, b"short", "E806"),
        (by_a, tmp_path / "none.pub", "E802"),
        (by_a, only_b / "notes.txt", "E806"),
    ]
    assert [outcome(data, required) for data, required, _ in cases] == [code for *_, code in cases]


def test_the_environment_decides_where_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seed in (("a.pub", SEED), ("b.pub", OTHER)):
        (tmp_path / name).write_bytes(public_pem(ed25519.public_key(seed)))
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "a.pub"))
    assert outcome(signed(SEED), None) == "ok" and outcome(bundle_bytes(), None) == "E651"
    assert outcome(bundle_bytes(), ()) == "ok"
    monkeypatch.setenv(ENVIRONMENT, os.pathsep.join(str(tmp_path / name) for name in ("a.pub", "b.pub")))
    assert outcome(signed(SEED), None) == "E651" and outcome(signed(SEED, OTHER), None) == "ok"
    monkeypatch.delenv(ENVIRONMENT)
    assert outcome(bundle_bytes(), None) == "ok"


@pytest.mark.parametrize("parts", [[""], ["", ""], ["a.pub", ""], ["", "a.pub"]])
def test_an_empty_part_of_the_environment_is_no_requirement_that_was_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: list[str]
) -> None:
    (tmp_path / "a.pub").write_bytes(public_pem(ed25519.public_key(SEED)))
    (tmp_path / "m.tsb").write_bytes(signed(SEED))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(ENVIRONMENT, os.pathsep.join(parts))
    assert outcome(signed(SEED), None) == "E806" and outcome(signed(SEED), ()) == "ok"
    assert cli.main(["m.tsb", "--list"]) == 2
    assert cli.main(["m.tsb", "--list", "--require-signature", "a.pub"]) == 2


def test_a_signature_of_something_else() -> None:
    file, key = BundleFile(bundle_bytes()), ed25519.public_key(SEED)
    for digest in ("0" * 64, file.digest.upper()):
        moved = b"".join(attach(file, [make(digest, SEED)]))
        assert outcome(moved, ()) == "ok" and outcome(moved, key) == "E652"
    value = ed25519.sign(SEED, bytes.fromhex(file.digest))
    assert outcome(b"".join(attach(file, [Signature(key, value)])), key) == "E652"
    assert message("ab" * 32) == b"tessera bundle 1 sha256:" + b"ab" * 32 + b"\n"


def test_the_signature_is_checked_before_the_manifest_is_parsed() -> None:
    data = bytearray(signed(SEED))
    place = BundleFile(bytes(data))._places["manifest.json"]
    data[place.data + 1] ^= 1
    assert outcome(bytes(data), ed25519.public_key(OTHER)) == "E651"
    assert outcome(bytes(data), ed25519.public_key(SEED)) == "E605"


def test_malformed_signatures() -> None:
    file = BundleFile(bundle_bytes())
    good = sorted(make(file.digest, seed) for seed in (SEED, OTHER))
    repeated = signed(SEED, SEED)
    assert code_of(repeated) == "E650"
    data = bytearray(signed(SEED, OTHER))
    at = container.SIGNATURES_OFFSET
    data[at : at + 192] = b"".join(key + value for key, value in reversed(good))
    assert code_of(bytes(data)) == "E650"
    damaged = bytearray(signed(SEED))
    damaged[at + 80] ^= 4
    assert code_of(bytes(damaged)) == "E613"
    for count in (0, 2, 64, 65, 1 << 31):
        other = bytearray(signed(SEED))
        other[container.HEADER_OFFSET + 76 : container.HEADER_OFFSET + 80] = count.to_bytes(4, "little")
        assert code_of(bytes(other)) in ("E604", "E606", "E609", "E610", "E650", "E602"), count


@pytest.fixture
def tesseracc(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)


def test_commands(tesseracc: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key, other, bundle = tmp_path / "k.pem", tmp_path / "o.pem", tmp_path / "m.tsb"
    bundle.write_bytes(bundle_bytes())
    made = json.loads(tesseracc("keygen", key, "--json").out)
    assert (key.stat().st_mode & 0o777, (tmp_path / "k.pem.pub").exists()) == (0o600, True)
    assert tesseracc("keygen", other).code == 0 and tesseracc("keygen", key).code == 2
    assert tesseracc("keygen", tmp_path / "no" / "k.pem", "--public", tmp_path / "p").code == 2
    assert not (tmp_path / "p").exists()  # neither half without the other
    assert "not signed" in tesseracc("verify", bundle).out
    assert tesseracc("verify", bundle, "--key", f"{key}.pub").code == 5
    said = tesseracc("sign", "--key", key, bundle)
    assert said.code == 0 and made["key"] in said.out
    assert tesseracc("verify", bundle, "--key", f"{key}.pub").code == 0
    ring = tmp_path / "ring"
    ring.mkdir()
    (ring / "k.pub").write_bytes((tmp_path / "k.pem.pub").read_bytes())
    report = json.loads(tesseracc("verify", bundle, "--keyring", ring, "--json").out)
    assert report == {"bundle": str(bundle), "digest": BundleFile(bundle_bytes()).digest, "keys": [made["key"]],
                      "trusted": True}  # fmt: skip
    again = bundle.read_bytes()
    assert tesseracc("sign", "--key", key, bundle).code == 0 and bundle.read_bytes() == again
    assert tesseracc("sign", "--key", other, bundle, "-o", tmp_path / "two.tsb").code == 0
    assert len(BundleFile(tmp_path / "two.tsb").signatures) == 2
    assert tesseracc("verify", tmp_path / "two.tsb", "--key", f"{key}.pub", "--key", f"{other}.pub").code == 0
    assert cli.main([str(bundle), "--require-signature", f"{key}.pub", "--list"]) == 0
    assert cli.main([str(bundle), "--require-signature", f"{other}.pub", "--list", "--json"]) == 5
    assert "E651" in capsys.readouterr().out
    link = tmp_path / "link.tsb"
    link.symlink_to(bundle)
    bundle.chmod(0o600)
    assert tesseracc("sign", "--remove", link).code == 0 and bundle.read_bytes() == bundle_bytes()
    assert link.is_symlink() and bundle.stat().st_mode & 0o777 == 0o600
    for bad in (("sign", bundle), ("sign", "--key", f"{key}.pub", bundle), ("verify", bundle, "--key", key),
                ("sign", "--key", key, tmp_path / "none")):  # fmt: skip
        assert tesseracc(*bad).code == 2
    bundle.write_bytes(bundle_bytes()[:-1])
    assert tesseracc("sign", "--key", key, bundle).code == 5 and bundle.read_bytes() == bundle_bytes()[:-1]


@pytest.mark.parametrize("moment", ["secrets.token_bytes", "tessera_runtime.signature.public_pem"])
@pytest.mark.parametrize("names", [("a.pem",), ("b.pem", "--public", "a.pem.pub")])
def test_the_halves_of_a_key_belong_together_whoever_else_makes_one(
    tesseracc: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, names: tuple[str, ...]
) -> None:
    """Another process makes a key with a name in common, while this one is between its checks and its files."""
    monkeypatch.chdir(tmp_path)
    codes: list[int] = []
    function = resolve_name(moment)

    def meanwhile(given: Any) -> Any:
        monkeypatch.setattr(moment, function)
        codes.append(tesseracc("keygen", *names).code)
        return function(given)

    monkeypatch.setattr(moment, meanwhile)
    said = tesseracc("keygen", "a.pem")
    codes.append(said.code)
    assert sorted(codes) == [0, 2]
    (private,) = [name for name in os.listdir() if name.endswith(".pem")]
    seed = parse_private(Path(private).read_bytes(), private)
    assert public_pem(ed25519.public_key(seed)) == Path("a.pem.pub").read_bytes() and len(os.listdir()) == 2


def test_keygen_refuses_what_is_there(tesseracc: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").symlink_to(tmp_path)
    for public in ("same.pem", "./same.pem", "here/same.pem"):
        said = tesseracc("keygen", "same.pem", "--public", public)
        assert (said.code, "E803" in said.err, os.listdir()) == (2, True, ["here"])
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    assert tesseracc("keygen", "dangling").code == tesseracc("keygen", "k.pem", "--public", "dangling").code == 2
    assert sorted(os.listdir()) == ["dangling", "here"]


def test_keys_come_from_pipes_too_but_nobody_waits_for_ever(
    tesseracc: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, bundle = tmp_path / "pipe", tmp_path / "m.tsb"
    os.mkfifo(pipe)
    bundle.write_bytes(bundle_bytes())
    monkeypatch.setattr("tessera_runtime.signature._PATIENCE", 0.2)
    said = tesseracc("sign", "--key", pipe, bundle)
    assert said.code == 2 and "E802" in said.err and "0.2 s" in said.err
    monkeypatch.setattr("tessera_runtime.signature._PATIENCE", 20.0)
    writer = threading.Thread(target=lambda: pipe.write_bytes(private_pem(SEED)))
    writer.start()
    assert tesseracc("sign", "--key", pipe, bundle).code == 0
    writer.join()
    assert bundle.read_bytes() == signed(SEED)
    assert tesseracc("sign", "--key", tmp_path, bundle).code == 2  # a folder
    assert tesseracc("sign", "--key", "/dev/zero", bundle).code == 2


def test_keys_and_signatures_that_openssl_made() -> None:
    """`openssl genpkey -algorithm ed25519`, `openssl pkey -pubout`, `openssl pkeyutl -sign -rawin`."""
    seed = parse_private(OPENSSL_PRIVATE, "k")
    assert public_pem(ed25519.public_key(seed)) == OPENSSL_PUBLIC and private_pem(seed) == OPENSSL_PRIVATE
    key = parse_public(OPENSSL_PUBLIC, "k")
    assert ed25519.verify(key, message("5a" * 32), bytes.fromhex(OPENSSL_SIGNATURE))
    assert ed25519.sign(seed, message("5a" * 32)).hex() == OPENSSL_SIGNATURE
    bad = [b"", OPENSSL_PUBLIC[:-30], OPENSSL_PUBLIC * 2, OPENSSL_PUBLIC.replace(b"MCow", b"MCox"), b"\xff" * 90,
           OPENSSL_PUBLIC.replace(b"=", b""), public_pem(bytes(32))]  # fmt: skip
    for text in bad:
        with pytest.raises(TesseraError) as caught:
            parse_public(text, "k")
        assert caught.value.code == "E806"


@ts.function
def twice(x: Any) -> Any:
    return x * 2


def test_what_a_process_compiles_for_itself_needs_no_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "no such key")
    assert outcome(bundle_bytes(), None) == "E802"
    assert np.asarray(ts.jit(twice)(np.ones(3, np.float32))).tolist() == [2.0] * 3

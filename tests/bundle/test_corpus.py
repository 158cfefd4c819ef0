"""Two readers that share no code agree on every corrupt file and on every good one; every rule has a file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tessera_runtime.audit import audit
from tessera_runtime.bundle import BundleFile
from tessera_runtime.cli import main as run_bundle
from tessera_runtime.core.catalogue import CATALOGUE
from tessera_runtime.core.errors import TesseraError
from tesseracc.bundle.jsonschema import schema_document
from tests.bundle.base import KEYS, base, build, document, parts, signed_base
from tests.bundle.faults import Fault, all_faults
from tests.bundle.make_corrupt import CORRUPT, main
from tests.bundle.second_reader import read
from tests.cli.run import Runner
from tests.runtime.support import bundle_bytes, contents

FAULTS = all_faults()
SPECS = Path(__file__).parents[2] / "specs"


def first_reader(data: bytes | Path, required: bytes | None = None) -> str:
    """`ok` or the code with which the runtime refuses a file, all of it read."""
    try:
        audit(BundleFile(data, verify_weights=True, require_signature=() if required is None else required))
    except TesseraError as error:
        assert error.exit_code == 5 and error.code in CATALOGUE, error
        return error.code
    return "ok"


@pytest.mark.parametrize("fault", FAULTS, ids=[f"{fault.rule}-{fault.name}" for fault in FAULTS])
def test_corrupt_file(fault: Fault, bless: bool) -> None:
    path = CORRUPT / f"{fault.rule}-{fault.name}.tsb"
    data = fault.make()
    if bless:
        CORRUPT.mkdir(exist_ok=True)
        path.write_bytes(data)
    assert path.read_bytes() == data, "out of date; run python -m tests.bundle.make_corrupt"
    allowed = fault.code.split()
    assert first_reader(path, fault.required) in allowed and read(data, fault.required) in allowed
    if fault.required is not None:
        assert first_reader(data) == read(data) == "ok"


def test_every_rule_has_a_file_and_every_file_a_rule() -> None:
    text = (SPECS / "bundle.md").read_text()
    rules = set(re.findall(r"\*\*([A-Z]\d+)\*\*", text))
    assert rules - {fault.rule for fault in FAULTS} == {"M4", "P1"}  # M4 stands for section 3; P1 is of calls
    assert {fault.rule for fault in FAULTS} <= rules
    assert {path.name for path in CORRUPT.iterdir()} == {f"{fault.rule}-{fault.name}.tsb" for fault in FAULTS}
    codes = set(re.findall(r"E6\d\d", text))
    assert {code for fault in FAULTS for code in fault.code.split()} | {"E625"} == codes
    readers = {code for code in CATALOGUE if "E600" <= code < "E660"}  # from E660 on, codes are of the tools
    assert readers - codes == {"E612"}  # of the API: no such entry


def test_the_corrupt_files_are_small_and_made_by_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bundle.make_corrupt.CORRUPT", tmp_path / "corrupt")
    main()
    made = {path.name: path.read_bytes() for path in (tmp_path / "corrupt").iterdir()}
    assert made == {path.name: path.read_bytes() for path in CORRUPT.iterdir()}
    assert sum(map(len, made.values())) < 4 << 20


def test_both_readers_take_good_files() -> None:
    from tesseracc.bundle import write

    big = write(
        None, contents(constants={"w": contents().constants["w"], "big": contents().constants["w"].repeat(20000)})
    )
    for data in (base(), signed_base(), bundle_bytes(), big, build(document()), build(parts()[0].encode())):
        assert first_reader(data) == read(data) == "ok"
    for key in KEYS:
        assert first_reader(signed_base(), key) == read(signed_base(), key) == "ok"


def test_the_schema_is_the_types(bless: bool) -> None:
    path = SPECS / "bundle.schema.json"
    if bless:
        path.write_text(schema_document())
    assert path.read_text() == schema_document(), "specs/bundle.schema.json is out of date; run make bless"


def test_commands_refuse_every_corrupt_file(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 5, the code in the message and in --json, nothing of the file's own on the terminal but plain text."""
    tesseracc = Runner(capsys)
    for fault in FAULTS:
        path = CORRUPT / f"{fault.rule}-{fault.name}.tsb"
        said = tesseracc("verify", path)
        if fault.rule == "S2":
            assert said.code == 0
            continue
        assert said.code == 5 and any(f"error[{code}]" in said.err for code in fault.code.split()), (path.name, said)
        assert not re.search(r"[^\x20-\x7e\n]", said.err)
        assert run_bundle([str(path), "--list", "--verify", "--json"]) in (5, 6, 0)
        listed = json.loads(capsys.readouterr().out)
        assert listed["exit_code"] in (5, 6) or fault.rule in ("S3", "X6", "X3", "X4"), path.name

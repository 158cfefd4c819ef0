"""Two readers that share no code agree on every corrupt file and on every good one; every rule has a file."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import tessera_runtime
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
    for rule, given in codes_by_rule(text).items():
        here = [set(fault.code.split()) for fault in FAULTS if fault.rule == rule]
        assert all(codes & given for codes in here), rule
        missing = {(rule, code) for code in given - set().union(*here)}
        # those of a file beside the bundle (test_detached.py), of section 3, and of calls (test_plan.py)
        assert missing <= {("X8", "E611"), ("M4", "E623"), ("P1", "E625")}, missing
    codes = set(re.findall(r"E6\d\d", text))
    assert {code for fault in FAULTS for code in fault.code.split()} | {"E625"} == codes
    readers = {code for code in CATALOGUE if "E600" <= code < "E660"}  # from E660 on, codes are of the tools
    assert readers - codes == {"E612"}  # of the API: no such entry


def codes_by_rule(text: str) -> dict[str, set[str]]:
    """The codes that each rule states, or else the heading above it."""
    found: dict[str, set[str]] = {}
    heading: set[str] = set()
    for part in re.split(r"^(?=#)|^(?=- \*\*[A-Z])|^(?=\| \*\*)|(?<=\n)\n|(?=\*\*P1)", text, flags=re.MULTILINE):
        codes = set(re.findall(r"E6\d\d", part))
        if part.startswith("#"):
            heading = codes
        elif rule := re.match(r"(?:- |\| )?\*\*([A-Z]\d+)\*\*", part):
            found[rule[1]] = codes or heading
    return found


CHECKS = ("bundle", "audit", "signature", "devices/elf", "core/container", "core/check", "core/check_steps",
          "core/manifest", "core/plan_steps", "core/schema", "core/safetensors")  # fmt: skip
#: bundle errors that no file alone leads to, by a word of theirs
ELSEWHERE = {
    "it has {len(data)} bytes": "the file of weights of a detached bundle",
    "has no entry": "of the API",
    "its digest is not the one": "a file that changes after it was opened",
    "cannot be written": "of the writer",
    "the code image has no function": "X4, of the one target that runs",
    "file ends within its header": "a file of state that is cut while it is read",
}


def test_every_check_of_the_reader_refuses_a_file() -> None:
    """Each place where the reader raises a bundle error is reached by a corrupt file: no check that nothing tests."""
    folder = Path(tessera_runtime.__file__).parent
    wanted: dict[tuple[str, int], str] = {}
    for name in CHECKS:
        path = folder / f"{name}.py"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
                text = ast.unparse(node)
                if node.exc.func.id in ("BundleError", "bad", "_bad") and not any(word in text for word in ELSEWHERE):
                    wanted[str(path), node.lineno] = text
    assert len(wanted) > 90
    files, reached = {path for path, _ in wanted}, set()

    def local(frame: FrameType, event: str, _: object) -> Any:
        reached.add((frame.f_code.co_filename, frame.f_lineno))
        return local

    before = sys.gettrace()
    sys.settrace(lambda frame, event, _: local if frame.f_code.co_filename in files else None)
    try:
        for fault in FAULTS:
            data = (CORRUPT / f"{fault.rule}-{fault.name}.tsb").read_bytes()
            first_reader(data, fault.required)
        first_reader(CORRUPT / "H1-empty.tsb")
    finally:
        sys.settrace(before)
    assert not {place: text for place, text in wanted.items() if place not in reached}


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

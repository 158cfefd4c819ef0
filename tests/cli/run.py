"""Runs `tesseracc` in this process and returns what it said."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tesseracc.cli.main import main


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


class Runner:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *args: object) -> Said:
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in args])
        said = self.capsys.readouterr()
        code = end.value.code
        assert isinstance(code, int)
        assert "Traceback" not in said.err and "internal error" not in said.err, said.err
        return Said(code, said.out, said.err)

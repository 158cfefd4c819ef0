"""What a build reports, for programs: JSON, SARIF 2.1.0 for code scanning, JUnit XML for test reports."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from tessera.errors import each_error, render
from tessera_runtime.core.catalogue import CATALOGUE
from tessera_runtime.core.errors import TesseraError
from tesseracc import __version__

__all__ = ["FORMATS", "Diagnostic", "Report", "of_error", "write"]

FORMATS = ("text", "json", "sarif", "junit")


@dataclass(frozen=True)
class Diagnostic:
    """One remark: `error`, `warning` or `note`. Lines and columns count from 1; 0 is unknown."""

    level: str
    code: str
    message: str
    help: str | None = None
    file: str = ""
    line: int = 0
    column: int = 0
    end_line: int = 0
    end_column: int = 0
    target: str = ""
    rendered: str = ""  # as a terminal shows it

    @property
    def title(self) -> str:
        """The catalogue's title of the code."""
        return CATALOGUE[self.code].title if self.code in CATALOGUE else self.level


@dataclass(frozen=True)
class Report:
    """What came of one module: diagnostics, its exit code, and of a success a summary."""

    file: str
    diagnostics: tuple[Diagnostic, ...]
    exit_code: int
    result: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "file": self.file,
            "exit_code": self.exit_code,
            "diagnostics": [asdict(d) for d in self.diagnostics],
            "result": self.result,
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Report:
        """The report that `to_json` wrote."""
        found = tuple(Diagnostic(**d) for d in value["diagnostics"])
        return Report(value["file"], found, value["exit_code"], value["result"])


def of_error(error: TesseraError) -> list[Diagnostic]:
    """The errors that an exception stands for."""
    found = []
    for one in each_error(error):
        span = getattr(one, "span", None)
        place: dict[str, Any] = {}
        if span is not None:
            place = {
                "file": _relative(span.file), "line": span.line, "column": span.col + 1, "end_line": span.end_line,
                "end_column": span.end_col + 1 if span.end_line else 0,
            }  # fmt: skip
        found.append(Diagnostic("error", one.code, one.message, one.help, rendered=render(one), **place))
    return found


def _relative(path: str) -> str:
    """The path from the working directory, if the file is below it."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def write(form: str, reports: Sequence[Report]) -> str:
    """The reports as `json`, `sarif` or `junit`."""
    return {"json": _json, "sarif": _sarif, "junit": _junit}[form](reports)


def _json(reports: Sequence[Report]) -> str:
    document = {"version": 1, "compiler": __version__, "modules": [report.to_json() for report in reports]}
    return json.dumps(document, sort_keys=True) + "\n"


def _sarif(reports: Sequence[Report]) -> str:
    found = [d for report in reports for d in report.diagnostics]
    codes = sorted({d.code for d in found if d.code in CATALOGUE})
    rules = [
        {
            "id": code,
            "name": CATALOGUE[code].title,
            "shortDescription": {"text": CATALOGUE[code].title},
            "fullDescription": {"text": CATALOGUE[code].explanation},
            "defaultConfiguration": {"level": "warning" if code.startswith("W") else "error"},
        }
        for code in codes
    ]
    results = [_result(d, report.file) for report in reports for d in report.diagnostics]
    driver = {"name": "tesseracc", "version": __version__, "rules": rules}
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "invocations": [{"executionSuccessful": all(report.exit_code == 0 for report in reports)}],
        "results": results,
    }
    document = {"version": "2.1.0", "runs": [run]}
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _result(d: Diagnostic, module: str) -> dict[str, Any]:
    text = d.message + (f" [{d.target}]" if d.target else "") + (f". Help: {d.help}" if d.help else "")
    place: dict[str, Any] = {"artifactLocation": {"uri": _uri(d.file or module)}}
    if d.line:
        region = {"startLine": d.line, "startColumn": max(d.column, 1)}
        if d.end_line >= d.line and (d.end_line, d.end_column) > (d.line, d.column):
            region |= {"endLine": d.end_line, "endColumn": d.end_column}
        place["region"] = region
    result = {"level": d.level, "message": {"text": text}, "locations": [{"physicalLocation": place}]}
    return {**result, "ruleId": d.code} if d.code else result


def _uri(path: str) -> str:
    """The path as a URI reference (RFC 3986): relative to the working directory, or a `file:` URI."""
    from urllib.parse import quote

    text = quote(os.fsencode(path.replace(os.sep, "/")))
    return f"file://{text}" if os.path.isabs(path) else text


def _junit(reports: Sequence[Report]) -> str:
    """One suite per module; a case per error, or one that passed; warnings and notes as its output."""
    suites = []
    for report in reports:
        errors = [d for d in report.diagnostics if d.level == "error"]
        others = "\n".join(d.rendered or _line(d) for d in report.diagnostics if d.level != "error")
        cases = [
            f"    <testcase classname={_attr(report.file)} name={_attr(f'{d.code} {d.title}')}>\n"
            f"      <failure type={_attr(d.code)} message={_attr(d.message)}>"
            f"{_text(d.rendered or d.message)}</failure>\n"
            "    </testcase>"
            for d in errors
        ]
        if not errors:
            output = f"<system-out>{_text(others)}</system-out>" if others else ""
            cases = [f'    <testcase classname={_attr(report.file)} name="build">{output}</testcase>']
        suites.append(
            f'  <testsuite name={_attr(report.file)} tests="{len(cases)}" failures="{len(errors)}" errors="0">\n'
            + "\n".join(cases)
            + "\n  </testsuite>"
        )
    return '<?xml version="1.0" encoding="UTF-8"?>\n<testsuites>\n' + "\n".join(suites) + "\n</testsuites>\n"


def _line(d: Diagnostic) -> str:
    place = f" ({d.file}:{d.line})" if d.line else ""
    return f"{d.level}{f'[{d.code}]' if d.code else ''}: {d.message}{place}"


def _attr(text: str) -> str:
    return quoteattr(_printable(text))


def _text(text: str) -> str:
    return escape(_printable(text))


def _printable(text: str) -> str:
    """XML 1.0 has no control characters and no lone surrogates."""
    return "".join(
        c if c in "\n\t" or (c >= " " and not "\ud800" <= c <= "\udfff" and c < "\ufffe") else "�" for c in text
    )

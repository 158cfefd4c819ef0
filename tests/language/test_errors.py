"""Every code that the language raises is provoked here, and shown at the user's line with a caret."""

from __future__ import annotations

import linecache
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import tessera as ts
from tessera.errors import Call, SourceError, Span, TesseraError, did_you_mean, render
from tessera.interpreters import interpret
from tessera.types import TensorType
from tessera_runtime.core.catalogue import CATALOGUE
from tests.operators.scalars import SymbolicInterpreter, SymbolicTensor

ROOT = Path(__file__).parents[2]

# code -> (statement, the text under the caret, the help line). `x` is a symbolic f32[B, D], `a` an eager f32[2, 3].
PROVOKED: dict[str, tuple[str, str, str]] = {
    "E301": ("ts.cast(a, 'bf17')", "ts.cast(a, 'bf17')", "did you mean `bf16`?"),
    "E302": ("a @ ts.ones(5, 3)", "a @ ts.ones(5, 3)",
             "the right operand is f32[5, 3]; did you mean its transpose, `.mT`?"),
    "E303": ("ts.isnan(ts.arange(3))", "ts.isnan(ts.arange(3))", "it takes float; convert with ts.cast"),
    "E304": ("ts.sum(a, axis=2)", "ts.sum(a, axis=2)", "axes are -2..1"),
    "E305": ("ts.gelu(a, 'tan')", "ts.gelu(a, 'tan')", "use 'none' or 'tanh'"),
    "E306": ("ts.Tensor['3**D']", "ts.Tensor['3**D']",
             "a dim is an int, a name, or an expression of them with + - * // %, ceildiv, min and max, such as '3*D'"),
    "E307": ("typed(a)", "typed(a)", 'it is declared Tensor["N", ts.f32] and was given f32[2, 3]'),
    "E308": ("range(x.shape[0])", "range(x.shape[0])",
             "one compiled function serves every `B`; write a number in the annotation to fix the size"),
    "E309": ("float(ts.sum(x))", "float(ts.sum(x))",
             "a compiled function is traced once for all inputs; compute with ts operators instead"),
    "E310": ("ts.operator.lookup('matmol')", "ts.operator.lookup('matmol')", "did you mean `matmul`?"),
    "E311": ("ts.exp('a')", "ts.exp('a')", "tensors hold numbers: use arrays, numbers or nested lists of numbers"),
    "E312": ("a[0] = 1", "a[0]",
             "make a new one with ts.where or ts.concat, or assign inside a @ts.kernel"),
    "E313": ("ts.grad(ts.exp)(a)", "ts.grad(ts.exp)(a)",
             "reduce the result with ts.sum or ts.mean, or use ts.vjp"),
    "E314": ("typed()", "typed()", "its signature is typed(v)"),
    "E316": ("ts.grad(lambda w: launch(w))(a)", "launch(w)",
             "launch it in a function with @ts.custom_vjp, whose rule gives the derivative; or write this part with "
             "ts operators"),
    "E317": ("wrong(ts.ones(3))", "wrong(ts.ones(3))", "convert it with ts.cast(..., ts.i32)"),
    "E318": ("typed.inspect_ir()", "typed.inspect_ir()", "install the package tesseracc"),
    "E320": ("np.sqrt(a) + 1", "np.sqrt(a)", "use ts.sqrt"),
    "E319": ("ts.tile.linear_id()", "ts.tile.linear_id()", "mark the function with @ts.kernel"),
}

HEADER = """\
import numpy as np
import tessera as ts

@ts.function
def typed(v: ts.Tensor["N", ts.f32]):
    return v

@ts.function
def wrong(v: ts.Tensor["N", ts.f32]) -> ts.Tensor["N", ts.i32]:
    return v

@ts.kernel
def launch(v: ts.Tensor["N", ts.f32]):
    v[ts.tile.linear_id()] = 0.0

def run(a, x):
"""


@pytest.mark.parametrize("code", PROVOKED)
def test_each_code_shows_the_line(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statement, marked, help_line = PROVOKED[code]
    file = tmp_path / "model.py"
    file.write_text(f"{HEADER}    {statement}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tessera.decorators._driver", lambda: None)
    linecache.clearcache()
    namespace: dict[str, Any] = {"__name__": "model"}
    exec(compile(file.read_text(), str(file), "exec"), namespace)
    interpreter = SymbolicInterpreter()
    with interpret(interpreter), pytest.raises(SourceError) as caught:
        x = SymbolicTensor(TensorType.parse("f32[B, D]"), interpreter)
        with_eager(namespace, x, code)
    error = caught.value
    assert error.code == code
    lines = render(error).splitlines()
    assert lines[0] == f"error[{code}]: {error.message}"
    number = HEADER.count("\n") + 1
    assert re.fullmatch(rf"  --> model\.py:{number}:\d+( .*)?", lines[1])
    assert lines[2] == f"   {number} |     {statement}"
    if sys.version_info < (3, 11):
        marked = statement  # older versions do not say where in a line they are
    start = statement.index(marked) + 4
    assert lines[3] == "      | " + " " * start + "^" * len(marked)
    assert lines[4:] == [f"  help: {help_line}"]
    assert error.to_json()["line"] == number


def with_eager(namespace: dict[str, Any], x: Any, code: str) -> None:
    """Runs the statement; all but those about traced values without the tracer."""
    from tessera import interpreters

    saved = list(interpreters._STACK.entries)
    if code not in ("E308", "E309"):
        interpreters._STACK.entries.clear()
    try:
        namespace["run"](ts.ones(2, 3), x)
    finally:
        interpreters._STACK.entries[:] = saved


def raised_codes() -> set[str]:
    """The codes written in the language's sources."""
    found: set[str] = set()
    for path in sorted((ROOT / "tessera").rglob("*.py")):
        if "kernel" not in path.relative_to(ROOT / "tessera").parts:
            found |= set(re.findall(r'"(E\d{3})"', path.read_text()))
    return found


def test_every_code_is_provoked_and_in_the_catalogue() -> None:
    codes = raised_codes()
    files = {"E802", "E712"}  # provoked in test_tensors.test_files
    assert codes - files == set(PROVOKED)
    assert codes <= set(CATALOGUE)
    for code in codes - files:
        assert CATALOGUE[code].exit_code == 3


def test_call_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.py"
    file.write_text('''import tessera as ts

@ts.function
def mlp(x, w):
    return ts.relu(x) @ w

@ts.function
def step(x, w):
    y = helper(x, w)
    return y

def helper(x, w):
    return mlp(x, w)

def main():
    step(ts.ones(4, 64), ts.ones(32, 8))
''')
    monkeypatch.chdir(tmp_path)
    linecache.clearcache()
    namespace: dict[str, Any] = {"__name__": "model"}
    exec(compile(file.read_text(), str(file), "exec"), namespace)
    with pytest.raises(SourceError) as caught:
        namespace["main"]()
    expected = """\
error[E302]: matmul contracts 64 with 32
  --> model.py:5:12  in `mlp`, called from `helper` (model.py:13), called from `step` (model.py:9)
    5 |     return ts.relu(x) @ w
      |            ^^^^^^^^^^^^^^
  help: the operands are f32[4, 64] and f32[32, 8]"""
    if sys.version_info < (3, 11):
        expected = expected.replace("5:12", "5:5").replace("       ^^^^^^^^^^^^^^", "^" * 21)
    assert render(caught.value) == expected


def test_render_details(tmp_path: Path) -> None:
    plain = TesseraError("E801", "no such option", help="see --help")
    assert render(plain) == "error[E801]: no such option\n  help: see --help"
    assert render(plain, label="warning").startswith("warning[E801]")
    here = SourceError("E306", "bad")
    assert here.span is not None and here.span.file == __file__
    assert here.at(Span("other.py", 1)).span == Span("other.py", 1) == here.at(Span("third.py", 1)).span
    error = SourceError("E306", "bad", span=Span("gone.py", 3, 2), calls=(Call("f", Span("gone.py", 3, 2)),))
    assert render(error) == "error[E306]: bad\n  --> gone.py:3:3  in `f`"
    assert render(error, source="a\n\n\tb = c\n") == (
        "error[E306]: bad\n  --> gone.py:3:3  in `f`\n    3 | \tb = c\n      | \t ^")
    assert error.at(Span("other.py", 1)).span == Span("gone.py", 3, 2)
    wide = SourceError("E306", "bad", span=Span("x.py", 1, 4, 2, 1))
    assert render(wide, source="abc = (1 +\n2)").splitlines()[3] == "      |     ^^^^^^"
    assert str(error).startswith("E306: bad (gone.py:3)")


def test_carets_count_characters_not_bytes(tmp_path: Path) -> None:
    file = tmp_path / "m.py"
    text = 's = "äöü", ts.ones(2) @ ts.ones(3)\n'
    file.write_text(text, encoding="utf-8")
    linecache.clearcache()
    with pytest.raises(SourceError) as caught:
        exec(compile(text, str(file), "exec"), {"ts": ts})
    lines = render(caught.value).splitlines()
    start = text.index("ts.ones") if sys.version_info >= (3, 11) else 0
    assert lines[3].index("^") - lines[2].index("s =") == start


def test_did_you_mean() -> None:
    assert did_you_mean("matmol", ["matmul", "sum"]) == "did you mean `matmul`?"
    assert did_you_mean("xyz", ["matmul", "sum"]) is None

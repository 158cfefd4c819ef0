"""IR text that is refused, by the parser (E403) or the verifier (E404), and text with odd names that is kept."""

from __future__ import annotations

import pytest

from tessera_runtime.core.errors import TesseraError
from tesseracc.ir.parser import parse_module
from tesseracc.ir.printer import module_text
from tesseracc.ir.verify import verify

GRAPH = """graph.func @f(%x: tensor<f32[N, D]>) -> (tensor<f32[D, N]>) {
  %y = graph.transpose %x {axes = [1, 0]} : tensor<f32[D, N]>
  yield %y
} loc("a.py":3:0:0)
"""
SCHEDULE = """schedule.func @f(%x: tensor<f32[N]>) -> (tensor<f32[N]>) {
  %y = schedule.group {domain = [<N>]} (%i: i64) {
    %a = schedule.read %x, [%i] : f32
    schedule.write %a, [%i] {result = 0}
  } : tensor<f32[N]>
  yield %y
}
"""
TARGET = """target.func @f(%p: ptr<global>) {
  %a = target.load %p {align = 16} : vec<4xf32>
}
"""


@pytest.mark.parametrize(
    "text, old, new, code",
    [
        (GRAPH, '"a.py":3:0:0', '"a.py":3', "E403"),
        (GRAPH, '"a.py":3:0:0', '"a.py"', "E403"),
        (GRAPH, '"a.py"', '"\\q"', "E403"),
        (GRAPH, '"a.py"', '"\\ud800"', "E403"),
        (GRAPH, ":3:", ":" + "3" * 5000 + ":", "E403"),
        (GRAPH, "axes = [1, 0]", "axes = [1, 0], axes = [0, 1]", "E403"),
        (GRAPH, "axes = [1, 0]", "loc = 1", "E403"),
        (GRAPH, "axes = [1, 0]", "types = 1", "E403"),
        (GRAPH, "axes = [1, 0]", "axes = [- x, 0]", "E403"),
        (GRAPH, "axes = [1, 0]", "axes = [" + "1" * 5000 + ", 0]", "E403"),
        (GRAPH, "axes = [1, 0]", "axes = [1, none]", "E404"),
        (GRAPH, "axes = [1, 0]", "axes = 1", "E404"),
        (SCHEDULE, "result = 0", "result = 1", "E404"),
        (SCHEDULE, "schedule.write %a, [%i]", "schedule.write %a, [%i, %i]", "E404"),
        (SCHEDULE, "schedule.write %a,", "schedule.write %i,", "E404"),
        (SCHEDULE, "schedule.read %x", "schedule.read %i", "E404"),
        (TARGET, "vec<4xf32>", "vec<4xf33>", "E403"),
        (TARGET, "vec<4xf32>", "vec<40000xf32>", "E403"),
    ],
)
def test_refused(text: str, old: str, new: str, code: str) -> None:
    verify(parse_module(text))
    assert old in text
    with pytest.raises(TesseraError) as caught:
        verify(parse_module(text.replace(old, new)))
    assert caught.value.code == code


def test_file_names_are_quoted() -> None:
    module = parse_module(GRAPH.replace('"a.py"', r'"a \"b\"\\c.py"'))
    assert module.funcs[0].loc is not None and module.funcs[0].loc.file == 'a "b"\\c.py'
    printed = module_text(module, locations=True)
    assert module_text(parse_module(printed), locations=True) == printed

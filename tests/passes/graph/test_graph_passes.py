"""Graph passes on traced functions and on text: what changes, and that values stay the same."""

import numpy as np
import pytest

import tessera as ts
from tessera.operator import registry
from tesseracc.frontend.trace import trace
from tesseracc.interpret.graph import run
from tesseracc.ir.parser import parse_module
from tesseracc.ir.printer import module_text
from tesseracc.ir.value import Module
from tests.passes import programs
from tests.passes.programs import passes

X = np.array([[0.0, -0.0, 1.5], [np.inf, np.nan, -7.25]], np.float32)


def names(module: Module) -> list[str]:
    return [op.name.removeprefix("graph.") for op in module.funcs[0].body.ops]


@pytest.mark.parametrize("name", programs.FUNCTIONS)
def test_decompose_leaves_element_operators(name: str) -> None:
    done = passes(trace(programs.FUNCTIONS[name]).module, "decompose")
    assert all(n == "constant" or registry()[n].has("element") for n in names(done))
    assert module_text(parse_module(module_text(done))) == module_text(done)


def body(lines: str, result: str = "%r", extra: str = "") -> Module:
    text = f"graph.func @f(%x: tensor<f32[2, 3]>{extra}) -> (tensor<f32[2, 3]>) {{\n{lines}\n  yield {result}\n}}\n"
    return parse_module(text)


ONE = '  %one = graph.full {shape = [], value = VALUE, dtype = "f32"} : tensor<f32[]>\n'
F = ": tensor<f32[2, 3]>"


@pytest.mark.parametrize(
    ("lines", "left"),
    [
        (f'  %r = graph.cast %x {{dtype = "f32"}} {F}', []),
        (f'  %a = graph.cast %x {{dtype = "f64"}} : tensor<f64[2, 3]>\n  %r = graph.cast %a {{dtype = "f32"}} {F}', []),
        (
            f'  %a = graph.cast %x {{dtype = "bf16"}} : tensor<bf16[2, 3]>\n  %r = graph.cast %a {{dtype = "f32"}} {F}',
            ["cast", "cast"],
        ),
        (
            f"  %a = graph.reshape %x {{shape = [6]}} : tensor<f32[6]>\n  %r = graph.reshape %a {{shape = [2, 3]}} {F}",
            [],
        ),
        (
            "  %a = graph.transpose %x {axes = [1, 0]} : tensor<f32[3, 2]>\n"
            f"  %r = graph.transpose %a {{axes = [1, 0]}} {F}",
            [],
        ),
        (f"  %a = graph.neg %x {F}\n  %r = graph.neg %a {F}", []),
        (f"  %a = graph.abs %x {F}\n  %r = graph.abs %a {F}", ["abs"]),
        (ONE.replace("VALUE", "1.0") + f"  %r = graph.mul %one, %x {F}", []),
        (ONE.replace("VALUE", "1.0") + f"  %r = graph.div %x, %one {F}", []),
        (ONE.replace("VALUE", "0.0") + f"  %r = graph.sub %x, %one {F}", []),
        (ONE.replace("VALUE", "0.0") + f"  %r = graph.add %x, %one {F}", ["full", "add"]),
        (
            ONE.replace("VALUE", "2.0")
            + f"  %a = graph.broadcast_to %one {{shape = [2, 3]}} {F}\n  %r = graph.mul %x, %a {F}",
            ["full", "mul"],
        ),
    ],
)
def test_canonicalize(lines: str, left: list[str]) -> None:
    before = body(lines)
    done = passes(before, "canonicalize")
    assert names(done) == left
    assert run(done, "f", [X])[0].tobytes() == run(before, "f", [X])[0].tobytes()


def test_cse_shares_equal_operations_only() -> None:
    lines = f"  %a = graph.exp %x {F}\n  %b = graph.exp %x {F}\n  %c = graph.tanh %x {F}\n"
    lines += f"  %d = graph.add %a, %b {F}\n  %r = graph.mul %d, %c {F}"
    done = passes(body(lines), "graph-cse")
    assert names(done) == ["exp", "tanh", "add", "mul"]
    assert np.array_equal(run(done, "f", [X])[0], run(body(lines), "f", [X])[0], equal_nan=True)


SCALE = ts.tensor(np.array([[2.0], [3.0]], np.float32))


@ts.function
def scaled(x: ts.Tensor[2, 3, ts.f32]):
    return x * (SCALE.T * SCALE.T + 1.0).T


@ts.function
def exponents(x: ts.Tensor[2, 3, ts.f32]):
    return x * ts.exp(SCALE)


def test_fold_constants_leaves_transcendentals_to_the_target() -> None:
    done = passes(trace(scaled).module, "fold-constants,graph-remove-dead")
    assert "transpose" not in names(done) and names(done)[-1] == "mul"
    assert np.array_equal(run(done, "scaled", [np.ones((2, 3), np.float32)])[0], [[5.0] * 3, [10.0] * 3])
    kept = passes(trace(exponents).module, "fold-constants,graph-remove-dead")
    assert "exp" in names(kept) and list(kept.constants) == ["SCALE"]


def test_remove_dead_drops_constants_too() -> None:
    module = trace(scaled).module
    unused = module.with_(constants={**module.constants, "gone": np.zeros(3, np.float32)})
    assert list(passes(unused, "graph-remove-dead").constants) == ["SCALE"]


def test_graph_to_schedule_makes_one_group_per_result() -> None:
    done = programs.scheduled(trace(programs.mlp).module)
    graph = passes(trace(programs.mlp).module, "decompose")
    assert all(len(group.results) == 1 for group in programs.groups(done))
    assert len(programs.groups(done)) <= len(names(graph))

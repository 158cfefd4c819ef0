"""Variants for known sizes: every level gives the general result, and a call takes the variant that fits."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.errors import SourceError
from tessera_runtime import load as load_bundle
from tessera_runtime.core.errors import UsageError
from tesseracc.arch.arch import load
from tesseracc.driver import Build, front, host_level
from tesseracc.emulator_device import EmulatorDevice
from tesseracc.frontend.specs import parse_fixed, parse_variants
from tesseracc.interpret import graph, schedule, tile
from tesseracc.ir.parser import parse_module
from tesseracc.ir.printer import module_text
from tests.cli.run import Runner
from tests.models import references as ref
from tests.models.levels import compare

SIZES = [(1, 5, 3), (2, 8, 3), (2, 16, 4), (2, 7, 5), (1, 5, 4), (0, 8, 2), (1, 72, 4)]


@ts.function
def rows(x: ts.Tensor["B", ts.dim("S", min=1, max=64, multiple_of=8), "D", ts.f32], w: ts.Tensor["D", "D", ts.f32]):
    """The last is an argument given back."""
    y = ts.softmax(x @ w)
    return {"y": y, "total": ts.sum(y, axis=1), "x": x, "size": ts.full((), x.shape[1], ts.i64)}


@ts.function
def grown(x: ts.Tensor["N", ts.f32]):
    """With control flow inside."""
    return ts.while_loop(lambda v: ts.sum(v) < 10.0, lambda v: ts.flip(v) + 1.0, x)


@cache
def module() -> Any:
    return front({"rows": rows, "grown": grown}, variants=[{"B": 1, "S": 5, "Q": 3}, {"D": 4}, {"N": 3}])


@cache
def build() -> Build:
    return Build(module(), [host_level()])


@cache
def native() -> Any:
    return load_bundle(build().bundle(), threads=1)


@cache
def emulated() -> Any:
    return load_bundle(Build(module(), [load("sm_90")]).bundle(), device=EmulatorDevice())


def taken(x: Any, w: Any) -> set[str]:
    """The functions whose kernels a call runs."""
    function = native()["rows"]
    steps = function._instance({"x": x, "w": w}, {})[0].steps
    return {native().target.kernels[s.kernel].name.rpartition("__")[0] for s in steps if hasattr(s, "kernel")}


@pytest.mark.parametrize("sizes", SIZES)
def test_variants_agree(sizes: tuple[int, int, int]) -> None:
    b, s, d = sizes
    rng = np.random.default_rng(s)
    x, w = rng.standard_normal((b, s, d)).astype(np.float32), rng.standard_normal((d, d)).astype(np.float32)
    y = ref.softmax(x.astype(np.float64) @ w)
    want = [np.asarray(s), y.sum(1), x, y]  # by name
    results = {
        "graph": graph.run(build().graph, "rows", [x, w]),
        "schedule": schedule.run(build().schedule, "rows", [x, w]),
        "tile": tile.run(build().tile(host_level()), "rows", [x, w]),
        "native": native()["rows"](x, w),
        "emulated": emulated()["rows"](x, w),
    }
    for level, got in results.items():
        compare(got, want, level, 2e-5)
    small = s % 8 == 0 and s <= 64
    expected = "rows__B1_S5" if (b, s) == (1, 5) else "rows__D4" if d == 4 else "rows__S8" if small else "rows"
    assert taken(x, w) == {expected}


@pytest.mark.parametrize("n", [1, 3, 4])
def test_variants_of_loops(n: int) -> None:
    x = np.random.default_rng(n).standard_normal(n).astype(np.float32)
    want = x.astype(np.float64)
    while want.sum() < 10.0:
        want = want[::-1] + 1.0
    for bundle in (native(), emulated()):
        compare([bundle["grown"](x)], [want], "grown", 1e-5)


def test_jit_has_them_too() -> None:
    x, w = np.ones((2, 8, 3), np.float32), np.eye(3, dtype=np.float32)
    compiled = ts.jit(rows)
    assert compiled(x, w)["size"].item() == 8
    ((run, _),) = compiled._runner._compiled.values()
    kernels = run._bundle.target.kernels
    assert {k.name.rpartition("__")[0] for k in kernels} == {"rows", "rows__S8"}


def test_text_reads_back() -> None:
    for level in (module(), build().graph, build().tile(host_level())):
        text = module_text(level)
        assert module_text(parse_module(text)) == text
    assert [f.name for f in build().tile(host_level()).of_kind("tile.program")] == ["rows", "grown"]


MODEL = """import tessera as ts
@ts.function
def f(x: ts.Tensor["B", "S", ts.f32], w: ts.Tensor["3*S", "S", ts.f32]):
    return ts.softmax(x).reshape(x.shape[0], 4, x.shape[1] // 4), w
"""


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, bundle = tmp_path / "m.py", tmp_path / "m.tsb"
    file.write_text(MODEL)
    tesseracc = Runner(capsys)
    built = tesseracc("build", file, "--arch", "x86-64-v2", "-o", bundle, "--specialize", "B=1,S=512", "--no-cache")
    assert built.code == 0, built.err
    names = {k.name for k in load_bundle(bundle).target.kernels}
    assert {n.partition("__")[2].partition("__")[0] for n in names} == {"0", "B1_S512"}
    shown = tesseracc("inspect", bundle, "--shapes")
    assert shown.code == 0
    for line in ("B is extent 0 of x", "S is extent 1 of x", "extent 0 of w is 3*S", "requires S to be a multiple of 4",
                 "x86-64-v2: 4 steps of their own where"):  # fmt: skip
        assert line in shown.out, shown.out
    (about,) = json.loads(tesseracc("inspect", bundle, "--shapes", "--json").out)["functions"]
    assert about["symbols"] == {"B": "extent 0 of x", "S": "extent 1 of x"}
    assert tesseracc("inspect", bundle, "--shapes", "--html", tmp_path / "x.html").code == 2
    for sizes, said in (("Q=1", "no size is called `Q`"), ("B=1,S=2,Z=3", "sizes: "),
                        ("S=2", "`f` needs S to be a multiple of 4")):  # fmt: skip
        bad = tesseracc("build", file, "--specialize", sizes)
        assert bad.code == 2 and "E801" in bad.err and said in bad.err
    bad = tesseracc("build", file, "--specialize", "B=one")
    assert bad.code == 2 and "E801" in bad.err


def test_options() -> None:
    assert parse_variants(["B=1,S=512", "D=64"]) == [{"B": 1, "S": 512}, {"D": 64}]
    assert parse_fixed(["B=1,S=512", "S=256", "D=64"]) == {"B": 1, "D": 64}
    for text in ("B", "B=", "B=1,B=2", "1=2", "B=-1", ""):
        with pytest.raises(UsageError):
            parse_variants([text])


@pytest.mark.parametrize("given", [{"min": -1}, {"min": 5, "max": 4}, {"multiple_of": 0}, {"max": 1.5}])
def test_bad_dims(given: Any) -> None:
    with pytest.raises(SourceError, match="E306"):
        ts.dim("S", **given)
    with pytest.raises(SourceError, match="E306"):
        ts.dim("S+1")

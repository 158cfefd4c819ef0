"""Autotune spaces: points and their reasons, the cost model's choice, records, `tesseracc tune`."""

from __future__ import annotations

import itertools
import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import yaml

import tessera as ts
import tessera.kernels as K
from tessera.errors import SourceError
from tessera.kernel import evaluate, specialise
from tessera.shapes import substitute
from tessera_runtime import load as load_bundle
from tessera_runtime.bundle import BundleFile
from tessera_runtime.core.errors import UsageError
from tesseracc.arch.arch import load
from tesseracc.cli.main import main
from tesseracc.driver import Build, host_level
from tesseracc.emulator_device import EmulatorDevice
from tesseracc.frontend import kernel as kernels
from tesseracc.frontend.tuned import kernel_module, tuning_for
from tesseracc.ir.value import Module
from tesseracc.tuning.choice import Tuning, choose
from tesseracc.tuning.model import estimate
from tesseracc.tuning.record import Record, fitting, parse_records, read_records, size_class, write_records
from tesseracc.tuning.space import points

SEEDS = Path(__file__).parents[2] / "samples" / "seeds"
GEMM = """
import tessera as ts

@ts.kernel.autotune(space=dict(BM=[16, 32], BN=[16, 32], num_warps=[1, 4]))
def gemm(A: ts.Tensor["M", "K", ts.f32], B: ts.Tensor["K", "N", ts.f32]) -> ts.Tensor["M", "N", ts.f32]:
    acc = ts.tile.zeros((BM, BN), ts.f32)
    acc += ts.tile.mma(A[m : m + BM, k : k + 16], B[k : k + 16, n : n + BN])
    return acc
"""
BEST = {"BM": 16, "BN": 32, "num_warps": 1}


def attention() -> ts.Kernel:
    return runpy.run_path(str(SEEDS / "flash_attention.py"))["flash_attention"]


def run(*argv: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(argv))
    return int(ended.value.code or 0)


@pytest.fixture
def module(tmp_path: Path) -> Path:
    file = tmp_path / "gemm.py"
    file.write_text(GEMM)
    return file


def gemm(module: Path) -> ts.Kernel:
    return runpy.run_path(str(module))["gemm"]


def record(**changed: object) -> str:
    entry = {"kernel": "gemm", "arch": "cpu", "sizes": {"M": 64}, "config": BEST, "seconds": 1e-3, **changed}
    return yaml.safe_dump({"version": 1, "records": [entry]})


def test_illegal_points_have_their_reason() -> None:
    table = points(attention(), load("sm_75"), {"D": 64})
    illegal = [p for p in table if p.kernel is None]
    assert [p.config["BLOCK_N"] for p in illegal if "shared memory" in p.reason] == [128] * 8
    # q, k and v of 64, 128 and 128 rows of 64 bf16, and scores of 64 x 128 f32
    assert (64 + 128 + 128) * 64 * 2 + 64 * 128 * 4 == 73728
    assert "73728 bytes of shared memory" in illegal[0].reason
    # a thread of 128: sums of 128 x 64 f32, two numbers a row, scores of 128 x 64 f32 2.5 times, and others
    assert (128 * 64 + 2 * 128 + 5 * 128 * 64 // 2) // 128 + 56 == 282
    rest = [p for p in illegal if "shared memory" not in p.reason]
    assert [(p.config["BLOCK_M"], p.config["BLOCK_N"], p.config["num_warps"]) for p in rest] == [(128, 64, 4)] * 2
    assert all("a loop takes about 282 registers" in p.reason for p in rest)
    hopper = points(attention(), load("sm_90"), {"D": 64})
    assert all(p.kernel is not None or p.config["num_warps"] == 4 for p in hopper)


@pytest.mark.parametrize(("space", "reason"), [
    ({"num_warps": [3]}, "power of two"),
    ({"num_warps": [64]}, "power of two up to 1024"),
    ({"BM": [0]}, "positive integer"),
    ({"BM": [512], "BN": [512], "num_warps": [1]}, "registers of each thread|shared memory"),
    ({"BM": [256], "BN": [128], "num_warps": [1]}, "a tile takes 1024 registers of each thread, sm_90 has 255"),
])  # fmt: skip
def test_reasons(module: Path, space: dict[str, list[int]], reason: str) -> None:
    kernel = gemm(module)
    _ = kernel.definition  # read at the first point, which is legal
    kernel.space = {name: tuple(space.get(name, values[:1])) for name, values in kernel.space.items()}
    (point,) = points(kernel, load("sm_90"))
    assert point.kernel is None and re.search(reason, point.reason), point.reason


def test_an_unknown_key_is_shown_where_it_stands(module: Path) -> None:
    module.write_text(GEMM.replace("BN=[16, 32]", "BN=[16], BMM=[16]"))
    with pytest.raises(SourceError) as caught:
        _ = gemm(module).definition
    error = caught.value
    assert error.code == "E221" and "`BMM`" in error.message and error.span is not None
    line = GEMM.splitlines()[3].replace("BN=[16, 32]", "BN=[16], BMM=[16]")
    assert (error.span.line, error.span.col) == (4, line.index("BMM"))


@pytest.mark.parametrize("index", [0, 3, 6, 9, 12, 15])
def test_legal_points_compile_and_agree(index: int) -> None:
    """A sample of the seed's points, on this machine's CPU against float64."""
    point = points(attention(), host_level(), {"D": 32})[index]
    assert point.kernel is not None
    bundle = load_bundle(Build(kernels.lower(point.kernel), (host_level(),)).bundle(), require_signature=())
    rng = np.random.default_rng(index)
    q, k, v = (rng.standard_normal((2, 150, 32)).astype(ts.bf16.numpy) for _ in range(3))
    found = np.asarray(bundle["flash_attention"](q, k, v)).astype(np.float64)
    wide = [x.astype(np.float64) for x in (q, k, v)]
    scores = wide[0] @ wide[1].transpose(0, 2, 1) / np.sqrt(32)
    scores[:, np.triu(np.ones((150, 150), bool), 1)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = weights @ wide[2] / weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=0.03, rtol=0.03)


def test_points_assemble_for_a_gpu() -> None:
    arch = load("sm_75")
    for point in [p for p in points(attention(), arch, {"D": 64}) if p.kernel is not None][::3]:
        assert point.kernel is not None and point.kernel.group == 32 * point.config["num_warps"]
        assert Build(kernels.lower(point.kernel), (arch,)).target(arch).of_kind("target.func")


def test_the_model_is_deterministic_and_prefers_what_reads_less(module: Path) -> None:
    arch = load("sm_90")
    first, second = (choose(attention(), Tuning((arch,)), {"D": 64}) for _ in range(2))
    assert (first.config, first.notes) == (second.config, second.notes)
    kernel = gemm(module).definition
    sizes = {"M": 4096, "N": 4096, "K": 4096}
    small, large = (specialise(kernel, config={"BM": b, "BN": b, "num_warps": 4}) for b in (16, 32))
    assert estimate(large, arch, sizes) < estimate(small, arch, sizes)
    assert estimate(large, arch, sizes) < estimate(large, arch, {**sizes, "K": 8192})


def test_loops_whose_copies_run_ahead_are_preferred() -> None:
    """Blocks of 128 keys of 256 elements read less, but two of them do not fit into the shared memory of an A100."""
    attention = K.flash_attention.of(ts.bf16)
    found = {arch: choose(attention, Tuning((load(arch),)), {"D": 256}).config for arch in ("sm_80", "sm_86", "sm_90")}
    for arch, config in found.items():
        assert 2 * 2 * config["BN"] * 256 * 2 <= load(arch).limits.shared_per_block
    assert found["sm_90"]["BM"] > found["sm_80"]["BM"]


def test_a_record_decides(module: Path) -> None:
    records = parse_records(record(), "r")
    choice = choose(gemm(module), Tuning((host_level(),), records), {"M": 50})
    assert choice.config == BEST and "tuning record" in choice.notes[-1]
    other = choose(gemm(module), Tuning((host_level(),), records), {"M": 65})  # another size class
    assert "cost model" in other.notes[-1]
    assert [size_class(n) for n in (1, 2, 3, 64, 65)] == [1, 2, 4, 64, 128]


def test_the_closest_record_is_taken(module: Path) -> None:
    rows = [Record("gemm", "cpu", {"M": 64, "N": n}, {**BEST, "BN": bn}, 1.0) for n, bn in ((64, 16), (512, 32))]
    kernel = gemm(module)
    for sizes, bn in (({"N": 60}, 16), ({"N": 400}, 32), ({}, 32)):
        assert fitting(rows, kernel, host_level(), sizes)[0].config["BN"] == bn
    assert fitting(rows, kernel, load("sm_90"), {}) == []


def test_records_come_back_as_written(tmp_path: Path) -> None:
    rows = (Record("a", "sm_90", {"M": 3}, {"BM": 64}, 0.5), Record("b", "cpu", {}, {"BM": 32, "BN": 16}, 1e-6))
    write_records(tmp_path / "r.yaml", rows[::-1])
    assert read_records(tmp_path / "r.yaml") == rows


@pytest.mark.parametrize(("text", "what"), [
    ("a: [", "not YAML"),
    ("[]", "no tuning record"),
    ("version: 2\nrecords: []", "version 2"),
    (record(colour=1), "unknown field 'colour'"),
    (record(arch="sm_1"), "unknown target 'sm_1'"),
    (record(config={"BM": "x"}), "config is not"),
    (record(sizes={"M": 0}), "sizes is not"),
    (record(seconds=-1), "seconds is not"),
    ("version: 1\nrecords: [{kernel: a}]", "'arch' is missing"),
])  # fmt: skip
def test_bad_records(text: str, what: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_records(text, "r.yaml")
    assert caught.value.code == "E802" and what in caught.value.message


def test_a_record_outside_the_space_is_refused(module: Path) -> None:
    with pytest.raises(UsageError, match="not in its space"):
        choose(gemm(module), Tuning((host_level(),), parse_records(record(config={"BM": 8}), "r")))


def test_a_record_of_a_size_that_the_kernel_lacks_is_refused(module: Path) -> None:
    with pytest.raises(UsageError, match="the size `Q`"):
        choose(gemm(module), Tuning((host_level(),), parse_records(record(sizes={"Q": 8}), "r")))


TILES = {(16, 16): {"M": 32, "N": 32}, (32, 16): {"M": 64}, (32, 32): {"M": 64, "N": 128}, (16, 32): {"M": 512, "K": 8}}


def written(module: Path) -> None:
    """A record for every pair of tiles beside the module."""
    rows = [Record("gemm", arch, sizes, {"BM": bm, "BN": bn, "num_warps": 1}, 1.0)
            for (bm, bn), sizes in TILES.items() for arch in ("cpu", "sm_90")]  # fmt: skip
    write_records(module.with_suffix(".tuning.yaml"), rows)


def fastest(m: int, k: int, n: int) -> tuple[int, int]:
    """The tiles that these records say: of what fits the most sizes, else those for the largest."""
    sizes = {"M": m, "N": n, "K": k}
    fit = [(len(own), bm, bn) for (bm, bn), own in TILES.items()
           if all(size_class(sizes[d]) == size_class(s) for d, s in own.items())]  # fmt: skip
    return max(fit)[1:] if fit else (32, 32)


def launched(module: Module, sizes: dict[str, int]) -> tuple[str, ...]:
    """The grid of the kernel that a call with these sizes launches."""
    (op,) = (op for op in module.func("gemm").body.ops if op.name in ("tile.when", "tile.launch"))
    while op.name == "tile.when":
        op = op.regions[0 if substitute(op.attrs["unless"], sizes) == 0 else 1].ops[0]
    return tuple(str(size) for size in module.func(op.attrs["kernel"]).attrs["grid"])


def test_the_sizes_of_a_call_choose_the_point_of_their_class(module: Path) -> None:
    written(module)
    kernel = gemm(module)
    tuning, _ = tuning_for(kernel, (host_level(),))
    found = kernel_module(kernel, tuning, {})
    assert len(found.of_kind("tile.kernel")) == 4
    ms, ks, ns = (0, 1, 16, 17, 32, 33, 64, 65, 300, 512, 513), (1, 4, 5, 8, 9), (16, 17, 32, 33, 100, 129)
    for m, k, n in itertools.product(ms, ks, ns):
        bm, bn = fastest(m, k, n)
        assert launched(found, {"M": m, "K": k, "N": n}) == (f"ceildiv(M, {bm})", f"ceildiv(N, {bn})"), (m, k, n)
    some = kernel_module(kernel, tuning, {"M": 60})  # the records for other M do not fit; that of M alone is general
    assert [launched(some, {"K": 8, "N": n})[1] for n in (64, 65, 129)] == [f"ceildiv(N, {b})" for b in (16, 32, 16)]


@pytest.mark.parametrize("place", ["cpu", pytest.param("emulator", marks=pytest.mark.slow)])
def test_all_ways_to_compile_choose_alike_and_give_the_product(
    module: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    written(module)
    kernel, arch, path = gemm(module), load("sm_90") if place == "emulator" else host_level(), str(module) + ".tsb"
    assert run("build", str(module), "--arch", arch.name, "--notes", "--no-cache", "-o", path) == 0
    assert "BM=32, BN=32, num_warps=1 for M of 33 to 64 and N of 65 to 128, by its tuning" in capsys.readouterr().err
    device = EmulatorDevice() if place == "emulator" else "cpu"
    bundle, rng = load_bundle(path, device=device, require_signature=()), np.random.default_rng(5)
    jitted = ts.jit(kernel) if place == "cpu" else bundle["gemm"]
    for m, k, n in ((17, 5, 20), (64, 3, 33), (33, 9, 100), (300, 8, 10), (65, 4, 9), (1, 1, 1), (0, 3, 4)):
        a, b = rng.standard_normal((m, k)).astype(np.float32), rng.standard_normal((k, n)).astype(np.float32)
        found = np.asarray(bundle["gemm"](a, b))
        np.testing.assert_allclose(found, a.astype(np.float64) @ b, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(found, np.asarray(jitted(a, b)))
    compiled = ts.aot.compile(kernel, [a, b], str(module) + ".aot.tsb", target_archs=[arch.name])
    plans = [BundleFile(p).manifest.functions for p in (path, compiled)]
    assert plans[0] == plans[1]
    assert "--tuning=gemm.tuning.yaml" in BundleFile(compiled).manifest.provenance.options
    assert kernel.inspect_ir("tile", arch=arch.name).count("tile.when") >= 3


def test_tune_then_build_then_rebuild(module: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, beside = str(module), module.with_suffix(".tuning.yaml")
    assert run("tune", file, "--kernel", "gemm", "--sizes", "M=33,N=40,K=17", "--json") == 0
    told = json.loads(capsys.readouterr().out)["runs"][0]
    assert len(told["points"]) == 8 and all(p["seconds"] > 0 for p in told["points"])
    (made,) = read_records(beside)
    assert dict(made.config) == told["best"] == min(told["points"], key=lambda p: p["seconds"])["config"]
    bundle = str(module.with_suffix(".tsb"))
    build = ("build", file, "--arch", host_level().name, "--notes", "--no-cache", "-o", bundle)
    assert run(*build) == 0
    assert "by the tuning record" in capsys.readouterr().err
    options = BundleFile(bundle).manifest.provenance.options
    assert "--tuning=gemm.tuning.yaml" in options and any(o.startswith("gemm.tuning.yaml=sha256:") for o in options)
    assert run("rebuild", "--verify", bundle, "--source", file) == 0
    beside.write_text(record(config=BEST))
    assert run("rebuild", "--verify", bundle, "--source", file) == 5
    assert run(*build, "--embed-source") == 0 and run("rebuild", "--verify", bundle) == 0


@pytest.mark.parametrize("argv", [["--sizes", "M=8"], ["--arch", "sm_nope"], ["--kernel", "nope"]])
def test_tune_says_what_is_wrong(module: Path, argv: list[str]) -> None:
    code = run("tune", str(module), "--kernel", "gemm", *argv)
    assert code in (2, 3) and not module.with_suffix(".tuning.yaml").exists()


def test_results_are_those_of_the_interpreter(module: Path) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((19, 23)).astype(np.float32), rng.standard_normal((23, 37)).astype(np.float32)
    for point in points(gemm(module), load("sm_90")):
        assert point.kernel is not None
        found = np.asarray(evaluate(point.kernel, [a, b]))
        np.testing.assert_allclose(found, a.astype(np.float64) @ b, rtol=1e-5, atol=1e-5)


def test_a_gpu_that_is_not_there(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tessera_runtime.core.errors import DeviceError

    def absent(device: str) -> None:
        raise DeviceError("E903", f"no {device}")

    monkeypatch.setattr("tesseracc.driver.place_of", absent)
    assert run("tune", str(module), "--kernel", "gemm", "--arch", "sm_90", "--sizes", "M=8,N=8,K=8") == 6
    assert not module.with_suffix(".tuning.yaml").exists()

"""`--bisect`: a fault put into an image is found at its step, nothing else is, and plans of unlike steps line up."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts
import tessera_runtime
from tessera_runtime.bisect import bisect
from tessera_runtime.bundle import BundleFile
from tessera_runtime.cli import main
from tessera_runtime.core.manifest import Arg, Buffer, Copy, Launch, Plan
from tessera_runtime.core.places import place
from tessera_runtime.profile import profile
from tesseracc.arch.arch import load as load_arch
from tesseracc.bundle import write
from tesseracc.bundle.describe import document
from tesseracc.bundle.edit import payloads
from tesseracc.bundle.write import seal
from tesseracc.driver import Build, front
from tests.runtime.support import N, contents, cpu_image, cpu_target, plans

LEVELS = ("x86-64-v2", "x86-64-v3")
SCALE = 2.0


@ts.function
def chain(x: ts.Tensor["N", "D", ts.f32], w: ts.Tensor["D", "K", ts.f32]):
    h = ts.layer_norm(x)
    y = h @ w
    s = ts.softmax(y * SCALE)
    return s, ts.sum(s, axis=0)


def built(*archs: str) -> bytes:
    return Build(front({"chain": chain}), [load_arch(name) for name in archs]).bundle()


@cache
def sound() -> bytes:
    return built(*LEVELS, "sm_90")


def with_entries(changes: dict[str, bytes]) -> bytes:
    """The sound bundle with other bytes in some entries, and every digest right."""
    file = BundleFile(sound())
    held = payloads(file) | {name: ("code", data) for name, data in changes.items()}
    return seal(file.manifest, held)


@cache
def faulty_cpu() -> bytes:
    """The image for x86-64-v3 is that of a program that scales by another number before the softmax."""
    globals()["SCALE"] = 2.125
    try:
        wrong = BundleFile(built("x86-64-v3"))
    finally:
        globals()["SCALE"] = 2.0
    entry = wrong.manifest.targets[0].image
    return with_entries({entry: wrong.entry(entry)})


def inputs(rows: int = 33) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rows)
    return {"x": rng.standard_normal((rows, 21)).astype("f4"), "w": rng.standard_normal((21, 19)).astype("f4")}


def line(offset: int) -> str:
    return line_of(chain, offset)


def on(data: bytes, device: str) -> tessera_runtime.Bundle:
    return tessera_runtime.load(data, device=device)


@pytest.mark.parametrize("rows", [1, 33, 70])
def test_a_sound_bundle_has_no_difference(rows: int) -> None:
    parts = list(bisect(on(sound(), "cpu:x86-64-v3"), on(sound(), "cpu:x86-64-v2"), "chain", inputs(rows), None))
    assert len(parts) == len(on(sound(), "cpu").plans["chain"].steps) > 3
    assert all(not part.differences and len(part.steps) == 1 for part in parts)
    given = inputs(rows)
    before = {name: array.copy() for name, array in given.items()}
    list(bisect(on(sound(), "cpu:x86-64-v2"), on(sound(), "cpu:x86-64-v3"), "chain", given, (1e-5, 1e-5)))
    assert all(np.array_equal(given[name], before[name]) for name in given)


def test_the_faulty_step_is_found_and_only_that() -> None:
    given = inputs()
    right, _ = on(faulty_cpu(), "cpu:x86-64-v2")["chain"](**given)
    wrong, _ = on(faulty_cpu(), "cpu:x86-64-v3")["chain"](**given)
    assert np.abs(right - wrong).max() > 1e-3, "the fault shows at all"
    found = list(bisect(on(faulty_cpu(), "cpu:x86-64-v3"), on(faulty_cpu(), "cpu:x86-64-v2"), "chain", given, None))
    bad = [part for part in found if part.differences]
    # Every part gets the reference's values: what comes after the fault is sound again.
    assert len(bad) == 1 and len(bad[0].steps) == 1 and bad[0].sources == (line(4),)
    ((name, difference),) = bad[0].differences
    assert name == f"value of {bad[0].kernels[0]}" and difference.largest > 1e-3


def test_a_patched_instruction_on_the_emulator() -> None:
    file = BundleFile(sound())
    (target,) = [t for t in file.manifest.targets if t.name == "sm_90"]
    text = file.entry(target.ptx or "").decode()
    last = target.kernels[-1]
    start = text.index(f".entry {last.symbol}(")
    body = text[start:]
    patched = re.sub(r"add\.rn\.f32|add\.f32", lambda m: m[0].replace("add", "sub"), body, count=1)
    assert patched != body
    data = with_entries({target.ptx or "": (text[:start] + patched).encode()})
    parts = list(bisect(on(data, "emulator:sm_90"), on(data, "cpu:x86-64-v2"), "chain", inputs(), None))
    bad = [part for part in parts if part.differences]
    # the last launch is that of the softmax and of its sums: of its lines the one whose value differs is told
    assert [part.kernels for part in bad] == [(last.name,)] and bad[0].sources == (line(5),)
    both = [part.sources for part in parts if not part.differences and part.kernels == (last.name,)]
    assert not both and place(last) == f"{line(4)}-{line(5).rpartition(':')[2]}"
    assert [name for name, _ in bad[0].differences] == ["out1"]


def test_plans_of_unlike_steps() -> None:
    """The one target computes in two launches and a copy what the other does in one launch less."""
    b5 = (("B",), 5)
    longer = Plan(
        "chain",
        (Buffer("input", "x", "f32", b5), Buffer("temp", "", "f32", b5), Buffer("constant", "w", "f32", (5,)),
         Buffer("output", "out0", "f32", b5), Buffer("output", "out1", "f32", b5), Buffer("temp", "", "f32", b5)),
        (Launch(2, (("B",), 1, 1), (Arg(buffer=0), Arg(buffer=5), Arg(dim=5))), Copy(5, 1),
         Launch(1, (1, ("B",), 1), (Arg(buffer=1), Arg(buffer=2), Arg(buffer=3), Arg(dim=5))), Copy(1, 4)),
    )  # fmt: skip
    others = tuple(longer if plan.function == "chain" else plan for plan in plans())
    data = write(None, contents(targets=(cpu_target("cpu-a"), cpu_target("cpu-b", plans=others, preference=0))))
    x = np.random.default_rng(2).standard_normal((6, 5)).astype(np.float32)
    forward = list(bisect(on(data, "cpu:cpu-a"), on(data, "cpu:cpu-b"), "chain", {"x": x}, None))
    backward = list(bisect(on(data, "cpu:cpu-b"), on(data, "cpu:cpu-a"), "chain", {"x": x}, None))
    assert [step for part in forward for step in part.steps] == [0, 1, 2]
    assert [step for part in backward for step in part.steps] == [0, 1, 2, 3]
    assert not any(part.differences for part in (*forward, *backward))


@ts.function
def looping(x: ts.Tensor["T", "D", ts.f32], limit: ts.Tensor[ts.f32]):
    def step(state, row):
        grown = ts.while_loop(lambda v: ts.sum(v) < limit, lambda v: v * 2.0 + 1.0, row)
        return ts.cond(ts.sum(grown) > 30.0, lambda: state - grown, lambda: state + grown), grown

    last, rows = ts.scan(step, ts.zeros(x.shape[1]), x * SCALE)
    return ts.softmax(last), rows


def test_branches_and_loops_are_parts(tmp_path: Path) -> None:
    build = Build(front({"looping": looping}), [load_arch(name) for name in (*LEVELS, "sm_90")])
    data = build.bundle()
    given = {"x": inputs()["x"][:4], "limit": np.float32(20.0)}
    for device in ("cpu:x86-64-v3", "emulator:sm_90"):
        parts = list(bisect(on(data, device), on(data, "cpu:x86-64-v2"), "looping", given, None))
        assert len(parts) >= 3 and not any(part.differences for part in parts)
        loop = max(parts, key=lambda part: len(part.steps))
        assert len(loop.steps) > 3 and {line_of(looping, 3), line_of(looping, 4)} <= set(loop.sources)
    # A fault before the loop is told of its own step; the loop is not blamed.
    globals()["SCALE"] = 2.125
    try:
        wrong = BundleFile(Build(front({"looping": looping}), [load_arch("x86-64-v3")]).bundle())
    finally:
        globals()["SCALE"] = 2.0
    file = BundleFile(data)
    entry = wrong.manifest.targets[0].image
    bad = seal(file.manifest, payloads(file) | {entry: ("code", wrong.entry(entry))})
    found = [
        part
        for part in bisect(on(bad, "cpu:x86-64-v3"), on(bad, "cpu:x86-64-v2"), "looping", given, None)
        if part.differences
    ]
    assert [part.sources for part in found] == [(line_of(looping, 6),)] and len(found[0].steps) == 1


def line_of(function: Any, offset: int) -> str:
    return f"{Path(__file__).name}:{function.python.__code__.co_firstlineno + offset}"


def test_inout_parameters_and_scalars() -> None:
    """A parameter that is written is compared as a result; a wrong kernel for it is found."""
    wrong = cpu_image("%s = fadd float %m, %yv", "%s = fsub float %m, %yv")
    good = contents()
    images = {**good.images, "images/wrong.elf": wrong}
    targets = (cpu_target("cpu-a", image="images/wrong.elf"), cpu_target("cpu-b", preference=0))
    data = write(None, contents(targets=targets, images=images))
    rng = np.random.default_rng(5)
    given = {"a": 1.5, "x": rng.standard_normal(300).astype("f4"), "y": rng.standard_normal(300).astype("f4")}
    (part,) = bisect(on(data, "cpu:cpu-a"), on(data, "cpu:cpu-b"), "saxpy", given, None)
    assert [name for name, _ in part.differences] == ["y"] and part.sources == ("model.py:3",)
    assert part.differences[0][1].expected == pytest.approx(1.5 * given["x"][0] + given["y"][0], rel=1e-6)
    (part,) = bisect(on(data, "cpu:cpu-b"), on(data, "cpu:cpu-b"), "saxpy", given, (0.0, 0.0))
    assert not part.differences and N


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.tsb", tmp_path / "bad.tsb"
    good.write_bytes(sound())
    bad.write_bytes(faulty_cpu())
    arguments = ["--function=chain", "--input=x=randn:9x21xf32", "--input=w=randn:21x19xf32", "--bisect"]
    assert main([str(good), "--device=cpu:x86-64-v3", *arguments]) == 0
    assert capsys.readouterr().out.startswith("x86-64-v3 on cpu:x86-64-v3 against x86-64-v2 on cpu:x86-64-v2\nchain:\n")
    assert main([str(bad), "--device=cpu:x86-64-v3", *arguments]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert f"({line(4)}): differs" in lines[-2] and "expected" in lines[-1], lines
    # Another build as the reference, on the same device.
    assert main([str(bad), "--device=cpu:x86-64-v3", *arguments, f"--reference={good}", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    (case,) = report["bisect"]["cases"]
    assert case["first"] == case["parts"][-1] and case["first"]["sources"] == [line(4)] and report["exit_code"] == 1
    # A bound wide enough, and no reference.
    assert main([str(bad), "--device=cpu:x86-64-v3", *arguments, "--atol=10"]) == 0
    lone = tmp_path / "lone.tsb"
    lone.write_bytes(built("x86-64-v2"))
    capsys.readouterr()
    assert main([str(lone), *arguments]) == 2 and "E808" in capsys.readouterr().err
    assert main([str(lone), "--bisect"]) == 2 and "E807" in capsys.readouterr().err
    assert main([str(lone), "--reference=cpu"]) == 2 and "E801" in capsys.readouterr().err
    assert main([str(lone), "--device=cpu:none"]) == 6 and "E902" in capsys.readouterr().err


def test_all_lines_of_a_kernel_are_named() -> None:
    """By `inspect` and the profile; a kernel of one line has no parts."""
    lines = f"{line(4)}-{line(5).rpartition(':')[2]}"
    (about,) = [t for t in document(BundleFile(sound()))["targets"] if t["name"] == "sm_90"]
    assert about["kernels"][-1]["source"] == lines and about["kernels"][0]["source"] == line(2)
    kernels = {k.name: k for t in BundleFile(sound()).manifest.targets for k in t.kernels if t.name == "sm_90"}
    parts = kernels[about["kernels"][-1]["name"]].parts
    assert [part.line for part in parts] == sorted({part.line for part in parts}) and len(parts) == 2
    assert sorted(slot for part in parts for slot in part.params) == [2, 3]
    assert not kernels[about["kernels"][0]["name"]].parts
    with profile() as found:
        on(sound(), "emulator:sm_90")["chain"](**inputs(5))
    assert lines in found.table() and lines in json.dumps(found.chrome_trace())

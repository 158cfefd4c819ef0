"""Profiles: every step once per call, bytes by the plan, spans within their call, a trace that viewers read."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest

import tessera as ts
import tessera_runtime
from tessera_runtime.cli import main
from tessera_runtime.control import LaunchStep
from tessera_runtime.core import recording
from tessera_runtime.core.manifest import Flops
from tessera_runtime.devices.cpu import CpuDevice
from tessera_runtime.devices.cuda import CudaDevice
from tessera_runtime.profile import profile
from tessera_runtime.recorded import arithmetic
from tesseracc.bundle.edit import changed
from tesseracc.driver import Build, front, host_level
from tests.runtime.fake_gpu import FakeDriver
from tests.runtime.support import bundle_bytes, kernels


@ts.function
def product(a: ts.Tensor["M", "K", ts.f32], b: ts.Tensor["K", "N", ts.f32]):
    return a @ b


@ts.function
def scaled(x: ts.Tensor["N", "D", ts.f32], w: ts.Tensor["D", ts.f32]):
    h = ts.layer_norm(x)
    return h * w


@ts.function
def several(x: ts.Tensor["N", 8, ts.f32], w: ts.Tensor[8, 8, ts.f32]):
    return ts.exp(x @ w) + 1.0, ts.sum(x * x, axis=0)


def test_steps_bytes_and_sources() -> None:
    bundle = tessera_runtime.load(bundle_bytes())
    x = np.random.default_rng(1).standard_normal((7, 5)).astype(np.float32)
    with profile() as found:
        for _ in range(3):
            bundle["chain"](x)
        bundle["saxpy"](2.0, x.reshape(-1), np.ones(35, np.float32))
    rows = {(row.function, row.name): row for row in found.rows()}
    assert {key: (row.calls, row.bytes, row.step) for key, row in rows.items()} == {
        # reads x, writes the temporary; reads that and 5 weights, writes the result; the copy reads and writes
        ("chain", "reverse"): (3, 3 * 2 * 140, 0), ("chain", "add_row"): (3, 3 * (2 * 140 + 20), 1),
        ("chain", "copy"): (3, 3 * 2 * 140, 2),
        ("saxpy", "saxpy"): (1, 3 * 140, 0),
    }  # fmt: skip
    assert (rows["saxpy", "saxpy"].file, rows["saxpy", "saxpy"].line) == ("model.py", 3)
    assert all(0 < row.p50 <= row.p95 <= row.total for row in found.rows())
    assert all(row.roofline is not None and 0 < row.roofline < 10 for row in found.rows())
    inner = sum(span.stop - span.start for span in found.spans if span.kind != "call")
    outer = sum(span.stop - span.start for span in found.spans if span.kind == "call")
    assert 0 < inner <= outer and found.total() == pytest.approx(outer * 1e-9)
    bundle["chain"](x)
    assert len(found.spans) == 3 * 4 + 2  # nothing is noted afterwards


def test_most_of_a_long_call_is_in_its_kernels() -> None:
    bundle = tessera_runtime.load(bundle_bytes(), threads=1)
    x = np.random.default_rng(1).standard_normal((4000, 500)).astype(np.float32)
    out = np.empty_like(x)
    bundle["reverse"].into({"out": out}, x)
    shares = []
    for _ in range(5):
        with profile() as found:
            bundle["reverse"].into({"out": out}, x)
        launch, call = found.spans
        assert call.start <= launch.start < launch.stop <= call.stop
        shares.append((launch.stop - launch.start) / (call.stop - call.start))
    assert max(shares) > 0.95


def test_chrome_trace(tmp_path: Path) -> None:
    bundle = tessera_runtime.load(bundle_bytes())
    x = np.ones((3, 5), np.float32)
    together = threading.Barrier(2)  # a thread that has ended may leave its number to the next

    def call() -> None:
        together.wait()
        bundle["chain"](x)
        together.wait()

    with profile() as found:
        threads = [threading.Thread(target=call) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    path = tmp_path / "trace.json"
    found.export_chrome_trace(str(path))
    document = json.loads(path.read_text())
    events = [event for event in document["traceEvents"] if event["ph"] == "X"]
    assert sorted(event["name"] for event in events) == sorted(["chain", "reverse", "add_row", "copy"] * 2)
    for event in events:
        assert event.keys() == {"ph", "name", "cat", "pid", "tid", "ts", "dur", "args"}
        assert event["ts"] >= 0 and event["dur"] > 0 and event["args"]["function"] == "chain"
        (call,) = [e for e in events if e["cat"] == "call" and e["tid"] == event["tid"]]
        assert call["ts"] <= event["ts"] and event["ts"] + event["dur"] <= call["ts"] + call["dur"] + 1e-6
    names = [event for event in document["traceEvents"] if event["ph"] == "M"]
    assert [(event["name"], event["args"]["name"]) for event in names] == [("process_name", "cpu")]


def test_eager_operators_and_compiled_functions() -> None:
    rng = np.random.default_rng(3)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((33, 17), (17,)))
    compiled = ts.jit(scaled)
    compiled(x, w)
    with ts.profiler.profile() as found:
        compiled(x, w)
        scaled(ts.tensor(x), ts.tensor(w))
    eager = {row.name: row for row in found.rows() if row.device == "eager"}
    code = scaled.python.__code__
    assert {name: row.line - code.co_firstlineno for name, row in eager.items()} == {"layer_norm": 2, "mul": 3}
    assert eager["mul"].bytes == 4 * (2 * 33 * 17 + 17) and eager["mul"].file == Path(__file__).name
    (kernel,) = [row for row in found.rows() if row.device == "cpu"]
    assert kernel.function == "scaled" and kernel.file == Path(__file__).name and kernel.line in (
        code.co_firstlineno + 2, code.co_firstlineno + 3,
    )  # fmt: skip
    assert recording.active() is None


def test_bandwidth_grows_no_wings() -> None:
    """What is measured is a copy: NumPy's own copy of as many bytes is of the same order."""
    device = CpuDevice(1)
    size = 1 << 24
    a, b = np.ones(size // 2, np.uint8), np.zeros(size // 2, np.uint8)
    import timeit

    rate = size / min(timeit.repeat(lambda: np.copyto(b, a), number=3, repeat=10)) * 3
    assert rate / 5 < device.bandwidth(size) < rate * 5


def test_the_tighter_of_two_roofs() -> None:
    """A launch of 3 microseconds: what it does would take all units 2 of them, and a copy of its bytes 1, or 2.5."""
    for bandwidth, bound, roof in ((1e9, "arithmetic", 2 / 3), (4e8, "memory", 2.5 / 3)):
        with profile() as found:
            recorder = recording.active()
            assert recorder is not None
            recorder.bandwidths["d"], recorder.clocks["d"] = (lambda size, b=bandwidth: b), lambda: 2e9
            span = recording.Span("launch", "k", 0, 3000, "d", 0, "f", 0, 1000, flops=128_000, cycles=4000.0)
            recorder.add(span)
            recorder.add(span)
        (row,) = found.rows()
        assert (row.bound, row.flops) == (bound, 256_000) and row.roofline == pytest.approx(roof)
        assert row.flops_per_second == pytest.approx(128_000 / 3e-6)
        event = found.chrome_trace()["traceEvents"][-1]["args"]
        assert (event["flops"], event["bound"]) == (128_000, bound) and event["roofline"] == pytest.approx(roof)
    with profile() as found:
        recorder.clocks.clear()
        found._recorder.add(span._replace(flops=None, cycles=0.0))
    (row,) = found.rows()
    assert (row.flops, row.flops_per_second, row.roofline, row.bound) == (None, None, None, None)


def test_a_product_of_matrices_counts_its_arithmetic() -> None:
    """With memory out of the way, whose bandwidth other work on this machine can take, arithmetic is the roof."""
    rng = np.random.default_rng(5)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((300, 500), (500, 400)))
    compiled = ts.jit(product)
    compiled(a, b)
    with ts.profiler.profile() as found:
        compiled(a, b)
    found._recorder.bandwidths["cpu"] = lambda size: 1e18
    (row,) = found.rows()
    assert row.flops == 2 * 300 * 500 * 400 and row.bound == "arithmetic"
    assert row.roofline is not None and 0 < row.roofline < 1.5


def test_counts_beyond_64_bits_are_not_known() -> None:
    kernel = changed(kernels()[0], symbols=("N",), flops=(Flops(("N", "N", "mul"), 8), Flops(6, 2)))
    step = LaunchStep(0, (1, 1, 1), 1, (("dim", 1 << 20),), 0)
    assert arithmetic(kernel, step) == ((1 << 40) + 6, float(1 << 37))
    assert arithmetic(kernel, step._replace(args=(("dim", 1 << 40),))) == (None, 0.0)
    assert arithmetic(changed(kernel, flops=()), step) == (None, 0.0)


def test_the_clock_is_that_of_a_cpu() -> None:
    one = CpuDevice(1).clock()
    assert one is not None and 0.5e9 < one < 8e9
    assert CpuDevice(1, machine_name="vax").clock() is None
    assert CudaDevice(FakeDriver()).clock() == 132 * 1.98e9


def test_kernels_say_what_they_compute() -> None:
    """From the bundle to the rows, the table and the trace; a long list is cut in the table alone."""
    bundle = tessera_runtime.load(Build(front({"several": several}), [host_level()]).bundle())
    with profile() as found:
        bundle["several"](*(np.random.default_rng(n).standard_normal((n, 8)).astype(np.float32) for n in (5, 8)))
    assert {"matmul", "exp", "add", "mul"} <= {word for row in found.rows() for word in row.op.split()}
    assert all(row.op in found.table() for row in found.rows())
    told = {event["args"]["op"] for event in found.chrome_trace()["traceEvents"] if event.get("cat") == "launch"}
    assert told == {row.op for row in found.rows()}
    span = next(span for span in found.spans if span.kind == "launch")
    found._recorder.spans[:] = [span._replace(op="matmul add max sub exp sum div")]
    assert " matmul add max sub exp..  " in found.table() and found.rows()[0].op.endswith("div")


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, trace = tmp_path / "m.tsb", tmp_path / "t.json"
    path.write_bytes(bundle_bytes())
    arguments = [str(path), "--function=chain", "--input=randn:4x5xf32", f"--profile={trace}"]
    assert main([*arguments, "--benchmark=4"]) == 0
    out = capsys.readouterr().out.splitlines()
    titles = ["kernel", "op", "source", "calls", "total ms", "p50 us", "p95 us", "share", "MB", "GB/s",
              "GFLOP/s", "roofline", "bound"]  # fmt: skip
    assert out[0].split() == " ".join(titles).split()
    assert {line.split()[0] for line in out[1:4]} == {"reverse", "add_row", "copy"} and out[4] == f"trace: {trace}"
    assert sum(event["ph"] == "X" for event in json.loads(trace.read_text())["traceEvents"]) == 16
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {row["name"]: row["calls"] for row in report["profile"]} == {"reverse": 10, "add_row": 10, "copy": 10}
    assert main([str(path), "--validate", f"--profile={trace}"]) == 2
    capsys.readouterr()
    assert main([*arguments[:-1], f"--profile={tmp_path}/none/t.json"]) == 2
    assert "E803" in capsys.readouterr().err

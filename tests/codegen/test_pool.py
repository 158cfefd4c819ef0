"""LLVM workers: results in order, and every way of failing as a diagnostic."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time

import pytest

from tessera_runtime.core.errors import TesseraError
from tesseracc.arch import load
from tesseracc.codegen import pool, worker
from tesseracc.codegen.findings import Finding, report
from tesseracc.codegen.nvptx import compile_ptx
from tesseracc.codegen.pool import Request, compile_many, compile_outcomes
from tests.codegen.codegen_samples import gpu_saxpy, kernel, micro_kernel

EXP = """  %x = load float, ptr %p
  %y = call float @llvm.exp.f32(float %x)
  store float %y, ptr %p
  ret void"""
DECLARE_EXP = "declare float @llvm.exp.f32(float)"


def _request(ir: str, name: str = "sm_90", emit: str = "assembly", **more: object) -> Request:
    tool = load(name).toolchain
    return Request(ir, tool.triple, tool.cpu, tool.features, emit, **more)  # type: ignore[arg-type]


def test_missing_library_function_names_the_kernel() -> None:
    ir = kernel(name="fine") + kernel(EXP, name="needs_exp", before=DECLARE_EXP) + kernel(name="fine_too")
    with pytest.raises(TesseraError) as caught:
        compile_ptx(ir, load("sm_90"), label="demo")
    error = caught.value
    assert error.code == "E512" and error.exit_code == 4 and error.help
    assert "kernel needs_exp of demo" in error.message and "fexp" in error.message
    assert compile_ptx(kernel(), load("sm_90")).count(".entry") == 1  # and life goes on


def test_abort_names_the_kernel() -> None:
    ir = kernel() + kernel(EXP.replace("exp", "tanh"), name="needs_tanh", before=DECLARE_EXP.replace("exp", "tanh"))
    with pytest.raises(TesseraError) as caught:
        compile_ptx(ir, load("sm_90"))
    assert caught.value.code == "E512"
    assert "kernel needs_tanh of module for sm_90a: LLVM ERROR: Cannot select" in caught.value.message


@pytest.mark.parametrize(
    ("ir", "says"),
    [
        ("define voi", "parse"),
        ("define i32 @f() {\n  ret i32 %nowhere\n}", "parse"),
        ("define void @f() {\n  call void @undeclared(i32 0)\n  ret void\n}", "parse"),
        ("define void @f(ptr %p) {\n  br label %b\nb:\n  %v = phi i32 [0, %b]\n  br label %b\n}", "verify"),
    ],
)
def test_wrong_ir(ir: str, says: str) -> None:
    with pytest.raises(TesseraError) as caught:
        compile_ptx(ir, load("sm_80"), label="demo")
    assert caught.value.code == "E511" and f"demo for sm_80 ({says})" in caught.value.message


def test_unknown_triple() -> None:
    with pytest.raises(TesseraError, match="target") as caught:
        compile_many([Request("", "pdp11-dec-unix", "", "", "object")])
    assert caught.value.code == "E511"


def test_warnings_are_findings() -> None:
    tool = load("sm_90").toolchain
    (response,) = compile_many([Request(kernel(), tool.triple, tool.cpu, "+ptx89", "assembly")])
    assert [finding.code for finding in response.findings] == ["W511"] and "ptx89" in response.findings[0].text
    kept: list[Finding] = []
    report(response.findings, kept)
    assert tuple(kept) == response.findings
    with pytest.raises(TesseraError, match="ptx89"):
        report(response.findings, None)


def test_time_limit() -> None:
    big = "".join(micro_kernel(14, 32, 16, f"k{i}").split("\n", 1)[i > 0] for i in range(40))
    with pytest.raises(TesseraError) as caught:
        compile_many([_request(big, "x86-64-v4", "object", opt=3)], limit=0.05)
    assert caught.value.code == "E513" and "0.05 s" in caught.value.message
    assert compile_many([_request(kernel())])[0].data


def test_results_are_in_order_and_independent_of_jobs() -> None:
    requests = [_request(gpu_saxpy(f"k{i}") if i % 5 else kernel(name=f"k{i}")) for i in range(12)]
    one, two = compile_many(requests, jobs=1), compile_many(requests, jobs=2)
    assert [response.data for response in one] == [response.data for response in two]
    assert all(f".entry k{i}(".encode() in response.data for i, response in enumerate(one))


def test_every_request_gets_its_own_outcome() -> None:
    bad = kernel(EXP, before=DECLARE_EXP)
    outcomes = compile_outcomes([_request(ir) for ir in (kernel(), bad, "nonsense", kernel())], jobs=2)
    codes = [outcome.code if isinstance(outcome, TesseraError) else "" for outcome in outcomes]
    assert codes == ["", "E512", "E511", ""]
    with pytest.raises(TesseraError) as caught:
        compile_many([_request(ir) for ir in (kernel(), bad, "nonsense")], jobs=2)
    assert caught.value.code == "E512"
    assert compile_many([]) == []


def test_optimised_ir_and_levels() -> None:
    requests = [_request(micro_kernel(2, 8), "x86-64-v3", "llvm", opt=opt) for opt in range(4)]
    texts = [response.data.decode() for response in compile_many(requests)]
    assert all("define void @micro" in text and "x86_64-unknown-linux-gnu" in text for text in texts)
    assert len(texts[1]) < len(texts[0])


def test_worker_killed_while_idle_is_replaced() -> None:
    version = pool.llvm_version()
    for worker_ in pool._idle:
        os.kill(worker_.process.pid, signal.SIGKILL)
        worker_.process.wait()
    assert compile_many([_request(kernel())])[0].data
    assert pool.llvm_version() == version


def test_worker_killed_at_work_is_a_diagnostic(monkeypatch: pytest.MonkeyPatch) -> None:
    send = pool._Worker.send

    def send_and_die(self: pool._Worker, request: Request, limit: float) -> None:
        self.greet()
        os.kill(self.process.pid, signal.SIGSTOP)
        send(self, request, limit)
        os.kill(self.process.pid, signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(pool._Worker, "send", send_and_die)
        with pytest.raises(TesseraError, match="kernel k of module for sm_90a: it ended without a word") as caught:
            compile_many([_request(kernel())])
    assert caught.value.code == "E512"
    assert compile_many([_request(kernel())])[0].data


def test_shutdown_and_restart() -> None:
    pool.prestart(2)
    processes = [item.process for item in pool._idle]
    pool.shutdown()
    assert len(processes) >= 2 and all(process.poll() is not None for process in processes)
    assert compile_many([_request(kernel())])[0].data


def test_worker_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    pool.shutdown()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [entry for entry in sys.path if "site-packages" not in entry])
        with pytest.raises(TesseraError) as caught:
            compile_many([_request(kernel())])
    assert caught.value.code == "E510" and "llvmlite" in caught.value.message
    pool.shutdown()


PIDS = """
import os, sys
from tesseracc.codegen import pool
print(pool.llvm_version())
print(pool._idle[0].process.pid, flush=True)
if len(sys.argv) > 1:
    os._exit(0)
"""


def test_workers_end_with_the_compiler() -> None:
    environment = {"PYTHONPATH": ":".join(filter(None, sys.path))}
    for arguments in ([], ["abruptly"]):
        command = [sys.executable, "-c", PIDS, *arguments]
        run = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert run.returncode == 0 and not run.stderr
        pid = int(run.stdout.split()[1])
        deadline = time.monotonic() + 20
        while _alive(pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_protocol_round_trip() -> None:
    stream = io.BytesIO()
    worker.write_message(stream, {"emit": "llvm", "only": None}, b"\0\xffbody")
    worker.write_message(stream, {}, b"")
    stream.seek(0)
    assert worker.read_message(stream) == ({"emit": "llvm", "only": None}, b"\0\xffbody")
    assert worker.read_message(stream) == ({}, b"")
    assert worker.read_message(stream) is None
    assert worker.read_message(io.BytesIO(stream.getvalue()[:12])) is None

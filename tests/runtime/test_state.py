"""Repeated calls on a state: `tessera-run --repeat --state`, checkpoints, and files that do not fit."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera_runtime import load
from tessera_runtime.cli import main
from tessera_runtime.core import safetensors
from tessera_runtime.core.errors import InputError, TesseraError
from tessera_runtime.state import first_state, read_state, write_state
from tesseracc.driver import Build, front, host_level

RNG = np.random.default_rng(41)
DATA = RNG.standard_normal((64, 5)).astype(np.float32)
LABELS = ts.tensor((DATA[:, 0] * DATA[:, 1] > 0).astype(np.int32))
X = ts.tensor(DATA)
PARAMS = {"w": ts.zeros(5, 24), "v": ts.zeros(24, 2, dtype=ts.bf16)}
OPTIMISER = ts.optim.adamw(0.02)
START = {"w": ts.randn(5, 24, seed=2) * 0.5, "v": ts.randn(24, 2, seed=3).astype(ts.bf16)}


@ts.function
def init():
    return {"params": START, "state": OPTIMISER.init(START)}


@ts.function
def step(params: ts.State[PARAMS], state: ts.State[OPTIMISER.init(PARAMS)]):
    rows = (state["step"].astype(ts.i64) * 16 + ts.arange(16)) % 64
    x, y = ts.take(X, rows), ts.take(LABELS, rows)

    def loss(p: Any) -> ts.Tensor:
        return ts.cross_entropy(ts.tanh(x @ p["w"]) @ p["v"].astype(ts.f32), y)

    value, grads = ts.value_and_grad(loss)(params)
    params, state = OPTIMISER.update(params, grads, state)
    return {"loss": value, "params": params, "state": state, "n": state["step"], "mean": ts.mean(params["w"], 0)}


@ts.function
def pure(x: ts.Tensor["N", ts.f32]):
    return ts.sum(x)


@ts.function
def rows():
    return START


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("state") / "train.tsb"
    entries = {"init": init, "step": step, "pure": pure, "rows": rows}
    file.write_bytes(Build(front(entries), (host_level(),)).bundle())
    return str(file)


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = main([str(a) for a in args])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err and "internal" not in captured.err
    return code, captured.out, captured.err


def train(capsys: Any, bundle: str, calls: int, state: Path, *more: object) -> str:
    code, out, err = run(capsys, bundle, "--function", "step", "--repeat", calls, "--state", state, *more)
    assert code == 0, err
    return out


def test_training_is_resumed_with_the_same_bits_on_any_number_of_threads(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts, two = (tmp_path / n for n in ("whole.safetensors", "parts.safetensors", "two.safetensors"))
    log = tmp_path / "loss.csv"
    out = train(capsys, bundle, 100, whole, "--threads", 1, "--log", log)
    train(capsys, bundle, 100, two, "--threads", 2)
    for calls in (30, 1, 69):
        train(capsys, bundle, calls, parts, "--threads", 1 + calls % 2, "--save-every", 7)
    assert whole.read_bytes() == parts.read_bytes() == two.read_bytes()
    rows = log.read_text().splitlines()
    assert rows[0] == "call,loss,n" and len(rows) == 101 and rows[100].split(",")[2] == "100"
    losses = [float(row.split(",")[1]) for row in rows[1:]]
    assert np.mean(losses[-16:]) < 0.5 * np.mean(losses[:4])
    lines = out.splitlines()
    assert lines[0].startswith("  1/100  loss ") and any(line.startswith("100/100  loss ") for line in lines)
    assert "mean: f32[24]" in out and "params_w" not in out, "the state is in the file, not on the screen"
    # the same numbers as eagerly
    params, state = START, OPTIMISER.init(START)
    for i in range(10):
        found = step(params, state)
        params, state = found["params"], found["state"]
        np.testing.assert_allclose(losses[i], float(found["loss"]), rtol=2e-3)


def test_the_state_in_json_and_results_in_files(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "s.safetensors"
    code, out, _ = run(capsys, bundle, "--function", "step", "--repeat", 3, "--state", state, "--json",
                       "--output", f"params_w=@{tmp_path}/w.npy")  # fmt: skip
    report = json.loads(out)
    assert code == 0 and report["repeat"]["calls"] == 3 and report["repeat"]["last"]["n"] == "3"
    kept = safetensors.load(state.read_bytes())
    np.testing.assert_array_equal(np.load(tmp_path / "w.npy"), kept["params_w"])
    assert set(kept) == {"params_w", "params_v", "state_step", *(f"state_{m}_{p}" for m in "mv" for p in "wv")}


def test_without_a_file_the_state_comes_and_goes(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = ["--input", "params_w=5x24xf32=0.1", "--input", "params_v=24x2xbf16=0.1", "--input", "state_step=0"]
    for m in "mv":
        inputs += ["--input", f"state_{m}_w=5x24xf32=0", "--input", f"state_{m}_v=24x2xf32=0"]
    code, out, err = run(capsys, bundle, "--function", "step", "--repeat", 5, *inputs)
    assert code == 0, err
    assert "n: i32[]\n  5" in out and "state_step: i32[]\n  5" in out


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_checkpoint_is_whole_at_any_time(how: signal.Signals, bundle: str, tmp_path: Path) -> None:
    """A run that is ended has saved a state from which the rest gives the bits of an unbroken run."""
    state, whole = tmp_path / "s.safetensors", tmp_path / "w.safetensors"
    command = [sys.executable, "-m", "tessera_runtime.cli", bundle, "--function", "step", "--threads", "1"]
    child = subprocess.Popen([*command, "--repeat", "1000000", "--state", str(state), "--save-every", "1"],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    deadline = time.monotonic() + 60
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    for _ in range(20):  # whoever reads sees a whole file
        safetensors.load(state.read_bytes())
    child.send_signal(how)
    out, err = child.communicate(timeout=60)
    if how == signal.SIGKILL:
        assert child.returncode == -signal.SIGKILL
    else:
        assert child.returncode == 130 and "interrupted after" in err, out + err
        assert not [f for f in os.listdir(tmp_path) if f.startswith(".")]
    done = int(safetensors.load(state.read_bytes())["state_step"])
    assert done >= 1
    subprocess.run([*command, "--repeat", "4", "--state", str(state)], check=True, capture_output=True)
    subprocess.run([*command, "--repeat", str(done + 4), "--state", str(whole)], check=True, capture_output=True)
    assert state.read_bytes() == whole.read_bytes()


def damaged(data: bytes) -> dict[str, bytes]:
    """State files that must be refused, by what is wrong with them."""
    good = safetensors.load(data)
    narrow = {"params_v": "bf16"}
    save = safetensors.save
    header = b'{"a":{"dtype":"F32","shape":[4611686018427387903],"data_offsets":[0,4]}}'
    return {
        "empty": b"", "short": data[:5], "cut": data[:-1], "longer": data + b"\0", "text": b"loss,0.5\n" * 20,
        "header length": struct.pack("<Q", 1 << 62) + data[8:], "no JSON": data[:8] + b"{" * 40 + data[48:],
        "sizes": struct.pack("<Q", len(header)) + header + b"1234",
        "lacks": save({k: v for k, v in good.items() if k != "params_w"}, narrow),
        "has": save({**good, "other": np.zeros(2, np.float32)}, narrow),
        "dtype": save({**good, "params_w": good["params_w"].astype(np.float64)}, narrow),
        "shape": save({**good, "params_w": good["params_w"][:, :3]}, narrow),
        "rank": save({**good, "params_w": good["params_w"].reshape(-1)}, narrow),
    }  # fmt: skip


def test_files_that_are_written_are_files_apart(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One name for two files, or another name of the same, would keep only what is written last."""
    x, link, copy = (tmp_path / name for name in ("x.safetensors", "link.safetensors", "copy.tsb.npy"))
    link.symlink_to(x)
    copy.symlink_to(bundle)
    start = [bundle, "--function", "step", "--repeat", 2]
    for there in (False, True):
        for other in (x, tmp_path / "." / "x.safetensors", link):
            for more in (["--state", x, "--log", other], ["--state", x, "--output", f"mean=@{other}"],
                         ["--state", x, "--output", f"mean=@{x}", "--output", f"n=@{other}"]):  # fmt: skip
                code, _, err = run(capsys, *start, *more)
                assert (code, x.exists()) == (2, there) and "E801" in err and "would both write" in err
        x.write_bytes(b"")
    before = Path(bundle).read_bytes()
    code, _, err = run(capsys, *start, "--state", tmp_path / "s", "--output", f"mean=@{copy}")
    assert code == 2 and "E803" in err and Path(bundle).read_bytes() == before


def test_what_measures_takes_the_state_and_leaves_it(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a file, or of the function that makes the first one; what is shown is the first call from there."""
    state, trace = tmp_path / "s.safetensors", tmp_path / "t.json"
    train(capsys, bundle, 3, state)
    before, step_ = state.read_bytes(), (bundle, "--function", "step", "--json")
    fourth = json.loads(train(capsys, bundle, 1, Path(shutil.copy(state, tmp_path / "copy")), "--json"))["outputs"]
    for more in (["--benchmark", 2], ["--profile", trace], ["--bisect", "--reference", "cpu"]):
        for given in (["--state", state], ["--state", tmp_path / "none", "--init", "init"], ["--init", "init"]):
            code, out, err = run(capsys, *step_, *more, *given)
            assert code == 0 and not (tmp_path / "none").exists(), err
            if "--bisect" not in more and given[1] == state:
                shown = {o["name"]: o["values"] for o in json.loads(out)["outputs"]}
                assert {o["name"]: o["values"] for o in fourth}.items() <= shown.items()
    assert state.read_bytes() == before and json.loads(trace.read_text())["traceEvents"]
    code, _, err = run(capsys, *step_, "--state", state, "--profile", state)
    assert code == 2 and state.read_bytes() == before


def test_bad_state_files_are_refused_and_left_alone(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "s.safetensors"
    train(capsys, bundle, 2, state)
    good = state.read_bytes()
    for name, data in damaged(good).items():
        state.write_bytes(data)
        code, out, err = run(capsys, bundle, "--function", "step", "--repeat", 1, "--state", state)
        assert code == 7 and out == "", name
        assert err.startswith("error[E715]: ") and str(state) in err and "help: " in err, (name, err)
        assert state.read_bytes() == data
    for position in RNG.integers(0, len(good), 40):  # any single byte: refused, or another value of the state
        state.write_bytes(good[:position] + bytes([good[position] ^ 0x55]) + good[position + 1 :])
        code, _, err = run(capsys, bundle, "--function", "step", "--repeat", 1, "--state", state)
        assert code == 0 or (code == 7 and "E715" in err)


def test_errors(bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "s.safetensors"
    step_ = [bundle, "--function", "step"]
    os.mkfifo(tmp_path / "pipe")
    for arguments, code, text in (
        ([bundle, "--function", "pure", "--input", "x=3xf32=1", "--state", state], 2, "has no state"),
        ([*step_, "--state", state, "--init", "pure"], 7, "it has inputs"),
        ([*step_, "--state", state, "--init", "nothing"], 7, "no function 'nothing'"),
        ([*step_, "--state", state, "--input", "state_step=0"], 2, "leave these inputs out"),
        ([*step_, "--state", tmp_path], 2, "it is a folder"),
        ([*step_, "--state", tmp_path / "pipe"], 2, "no regular file"),
        ([*step_, "--state", tmp_path / "no" / "s"], 2, "cannot write"),
        ([*step_, "--repeat", 0], 2, "is not from 1"), ([*step_, "--repeat", 2, "--save-every", 1], 2, "--state"),
        ([*step_, "--log", "x"], 2, "--repeat"), ([*step_, "--repeat", 2, "--benchmark"], 2, "times and compares"),
        ([*step_, "--init", "init"], 2, "--init goes with"), ([*step_, "--validate", "--state", state], 2, "times and"),
        ([*step_, "--benchmark", 2, "--init", "init", "--save-every", 1], 2, "--save-every goes"),
        ([*step_, "--state", state, "--bisect", "--input", "state_step=0"], 2, "leave these inputs out"),
        ([*step_, "--bisect", "--reference", "cpu", "--init", "rows"], 7, 'return {"weights": ..}'),
        ([*step_, "--repeat", 2], 7, "missing"),
    ):
        found, _, err = run(capsys, *arguments)
        assert found == code and text in err, err
    assert not state.exists()


def test_from_python(bundle: str, tmp_path: Path) -> None:
    loaded = load(bundle, threads=1)
    function = loaded["step"]
    state = first_state(loaded, function, None)
    loss = [float(function(**state)[0]) for _ in range(3)]
    assert loss[2] != loss[0] and int(state["state_step"]) == 3
    write_state(function, str(tmp_path / "s"), state)
    again = read_state(function, str(tmp_path / "s"))
    assert {k: v.tobytes() for k, v in again.items()} == {k: v.tobytes() for k, v in state.items()}
    with pytest.raises(TesseraError) as caught:
        read_state(loaded["pure"], str(tmp_path / "s"))
    assert caught.value.code == "E801"


@pytest.mark.parametrize("left", [0, 5, 12])
def test_a_file_that_is_cut_while_it_is_read(
    bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    """An error, not the end of the process."""
    loaded, path = load(bundle, threads=1), tmp_path / "s.safetensors"
    function = loaded["step"]
    write_state(function, str(path), first_state(loaded, function, None))
    parse = safetensors.parse_header

    def cut(data: bytes, total: int) -> Any:
        found = parse(data, total)
        os.truncate(path, left)
        return found

    monkeypatch.setattr(safetensors, "parse_header", cut)
    with pytest.raises(InputError, match="cut while it was read") as caught:
        read_state(function, str(path))
    assert caught.value.code == "E715"

"""`--emit c`: libraries that need nothing, with sizes, guards and memory evaluated in compiled code."""

import json
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

import tessera as ts
from tessera_runtime.core.dtypes import np_dtype
from tessera_runtime.core.errors import UsageError
from tessera_runtime.devices.elf import read_symbols
from tesseracc.arch.arch import load, resolve
from tesseracc.driver import Build, front
from tesseracc.native.cpu import X86_BITS
from tesseracc.native.library import library
from tests.cli.run import Runner
from tests.native import model
from tests.native.called import Called
from tests.native.model import quarters, rows, saxpy

MODEL = Path(model.__file__).read_text()
WEIGHT = ts.tensor(np.random.default_rng(8).standard_normal((7, 5)).astype(np.float32))
BIAS = ts.tensor(np.random.default_rng(9).standard_normal(5).astype(np.float32))


@ts.kernel
def scaled(x: ts.Tensor["N", ts.f32], y: ts.Tensor["N", ts.f32], h: ts.f16, k: ts.i8, u: ts.u16, d: ts.f64):
    i = ts.tile.linear_id()
    if i < N:
        y[i] = x[i] * ts.cast(h, ts.f32) + ts.cast(k, ts.f32) + ts.cast(u, ts.f32) - ts.cast(d, ts.f32)


@ts.function
def network(x: ts.Tensor["N", 7, ts.f32]):
    "Two results. */ and a comment's end"
    h = ts.softmax(ts.layer_norm(x) @ WEIGHT + BIAS)
    return {"probabilities": h, "mean": ts.mean(h, axis=0)}


@ts.function
def halves(x: ts.Tensor["2*H", ts.f32], z: ts.Tensor["K", ts.i32]):
    return ts.reshape(x, (2, -1)), ts.concatenate([z, z, z])


@ts.function
def long_chain(x: ts.Tensor["N", "D", ts.f32]):
    for _ in range(4):
        x = ts.softmax(x, axis=0) + ts.softmax(x, axis=1)
    return x


ENTRIES = {f.name: f for f in (saxpy, scaled, network, halves, quarters, long_chain)}


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> Called:
    return Called(tmp_path_factory.mktemp("native"), ENTRIES)


def rand(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape) + 1).standard_normal(shape).astype(np.float32)


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


@pytest.mark.parametrize("n", [0, 1, 127, 128, 1001])
def test_saxpy(called: Called, n: int) -> None:
    x, y = rand(n), rand(n + 1)[:n].copy()
    expected = np.float32(1.5) * x + y
    code, results = called("saxpy", {"a": 1.5, "x": x, "y": y}, N=n)
    assert code == 0 and results["y"] is y
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("n", [1, 13, 200])
@pytest.mark.parametrize("shift", [0, 1, 63])
def test_weights_temporaries_and_several_results(called: Called, n: int, shift: int) -> None:
    x = rand(n, 7)
    code, results = called("network", {"x": x}, N=n, shift=shift)
    assert code == 0
    wide = x.astype(np.float64)
    h = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    expected = softmax(h @ WEIGHT.numpy().astype(np.float64) + BIAS.numpy(), 1)
    np.testing.assert_allclose(results["probabilities"], expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(results["mean"], expected.mean(0), rtol=0, atol=1e-6)


def test_the_bits_of_the_bundle(called: Called) -> None:
    """The same kernels give the same bits through the runtime."""
    import tessera_runtime

    bundle = tessera_runtime.load(called.build.bundle(), threads=1)
    for n in (3, 70):
        for name, x, sizes in (("network", rand(n, 7), {"N": n}), ("long_chain", rand(n, 19), {"N": n, "D": 19})):
            code, results = called(name, {"x": x}, **sizes)
            found = bundle[name](x)
            assert code == 0
            for mine, theirs in zip(results.values(), found if isinstance(found, tuple) else (found,), strict=True):
                np.testing.assert_array_equal(mine, theirs)


def test_scalars_of_every_width(called: Called) -> None:
    x, y = rand(50), rand(51)[:50].copy()
    code, _ = called("scaled", {"x": x, "y": y, "h": 0.5, "k": -7, "u": 65535, "d": 2.25}, N=50)
    assert code == 0
    np.testing.assert_allclose(y, x.astype(np.float64) * 0.5 - 7 + 65535 - 2.25, rtol=1e-6)


def test_derived_sizes_and_copies(called: Called) -> None:
    x, z = rand(2 * 33), np.arange(129, dtype=np.int32)
    code, results = called("halves", {"x": x, "z": z}, H=33, K=129)
    assert code == 0 and called.shape("halves", "out1", 1, H=33, K=129) == (0, (387,))
    np.testing.assert_array_equal(results["out0"], x.reshape(2, 33))
    np.testing.assert_array_equal(results["out1"], np.concatenate([z, z, z]))


def test_errors_are_codes(called: Called) -> None:
    x, y = rand(8), rand(8)
    given = {"a": 1.0, "x": x, "y": y}
    before = y.copy()
    assert called("saxpy", given, N=-1)[0] == 1 and called.workspace("saxpy", N=-1) == -1
    assert called("saxpy", given, N=8, short=1)[0] == 3 and "workspace" in called.message(3)
    huge = 1 << 62
    assert called("saxpy", given, N=huge)[0] == 2 and called.workspace("saxpy", N=huge) == -2
    assert called.shape("halves", "out1", 1, H=1, K=huge)[0] == 2
    np.testing.assert_array_equal(y, before)
    code, _ = called("quarters", {"x": rand(10)}, N=10)
    (guard,) = called.functions["quarters"].guards
    assert code >= 16 and called.message(code) == f"quarters needs {guard.message}"
    code, results = called("quarters", {"x": rand(12)}, N=12)
    np.testing.assert_allclose(results["out"], rand(12).reshape(3, 4).sum(1), rtol=1e-5)
    assert called.message(0) == "no error" and called.message(12345) == "unknown error"


def test_temporaries_share_memory(called: Called) -> None:
    """Eight softmaxes of one size need a few places, whatever the size is."""
    n, d = 300, 70
    one = 4 * n * d
    temps = [b for p in _plans(called, "long_chain") for b in p.buffers if b.kind == "temp" and len(b.shape) == 2]
    assert len(temps) >= 5
    assert called.workspace("long_chain", N=n, D=d) < (len(temps) - 1) * one
    x = rand(n, d)
    code, results = called("long_chain", {"x": x}, N=n, D=d)
    expected = x.astype(np.float64)
    for _ in range(4):
        expected = softmax(expected, 0) + softmax(expected, 1)
    assert code == 0
    np.testing.assert_allclose(results["out"], expected, rtol=0, atol=1e-6)


def _plans(called: Called, name: str) -> list:
    from tesseracc.bundle import plan
    from tesseracc.codegen.image import Image

    arch = called.build.archs[0]
    record, _ = plan.target(called.build.target(arch), Image(arch, "", b""))
    return [item for item in record.plans if item.function == name]


def test_the_library_needs_nothing(called: Called) -> None:
    """No needed libraries, no relocations, no writable code, and only the documented names."""
    image = called.made.image
    symbols = read_symbols(image, "x86-64")  # the loader's strict form
    wanted = {f"m_{f}" for f in ENTRIES} | {f"m_{f}_workspace" for f in ENTRIES} | {"m_message", "m_supported"}
    assert wanted <= symbols.keys()
    assert all(re.fullmatch(r"m_\w+_shape", name) for name in symbols.keys() - wanted)
    assert set(re.findall(r"\b(m_\w+)\(", called.made.header)) == symbols.keys()
    assert called.c.m_supported() == 1


def test_the_same_bytes_again() -> None:
    made = []
    for _ in range(2):
        build = Build(front({"network": network, "halves": halves}), (load("x86-64-v2"),))
        arch = build.archs[0]
        made.append(library("m", build.target(arch), build.tile(arch), arch, "a test"))
    assert made[0] == made[1]


@pytest.mark.parametrize("arch", ["x86-64-v3", "x86-64-v4", "aarch64"])
def test_other_levels(arch: str) -> None:
    build = Build(front({"network": network, "halves": halves}), (load(arch),))
    target = build.archs[0]
    made = library("m", build.target(target), build.tile(target), target, "a test")
    assert {"m_network", "m_halves_out1_shape"} <= read_symbols(made.image, target.toolchain.machine).keys()
    assert struct.unpack_from("<H", made.image, 18) == (183 if arch == "aarch64" else 62,)


def test_what_a_cpu_must_have_is_asked() -> None:
    """Every feature of the levels has its CPUID bit, or the level is refused; /proc/cpuinfo agrees on this machine."""
    for arch in resolve(["cpu"]):
        if arch.toolchain.machine == "x86-64":
            assert set(arch.requires) <= X86_BITS.keys()
    build = Build(front({"saxpy": saxpy}), (load("x86-64-v4-amx"),))
    target = build.archs[0]
    with pytest.raises(UsageError, match="amx"):
        library("m", build.target(target), build.tile(target), target, "a test")


@pytest.mark.parametrize("feature", sorted(X86_BITS))
def test_each_feature_against_the_system(feature: str, tmp_path: Path) -> None:
    import ctypes

    from tessera_runtime.devices.cpu import cpu_features, machine
    from tesseracc.codegen.elf import link_image
    from tesseracc.codegen.pool import Request, compile_many
    from tesseracc.native.cpu import questions, supported_text

    text = supported_text("asked", "x86-64", [feature])
    (made,) = compile_many([Request(text, "x86_64-unknown-linux-gnu", "x86-64", "", "object", 0, label="asked")])
    path = tmp_path / "libasked.so"
    path.write_bytes(link_image([made.data], "x86-64", data=[questions("x86-64")]))
    if machine() == "x86-64":
        assert ctypes.CDLL(str(path)).asked() == int(feature in cpu_features())


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "model.py", tmp_path / "native"
    source.write_text(MODEL)
    run = Runner(capsys)
    said = run("build", source, "--emit", "c", "-o", out, "--arch", "x86-64-v3", "--json")
    names = ["libmodel.so", "model.h", "example.c"]
    assert said.code == 0 and json.loads(said.out) == {"files": [str(out / name) for name in names]}
    assert sorted(p.name for p in out.iterdir()) == sorted(names)
    assert len((out / "example.c").read_text().splitlines()) <= 30
    said = run("build", source, "--emit", "c")
    assert said.code == 0 and (tmp_path / "model_c" / "libmodel.so").is_file()
    mixed = ("--arch", "sm_90", "--arch", "x86-64-v2")
    for arguments in (mixed, ("--arch", "cpu"), ("--arch", "x86-64-v3", "-o", source / "x")):
        assert run("build", source, "--emit", "c", *arguments).code == 2
    clash = tmp_path / "clash.py"
    clash.write_text(MODEL.replace("rows(x", "saxpy_workspace(x"))
    said = run("build", clash, "--emit", "c")
    assert said.code == 2 and "E801" in said.err and "clash_saxpy_workspace" in said.err
    word = tmp_path / "word.py"
    word.write_text(MODEL.replace("rows(x", "rows(int").replace("softmax(x)", "softmax(int)"))
    assert run("build", word, "--emit", "c").code == 2


def test_the_example_in_an_empty_root(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Compiled where there is a C compiler, and run with nothing but libc around it where that may be tried."""
    source, out = tmp_path / "model.py", tmp_path / "native"
    source.write_text(MODEL)
    assert Runner(capsys)("build", source, "--emit", "c", "-o", out, "--arch", "x86-64-v2").code == 0
    compiler = shutil.which("gcc")
    if compiler is None or os.uname().machine != "x86_64":
        return
    flags = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O1"]
    command = [compiler, *flags, "example.c", "-L.", "-l:libmodel.so", "-Wl,-rpath,$ORIGIN", "-o", "example"]
    subprocess.run(command, cwd=out, check=True)
    done = subprocess.run([out / "example"], check=True, capture_output=True, text=True)
    assert done.stdout == "2\n"  # 1 * 1 + 1
    needed = subprocess.run(["ldd", out / "example"], check=True, capture_output=True, text=True).stdout
    files = [Path(path) for path in re.findall(r"(/\S+) \(", needed)]
    assert {path.name for path in files} == {"libmodel.so", "libc.so.6", "ld-linux-x86-64.so.2"}
    root = tmp_path / "root"
    for path in files:
        place = root / (path.name if path.name == "libmodel.so" else str(path).lstrip("/"))
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    shutil.copy(out / "example", root / "example")
    if os.geteuid() == 0:
        # Without /proc the loader cannot tell where the program lies.
        done = subprocess.run(["/example"], check=True, capture_output=True, text=True,
                              env={"LD_LIBRARY_PATH": "/"}, preexec_fn=lambda: os.chroot(root))  # fmt: skip
        assert done.stdout == "2\n"


def test_narrow_floats_are_bits(tmp_path: Path) -> None:
    called = Called(tmp_path, {"rows": rows})
    x = rand(5, 8).astype(np_dtype("bf16"))
    code, results = called("rows", {"x": x}, N=5)
    assert code == 0 and "const uint16_t *x" in called.made.header
    expected = softmax(x.astype(np.float64), 1)
    np.testing.assert_allclose(results["out"].astype(np.float64), expected, rtol=2**-8, atol=0)

"""One bundle with code for eight chips and two CPU levels: it runs under every one of them, tensor cores among them."""

import json
from pathlib import Path

import numpy as np
import pytest

from tessera_runtime.bundle import BundleFile
from tessera_runtime.cli import main as run_bundle
from tests.cli.run import Runner

pytestmark = pytest.mark.slow

CPUS = ("x86-64-v2", "x86-64-v3")
CHIPS = ("sm_70", "sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
# What multiplies tiles, by family: the matrix units from Turing on, those of sm_90 and sm_100 fed by tensor copies.
UNITS = {"sm_70": "fma.rn.f32", "sm_75": "mma.sync", "sm_80": "mma.sync", "sm_86": "mma.sync", "sm_89": "mma.sync",
         "sm_90": "wgmma.mma_async", "sm_100": "tcgen05.mma", "sm_120": "mma.sync"}  # fmt: skip
MODEL = """
import tessera as ts


@ts.kernel
def product(A: ts.Tensor["M", "K", ts.f16], B: ts.Tensor["K", "N", ts.f16]) -> ts.Tensor["M", "N", ts.f32]:
    acc = ts.tile.zeros((64, 64), ts.f32)
    acc += ts.tile.mma(A[m : m + 64, k : k + 32], B[k : k + 32, n : n + 64])
    return acc


@ts.function
def rows(x: ts.Tensor["N", "D", ts.f32], w: ts.Tensor["D", "D", ts.f32]):
    return ts.softmax(ts.layer_norm(x) @ w)
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tesseracc.arch.arch import resolve
    from tesseracc.driver import Build, front
    from tesseracc.frontend import source

    folder = tmp_path_factory.mktemp("family")
    (folder / "model.py").write_text(MODEL)
    module = front(source.load(str(folder / "model.py")).entries)
    data = Build(module, resolve((*CPUS, *CHIPS))).bundle()
    (folder / "m.tsb").write_bytes(data)
    return folder / "m.tsb"


def test_the_code_uses_the_units(bundle: Path) -> None:
    file = BundleFile(bundle)
    targets = {target.name: target for target in file.manifest.targets}
    assert targets.keys() == {*CPUS, *CHIPS}
    for chip, unit in UNITS.items():
        name = targets[chip].ptx or targets[chip].image
        assert unit in file.entry(name).decode(), chip


@pytest.mark.parametrize("place", [*(f"cpu:{name}" for name in CPUS), *(f"emulator:{name}" for name in CHIPS)])
def test_it_runs_there(place: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sizes that tensor copies can take and sizes that they cannot, against float64."""
    rng = np.random.default_rng(sum(place.encode()))
    for m, n, k in ((128, 64, 64), (70, 41, 33)):
        a, b = (rng.standard_normal(shape).astype(np.float16) for shape in ((m, k), (k, n)))
        np.save(tmp_path / "a.npy", a)
        np.save(tmp_path / "b.npy", b)
        np.save(tmp_path / "c.npy", (a.astype(np.float64) @ b.astype(np.float64)).astype(np.float32))
        bound = float(k * np.abs(a).max() * np.abs(b).max()) * 2.0**-22
        command = [str(bundle), "--function=product", f"--input=A=@{tmp_path}/a.npy", f"--input=B=@{tmp_path}/b.npy"]
        command += [f"--device={place}", f"--expected=out=@{tmp_path}/c.npy", f"--atol={bound}", "--rtol=0", "--json"]
        assert run_bundle(command) == 0, capsys.readouterr()
        assert json.loads(capsys.readouterr().out)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((5, 19), (19, 19)))
    wide = x.astype(np.float64)
    h = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5) @ w.astype(np.float64)
    e = np.exp(h - h.max(1, keepdims=True))
    for name, value in (("x", x), ("w", w), ("y", (e / e.sum(1, keepdims=True)).astype(np.float32))):
        np.save(tmp_path / f"{name}.npy", value)
    command = [str(bundle), "--function=rows", f"--input=x=@{tmp_path}/x.npy", f"--input=w=@{tmp_path}/w.npy"]
    command += [f"--device={place}", f"--expected=out=@{tmp_path}/y.npy", "--atol=2e-6", "--rtol=2e-5"]
    assert run_bundle(command) == 0, capsys.readouterr()


def test_what_is_taken(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exactly the chip's code, else that of its family, else what a level below has; asked of the header."""
    tesseracc = Runner(capsys)
    for chip in CHIPS:
        said = json.loads(tesseracc("check", bundle, "--arch", chip, "--json").out)
        assert said["runs"] and said["target"] == chip
    assert json.loads(tesseracc("check", bundle, "--arch", "sm_88", "--json").out)["target"] == "sm_86"
    assert json.loads(tesseracc("check", bundle, "--cpu", "x86-64-v4", "--json").out)["target"] == "x86-64-v3"
    assert tesseracc("check", bundle, "--arch", "sm_60").code == 6

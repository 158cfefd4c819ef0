"""Modules of packages: executed as an import would, named from the folder that holds the package."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import tessera.kernels
from tessera.errors import SourceError
from tessera_runtime import load as load_bundle
from tesseracc.frontend.packages import package_of
from tesseracc.frontend.source import load
from tesseracc.recipe import imported
from tests.cli.run import Runner

FILES = {
    "shop/__init__.py": "from .top import f as exported\n",
    "shop/scale.py": "FACTOR = 3.0\n",
    "shop/colorsys.py": "raise SystemExit('not the module of that name')\n",
    "shop/top.py": "import colorsys\nimport tessera as ts\nfrom .scale import FACTOR\nassert colorsys.rgb_to_hls\n"
                   '@ts.function\ndef f(x: ts.Tensor["N", ts.f32]):\n    return x * FACTOR\n',
    "shop/deep/__init__.py": "",
    "shop/deep/low.py": "import tessera as ts\nimport shop.scale\nfrom ..top import f as up\nfrom beside import ONE\n"
                        '@ts.function\ndef g(x: ts.Tensor["N", ts.f32]):\n    return up(x) + ONE + shop.scale.FACTOR\n',
    "shop/deep/beside.py": "ONE = 1.0\n",
}  # fmt: skip


def write(folder: Path, name: str = "shop") -> Path:
    for file, text in FILES.items():
        path = folder / file.replace("shop", name, 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("shop", name))
    return folder / name


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test imports is gone behind it, as it is behind a command."""
    for name in ("shop", "shop.deep", "shop.top", "shop.scale", "beside"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_a_module_of_a_package_is_executed_as_one(tmp_path: Path) -> None:
    package, path = write(tmp_path), list(sys.path)
    for file, entry, expected in (("top.py", "f", [6.0]), ("deep/low.py", "g", [10.0])):
        loaded = load(package / file)
        assert list(loaded.entries) == [entry]
        assert loaded.entries[entry](np.array([2.0], np.float32)).tolist() == expected
    assert loaded.name == "shop.deep.low" and sys.path == path and "shop.deep.low" not in sys.modules


def test_its_files_are_named_from_where_the_package_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = write(tmp_path)
    names = ["shop/deep/low.py", "shop/__init__.py", "shop/deep/__init__.py", "shop/deep/beside.py", "shop/scale.py",
             "shop/top.py"]  # fmt: skip
    assert list(imported(package / "deep" / "low.py")) == names
    monkeypatch.chdir(package / "deep")
    assert list(imported(Path("low.py"))) == names
    assert package_of(Path(tessera.kernels.__file__)) == (Path(tessera.kernels.__file__).parent, ())
    assert package_of(tmp_path / "m.py") == (tmp_path, ())


def test_a_loaded_package_of_that_name_comes_back(tmp_path: Path) -> None:
    """One that a user calls as one that the compiler has loaded."""
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "yaml"}
    import yaml

    loaded = load(write(tmp_path, "yaml") / "deep" / "low.py")
    assert loaded.entries["g"](np.array([2.0], np.float32)).tolist() == [10.0]
    assert sys.modules["yaml"] is yaml and before.items() <= sys.modules.items() and "yaml.top" not in sys.modules


def test_from_the_bundle_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str], modules: None) -> None:
    tesseracc, package = Runner(capsys), write(tmp_path / "here")
    bundle, page = tmp_path / "m.tsb", tmp_path / "m.html"
    said = tesseracc("build", package / "deep" / "low.py", "--arch", "x86-64-v2", "--embed-source", "-o", bundle)
    assert said.code == 0, said.err
    x = np.random.default_rng(1).standard_normal(7).astype(np.float32)
    np.testing.assert_allclose(load_bundle(bundle)["g"](x), 3.0 * x + 4.0, rtol=1e-6)
    package.rename(tmp_path / "away")
    assert tesseracc("rebuild", "--verify", bundle).code == 0
    assert tesseracc("inspect", bundle, "--html", page, "--trust-source").code == 0
    assert "Source, low.py" in page.read_text() and "Tile IR" in page.read_text()


@pytest.mark.parametrize(("file", "text", "told"), [
    ("shop/__init__.py", "import tessera as ts\nts.rleu\n", ("E103", "__init__.py", 2)),
    ("shop/__init__.py", None, ("E102", "top.py", 3)),
])  # fmt: skip
def test_errors(tmp_path: Path, file: str, text: str | None, told: tuple[str, str, int]) -> None:
    package = write(tmp_path)
    if text is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(text)
    with pytest.raises(SourceError) as caught:
        load(package / "top.py")
    error = caught.value
    assert error.span is not None and (error.code, Path(error.span.file).name, error.span.line) == told
    assert text is not None or "`__init__.py`" in str(error.help)

"""The comparison of packages: outcomes are told apart, our own package works and refuses flipped bits."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks import package_programs, packages
from benchmarks.packages import Peer


def peer(code: str, children: bool = False) -> Peer:
    """One whose runtime is some Python code, which finds the package's bytes in `data` and writes with `save`."""
    head = (
        "import os, sys; data = open(sys.argv[1], 'rb').read(); right = bytes(range(64)); "
        "save = lambda x: open(sys.argv[2], 'wb').write(x)\n"
    )
    run = (sys.executable, "-c", head + code, "{package}", "{y}")
    calls = (sys.executable, "-c", package_programs.in_children("import json", head + code)) if children else ()
    return Peer("p", "1", "m", "", "p.bin", (), run, calls)


def outcomes(code: str, folder: Path, children: bool = False, limit: float = 20) -> dict[str, int]:
    (folder / "p.bin").write_bytes(bytes(range(64)))
    one = peer(code, children)
    assert packages.run(one.argv(one.run, folder))[0] == 0
    found, codes = packages.flips(one, folder, 3, 1, limit)
    assert sum(codes.values()) == found["refused"]
    return {name: count for name, count in found.items() if count}


def test_outcomes(tmp_path: Path) -> None:
    assert outcomes("save(b'1'); sys.exit(5 * (data != right))", tmp_path) == {"refused": 3}
    assert outcomes("save(b'1')", tmp_path) == {"same bits": 3}
    assert outcomes("save(data)", tmp_path) == {"other results": 3}
    assert outcomes("save(b'1'); data != right and os.abort()", tmp_path) == {"crash": 3}
    assert outcomes("data == right and save(b'1')", tmp_path) == {"other results": 3}  # none at all
    assert packages.run((sys.executable, "-c", "import time; time.sleep(9)"), 0.2)[0] == -100


def test_outcomes_in_children_of_one_process(tmp_path: Path) -> None:
    """Each is a process of its own, which ends as it likes; what the imports took is paid once."""
    assert outcomes("save(b'1'); assert data == right", tmp_path, True) == {"refused": 3}
    assert outcomes("save(b'1'); print('nowhere')", tmp_path, True) == {"same bits": 3}
    assert outcomes("import json; save(data); right = b''", tmp_path, True) == {"other results": 3}
    assert outcomes("save(b'1'); data != right and os.abort()", tmp_path, True) == {"crash": 3}
    waits = "import time; save(b'1'); data != right and time.sleep(9)"
    assert outcomes(waits, tmp_path, True, 0.2) == {"hang": 3}


def test_our_own(tmp_path: Path) -> None:
    package_programs.write(tmp_path, 3)
    found = packages.measure(packages.ours("x86-64-v2"), tmp_path, rounds=1, count=4, seed=2)
    assert found["flips"]["refused"] == 4 and found["exit_codes_of_refusals"] == {"5": 4}
    assert found["package_bytes"] > 64 * 128 * 4 and 10 < found["resident_mib"] < 400 and found["error"] < 1e-5
    machine = {"cpu": "c"}
    text = packages.page({"name": "n", "date": "d", "machine": machine, "peers": [found], "numpy_seconds": 1.0,
                          "numpy_best": 0.5, "numpy_mib": 2.0})  # fmt: skip
    assert text.startswith("# n, d\n\n- cpu: c\n") and "| tesseracc | 4 | 0 | 0 | 0 | 0 | 5 (4) |" in text


def test_the_reference_is_the_model() -> None:
    """By plain loops over elements."""
    x = np.random.default_rng(5).standard_normal((2, 64)).astype(np.float32)
    w = {name: value.astype(np.float64) for name, value in package_programs.weights().items()}
    found = package_programs.reference(x)
    for row, y in zip(x.astype(np.float64), found, strict=True):
        hidden = [max(sum(row * w["w1"][:, j]) + w["b1"][j], 0.0) for j in range(128)]
        logits = [sum(h * v for h, v in zip(hidden, w["w2"][:, j], strict=True)) + w["b2"][j] for j in range(10)]
        total = sum(np.exp(logits))
        np.testing.assert_allclose(y, [np.exp(value) / total for value in logits], rtol=1e-12)

"""Results are laid out as they are read: heads beside each other in front of the product that takes them as one row."""

import numpy as np

import tessera as ts
import tessera_runtime
from tesseracc.arch.arch import load
from tesseracc.driver import Build, front
from tesseracc.ir.types import TensorType

F32 = ts.f32


def heads(x: ts.Tensor["B", "S", "D", F32], w: ts.Tensor["D", "D", F32], out: ts.Tensor["D", "N", F32]):
    B, S, D = x.shape
    split = ts.matmul(x, w).reshape(B, S, 4, D // 4).transpose(1, 2)
    mixed = ts.matmul(ts.matmul(split, split.mT), split)
    scaled = mixed / (1.0 + ts.abs(mixed).sum(axis=-1, keepdims=True))
    return ts.matmul(scaled.transpose(1, 2).reshape(B, S, D), out)


def returned(x: ts.Tensor["B", "S", 4, 6, F32], out: ts.Tensor[24, "N", F32]):
    """What the caller sees keeps its order."""
    B, S = x.shape[:2]
    turned = ts.matmul(x.transpose(1, 2), ts.matmul(x.transpose(1, 2).mT, x.transpose(1, 2)))
    return turned, ts.matmul(turned.transpose(1, 2).reshape(B, S, 24), out)


def schedule(function):  # type: ignore[no-untyped-def]
    return Build(front({function.__name__: ts.function(function)}), (load("x86-64-v3"),))


def test_products_write_rows_for_who_reads_rows() -> None:
    build = schedule(heads)
    (func,) = build.schedule.funcs
    dims = [tuple(map(str, r.type.dims)) for op in func.body.ops for r in op.results if isinstance(r.type, TensorType)]
    assert ("B", "S", "4", "D//4") in dims  # the product, and what scales it
    last = next(op for op in reversed(func.body.ops) if op.name == "schedule.group")
    assert not any(op.name in ("arith.floordiv", "arith.mod") for op in last.walk())


def test_results() -> None:
    rng = np.random.default_rng()
    run = tessera_runtime.load(schedule(heads).bundle(), threads=1)["heads"]
    for b, s, d, n in ((2, 5, 12, 7), (1, 9, 8, 3), (3, 1, 20, 1)):
        x, w, out = (rng.normal(size=size).astype(np.float32) for size in ((b, s, d), (d, d), (d, n)))
        wide = [a.astype(np.float64) for a in (x, w, out)]
        split = (wide[0] @ wide[1]).reshape(b, s, 4, d // 4).swapaxes(1, 2)
        mixed = split @ split.swapaxes(-1, -2) @ split
        scaled = mixed / (1 + np.abs(mixed).sum(-1, keepdims=True))
        expected = scaled.swapaxes(1, 2).reshape(b, s, d) @ wide[2]
        np.testing.assert_allclose(run(x, w, out), expected, rtol=2e-4, atol=2e-4)


def test_what_is_returned_keeps_its_order() -> None:
    rng = np.random.default_rng()
    run = tessera_runtime.load(schedule(returned).bundle(), threads=1)["returned"]
    x, out = rng.normal(size=(2, 3, 4, 6)).astype(np.float32), rng.normal(size=(24, 5)).astype(np.float32)
    turned = x.astype(np.float64).swapaxes(1, 2)
    turned = turned @ (turned.swapaxes(-1, -2) @ turned)
    found = run(x, out)
    np.testing.assert_allclose(found[0], turned, rtol=1e-4, atol=1e-3)
    expected = turned.swapaxes(1, 2).reshape(2, 3, 24) @ out
    np.testing.assert_allclose(found[1], expected, rtol=1e-4, atol=1e-2)

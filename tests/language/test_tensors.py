"""Eager tensors: creation, arithmetic, subscripts, methods, files, random numbers; NumPy is the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tessera as ts
from tessera.errors import SourceError
from tessera.interpreters import interpret
from tessera.types import TensorType
from tests.operators.scalars import SymbolicInterpreter, SymbolicTensor

RNG = np.random.default_rng(7)


def test_creation() -> None:
    assert ts.tensor([1, 2]).dtype == ts.i64 and ts.tensor([1.5]).dtype == ts.f32 and ts.tensor(True).dtype == ts.bool
    assert ts.tensor(np.zeros(2)).dtype == ts.f64 and ts.tensor([1, 2], ts.bf16).dtype == ts.bf16
    assert ts.tensor([]).shape == (0,)
    assert ts.zeros(2, 3).shape == ts.zeros((2, 3)).shape == (2, 3) and ts.zeros((2,), ts.i32).dtype == ts.i32
    assert ts.full((2,), 7).tolist() == [7, 7]
    assert ts.full(3, 0.5).dtype == ts.f32 and ts.full((), True).dtype == ts.bool
    assert ts.arange(5).tolist() == [0, 1, 2, 3, 4] and ts.arange(2, 9, 3).tolist() == [2, 5, 8]
    assert ts.arange(9, 2, -3).tolist() == [9, 6, 3] and ts.arange(3, 1).shape == (0,)
    assert ts.arange(0.0, 1.0, 0.25).tolist() == [0, 0.25, 0.5, 0.75]
    assert ts.eye(2).tolist() == [[1, 0], [0, 1]]
    assert ts.one_hot(ts.tensor([1, 0, 5]), 3).tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    source = np.ones(3, np.float32)
    kept = ts.tensor(source)
    source[:] = 5
    assert kept.tolist() == [1, 1, 1]


def test_tensors_are_values() -> None:
    x = ts.tensor([1.0, 2.0])
    copy = x.numpy()
    copy[:] = 9
    assert x.tolist() == [1, 2]
    with pytest.raises(SourceError) as caught:
        x[0] = 3.0
    assert caught.value.code == "E312"


def test_python_conversions() -> None:
    x = ts.tensor(2.5)
    assert float(x) == 2.5 and int(x) == 2 and bool(x) and f"{x:.2f}" == "2.50" and x.item() == 2.5
    assert [10, 20, 30][ts.tensor(1)] == 20
    assert len(ts.zeros(3, 2)) == 3 and [v.shape for v in ts.zeros(2, 3)] == [(3,), (3,)]
    assert np.asarray(ts.ones(2)).tolist() == [1, 1] and np.asarray(ts.ones(2), np.int32).dtype == np.int32
    assert repr(ts.tensor([1, 2])) == "tensor([1, 2], dtype=i64)" and f"{ts.tensor(3)}" == "tensor(3, dtype=i64)"
    for bad, code in ((lambda: ts.zeros(2).item(), "E304"), (lambda: len(x), "E304"), (lambda: [1][x], "E303"),
                      (lambda: ts.tensor("a"), "E311"), (lambda: ts.tensor(object()), "E311")):
        with pytest.raises(SourceError) as caught:
            bad()
        assert caught.value.code == code


BINARY: dict[str, Any] = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "/": lambda a, b: a / b,
    "//": lambda a, b: a // b, "%": lambda a, b: a % b, "<": lambda a, b: a < b, "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b, ">=": lambda a, b: a >= b, "==": lambda a, b: a == b, "!=": lambda a, b: a != b,
}


@pytest.mark.parametrize("symbol", BINARY)
@pytest.mark.parametrize("dtype", ["f32", "f64", "i32"])
def test_overloads(symbol: str, dtype: str) -> None:
    operate, numpy = BINARY[symbol], ts.dtype(dtype).numpy
    a = RNG.integers(-9, 9, (3, 4)).astype(numpy)
    b = RNG.integers(1, 9, (4,)).astype(numpy)
    for left, right in ((a, b), (a, numpy.type(3)), (numpy.type(3), b)):
        want = operate(left, right)
        x = ts.tensor(left) if isinstance(left, np.ndarray) else left.item()
        y = ts.tensor(right) if isinstance(right, np.ndarray) else right.item()
        np.testing.assert_allclose(operate(x, y).numpy(), want, rtol=1e-6)


def test_more_overloads() -> None:
    x, y = ts.tensor([True, False]), ts.tensor([True, True])
    assert (x & y).tolist() == [True, False] and (x | y).tolist() == [True, True] and (x ^ y).tolist() == [False, True]
    assert (~x).tolist() == [False, True]
    n = ts.tensor([1, -8])
    assert (n << 2).tolist() == [4, -32] and (n >> 1).tolist() == [0, -4] and (n & 3).tolist() == [1, 0]
    assert (n**3).tolist() == [1, -512] and abs(n).tolist() == [1, 8] and (-n).tolist() == [-1, 8] and (+n) is n
    v = ts.tensor([4.0, 9.0])
    assert (v**0.5).tolist() == [2, 3] and (2.0**v).tolist() == [16, 512]
    assert (v**-1).tolist() == [0.25, np.float32(1 / 9)]
    np.testing.assert_allclose((v ** ts.tensor([0.5, 2.0])).numpy(), [2, 81])
    assert (ts.ones(2, 3) @ ts.ones(3)).tolist() == [3, 3]
    assert (np.ones(3, np.float32) * ts.ones(3)).tolist() == [1, 1, 1]
    with pytest.raises(SourceError):
        n ** ts.tensor([1, 2])
    with pytest.raises(SourceError):
        n ** -1


def test_integer_division_by_zero_gives_zero() -> None:
    zero = ts.tensor([0, 0])
    assert (ts.tensor([5, -5]) // zero).tolist() == [0, 0] and (ts.tensor([5, -5]) % zero).tolist() == [0, 0]


def test_methods_and_functions() -> None:
    a = RNG.standard_normal((2, 3, 4)).astype(np.float32)
    x = ts.tensor(a)
    same = np.testing.assert_array_equal
    same(x.T.numpy(), a.T)
    same(x.mT.numpy(), np.swapaxes(a, 1, 2))
    same(x.transpose().numpy(), a.T)
    same(x.transpose(1, 2).numpy(), np.swapaxes(a, 1, 2))
    same(x.transpose((2, 0, 1)).numpy(), a.transpose(2, 0, 1))
    same(x.permute(2, 0, 1).numpy(), a.transpose(2, 0, 1))
    same(x.reshape(6, -1).numpy(), a.reshape(6, 4))
    same(x.flatten().numpy(), a.ravel())
    same(x.expand_dims(1).squeeze().numpy(), a)
    same(x.unsqueeze(-1).numpy(), a[..., None])
    same(x.broadcast_to(5, 2, 3, 4).numpy(), np.broadcast_to(a, (5, 2, 3, 4)))
    same(ts.flip(x, (0, -1)).numpy(), np.flip(a, (0, -1)))
    same(ts.stack([x, x], 1).numpy(), np.stack([a, a], 1))
    same(ts.concat([x, x], -1).numpy(), np.concatenate([a, a], -1))
    same(ts.pad(x, [(0, 1), (2, 0), (1, 1)], 3.0).numpy(), np.pad(a, [(0, 1), (2, 0), (1, 1)], constant_values=3.0))
    same(ts.take(x, ts.tensor([2, -1]), 1).numpy(), np.take(a, [2, -1], 1))
    same(x.argmax(1).numpy(), a.argmax(1))
    same(x.argmin().numpy(), a.argmin())
    same(x.max(dim=-1).numpy(), a.max(-1))
    same(x.min((0, 2), keepdims=True).numpy(), a.min((0, 2), keepdims=True))
    same(ts.any(x > 2).numpy(), (a > 2).any())
    same(ts.all(x > -9, axis=0).numpy(), (a > -9).all(0))
    same(ts.clip(x, -0.5, 0.5).numpy(), np.clip(a, np.float32(-0.5), np.float32(0.5)))
    np.testing.assert_allclose(x.sum(-2).numpy(), a.sum(-2), rtol=1e-5)
    np.testing.assert_allclose(x.mean().numpy(), a.mean(), rtol=1e-5)
    np.testing.assert_allclose(ts.var(x, 1).numpy(), a.var(1), rtol=1e-5)
    np.testing.assert_allclose(x.prod(0).numpy(), a.prod(0), rtol=1e-5)
    parts = ts.split(x, dim=-1, sections=2)
    same(parts[1].numpy(), a[..., 2:])
    same(x.split([1, 2], 1)[1].numpy(), a[:, 1:])
    picks = np.array([[[1], [0], [3]]] * 2)
    same(ts.gather(x, -1, ts.tensor(picks)).numpy(), np.take_along_axis(a, picks, -1))
    same(ts.logical_and(x, 0.0).numpy(), np.zeros(a.shape, bool))


def test_matrix_products() -> None:
    a, b = RNG.standard_normal((4, 5)), RNG.standard_normal((5, 3))
    c = RNG.standard_normal((4, 3))
    x, y, z = ts.tensor(a), ts.tensor(b), ts.tensor(c)
    np.testing.assert_allclose(ts.gemm(x, y, z, alpha=2.0, beta=0.5).numpy(), 2 * a @ b + 0.5 * c)
    np.testing.assert_allclose(ts.gemm(x.T, y.T, trans_a=True, trans_b=True).numpy(), a @ b)
    np.testing.assert_allclose(ts.linear(x, y, ts.tensor(c[0])).numpy(), a @ b + c[0])
    np.testing.assert_allclose(ts.matmul(x[0], y).numpy(), a[0] @ b)
    np.testing.assert_allclose(ts.matmul(x[0], x[1]).numpy(), a[0] @ a[1])
    assert ts.matmul(x.astype("fp8_e4m3"), y.astype("fp8_e4m3")).dtype == ts.f32
    assert ts.matmul(x.astype(ts.bf16), y.astype("fp8_e4m3")).dtype == ts.bf16
    big = ts.full((1, 400), 100, ts.i8)
    assert ts.matmul(big, big.T).item() == 400 * 10000
    # One rounding: the sum 256 + 256 ones is exact in f32, and stays 256 when accumulated in bf16.
    ones = ts.ones(1, 4096, dtype=ts.bf16)
    assert float(ts.matmul(ones, ones.T).item()) == 4096
    assert float(ts.sum(ones).item()) == 4096


SUBSCRIPTS: list[Any] = [
    0, -1, np.s_[1:], np.s_[::2], np.s_[::-1], np.s_[5:1:-2], np.s_[10:], np.s_[-3:-1], np.s_[..., 0], np.s_[None, 1],
    np.s_[1:3, None, ..., ::2], np.s_[0, 1, 2], np.s_[:, -1:], np.s_[3:2], np.s_[:, :, None], np.s_[..., None],
    np.s_[-2, ..., ::-3], np.s_[()], np.s_[...],
]


@pytest.mark.parametrize("index", SUBSCRIPTS, ids=str)
def test_subscripts(index: Any) -> None:
    a = RNG.standard_normal((5, 4, 6)).astype(np.float32)
    np.testing.assert_array_equal(ts.tensor(a)[index].numpy(), a[index])


def test_tensor_subscripts() -> None:
    a = RNG.standard_normal((5, 4)).astype(np.float32)
    rows = np.array([[0, 4], [2, -1]])
    np.testing.assert_array_equal(ts.tensor(a)[ts.tensor(rows)].numpy(), a[rows])
    np.testing.assert_array_equal(ts.tensor(a)[:, ts.tensor([1, 3])].numpy(), a[:, [1, 3]])
    assert ts.take(ts.tensor(a), ts.tensor([7]), 0).tolist() == [[0, 0, 0, 0]]


@given(st.integers(0, 9), st.integers(-12, 12) | st.none(), st.integers(-12, 12) | st.none(), st.integers(1, 4))
def test_symbolic_slices_are_pythons(n: int, start: int | None, stop: int | None, step: int) -> None:
    interpreter = SymbolicInterpreter()
    with interpret(interpreter):
        x = SymbolicTensor(TensorType.parse("f32[N]"), interpreter)
        size = x[start:stop:step].type.substitute({"N": n}).dims[0]
    assert size == len(range(n)[start:stop:step])


@pytest.mark.parametrize(("index", "code"), [
    (np.s_[0, 0, 0], "E304"), (np.s_[9], "E305"), (np.s_[-4], "E305"), (np.s_[..., ...], "E305"), ("a", "E305"),
    (np.s_[::0], "E305"), (np.s_[1.5], "E305"), (np.s_["a":], "E305"), (np.array([True, False, True]), "E303"),
])
def test_bad_subscripts(index: Any, code: str) -> None:
    with pytest.raises(SourceError) as caught:
        ts.ones(3, 4)[index]
    assert caught.value.code == code


def test_random() -> None:
    a, b = ts.randn(1000, seed=3).numpy(), ts.randn(1000, seed=3).numpy()
    np.testing.assert_array_equal(a, b)
    assert abs(a.mean()) < 0.1 and abs(a.std() - 1) < 0.1
    ts.random.seed(5)
    first = ts.randn(4).tolist()
    second = ts.randn(4).tolist()
    ts.random.seed(5)
    assert first == ts.randn(4).tolist() and first != second
    assert ts.randn((2, 3), dtype=ts.bf16).dtype == ts.bf16 and ts.randn(0, 3).shape == (0, 3)
    draws = ts.randint(-3, 5, (4000,), seed=1).numpy()
    assert draws.dtype == np.int32 and set(draws.tolist()) == set(range(-3, 5))
    uniform = ts.rand(4000, seed=2).numpy()
    assert uniform.min() >= 0 and uniform.max() < 1 and abs(uniform.mean() - 0.5) < 0.02
    for bad in (lambda: ts.randint(3, 3), lambda: ts.randn(-1), lambda: ts.randn("a")):
        with pytest.raises(SourceError):
            bad()


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tessera_runtime.core import safetensors

    a = RNG.standard_normal((2, 3)).astype(np.float32)
    np.save(tmp_path / "a.npy", a)
    np.savez(tmp_path / "ab.npz", b=a + 1, a=a)
    (tmp_path / "w.safetensors").write_bytes(safetensors.save({"w": ts.tensor(a, ts.bf16).numpy()}))
    np.testing.assert_array_equal(ts.load(tmp_path / "a.npy").numpy(), a)
    assert list(ts.load(tmp_path / "ab.npz")) == ["a", "b"]
    assert ts.load(tmp_path / "w.safetensors")["w"].dtype == ts.bf16
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(ts.load("a.npy").numpy(), a)
    (tmp_path / "bad.npy").write_bytes(b"nothing")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    (tmp_path / "a.txt").write_bytes(b"")
    np.save(tmp_path / "c.npy", np.zeros(2, np.complex64))
    for name, code in (("absent.npy", "E802"), ("bad.npy", "E712"), ("bad.safetensors", "E640"), ("a.txt", "E712"),
                       ("c.npy", "E703")):
        with pytest.raises(SourceError) as caught:
            ts.load(name)
        assert caught.value.code == code
        assert caught.value.span is not None and caught.value.span.file == __file__


def test_nn_names() -> None:
    x = ts.randn(3, 4, seed=1)
    np.testing.assert_allclose(ts.nn.softmax(x).sum(-1).numpy(), np.ones(3), rtol=1e-6)
    table = ts.randn(5, 2, seed=2)
    np.testing.assert_array_equal(ts.nn.embedding(ts.tensor([4, 0]), table).numpy(), table.numpy()[[4, 0]])
    with pytest.raises(SourceError):
        ts.nn.layer_norm(x, ts.ones(4))

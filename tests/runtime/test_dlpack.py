"""DLPack: no copies, read-only memory, every element type, memory given back once; NumPy is the other side."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tessera as ts
import tessera_runtime
from tessera_runtime import dlpack
from tessera_runtime.core.dtypes import DTYPES, np_dtype
from tests.runtime.support import bundle_bytes


class Foreign:
    """An array of another library: nothing but DLPack."""

    def __init__(self, array: np.ndarray, version: int = 1) -> None:
        self.array, self.version = array, version
        self.asked: list[dict[str, Any]] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()

    def __dlpack__(self, **options: Any) -> Any:
        self.asked.append(options)
        if self.version == 0 and "max_version" in options:
            raise TypeError("__dlpack__() got an unexpected keyword argument 'max_version'")
        return tessera_runtime.Exported(self.array).__dlpack__(**options)


def values(dtype: str, *shape: int) -> np.ndarray:
    rng = np.random.default_rng(len(dtype) + sum(shape))
    return (8 * rng.standard_normal(shape)).astype(np_dtype(dtype))


@pytest.mark.parametrize("dtype", sorted(dlpack._CODES))
@pytest.mark.parametrize("version", [0, 1])
def test_round_trip_without_a_copy(dtype: str, version: int) -> None:
    whole = values(dtype, 6, 7, 5)
    for array in (whole, whole[1:, ::2], whole.transpose(2, 0, 1), whole[:, :0], whole[3, 4, 1:2].reshape(())):
        found = tessera_runtime.from_dlpack(Foreign(array, version))
        assert found.dtype == array.dtype and found.shape == array.shape and found.flags.writeable
        np.testing.assert_array_equal(found.astype(np.float64), array.astype(np.float64))
        if array.size:
            assert np.shares_memory(found, array) and found.strides == array.strides


def test_types_that_dlpack_lacks() -> None:
    for dtype in DTYPES.keys() - dlpack._CODES.keys():
        with pytest.raises(BufferError, match=dtype):
            tessera_runtime.Exported(np.zeros(3, np_dtype(dtype)), dtype).__dlpack__(max_version=(1, 0))


def test_numpy_is_a_producer_and_a_consumer() -> None:
    array = np.arange(24, dtype=np.int32).reshape(4, 6)[:, ::3]
    found = tessera_runtime.from_dlpack(array)
    assert np.shares_memory(found, array) and found.tolist() == array.tolist()
    back = np.from_dlpack(tessera_runtime.Exported(array))
    assert np.shares_memory(back, array) and back.strides == array.strides
    array[2, 1] = -7
    assert found[2, 1] == back[2, 1] == -7


def test_read_only_memory_stays_so() -> None:
    array = np.arange(5.0)
    array.flags.writeable = False
    found = tessera_runtime.from_dlpack(Foreign(array))
    assert np.shares_memory(found, array) and not found.flags.writeable
    with pytest.raises(BufferError):
        tessera_runtime.Exported(array).__dlpack__()  # who cannot be told must not get it
    with pytest.raises(tessera_runtime.InputError) as caught:
        tessera_runtime.from_dlpack(Foreign(array, 0))
    assert caught.value.code == "E708" and "read-only" in caught.value.message


def exported() -> int:
    gc.collect()
    return len(dlpack._EXPORTED)


def test_memory_is_given_back_once() -> None:
    held = exported()
    array = np.arange(10.0)
    watched = weakref.ref(array)
    foreign = Foreign(array)
    found = tessera_runtime.from_dlpack(foreign)
    view = found[3:]
    del array, foreign, found
    gc.collect()
    assert watched() is not None and view[0] == 3.0 and len(dlpack._EXPORTED) == held + 1
    del view
    gc.collect()
    assert watched() is None and len(dlpack._EXPORTED) == held
    unused = tessera_runtime.Exported(np.ones(3)).__dlpack__(max_version=(1, 0))
    assert len(dlpack._EXPORTED) == held + 1
    del unused
    assert len(dlpack._EXPORTED) == held


def test_a_capsule_serves_once() -> None:
    class Same(Foreign):
        def __dlpack__(self, **options: Any) -> Any:
            return kept

    kept = tessera_runtime.Exported(np.ones(3)).__dlpack__(max_version=(1, 0))
    tessera_runtime.from_dlpack(Same(np.ones(3)))
    with pytest.raises(tessera_runtime.InputError, match="no unused capsule"):
        tessera_runtime.from_dlpack(Same(np.ones(3)))


def test_arguments_of_bundles() -> None:
    bundle = tessera_runtime.load(bundle_bytes())
    x = values("f32", 9, 5)
    foreign = Foreign(x)
    out0, out1 = bundle["chain"](foreign)
    np.testing.assert_array_equal(out1, x[:, ::-1])
    assert out0.shape == (9, 5) and foreign.asked == [{"max_version": (1, 0)}]
    # Written in place where it may be, else a copy is.
    y, s = values("f32", 300), values("f32", 300)
    expected = np.float32(2.0) * s + y
    result = bundle["saxpy"](2.0, Foreign(s), Foreign(y))
    np.testing.assert_array_equal(y, expected)
    assert np.shares_memory(result, y)
    fixed = values("f32", 300)
    fixed.flags.writeable = False
    before = fixed.copy()
    np.testing.assert_array_equal(bundle["saxpy"](2.0, s, Foreign(fixed)), np.float32(2.0) * s + before)
    np.testing.assert_array_equal(fixed, before)
    with pytest.raises(tessera_runtime.InputError) as caught:
        bundle["chain"](Foreign(values("f64", 9, 5)))
    assert caught.value.code == "E703"

    class Elsewhere(Foreign):
        def __dlpack_device__(self) -> tuple[int, int]:
            return 2, 0

    with pytest.raises(tessera_runtime.InputError) as caught:
        bundle["chain"](Elsewhere(x))
    assert caught.value.code == "E708" and "device 2:0" in caught.value.message


def test_strange_capsules_are_refused() -> None:
    class Odd(Foreign):
        def __init__(self, change: Any) -> None:
            super().__init__(np.ones(3))
            self.change = change

        def __dlpack__(self, **options: Any) -> Any:
            found = super().__dlpack__(**options)
            record = dlpack._Versioned.from_address(dlpack._pointer(id(found), b"dltensor_versioned"))
            self.change(record)
            return found

    held = exported()
    for change, text in (
        (lambda r: setattr(r, "major", 2), "DLPack 2"),
        (lambda r: setattr(r.tensor.dtype, "lanes", 4), "x 4"),
        (lambda r: setattr(r.tensor.dtype, "code", 5), "type 5 of 64 bits"),
        (lambda r: setattr(r.tensor, "rank", 100), "100 axes"),
        (lambda r: setattr(r.tensor, "rank", -1), "-1 axes"),
        (lambda r: setattr(r.tensor, "shape", None), "without extents"),
        (lambda r: r.tensor.shape.__setitem__(0, -3), "extents"),
        (lambda r: r.tensor.shape.__setitem__(0, 1 << 62), "outside of memory"),
        (lambda r: r.tensor.strides.__setitem__(0, -(1 << 60)), "outside of memory"),
        (lambda r: setattr(r.tensor, "data", None), "outside of memory"),
        (lambda r: setattr(r.tensor, "offset", (1 << 64) - 8), "outside of memory"),
        (lambda r: setattr(r.tensor.device, "kind", dlpack.CUDA), "its capsule (2, 0)"),
    ):
        with pytest.raises(tessera_runtime.InputError) as caught:
            tessera_runtime.from_dlpack(Odd(change))
        assert caught.value.code == "E708" and text in caught.value.message
    with pytest.raises(tessera_runtime.InputError, match="no unused capsule"):
        dlpack.take(type("Nothing", (), {"__dlpack__": lambda self, **_: None})(), "x", (dlpack.CPU, 0))
    for raised in (KeyError("lost"), MemoryError(), AssertionError()):  # code of others may raise anything
        with pytest.raises(tessera_runtime.InputError, match="cannot be shared"):
            tessera_runtime.from_dlpack(type("Raises", (Foreign,), {"__dlpack__": _raises(raised)})(np.ones(3)))
    for place in (None, (1,), ("a", "b")):
        with pytest.raises(tessera_runtime.InputError, match="on which device"):
            tessera_runtime.from_dlpack(type("Lost", (), {"__dlpack_device__": lambda self, place=place: place})())
    del caught
    assert exported() == held, "also what is refused is given back"


def _raises(error: Exception) -> Any:
    def export(self: Any, **options: Any) -> Any:
        raise error

    return export


def test_tensors_share_their_memory_read_only() -> None:
    x = ts.tensor(values("f32", 4, 6))
    found = np.from_dlpack(x)
    if found.flags.writeable:  # a NumPy that asks for version 0 gets a copy
        assert not np.shares_memory(found, x._data)
    else:
        assert np.shares_memory(found, x._data)
    mine = tessera_runtime.from_dlpack(x)
    assert np.shares_memory(mine, x._data) and not mine.flags.writeable
    np.testing.assert_array_equal(np.asarray(x), x._data)
    np.testing.assert_array_equal(np.asarray(x, dtype=np.float64), x._data.astype(np.float64))
    narrow = values("bf16", 3, 5)
    tensor = ts.from_dlpack(Foreign(narrow))
    assert tensor.dtype == ts.bf16 and np.shares_memory(tensor._data, narrow)
    np.testing.assert_array_equal((tensor + tensor).numpy(), narrow + narrow)
    assert narrow.dtype == ml_dtypes.bfloat16 and ts.from_dlpack(tensor) is tensor
    with pytest.raises(ts.SourceError) as caught:
        ts.from_dlpack([1.0])
    assert caught.value.code == "E311"

"""Comparing results with what is expected: one rule for the command line and for embedded tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tessera_runtime.core.dtypes import DTYPES, decode

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Difference", "compare", "number", "readable"]


class Difference(NamedTuple):
    """How two arrays differ: a message, and for values the first place, both values there, and the extent of it."""

    message: str
    position: tuple[int, ...] | None = None
    expected: Any = None
    actual: Any = None
    wrong: int = 0
    largest: float = 0.0


def readable(array: NDArray[Any], dtype: str) -> NDArray[Any]:
    """The array as NumPy can show and compute it: narrow types of ml_dtypes as f32 or i8, others unchanged.

    `dtype` is what raw integers of its storage stand for.
    """
    from tessera_runtime.core.dtypes import dtype_of, storage_dtype

    if array.dtype != storage_dtype(dtype):  # says itself what it is
        dtype = dtype_of(array.dtype)
    entry = DTYPES[dtype]
    if entry.numpy == entry.raw:
        return array
    return decode(dtype, array.view(storage_dtype(dtype)).reshape(array.shape))


def compare(actual: NDArray[Any], expected: NDArray[Any], dtype: str, atol: float, rtol: float) -> Difference | None:
    """None when |actual - expected| <= atol + rtol |expected| everywhere, in float64; integers and bool exactly.

    NaN equals NaN; infinities equal themselves only.
    """
    import numpy as np

    if actual.shape != expected.shape:
        return Difference(f"expected shape {list(expected.shape)}, actual {list(actual.shape)}")
    actual, expected = readable(actual, dtype), readable(expected, dtype)
    if DTYPES[dtype].kind != "f":
        wrong = np.not_equal(actual, expected)
        distance = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
    else:
        a, e = actual.astype(np.float64), expected.astype(np.float64)
        with np.errstate(invalid="ignore"):
            distance = np.abs(a - e)
            close = (
                (a == e)
                | (np.isnan(a) & np.isnan(e))
                | (np.isfinite(a) & np.isfinite(e) & (distance <= atol + rtol * np.abs(e)))
            )
        wrong = ~close
    if not wrong.any():
        return None
    index = tuple(int(i) for i in np.argwhere(wrong)[0])
    count = int(np.count_nonzero(wrong))
    finite = distance[wrong & np.isfinite(distance)]
    largest = float(finite.max()) if finite.size else float("inf")
    want, got = number(expected[index]), number(actual[index])
    return Difference(
        f"at {list(index)}: expected {want}, actual {got}; "
        f"{count} of {wrong.size} elements differ, the largest by {largest:.6g}",
        index,
        want,
        got,
        count,
        largest,
    )


def number(value: Any) -> Any:
    """A Python number for an element of a `readable` array, in the shortest digits that give the element back."""
    if value.dtype.kind in "iub":
        return value.item()
    return float(str(value))

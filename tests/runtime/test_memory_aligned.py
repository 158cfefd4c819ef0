"""Results lie at cache-line boundaries."""

from __future__ import annotations

import numpy as np
import pytest

from tessera_runtime.memory import ALIGN, aligned_empty


@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 0, 2), (4097,), (63, 1025), (1 << 20,)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.bool_])
def test_shape_type_and_place(shape: tuple[int, ...], dtype: type) -> None:
    array = aligned_empty(shape, np.dtype(dtype))
    assert array.shape == shape and array.dtype == dtype and array.flags.c_contiguous and array.flags.writeable
    if array.nbytes >= 1 << 14:
        assert array.ctypes.data % ALIGN == 0
    array[...] = 1
    assert (array == 1).all()

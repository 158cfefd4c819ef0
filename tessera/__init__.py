"""Tessera: a tile-first language. Importing it needs NumPy only; functions run eagerly until they are compiled.

    import tessera as ts

    @ts.function
    def mlp(x: ts.Tensor["B", "D", ts.f32], w: ts.Tensor["D", "K", ts.f32]) -> ts.Tensor["B", "K", ts.f32]:
        return ts.relu(x @ w)
"""

from __future__ import annotations

from math import e, inf, nan, pi
from typing import Dict, List, Tuple

# The package tessera.kernel is imported before the decorator of that name is bound, which would else be overwritten.
import tessera.kernel
from tessera import nn, random, tile
from tessera.derivatives import autodiff, grad, jvp, value_and_grad, vjp
from tessera.decorators import Function, Kernel, function, jit, kernel
from tessera.dtypes import *  # noqa: F403
from tessera.dtypes import bool_ as bool  # noqa: A004
from tessera.errors import SourceError, Span, TesseraError
from tessera.numerics import accum, loss_scale, stochastic_round
from tessera.ops import *  # noqa: F403
from tessera.random import rand, randint, randn
from tessera.tensor import Tensor, array, load, tensor
from tessera.types import Region, TensorType, Tile, read, reduce_max, reduce_min, reduce_sum, write

__version__ = "0.1.0"

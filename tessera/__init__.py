"""Tessera: a tile-first language. Importing it needs NumPy only; functions run eagerly until they are compiled.

    import tessera as ts

    @ts.function
    def mlp(x: ts.Tensor["B", "D", ts.f32], w: ts.Tensor["D", "K", ts.f32]) -> ts.Tensor["B", "K", ts.f32]:
        return ts.relu(x @ w)
"""

from __future__ import annotations

from math import e as e
from math import inf as inf
from math import nan as nan
from math import pi as pi
from types import ModuleType as _ModuleType
from typing import TYPE_CHECKING as _CHECKED
from typing import Dict as Dict  # noqa: UP035

# The package tessera.kernel is imported before the decorator of that name is bound, which would else be overwritten.
import tessera.kernel as _kernel  # noqa: F401
from tessera import aot as aot
from tessera import memory as memory
from tessera import nn as nn
from tessera import optim as optim
from tessera import profiler as profiler
from tessera import random as random
from tessera import tile as tile
from tessera.annotations import State as State
from tessera.annotations import like as like
from tessera.bounds import dim as dim
from tessera.control import cond as cond
from tessera.control import scan as scan
from tessera.control import while_loop as while_loop
from tessera.decorators import Function as Function
from tessera.decorators import Kernel as Kernel
from tessera.decorators import function as function
from tessera.decorators import jit as jit
from tessera.decorators import kernel as kernel
from tessera.derivatives import all_finite as all_finite
from tessera.derivatives import autodiff as autodiff
from tessera.derivatives import checkpoint as checkpoint
from tessera.derivatives import custom_jvp as custom_jvp
from tessera.derivatives import custom_vjp as custom_vjp
from tessera.derivatives import grad as grad
from tessera.derivatives import gradcheck as gradcheck
from tessera.derivatives import hvp as hvp
from tessera.derivatives import jacfwd as jacfwd
from tessera.derivatives import jacrev as jacrev
from tessera.derivatives import jvp as jvp
from tessera.derivatives import value_and_grad as value_and_grad
from tessera.derivatives import vjp as vjp
from tessera.derivatives import vmap as vmap
from tessera.dtypes import *  # noqa: F403
from tessera.dtypes import bool_ as bool  # noqa: F401
from tessera.errors import SourceError as SourceError
from tessera.errors import Span as Span
from tessera.errors import TesseraError as TesseraError
from tessera.errors import TesseraWarning as TesseraWarning
from tessera.files import load as load
from tessera.numerics import accum as accum
from tessera.numerics import compute as compute
from tessera.numerics import loss_scale as loss_scale
from tessera.numerics import scale as scale
from tessera.numerics import stochastic_round as stochastic_round
from tessera.numerics import tf32 as tf32
from tessera.ops import *  # noqa: F403
from tessera.policies import rounding_key as rounding_key
from tessera.quantized import *  # noqa: F403
from tessera.random import rand as rand
from tessera.random import randint as randint
from tessera.random import randn as randn
from tessera.stored import PrecisionPolicy as PrecisionPolicy
from tessera.stored import precision_policy as precision_policy
from tessera.tensor import Tensor as Tensor
from tessera.tensor import array as array
from tessera.tensor import from_dlpack as from_dlpack
from tessera.tensor import tensor as tensor
from tessera.types import Region as Region
from tessera.types import TensorType as TensorType
from tessera.types import Tile as Tile
from tessera.types import read as read
from tessera.types import reduce_max as reduce_max
from tessera.types import reduce_min as reduce_min
from tessera.types import reduce_sum as reduce_sum
from tessera.types import write as write

__version__ = "0.1.0"

if _CHECKED:
    kernels: _ModuleType
else:

    def __getattr__(name: str) -> object:
        """`ts.kernels`, the library: its kernels are read when it is first used, which costs others nothing."""
        if name != "kernels":
            raise AttributeError(f"module 'tessera' has no attribute {name!r}")
        from importlib import import_module

        return import_module("tessera.kernels")

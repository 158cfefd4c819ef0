"""All operators and the functions that apply them. A new operator goes into the file of its family."""

from tessera.arithmetic import operators
from tessera.ops import (
    activations,
    attention,
    compare,
    convolution,
    create,
    elementwise,
    fourier,
    functions,
    indexing,
    linalg,
    nn,
    packing,
    parts,
    random_bits,
    reduce,
    rounding,
    select,
    subscript,
    views,
    windows,
)
from tessera.ops.activations import *  # noqa: F403
from tessera.ops.attention import *  # noqa: F403
from tessera.ops.compare import *  # noqa: F403
from tessera.ops.convolution import *  # noqa: F403
from tessera.ops.create import *  # noqa: F403
from tessera.ops.elementwise import *  # noqa: F403
from tessera.ops.fourier import *  # noqa: F403
from tessera.ops.functions import *  # noqa: F403
from tessera.ops.indexing import *  # noqa: F403
from tessera.ops.linalg import *  # noqa: F403
from tessera.ops.nn import *  # noqa: F403
from tessera.ops.packing import *  # noqa: F403
from tessera.ops.parts import *  # noqa: F403
from tessera.ops.random_bits import *  # noqa: F403
from tessera.ops.reduce import *  # noqa: F403
from tessera.ops.rounding import *  # noqa: F403
from tessera.ops.select import *  # noqa: F403
from tessera.ops.subscript import *  # noqa: F403
from tessera.ops.views import *  # noqa: F403
from tessera.ops.windows import *  # noqa: F403

__all__: list[str] = []
__all__ += activations.__all__
__all__ += attention.__all__
__all__ += compare.__all__
__all__ += convolution.__all__
__all__ += create.__all__
__all__ += elementwise.__all__
__all__ += fourier.__all__
__all__ += functions.__all__
__all__ += indexing.__all__
__all__ += linalg.__all__
__all__ += nn.__all__
__all__ += packing.__all__
__all__ += parts.__all__
__all__ += random_bits.__all__
__all__ += reduce.__all__
__all__ += rounding.__all__
__all__ += select.__all__
__all__ += subscript.__all__
__all__ += views.__all__
__all__ += windows.__all__

operators.provide({name: function for name, function in globals().items() if name in __all__})

"""What the plan must know of a kernel when only its machine-near form is left: attributes of the `target.func`.

    grid     groups along each axis, dim expressions
    access   per parameter: read, write, readwrite, or value (a scalar)
    dtypes   per parameter: its element type
    symbols  sizes that follow the parameters as i64 arguments
    flops    floating-point operations and the rate of their unit, pairs (tesseracc.analysis.flops)
    ops      names of what it computes (name-operations)
    parts    lines that it computes and the parameters with their results (name-operations)
"""

from __future__ import annotations

from tesseracc.ir.types import element
from tesseracc.ir.value import Attr, Func


def interface(kernel: Func) -> dict[str, Attr]:
    """The attributes for the target function of a `tile.kernel`."""
    return {
        "access": kernel.attrs["access"],
        "dtypes": tuple(element(p.type) for p in kernel.params),
        "grid": kernel.attrs["grid"],
        "symbols": kernel.attrs["symbols"],
        "flops": kernel.attrs.get("flops", ()),
        "ops": kernel.attrs.get("ops", ()),
        "parts": kernel.attrs.get("parts", ()),
    }

"""A chain of elementwise operators becomes one loop: nothing between them goes through memory.

    tesseracc build samples/fused_elementwise.py --emit schedule      one group, not four
"""

import tessera as ts


@ts.function
def gelu_affine(
    x: ts.Tensor["N", "D", ts.f32],
    scale: ts.Tensor["D", ts.f32],
    shift: ts.Tensor["D", ts.f32],
    residual: ts.Tensor["N", "D", ts.f32],
) -> ts.Tensor["N", "D", ts.f32]:
    """gelu(x * scale + shift) + residual."""
    return ts.gelu(x * scale + shift, approximate="tanh") + residual

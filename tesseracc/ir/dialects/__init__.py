"""The dialects: one row per operation. Importing this package registers them all."""

from tesseracc.ir.dialects import (
    arith,
    control,
    graph,
    scf,
    schedule,
    target,
    target_cpu,
    target_tensor_memory,
    tile,
    tile_values,
)

__all__ = [
    "arith", "control", "graph", "scf", "schedule", "target", "target_cpu", "target_tensor_memory", "tile",
    "tile_values",
]  # fmt: skip

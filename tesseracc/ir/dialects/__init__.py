"""The dialects: one row per operation. Importing this package registers them all."""

from tesseracc.ir.dialects import arith, graph, scf, schedule, target, tile

__all__ = ["arith", "graph", "scf", "schedule", "target", "tile"]

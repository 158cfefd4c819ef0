"""Which passes run, in which order, and why: data.

A pipeline is a sequence of steps. Every pass leaves functions of other levels alone, so a module may hold several.
"""

from __future__ import annotations

from tesseracc.ir.pipeline import Step, parse_pipeline
from tesseracc.passes.graph import decompose as _decompose
from tesseracc.passes.graph import to_schedule as _to_schedule
from tesseracc.passes.schedule import choose_strategy as _choose_strategy
from tesseracc.passes.schedule import to_tile as _to_tile
from tesseracc.passes.target import expand_fma as _expand_fma
from tesseracc.passes.target import expand_math as _expand_math
from tesseracc.passes.target import expand_narrow as _expand_narrow
from tesseracc.passes.target import lower_cpu as _lower_cpu
from tesseracc.passes.target import lower_gpu as _lower_gpu

# importing a pass registers it
_PASSES = (_decompose, _to_schedule, _choose_strategy, _to_tile, _expand_fma, _expand_math, _expand_narrow, _lower_cpu, _lower_gpu)

GRAPH: tuple[Step, ...] = parse_pipeline("decompose")

SCHEDULE: tuple[Step, ...] = parse_pipeline("graph-to-schedule")

# The strategy is recorded before the target is known to matter; the lowering reads the target's sizes.
TILE: tuple[Step, ...] = parse_pipeline("choose-strategy,schedule-to-tile")

# Functions become polynomials before narrow types become integers (their arguments are f32 and f64); what both leave
# of fused multiply-add is expanded last.
_EXPAND = "expand-math,expand-narrow,expand-fma"
TARGET: dict[str, tuple[Step, ...]] = {
    "cpu": parse_pipeline(f"tile-to-cpu,{_EXPAND}"),
    "cuda": parse_pipeline(f"tile-to-gpu,{_EXPAND}"),
}

"""Special registers (PTX ISA, Special Registers). Each is an array over all lanes of the batch, or one scalar."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from tesseracc.emulator.types import Array

if TYPE_CHECKING:
    from tesseracc.emulator.wave import Wave

__all__ = ["special_source"]


def _axis(index: Array, shape: tuple[int, int, int], axis: int) -> Array:
    stride = int(np.prod(shape[:axis], dtype=np.int64)) if axis else 1
    return (index // stride % shape[axis]).astype(np.uint32)


def _per_lane(name: str) -> Callable[[Wave], Array]:
    """Values over all lanes of the batch, computed on first use."""
    base, _, letter = name.partition(".")
    axis = "xyz".index(letter) if letter else 0

    def compute(w: Wave) -> Array:
        lane = np.arange(w.size) & 31
        one = np.uint64(1)
        if base == "tid":
            return _axis(w.thread, w.launch.block, axis)
        if base == "ctaid":
            return _axis(w.cta_number[w.cta], w.launch.grid, axis)
        if base == "laneid":
            return lane.astype(np.uint32)
        if base == "warpid":
            return (w.thread >> 5).astype(np.uint32)
        if base == "clusterid":
            return _axis(w.cta_number[w.cta], w.launch.grid, axis) // np.uint32(w.launch.cluster[axis])
        if base == "cluster_ctaid":
            return _axis(w.cta_number[w.cta], w.launch.grid, axis) % np.uint32(w.launch.cluster[axis])
        if base == "cluster_ctarank":
            return (w.cta % w.launch.cluster_size).astype(np.uint32)
        if base.startswith("lanemask_"):
            eq = one << lane.astype(np.uint64)
            full = np.uint64(0xFFFFFFFF)
            mask = {"eq": eq, "lt": eq - one, "le": (eq << one) - one, "ge": full & ~(eq - one),
                    "gt": full & ~((eq << one) - one)}[base[9:]]  # fmt: skip
            return mask.astype(np.uint32)
        if base == "smid":
            return (w.cta_number[w.cta] % 132).astype(np.uint32)
        raise ValueError(f"special register %{name}")

    def get(w: Wave) -> Array:
        value = w.special.get(name)
        if value is None:
            value = w.special[name] = compute(w)
        return value if w.full else value[w.sel]

    return get


def _shared_by_all(name: str) -> Callable[[Wave], Array] | None:
    base, _, letter = name.partition(".")
    axis = "xyz".index(letter) if letter else 0
    table: dict[str, Callable[[Wave], int]] = {
        "ntid": lambda w: w.launch.block[axis],
        "nctaid": lambda w: w.launch.grid[axis],
        "nwarpid": lambda w: w.warps_per_cta,
        "nsmid": lambda w: 132,
        "gridid": lambda w: 1,
        "nclusterid": lambda w: w.launch.grid[axis] // w.launch.cluster[axis],
        "cluster_nctaid": lambda w: w.launch.cluster[axis],
        "cluster_nctarank": lambda w: w.launch.cluster_size,
        "total_smem_size": lambda w: w.launch.shared_size,
        "aggr_smem_size": lambda w: w.launch.shared_size,
        "dynamic_smem_size": lambda w: w.launch.dynamic_shared,
        "clock": lambda w: w.steps_done & 0xFFFFFFFF,
        "clock_hi": lambda w: w.steps_done >> 32,
        "clock64": lambda w: w.steps_done,
        "globaltimer": lambda w: w.steps_done,
        "globaltimer_lo": lambda w: w.steps_done & 0xFFFFFFFF,
        "globaltimer_hi": lambda w: w.steps_done >> 32,
        "current_graph_exec": lambda w: 0,
    }
    if base == "is_explicit_cluster":
        return lambda w: np.bool_(w.launch.cluster_size > 1)
    if name.startswith("envreg"):
        return lambda w: np.uint32(0)
    fetch = table.get(base)
    return None if fetch is None else lambda w: np.uint64(fetch(w))


def special_source(name: str) -> Callable[[Wave], Array]:
    """A function that gives the special register's value for the active lanes."""
    shared = _shared_by_all(name)
    if shared is not None:
        return shared
    known = ("tid", "ctaid", "laneid", "warpid", "clusterid", "cluster_ctaid", "cluster_ctarank", "smid")
    if name.split(".")[0] not in known and not name.startswith("lanemask_"):
        raise ValueError(f"special register %{name}")
    return _per_lane(name)

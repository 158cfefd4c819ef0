"""`target` operations on tensor memory (GPU): 128 lanes of 512 columns of 32 bits, where matrix units put sums.

A warp reaches the 32 lanes of its window, 32 (warp mod 4) and on. An address has the lane in its upper and the column
in its lower 16 bits. Products of a thread run in the order in which it issues them; they are finished when the arrival
of a commit behind them has completed a phase of an mbarrier.
"""

from __future__ import annotations

from tesseracc.ir.define import define
from tesseracc.ir.types import element, size_of
from tesseracc.ir.value import Op

COLUMNS = 512
#: registers of a thread for one repetition of each shape of a load
LOADS = {"32x32b": 1, "16x64b": 1, "16x128b": 2, "16x256b": 4}
MOST_REGISTERS = 128  # of one load


def _columns(op: Op) -> str | None:
    count = op.attrs["columns"]
    if count < 32 or count > COLUMNS or count & (count - 1):
        return f"{count} columns: a power of two from 32 to {COLUMNS} is expected"
    return None


def _load(op: Op) -> str | None:
    shape, repeat = op.attrs["shape"], op.attrs["repeat"]
    if shape not in LOADS:
        return f"no shape is called {shape}"
    if repeat < 1 or repeat & (repeat - 1) or LOADS[shape] * repeat > MOST_REGISTERS:
        return f"{shape} cannot be repeated {repeat} times"
    if len(op.results) != LOADS[shape] * repeat or any(size_of(element(r.type)) != 4 for r in op.results):
        return f"{LOADS[shape] * repeat} results of 32 bits are expected"
    return None


define(
    "target.tensor_alloc",
    "ptr",
    "columns:int",
    effect="sync",
    verify=_columns,
    doc="A warp allocates columns, a power of two from 32; their address goes to shared memory as an i32 (GPU).",
)
define("target.tensor_relinquish", effect="sync", doc="The CTA allocates no more columns (GPU).")
define(
    "target.tensor_free",
    "address",
    "columns:int",
    effect="sync",
    verify=_columns,
    doc="A warp gives columns back (GPU).",
)
define(
    "target.tensor_mma",
    "to a b add",
    "instruction:str descriptor:int",
    effect="sync",
    doc="A thread issues `to` = a b, plus what is there where `add` (i32) is not 0. `to` is an address, a and b are "
    "descriptors of matrices in shared memory, `descriptor` tells shape and types (GPU).",
)
define(
    "target.tensor_commit",
    "ptr",
    "blocks:int=1",
    effect="sync",
    doc="An arrival at an mbarrier, of so many blocks of the cluster, when this thread's products are finished (GPU).",
)
define(
    "target.tensor_load",
    "address",
    "shape:str repeat:int",
    effect="sync",
    verify=_load,
    doc="A warp loads its lanes of columns from an address on. Nobody may touch the results before the wait (GPU).",
)
define(
    "target.tensor_wait_loads", "values*", effect="sync", doc="The values, when the warp's loads are finished (GPU)."
)
define(
    "target.tensor_fence",
    attrs="before:bool",
    effect="sync",
    doc="Orders this thread's operations on tensor memory with a synchronisation of threads: those before the fence "
    "with what is behind the synchronisation (`before`), or those behind the fence with what is before it (GPU).",
)

"""What the lowering decided about products and buffers, for `--notes`, and why it took no better way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tesseracc.analysis.tensor_copies import tensor_copies
from tesseracc.ir.types import TileType
from tesseracc.ir.value import Loc, Op
from tesseracc.layout.select import Choice

if TYPE_CHECKING:
    from tesseracc.passes.target.lower_gpu import Lowering

Told = tuple[str, "Loc | None"]


def product_notes(low: Lowering) -> Iterator[Told]:
    """A note for each product, each pipeline, and each wish of the program that is not followed."""
    for op in low.kernel.walk():
        if op.name == "tile.mma":
            yield _product(low, op), op.loc
        elif op.name == "tile.pipeline":
            yield f"{op.attrs['stages']} stages of operands in shared memory, {_copies(low)}", op.loc
        elif op.name == "tile.alloc" and op.attrs["swizzle"] == "xor" and op.result not in low.swizzles:
            yield 'swizzle="xor" is not followed: rows do not consist of 2, 4 or 8 chunks of 16 bytes', op.loc
        elif op.name == "tile.alloc" and op.attrs["swizzle"] == "none" and low.arch.has("wgmma"):
            yield 'swizzle="none": products load this operand to registers, for they read swizzled rows alone', op.loc


def _product(low: Lowering, op: Op) -> str:
    a, b, acc = (op[name].type for name in ("a", "b", "acc"))
    assert isinstance(a, TileType) and isinstance(b, TileType) and isinstance(acc, TileType)
    shape = f"{acc.shape[0]} x {acc.shape[1]} x {a.shape[1]} of {a.dtype}"
    choice = low.layouts.choices.get(op.result)
    if choice is None:
        return f"product {shape}: fused multiply-add, {low.arch.name} has no unit for {a.dtype} into {acc.dtype}"
    grid = low.layouts.grids.get(op.result)
    spread = f", {grid[0]} x {grid[1]} groups of {32 * choice.row.warps} threads" if grid else ""
    return f"product {shape}: {choice.row.op} {choice.spelling}{spread}{_refused(low, op, choice)}"


def _refused(low: Lowering, op: Op, choice: Choice) -> str:
    """Why the product is not one of a group of warps that reads operands in shared memory."""
    if choice.row.warps > 1 or choice.row.op != "mma.sync" or not low.arch.has("wgmma"):
        return ""
    rows = op["acc"].type.shape[0]  # type: ignore[union-attr]
    if low.warps % 4:
        why = f"a group of {low.group} threads is no multiple of 128"
    elif rows % 64:
        why = f"{rows} rows are no multiple of 64"
    elif op["b"] not in low.layouts.placed:
        why = "the right operand does not lie in swizzled shared memory"
    else:
        why = "no form has this shape, and operands in this order"
    return f"; not wgmma: {why}"


def _copies(low: Lowering) -> str:
    """How a pipeline's operands come to shared memory."""
    if low.roles:
        return "filled by tensor copies (TMA) of warps of their own"
    if not low.arch.has("cp_async"):
        return "filled through registers: the target has no asynchronous copies"
    if not low.arch.has("tma"):
        return "filled by cp.async"
    if low.group % 128:
        why = f"a group of {low.group} threads is no multiple of 128"
    elif tensor_copies(low.kernel) is None:
        why = "a block is no box of a row-major tensor, or its place takes more than arithmetic"
    else:
        why = "this version is for rows that are no multiples of 16 bytes, and for empty tensors"
    return f"filled by cp.async; not by tensor copies: {why}"

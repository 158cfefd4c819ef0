"""Kernels on whole tiles that several tests run, built operation by operation."""

from __future__ import annotations

from collections.abc import Callable

from tessera.shapes import parse_dim
from tesseracc.ir.builder import Builder
from tesseracc.ir.types import BufType, TileType, Type
from tesseracc.ir.value import Func, Module, Value
from tesseracc.ir.verify import verify

ZERO_ONE = (0, 1)


class Sketch:
    """Builds one kernel; names what is written often."""

    def __init__(self, name: str, params: dict[str, tuple[str, str, str]], grid: list[str], group: int = 128) -> None:
        self.b = Builder()
        self.name = name
        self.params = {
            key: Value(BufType(tuple(parse_dim(d) for d in dims.split(",")), dtype), key)
            for key, (dtype, dims, _) in params.items()
        }
        symbols = sorted({d.strip() for _, dims, _ in params.values() for d in dims.split(",") if d.strip().isalpha()})
        self.attrs = {
            "access": tuple(access for _, _, access in params.values()),
            "grid": tuple(parse_dim(g) for g in grid),
            "group": group,
            "symbols": tuple(symbols),
        }

    def __getitem__(self, name: str) -> Value:
        return self.params[name]

    def at(self, axis: int, size: int) -> Value:
        """Where this group's block begins."""
        return self.b.op("arith.mul", self.b.op("tile.group_id", axis=axis), self.b.const(size))

    def dim(self, text: str) -> Value:
        return self.b.op("tile.dim", expr=parse_dim(text))

    def shared(self, dims: tuple[int, ...], dtype: str) -> Value:
        return self.b.op("tile.alloc", types=BufType(dims, dtype, "shared"))

    def module(self) -> Module:
        region = self.b.region(list(self.params.values()))
        return verify(Module((Func("tile.kernel", self.name, region, self.attrs),)))


def full(b: Builder, value: float, shape: tuple[int, ...], dtype: str = "f32") -> Value:
    return b.op("arith.constant", types=TileType(shape, dtype), value=value)


def read(b: Builder, buf: Value, at: list[Value], shape: tuple[int, ...], axes: tuple[int, ...] = ZERO_ONE) -> Value:
    dtype = buf.type.dtype  # type: ignore[union-attr]
    return b.op("tile.read", buf, at, types=TileType(shape, dtype), axes=axes)


def spread(b: Builder, row: Value, columns: int) -> Value:
    """One element per row, in every column."""
    type_ = row.type
    assert isinstance(type_, TileType)
    return b.op("tile.broadcast", row, types=TileType((*type_.shape, columns), type_.dtype), axes=(0,))


def loop(b: Builder, end: Value, step: int, inits: list[Value], body: Callable[..., list[Value]]) -> tuple[Value, ...]:
    return b.for_(b.const(0), end, b.const(step), inits, body)


def gemm(
    m: int = 32, n: int = 64, k: int = 16, dtype: str = "f32", acc: str = "f32", out: str = "f32",
    *, group: int = 128, staged: str = "none", trans_a: bool = False, trans_b: bool = False,
) -> Module:  # fmt: skip
    """c = relu(a b) over tiles; `staged`: operands in shared memory by copies (`async`) or writes, or not."""
    a_dims, b_dims = ("K, M" if trans_a else "M, K"), ("N, K" if trans_b else "K, N")
    s = Sketch(
        "gemm", {"a": (dtype, a_dims, "read"), "b": (dtype, b_dims, "read"), "c": (out, "M, N", "write")},
        [f"ceildiv(N, {n})", f"ceildiv(M, {m})"], group,
    )  # fmt: skip
    b = s.b
    n0, m0 = s.at(0, n), s.at(1, m)
    a_shape, b_shape = ((k, m) if trans_a else (m, k)), ((n, k) if trans_b else (k, n))
    rooms = [] if staged == "none" else [s.shared(a_shape, dtype), s.shared(b_shape, dtype)]
    zero = b.const(0)

    def step(b: Builder, k0: Value, carried: list[Value]) -> list[Value]:
        places = [[k0, m0] if trans_a else [m0, k0], [n0, k0] if trans_b else [k0, n0]]
        operands = []
        for at, (buf, place, shape) in enumerate(zip((s["a"], s["b"]), places, (a_shape, b_shape), strict=True)):
            if staged == "async":
                b.emit("tile.copy_async", buf, rooms[at], place, [zero, zero], shape=shape, src_axes=ZERO_ONE,
                       dst_axes=ZERO_ONE)  # fmt: skip
            elif staged == "write":
                b.emit("tile.write", read(b, buf, place, shape), rooms[at], [zero, zero], axes=ZERO_ONE)
            else:
                operands.append(read(b, buf, place, shape))
        if staged == "async":
            b.emit("tile.commit")
            b.emit("tile.wait", pending=0)
            b.emit("tile.barrier")
        if rooms:
            operands = [read(b, room, [zero, zero], shape) for room, shape in zip(rooms, (a_shape, b_shape))]
        left, right = operands
        left = b.op("tile.transpose", left, perm=(1, 0)) if trans_a else left
        right = b.op("tile.transpose", right, perm=(1, 0)) if trans_b else right
        found = b.op("tile.mma", left, right, carried[0])
        if rooms:
            b.emit("tile.barrier")
        return [found]

    (total,) = loop(b, s.dim("K"), k, [full(b, 0.0, (m, n), acc)], step)
    total = b.op("arith.max", total, full(b, 0.0, (m, n), acc))
    total = total if acc == out else b.op("arith.cast", total, to=out)
    b.emit("tile.write", total, s["c"], [m0, n0], axes=ZERO_ONE)
    return s.module()


def attention(rows: int = 32, columns: int = 32, width: int = 64, dtype: str = "f32", *, group: int = 128) -> Module:
    """o = softmax(q k^T / 8) v with running maximum and sum, keys block by block, causal, any number of rows."""
    operand = (dtype, f"S, {width}", "read")
    s = Sketch("attention", {"q": operand, "k": operand, "v": operand, "o": ("f32", f"S, {width}", "write")},
               [f"ceildiv(S, {rows})"], group)  # fmt: skip
    b, zero = s.b, s.b.const(0)
    q0 = s.at(0, rows)
    q = read(b, s["q"], [q0, zero], (rows, width))
    size = s.dim("S")
    tile = TileType((rows, columns), "i64")

    def step(b: Builder, k0: Value, carried: list[Value]) -> list[Value]:
        top, total, acc = carried
        keys = read(b, s["k"], [k0, zero], (columns, width))
        scores = b.op("tile.mma", q, b.op("tile.transpose", keys, perm=(1, 0)), full(b, 0.0, (rows, columns)))
        scores = b.op("arith.mul", scores, full(b, 0.125, (rows, columns)))
        at = [
            b.op("arith.add", b.op("tile.coordinate", types=tile, axis=axis), b.op("tile.full", start, types=tile))
            for axis, start in enumerate((q0, k0))
        ]
        seen = b.op("arith.cmp", at[1], at[0], pred="le")
        seen = b.op("arith.and", seen, b.op("arith.cmp", at[1], b.op("tile.full", size, types=tile), pred="lt"))
        scores = b.op("arith.select", seen, scores, full(b, float("-inf"), (rows, columns)))
        high = b.op("arith.max", top, b.op("tile.fold", scores, axis=1, kind="max"))
        p = b.op("arith.exp", b.op("arith.sub", scores, spread(b, high, columns)))
        scale = b.op("arith.exp", b.op("arith.sub", top, high))
        total = b.op("arith.add", b.op("arith.mul", total, scale), b.op("tile.fold", p, axis=1, kind="add"))
        p = p if dtype == "f32" else b.op("arith.cast", p, to=dtype)
        acc = b.op("arith.mul", acc, spread(b, scale, width))
        acc = b.op("tile.mma", p, read(b, s["v"], [k0, zero], (columns, width)), acc)
        return [high, total, acc]

    end = b.op("arith.min", size, b.op("arith.add", q0, b.const(rows)))
    inits = [full(b, -1e30, (rows,)), full(b, 0.0, (rows,)), full(b, 0.0, (rows, width))]
    _, total, acc = loop(b, end, columns, inits, step)
    b.emit("tile.write", b.op("arith.div", acc, spread(b, total, width)), s["o"], [q0, zero], axes=ZERO_ONE)
    return s.module()


def folds(rows: int = 16, columns: int = 48, dtype: str = "f32", *, group: int = 64) -> Module:
    """Row sums, column maxima, and the sum of all, of blocks of x (R, C); 0 outside."""
    s = Sketch("folds", {"x": (dtype, "R, C", "read"), "sums": (dtype, "R", "write"), "tops": (dtype, "G, C", "write"),
                         "all": (dtype, "R", "write")}, [f"ceildiv(R, {rows})"], group)  # fmt: skip
    b, zero = s.b, s.b.const(0)
    r0, g = s.at(0, rows), s.b.op("tile.group_id", axis=0)

    def step(b: Builder, c0: Value, carried: list[Value]) -> list[Value]:
        x = read(b, s["x"], [r0, c0], (rows, columns))
        tops = b.op("tile.fold", x, axis=0, kind="max")
        b.emit("tile.write", tops, s["tops"], [g, c0], axes=(1,))
        sums = b.op("tile.fold", x, axis=1, kind="add")
        return [b.op("arith.add", carried[0], sums)]

    (sums,) = loop(b, s.dim("C"), columns, [full(b, 0.0, (rows,), dtype)], step)
    b.emit("tile.write", sums, s["sums"], [r0], axes=(0,))
    whole = b.op("tile.fold", sums, axis=0, kind="add")
    b.emit("tile.write", b.op("tile.full", whole, types=TileType((rows,), dtype)), s["all"], [r0], axes=(0,))
    del zero
    return s.module()


def transpose(rows: int = 32, columns: int = 16, dtype: str = "f32", *, group: int = 128) -> Module:
    """y = x^T + the row and column numbers, by blocks."""
    s = Sketch("transpose", {"x": (dtype, "R, C", "read"), "y": (dtype, "C, R", "write")},
               [f"ceildiv(C, {columns})", f"ceildiv(R, {rows})"], group)  # fmt: skip
    b = s.b
    c0, r0 = s.at(0, columns), s.at(1, rows)
    x = read(b, s["x"], [r0, c0], (rows, columns))
    grid: Type = TileType((columns, rows), "i64")
    offset = b.op("arith.sub", b.op("tile.coordinate", types=grid, axis=0), b.op("tile.coordinate", types=grid, axis=1))
    y = b.op("arith.add", b.op("tile.transpose", x, perm=(1, 0)), b.op("arith.cast", offset, to=dtype))
    b.emit("tile.write", y, s["y"], [c0, r0], axes=ZERO_ONE)
    return s.module()



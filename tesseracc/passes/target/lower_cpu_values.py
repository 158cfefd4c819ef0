"""What a value of a group is on a CPU, and the scalar and vector operations on it.

A uniform value is a scalar. A lanes value is kept in the cheapest form that states it and becomes a machine vector
only where one is needed:

    Affine(base, stride)   i64: lane l holds base + stride * l (modulo 2^64); uniform i64 values have stride 0
    Splat(value)           any other type, the same in every lane
    Range(lo, hi)          bool: true in the lanes lo <= l < hi; None is unbounded
    Vec(value)             a vector with one element per lane

Comparisons of an affine value with a uniform bound give a Range: "the first k lanes". Index arithmetic is assumed not
to pass 2^62, so that bounds may be moved to the other side of a comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tessera.shapes import Dim
from tessera_runtime.core.errors import TesseraError
from tesseracc.arch.arch import Arch
from tesseracc.ir.builder import Builder
from tesseracc.ir.types import BOOL, I64, BufType, PtrType, Type, VecType, element, size_of
from tesseracc.ir.value import Func, Op, Region, Value

Int: TypeAlias = int | Value  # an i64 scalar: known, or computed
SMALL = 1 << 20  # strides below this may be compared symbolically


@dataclass(frozen=True, slots=True)
class Affine:
    base: Int
    stride: Int = 0


@dataclass(frozen=True, slots=True)
class Splat:
    value: Value


@dataclass(frozen=True, slots=True)
class Vec:
    value: Value


@dataclass(frozen=True, slots=True)
class Range:
    lo: Int | None = None
    hi: Int | None = None


@dataclass(frozen=True, slots=True)
class Buf:
    """A buffer: its address; per lane (`local`), element e of lane l lies at e * width + l.

    `address` is the address as a number where stores may bypass the caches: `large` says whether the buffer is too
    large for them, and the kernel does not read it.
    """

    ptr: Value
    type: BufType
    address: Value | None = None
    large: Value | None = None


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile in scratch memory, in elements of `dtype`; `element_offset` of lower_cpu_tiles says where each lies."""

    ptr: Value
    shape: tuple[int, ...]
    dtype: str
    rows: int  # that there is memory for, over all leading axes
    row: int  # from row to row; in panels: that of one row of all panels
    panel: int  # columns of a panel; 0: row-major
    group: int = 1  # rows of which a panel holds a column's elements side by side

    @property
    def count(self) -> int:
        """Elements that the tile takes, padding included."""
        return (self.panel_rows if self.panel else self.rows) * self.row

    @property
    def panel_rows(self) -> int:
        """Rows of a panel: a group more than it needs, else all panels would begin in the same cache set."""
        return self.rows + self.group


@dataclass(frozen=True, slots=True)
class Stream:
    """The innermost loop: the value of its index, what it moves on by, and the operation that it comes from."""

    index: Value
    step: Int
    owner: Op


Lane: TypeAlias = Affine | Splat | Range | Vec
Rep: TypeAlias = Lane | Buf | Tile
ALL = Range()
Body: TypeAlias = Callable[[], list[Rep]]


def wrap(value: int) -> int:
    """Modulo 2^64, signed."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


@dataclass(frozen=True, slots=True)
class Span:
    """The end of a thread's groups, and where the number behind those stands that the group before has done."""

    end: Value
    behind: Value


class Kernel:
    """The lowering of one kernel: where code goes (`b`), what values are (`env`), which lanes take part (`mask`)."""

    def __init__(self, func: Func, arch: Arch, width: int) -> None:
        self.func = func
        self.arch = arch
        self.width = width
        self.group = int(func.attrs["group"])
        self.prologue = Builder(func.loc)
        self.b = Builder(func.loc)
        self.env: dict[Value, Rep] = {}
        self.mask: Lane = ALL
        self.symbols: dict[str, Value] = {}
        self.dims: dict[str, Value] = {}
        self.group_ids: list[Int] = []
        self.span: Span | None = None  # where groups may take their neighbours' work
        self.lane_base: Int = 0
        self.scratch: Value = Value(PtrType("global"), "scratch")
        self.scratch_bytes = 0
        self.temporaries: dict[tuple[str, int], Value] = {}
        self.stream: Stream | None = None  # the innermost loop, where code is for all lanes
        self.streamed: dict[object, list[Op]] = {}  # the loops over some elements, in order
        self.touches = False  # whether loads only ask for their cache lines
        self.gathers = 0  # scattered loads so far
        self.bypasses = False  # whether some store bypasses the caches
        self.uses_tile_registers = False
        self.tile_uses: object = None  # the analysis of lower_cpu_tiles, made when first asked for

    # -- scalars ---------------------------------------------------------------------------------------------------

    def value(self, a: Int) -> Value:
        return self.b.const(a) if isinstance(a, int) else a

    def _fold(self, name: str, a: Int, b: Int, known: Callable[[int, int], int]) -> Int:
        if isinstance(a, int) and isinstance(b, int):
            return wrap(known(a, b))
        return self.b.op(f"arith.{name}", self.value(a), self.value(b))

    def add(self, a: Int, b: Int) -> Int:
        if a == 0 or b == 0:
            return b if a == 0 else a
        return self._fold("add", a, b, lambda x, y: x + y)

    def sub(self, a: Int, b: Int) -> Int:
        return a if b == 0 else self._fold("sub", a, b, lambda x, y: x - y)

    def mul(self, a: Int, b: Int) -> Int:
        if a == 0 or b == 0:
            return 0
        if a == 1 or b == 1:
            return b if a == 1 else a
        return self._fold("mul", a, b, lambda x, y: x * y)

    def floordiv(self, a: Int, b: int) -> Int:
        return a if b == 1 else self._fold("floordiv", a, b, lambda x, y: x // y if y else 0)

    def ceildiv(self, a: Int, b: int) -> Int:
        return a if b == 1 else self.floordiv(self.add(a, b - 1), b)

    def min(self, a: Int, b: Int) -> Int:
        return a if a is b else self._fold("min", a, b, min)

    def max(self, a: Int, b: Int) -> Int:
        return a if a is b else self._fold("max", a, b, max)

    def less(self, a: Int, b: Int) -> Value | bool:
        if isinstance(a, int) and isinstance(b, int):
            return a < b
        return self.b.op("arith.cmp", self.value(a), self.value(b), pred="lt")

    def both(self, a: Value | bool, b: Value | bool) -> Value | bool:
        if isinstance(a, bool):
            return b if a else False
        if isinstance(b, bool):
            return a if b else False
        return self.b.op("arith.and", a, b)

    def dim(self, expr: Dim) -> Int:
        """The value of a dim expression; computed once per call of the kernel."""
        if isinstance(expr, int):
            return expr
        key = str(expr)
        if key not in self.dims:
            saved, self.b = self.b, self.prologue
            self.dims[key] = self.value(self._postfix(expr.to_postfix()))
            self.b = saved
        return self.dims[key]

    def _postfix(self, program: Sequence[int | str]) -> Int:
        stack: list[Int] = []
        for item in program:
            if isinstance(item, int):
                stack.append(item)
            elif item in self.symbols:
                stack.append(self.symbols[item])
            else:
                right, left = stack.pop(), stack.pop()
                match item:
                    case "add":
                        stack.append(self.add(left, right))
                    case "sub":
                        stack.append(self.sub(left, right))
                    case "mul":
                        stack.append(self.mul(left, right))
                    case "floordiv" | "mod":
                        stack.append(self.b.op(f"arith.{item}", self.value(left), self.value(right)))
                    case "ceildiv":  # -(-a // b)
                        negated = self.b.op("arith.floordiv", self.value(self.sub(0, left)), self.value(right))
                        stack.append(self.sub(0, negated))
                    case "min":
                        stack.append(self.min(left, right))
                    case "max":
                        stack.append(self.max(left, right))
                    case _:
                        raise TesseraError("E404", f"@{self.func.name}: dim `{item}` is not among the kernel's symbols")
        (result,) = stack
        return result

    # -- memory for the group --------------------------------------------------------------------------------------

    def reserve(self, size: int) -> Value:
        """The address of fresh scratch memory, aligned to 64 bytes."""
        at = self.scratch_bytes
        self.scratch_bytes += -(-size // 64) * 64
        saved, self.b = self.b, self.prologue
        ptr = self.offset(self.scratch, at, "u8")
        self.b = saved
        return ptr

    def offset(self, ptr: Value, index: Int, dtype: str) -> Value:
        return ptr if index == 0 else self.b.op("target.offset", ptr, self.value(index), dtype=dtype)

    # -- vectors ---------------------------------------------------------------------------------------------------

    def vec_type(self, dtype: str) -> VecType:
        return VecType(self.width, dtype)

    def splat(self, scalar: Value) -> Value:
        return self.b.op("target.splat", scalar, count=self.width)

    def constant(self, value: int | float | bool, dtype: str) -> Value:
        """A vec with the same known value in every lane."""
        return self.b.const(value, self.vec_type(dtype))

    def vector(self, rep: Rep, dtype: str) -> Value:
        """The value as a machine vector."""
        match rep:
            case Vec(value):
                return value
            case Splat(value):
                return self.splat(value)
            case Affine(base, stride):
                if stride == 0:
                    return self.constant(base, "i64") if isinstance(base, int) else self.splat(base)
                lanes: Value = self.b.op("target.iota", count=self.width, dtype="i64")
                if stride != 1:
                    scale = self.constant(stride, "i64") if isinstance(stride, int) else self.splat(stride)
                    lanes = self.b.op("arith.mul", lanes, scale)
                return lanes if base == 0 else self.b.op("arith.add", lanes, self.vector(Affine(base), "i64"))
            case Range(lo, hi):
                return self._range_vector(lo, hi)
        raise TesseraError("E404", f"@{self.func.name}: a buffer or tile is used as an element of type {dtype}")

    def _range_vector(self, lo: Int | None, hi: Int | None) -> Value:
        """The mask lo <= lane < hi, compared in 32 bits: the bounds are clamped to 0 .. width."""
        found: Value | None = None
        for bound, pred in ((lo, "ge"), (hi, "lt")):
            if bound is None:
                continue
            clamped = self.max(self.min(bound, self.width), 0)
            if isinstance(clamped, int):
                limit = self.constant(clamped, "i32")
            else:
                limit = self.splat(self.b.op("arith.cast", clamped, to="i32"))
            lanes = self.b.op("target.iota", count=self.width, dtype="i32")
            part = self.b.op("arith.cmp", lanes, limit, pred=pred)
            found = part if found is None else self.b.op("arith.and", found, part)
        return self.constant(True, "bool") if found is None else found

    def scalar(self, rep: Rep) -> Value:
        """A uniform value as a scalar."""
        match rep:
            case Splat(value):
                return value
            case Affine(base, 0):
                return self.value(base)
        raise TesseraError("E404", f"@{self.func.name}: a value that varies from lane to lane is used as a uniform one")

    def known(self, value: Value | bool) -> Value:
        return self.b.const(value, BOOL) if isinstance(value, bool) else value

    @staticmethod
    def wrap_scalar(value: Value) -> Lane:
        return Affine(value) if value.type == I64 else Splat(value)

    # -- masks -----------------------------------------------------------------------------------------------------

    def meet(self, a: Lane, b: Lane) -> Lane:
        """Lanes in both masks."""
        if a == ALL or b == ALL:
            return b if a == ALL else a
        if isinstance(a, Range) and isinstance(b, Range):
            lo = b.lo if a.lo is None else a.lo if b.lo is None else self.max(a.lo, b.lo)
            hi = b.hi if a.hi is None else a.hi if b.hi is None else self.min(a.hi, b.hi)
            return Range(lo, hi)
        if isinstance(a, Splat) and isinstance(b, Splat):
            return Splat(self.b.op("arith.and", a.value, b.value))
        return Vec(self.b.op("arith.and", self.vector(a, "bool"), self.vector(b, "bool")))

    def invert(self, mask: Lane) -> Lane:
        match mask:
            case Range(None, hi) if hi is not None:
                return Range(hi, None)
            case Range(lo, None) if lo is not None:
                return Range(None, lo)
            case Splat(value):
                return Splat(self.b.op("arith.not", value))
        return Vec(self.b.op("arith.not", self.vector(mask, "bool")))

    def any(self, mask: Lane) -> Value | bool:
        """Whether some lane of this width takes part."""
        match mask:
            case Range(lo, hi):
                low = 0 if lo is None else self.max(lo, 0)
                return self.less(low, self.width if hi is None else self.min(hi, self.width))
            case Splat(value):
                return value
        return self.b.op("target.any", self.vector(mask, "bool"))

    def all(self, mask: Lane) -> Value | bool:
        match mask:
            case Range(lo, hi):
                first = True if lo is None else self.less(lo, 1)
                return self.both(first, True if hi is None else self.less(self.width - 1, hi))
            case Splat(value):
                return value
        return self.b.op("target.all", self.vector(mask, "bool"))

    def merge(self, mask: Lane, new: Rep, old: Rep, dtype: str) -> Rep:
        """`new` in the lanes of the mask, `old` elsewhere."""
        if new == old or mask == ALL:
            return new
        cond = self.vector(mask, "bool")
        return Vec(self.b.op("arith.select", cond, self.vector(new, dtype), self.vector(old, dtype)))

    def merge_all(self, mask: Lane, new: Sequence[Rep], old: Sequence[Rep], types: Sequence[Type]) -> list[Rep]:
        return [self.merge(mask, n, o, element(type_)) for n, o, type_ in zip(new, old, types, strict=True)]

    # -- structure -------------------------------------------------------------------------------------------------

    def inside(self, body: Callable[[], Sequence[Value]], args: Sequence[Value] = ()) -> Region:
        """A region filled by `body`, which writes to `self.b`."""
        saved = self.b
        self.b = Builder(saved.loc)
        try:
            yields = body()
            return self.b.region(args, yields)
        finally:
            self.b = saved

    def loop(
        self, lo: Int, hi: Int, step: Int, inits: Sequence[Value], body: Callable[[Value, list[Value]], Sequence[Value]]
    ) -> tuple[Value, ...]:
        """scf.for over i64."""
        args = [Value(I64, "i"), *(Value(v.type) for v in inits)]
        bounds = [self.value(lo), self.value(hi), self.value(step)]
        region = self.inside(lambda: body(args[0], args[1:]), args)
        return self.b.emit("scf.for", *bounds, list(inits), types=[v.type for v in inits], regions=[region]).results

    def when(
        self, cond: Value | bool, then: Callable[[], Sequence[Value]], orelse: Callable[[], Sequence[Value]]
    ) -> tuple[Value, ...]:
        """scf.if; a known condition leaves only its branch."""
        if isinstance(cond, bool):
            return tuple(then() if cond else orelse())
        regions = [self.inside(then), self.inside(orelse)]
        types = [v.type for v in regions[0].yields]
        return self.b.emit("scf.if", cond, types=types, regions=regions).results

    def under(self, mask: Lane, body: Callable[[], list[Rep]]) -> list[Rep]:
        """Runs `body` with another mask."""
        saved, self.mask = self.mask, mask
        try:
            return body()
        finally:
            self.mask = saved


def native(k: Kernel, dtype: str) -> int:
    """Elements of a native vector."""
    return max(1, k.arch.vector_bits // (8 * size_of(dtype)))

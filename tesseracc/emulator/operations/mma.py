"""Products of a warp: mma.sync, mma.sp and their block-scaled forms (PTX ISA, Warp Level Matrix Instructions)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tesseracc.emulator import block_scaling as scaling
from tesseracc.emulator import sparsity
from tesseracc.emulator import tensor_cores as tc
from tesseracc.emulator.decode import Decoder, Sink, Source
from tesseracc.emulator.findings import BAD_STATE
from tesseracc.emulator.operations.matrix import registers, shape_of, whole_warps
from tesseracc.emulator.operations.metadata import Metadata
from tesseracc.emulator.ptx import Instruction, Operand, Vector
from tesseracc.emulator.table import Step, instruction
from tesseracc.emulator.types import Array
from tesseracc.emulator.wave import Wave

_SECTION = "9.7.14 Warp Level Matrix Instructions"
_PACKED_KINDS = ("mxf4", "mxf4nvf4")
_NARROW = ("e4m3", "e5m2", "e3m2", "e2m3", "e2m1")

#: element types of A (and B) and the depths k of m16n8; with m8n8 those in _SMALL
_DEPTHS: dict[tuple[str, ...], tuple[int, ...]] = {
    ("f16",): (8, 16), ("bf16",): (8, 16), ("tf32",): (4, 8), ("f64",): (4, 8, 16), ("s8", "u8"): (16, 32),
    ("s4", "u4"): (32, 64), ("b1",): (128, 256), ("e4m3", "e5m2"): (16, 32),
}  # fmt: skip
_SMALL: dict[tuple[str, ...], tuple[int, ...]] = {
    ("f64",): (4,), ("s8", "u8"): (16,), ("s4", "u4"): (32,), ("b1",): (128,),
}  # fmt: skip
_SPARSE_DEPTHS: dict[tuple[str, ...], tuple[int, ...]] = {
    ("f16",): (16, 32), ("bf16",): (16, 32), ("tf32",): (8, 16), ("s8", "u8"): (32, 64), ("s4", "u4"): (64, 128),
    ("e4m3", "e5m2"): (64,),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Product:
    """What an instruction multiplies: shape, types of D, A, B and C, and its .kind (empty where it has none)."""

    m: int
    n: int
    k: int
    d: str
    a: str
    b: str
    c: str
    kind: str

    @property
    def held(self) -> tuple[str, str]:
        """How elements of A and B lie in registers: e2m1 is packed in the kinds of its own, else in a byte."""
        padded = self.kind not in _PACKED_KINDS
        a, b = (tc.PADDED if t == "e2m1" and padded else t for t in (self.a, self.b))
        return a, b


def _product(i: Instruction, sparse: bool) -> Product:
    """Raises ValueError for a shape that the types do not have."""
    m, n, k = shape_of(i)
    dk, ak, bk, ck = [word for word in i.mods if word in tc.BITS][-4:]
    kind = next((word.removeprefix("kind::") for word in i.mods if word.startswith("kind::")), "")
    p = Product(m, n, k, dk, ak, bk, ck, kind)
    if kind in _PACKED_KINDS:
        good = (m, n, k) == (16, 8, 128 if sparse else 64) and (p.a, p.b) == ("e2m1", "e2m1")
    elif kind in ("f8f6f4", "mxf8f6f4"):
        good = (m, n, k) == (16, 8, 64 if sparse else 32) and p.a in _NARROW and p.b in _NARROW
    else:
        table = _SPARSE_DEPTHS if sparse else _DEPTHS if m == 16 else _SMALL if m == 8 else {}
        depths = next((found for types_, found in table.items() if p.a in types_ and p.b in types_), ())
        good = not kind and n == 8 and k in depths
    if not good:
        raise ValueError(f"shape m{m}n{n}k{k} of .{p.a} and .{p.b}" + (f" with .kind::{kind}" if kind else ""))
    return p


# -- fragments -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def fragment_orders(m: int, n: int, ka: int, kb: int, a_bits: int, b_bits: int) -> tuple[Array, Array, Array, Array]:
    """For A (m x ka), B (kb x n) and C of a product: row-major matrix element -> fragment element; and back for C."""
    order_a, _ = _order(tc.a_places(m, ka, a_bits), ka)
    order_b, _ = _order(tc.b_places(kb, n, b_bits), n)
    return order_a, order_b, *_order(tc.c_places(m, n), n)


def _order(places: tuple[Array, Array], columns: int) -> tuple[Array, Array]:
    """Both ways, from the (row, column) of each fragment element."""
    back = (places[0] * columns + places[1]).reshape(-1)
    order = np.empty_like(back)
    order[back] = np.arange(len(back))
    return order, back


def operand_matrix(w: Wave, sources: list[Source], kind: str, order: Array, shape: tuple[int, int]) -> Array:
    """An A or B fragment as f64 matrices."""
    raw = registers(w, sources)
    if kind == "f64":
        return raw.view(np.float64).reshape(len(raw), -1)[:, order].reshape(-1, *shape)
    patterns = tc.unpack_registers(raw, tc.BITS[kind]).reshape(len(raw), -1)
    return tc.element_values(patterns[:, order], kind).reshape(-1, *shape)


def accumulator(w: Wave, sources: list[Source], kind: str, order: Array, shape: tuple[int, int]) -> Array:
    """A C fragment as matrices: f64, or s32 values."""
    raw = registers(w, sources)
    if kind == "f16":
        raw = tc.unpack_registers(raw, 16)
    values = raw.reshape(len(raw), -1)[:, order].reshape(-1, *shape)
    if kind == "f16":
        return tc.element_values(values, "f16")
    return values.view({"s32": np.int32, "f64": np.float64}.get(kind, np.float32)).astype(np.float64)


def store_accumulator(w: Wave, sinks: list[Sink], bits: Array, kind: str, back: Array) -> None:
    """Matrices of patterns [warps, m, n] into a D fragment."""
    values = bits.reshape(len(bits), -1)[:, back]
    if kind == "f16":
        values = np.ascontiguousarray(values.astype(np.uint16)).view(np.uint32)
    values = values.reshape(-1, len(sinks))
    for k, put in enumerate(sinks):
        put(w, values[:, k].copy())


# -- what goes with A ------------------------------------------------------------------------------------------------

Dot = Callable[[Wave, Array, Array], Array]  # A as held [warps, m, .], B [warps, k, n] -> their product in f64
Scales = Callable[[Wave], "tuple[Array, Array]"]  # factors [warps, m, scales along k], [warps, n, scales along k]


def _dense(w: Wave, x: Array, y: Array) -> Array:
    return x @ y


def _xor(w: Wave, x: Array, y: Array) -> Array:
    """Of bits: how many differ."""
    return x.sum(axis=2, keepdims=True) + y.sum(axis=1, keepdims=True) - 2 * (x @ y)


def _scales(p: Product, s: scaling.Scaling, d: Decoder, operands: tuple[Operand, ...]) -> Scales:
    """From `scale-a-data, {byte-id, thread-id}, scale-b-data, {byte-id, thread-id}`."""
    if len(operands) != 4:
        raise ValueError("scales and their selectors are missing")
    sides = []
    for k, rows in ((0, p.m), (2, p.n)):
        data, selector = d.sources(operands[k], "b32"), operands[k + 1]
        if len(data) != 1 or not isinstance(selector, Vector) or len(selector.items) != 2:
            raise ValueError("a register of scales and {byte-id, thread-id} are expected")
        byte_of, thread_of = (d.source(item, "u16") for item in selector.items)
        sides.append((rows, data[0], byte_of, thread_of))

    def fetch(w: Wave) -> tuple[Array, Array]:
        found = []
        for rows, data, byte_of, thread_of in sides:
            words = np.ascontiguousarray(w.spread(data(w))).view(np.uint32).reshape(-1, 32)
            byte, thread = (w.spread(f(w))[::32].astype(np.int64) for f in (byte_of, thread_of))
            if scaling.wrong_selector(byte, thread, rows, s):
                words_ = f"a scale selector {{{int(byte[0])}, {int(thread[0])}}} names no scales of {s.count} a row"
                w.log.add(BAD_STATE, words_, w.code[w.pc])
                byte, thread = byte % (5 - s.count), thread % (2 if rows == 16 else 4)
            found.append(scaling.scale_vectors(words, byte, thread, rows, s))
        return found[0], found[1]

    return fetch


# -- the instructions ------------------------------------------------------------------------------------------------


@instruction("mma", _SECTION + ": mma", "m8n8 and m16n8 shapes of f16 bf16 tf32 f64 s8 u8 s4 u4 b1 e4m3 e5m2; "
             ".kind::f8f6f4, mxf8f6f4 mxf4 mxf4nvf4 .block_scale", control=True)  # fmt: skip
def mma(i: Instruction, d: Decoder) -> Step:
    """D = A * B + C by a warp, A and B scaled by blocks where it says so."""
    if shape_of(i) == (8, 8, 4) and "f64" not in i.mods:
        return _quad(i, d)
    p = _product(i, sparse=False)
    if p.a == "b1" and not ({"xor", "and"} & set(i.mods) and "popc" in i.mods):
        raise ValueError("single bits are combined by .xor.popc or .and.popc")
    return _multiply(i, d, p, p.k, _xor if "xor" in i.mods else _dense, i.operands[4:])


@instruction("mma.sp", _SECTION + ": mma.sp, mma.sp::ordered_metadata", "m16n8 of f16 bf16 tf32 s8 u8 s4 u4 e4m3 e5m2; "
             ".kind::f8f6f4, mxf8f6f4 mxf4 mxf4nvf4 .block_scale", control=True)  # fmt: skip
def mma_sparse(i: Instruction, d: Decoder) -> Step:
    """D = A * B + C by a warp; of A only half is given, and metadata say which columns that half belongs to."""
    p = _product(i, sparse=True)
    ordered = "sp::ordered_metadata" in i.mods
    if p.kind and not ordered:
        raise ValueError(f".kind::{p.kind} needs .sp::ordered_metadata")
    metadata = Metadata(d, p.a, tc.BITS[p.held[0]], p.k, i.operands[4], i.operands[5], ordered)

    def dot(w: Wave, x: Array, y: Array) -> Array:
        return sparsity.dot(x, metadata.columns(w), y)

    return _multiply(i, d, p, p.k // 2, dot, i.operands[6:])


def _multiply(i: Instruction, d: Decoder, p: Product, depth: int, dot: Dot, rest: tuple[Operand, ...]) -> Step:
    """`depth`: columns of A in registers; `rest`: the operands after those that every such instruction has."""
    scales: Scales | None = None
    if "block_scale" in i.mods or p.kind.startswith("mx"):
        scales = _scales(p, scaling.scaling_of(p.kind, i.mods), d, rest)
    elif rest:
        raise ValueError(f"{len(rest)} operands too many")
    a_kind, b_kind = p.held
    wide = {t: "b64" if t == "f64" else "b32" for t in (p.a, p.b, p.c, p.d)}
    sinks = d.sinks(i.operands[0], wide[p.d])
    a, b, c = (d.sources(o, wide[t]) for o, t in zip(i.operands[1:4], (p.a, p.b, p.c)))
    bits_a, bits_b = min(32, tc.BITS[a_kind]), min(32, tc.BITS[b_kind])
    given, wanted = (len(a), len(b)), (p.m * depth * bits_a // 1024, p.k * p.n * bits_b // 1024)
    if given != wanted:
        raise ValueError(f"{given[0]} and {given[1]} registers, {wanted[0]} and {wanted[1]} expected")
    name = f"mma{'.sp' if depth < p.k else ''}.m{p.m}n{p.n}k{p.k}.{p.a}"
    order_a, order_b, order_c, back = fragment_orders(p.m, p.n, depth, p.k, bits_a, bits_b)
    saturate = "satfinite" in i.mods

    def step(w: Wave) -> None:
        x = operand_matrix(w, a, a_kind, order_a, (p.m, depth))
        y = operand_matrix(w, b, b_kind, order_b, (p.k, p.n))
        z = accumulator(w, c, p.c, order_c, (p.m, p.n))
        w.counters.mma[name] += len(x)
        if scales is not None:
            left, right = scales(w)
            x = x * np.repeat(left, depth // left.shape[2], axis=2)
            y = y * np.repeat(right, p.k // right.shape[2], axis=2).swapaxes(1, 2)
        products = dot(w, x, y)
        bits = tc.round_integers(products, z, saturate) if p.d == "s32" else tc.round_sums(products + z, p.d)
        store_accumulator(w, sinks, bits, p.d, back)

    return whole_warps(i, d, step)


def _quad(i: Instruction, d: Decoder) -> Step:
    """m8n8k4 of f16: four products, one for each quad pair."""
    dk, *_, ck = (word for word in i.mods if word in tc.BITS)
    a_row, b_row = (word == "row" for word in i.mods if word in ("row", "col"))
    sinks = d.sinks(i.operands[0], "b32")
    operands = [d.sources(o, "b32") for o in i.operands[1:4]]
    places = [tc.quad_places("a", 16, a_row), tc.quad_places("b", 16, b_row), tc.quad_places("c", tc.BITS[ck], True)]
    to = tc.quad_places("c", tc.BITS[dk], True)
    if [len(o) for o in operands] != [2, 2, tc.BITS[ck] // 4] or len(sinks) != tc.BITS[dk] // 4:
        raise ValueError("the wrong number of registers")

    def step(w: Wave) -> None:
        matrices = []
        for sources, kind, where, shape in zip(operands, ("f16", "f16", ck), places, ((8, 4), (4, 8), (8, 8))):
            raw = registers(w, sources)
            out = np.zeros((len(raw), 4, *shape))
            values = tc.element_values(tc.unpack_registers(raw, tc.BITS[kind]), kind)
            out[:, where[0], where[1], where[2]] = values.reshape(*raw.shape[:2], -1)
            matrices.append(out)
        w.counters.mma["mma.m8n8k4.f16"] += len(matrices[0])
        bits = tc.matmul(matrices[0], matrices[1], matrices[2], dk)[:, to[0], to[1], to[2]]
        if dk == "f16":
            bits = np.ascontiguousarray(bits.astype(np.uint16)).view(np.uint32)
        for q, put in enumerate(sinks):
            put(w, np.ascontiguousarray(bits[..., q]).reshape(-1))

    return whole_warps(i, d, step)

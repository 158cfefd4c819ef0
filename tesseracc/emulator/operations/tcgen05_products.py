"""tcgen05.mma: products that run asynchronously on tensor memory, dense, sparse and block-scaled, by a CTA or a pair.

A row of A in tensor memory lies in the lane of the row of D, its elements packed along the columns. D of f16 takes the
low half of its column. Of a pair each CTA has half of the rows of A and D, and half of the rows of B (columns of D).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tesseracc.emulator import sparsity
from tesseracc.emulator import tensor_cores as tc
from tesseracc.emulator.block_scaling import Scaling
from tesseracc.emulator.decode import Decoder, Source
from tesseracc.emulator.findings import BAD_STATE
from tesseracc.emulator.operations import tcgen05_operands as operands
from tesseracc.emulator.operations.tcgen05_operands import (
    Metadata,
    Packing,
    Shape,
    Share,
    byte_places,
    packing,
    pair_of,
    read_scales,
)
from tesseracc.emulator.ptx import Address, Imm, Instruction, Operand, Vector
from tesseracc.emulator.table import Step, instruction
from tesseracc.emulator.tensor_memory import LANES, WINDOW, Pending
from tesseracc.emulator.types import Array
from tesseracc.emulator.wave import Wave

__all__ = ["product"]

_WINDOWS = range(LANES // WINDOW)


@dataclass(frozen=True, slots=True)
class _Form:
    """What the text of an instruction says. `scale`: factor of the old D; `ctas`: how many take part."""

    kind: str
    mods: tuple[str, ...]
    in_tensor_memory: bool
    sparse: bool
    scale: float
    ctas: int


@dataclass(frozen=True, slots=True)
class _Call:
    """The operands of one thread: addresses in tensor memory, descriptors, whether to add, lanes of D that stay."""

    d: int
    a: int
    b: int
    bits: int
    metadata: int
    scales: tuple[int, ...]
    add: bool
    off: Array


@instruction("tcgen05.mma", "9.7.16 TensorCore 5th Generation: tcgen05.mma, tcgen05.mma.sp",
             ".kind::f16 tf32 f8f6f4 i8, mxf8f6f4 mxf4 mxf4nvf4 .block_scale")  # fmt: skip
def product(i: Instruction, d: Decoder) -> Step:
    """tcgen05.mma: D = A B (+ D), A in shared or tensor memory, B in shared memory."""
    unknown = [word for word in i.mods if word in ("ws", "ashift")]
    if unknown:
        raise ValueError(f".{unknown[0]}")
    kind = next(m for m in i.mods if m.startswith("kind::")).removeprefix("kind::")
    if kind not in operands.KINDS:
        raise ValueError(f".kind::{kind}")
    scaled, sparse = kind.startswith("mx"), "sp" in i.mods
    if scaled != ("block_scale" in i.mods):
        raise ValueError(f".kind::{kind} {'without' if scaled else 'with'} .block_scale")
    if scaled:
        operands.scaling(kind, i.mods, "ue4m3" if "scale_vec::4X" in i.mods or "block16" in i.mods else "ue8m0")
    rest = list(i.operands)

    def taken(address: bool, type_name: str = "b64") -> Source:
        operand: Operand = rest.pop(0)
        return d.address(operand)[1] if address else d.source(operand, type_name)

    target = taken(True)
    in_tensor_memory = isinstance(rest[0], Address)
    left, right = taken(in_tensor_memory), taken(False)
    metadata = taken(True) if sparse else None
    descriptor = taken(False, "u32")
    scales = [taken(True) for _ in range(2 if scaled else 0)]
    masked = d.sources(rest.pop(0), "b32") if rest and isinstance(rest[0], Vector) else []
    use = taken(False, "pred")
    last = rest.pop(0) if rest else Imm(0)
    if not isinstance(last, Imm):
        raise ValueError("scale-input-d must be an integer constant")
    if rest:
        raise ValueError(f"{len(rest)} operands too many")
    ctas = 2 if "cta_group::2" in i.mods else 1
    form = _Form(kind, i.mods, in_tensor_memory, sparse, 2.0 ** -int(last.value), ctas)

    def run(w: Wave) -> None:
        def column(source: Source | None) -> list[int]:
            return [0] * w.n if source is None else [int(v) for v in w.spread(source(w))]

        given = [column(f) for f in (target, left, right, descriptor, metadata, use)]
        scale_columns, masks = [column(f) for f in scales], [column(f) for f in masked]
        for k, lane in enumerate(w.lanes.tolist()):
            where, a, b, bits, meta, add = (values[k] for values in given)
            off = np.zeros(ctas * LANES, np.bool_)
            for word, mask in enumerate(masks):
                off[word * 32 : word * 32 + 32] = [bool(mask[k] >> bit & 1) for bit in range(32)]
            addresses = tuple(values[k] & 0xFFFFFFFF for values in scale_columns)
            call = _Call(where & 0xFFFFFFFF, a, b, bits, meta & 0xFFFFFFFF, addresses, bool(add), off)
            _issue(w, lane, form, call)

    return run


def _read_descriptor(w: Wave, f: _Form, bits: int) -> tuple[Shape, Scaling | None] | None:
    """The shape and the scales of a row; None (reported) for what does not exist."""
    code = w.code[w.pc]
    try:
        s = operands.shape_of_descriptor(f.kind, bits, f.sparse)
    except KeyError:
        w.log.add(BAD_STATE, f"instruction descriptor {bits:#x} names no format of kind::{f.kind}", code)
        return None
    scaled = f.kind.startswith("mx")
    rows = (128,) if scaled else (64, 128)
    step = 8 if scaled or s.m == 64 else 16
    if s.m not in (rows if f.ctas == 1 else (128, 256)) or not 8 <= s.n <= 256 or s.n % (step * f.ctas):
        w.log.add(BAD_STATE, f"a product of {s.m} x {s.n} is not one of the instruction's shapes", code)
        return None
    if s.sparse != f.sparse:
        words = "sparse" if s.sparse else "dense"
        w.log.add(BAD_STATE, f"instruction descriptor {bits:#x} says that A is {words}", code)
        return None
    if not scaled:
        return s, None
    try:
        scaling = operands.scaling(f.kind, f.mods, s.scale_type)
    except ValueError as error:
        w.log.add(BAD_STATE, f"instruction descriptor {bits:#x}: {error}", code)
        return None
    if bits >> 31:
        w.log.add(BAD_STATE, f"instruction descriptor {bits:#x}: products of k = 96 are not modelled", code)
        return None
    if any(place % scaling.count or place + scaling.count > 4 for place in s.scales):
        w.log.add(BAD_STATE, f"instruction descriptor {bits:#x} names no place of {scaling.count} scales", code)
        return None
    return s, scaling


@dataclass(frozen=True, slots=True)
class _Operand:
    """What a product reads, and `get`s when it is carried out: byte positions in shared memory, or in tensor memory
    the columns `area`, from lane `lane` on."""

    get: Callable[[], Array]
    shared: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    area: tuple[int, int] | None = None
    lane: int = 0


def _in_shared(w: Wave, cta: int, descriptor: int, rows: int, k: int, p: Packing, transposed: bool,
               kind: str) -> _Operand | None:  # fmt: skip
    """A matrix [rows, k] as f64."""
    places = byte_places(w, cta, descriptor, rows, k, p, transposed, kind)
    return None if places is None else _Operand(lambda: p.values(w.launch.shared.data[places]), places)


def _in_tensor(
    w: Wave, cta: int, address: int, height: int, width: int, read: Callable[[Array], Array]
) -> _Operand | None:
    """What `read` makes of the cells [height, width] behind an address."""
    memory = w.launch.tensor_memory
    at = memory.place(w, cta, None, address, height, width)
    if at is None:
        return None
    lanes, area = slice(at[0], at[0] + height), (at[1], at[1] + width)
    return _Operand(lambda: read(np.ascontiguousarray(memory.data[cta][lanes, slice(*area)])), area=area, lane=at[0])


@dataclass(frozen=True, slots=True)
class _Part:
    """What one CTA reads: A, the scales of both, metadata. D starts at lane `at[0]`, column `at[1]`."""

    cta: int
    at: tuple[int, int]
    left: _Operand
    scales: list[_Operand]
    metadata: _Operand | None
    keep: Array  # [rows, 1]: rows of D that stay

    @property
    def operands(self) -> list[_Operand]:
        return [self.left, *self.scales, *([self.metadata] if self.metadata else [])]


def _part(w: Wave, cta: int, f: _Form, call: _Call, s: Shape, scaling: Scaling | None, own: Share,
          off: Array) -> _Part | None:  # fmt: skip
    """The part of a CTA; None (reported) where an operand is wrong."""
    depth = s.k // 2 if f.sparse else s.k
    pack = packing(f.kind, s.a, f.in_tensor_memory)
    at = w.launch.tensor_memory.place(w, cta, None, call.d, own.height, own.width)
    left: _Operand | None
    if f.in_tensor_memory:

        def read(cells: Array) -> Array:
            return np.stack([pack.values(cells[rows].view(np.uint8)) for rows in own.copies])

        left = _in_tensor(w, cta, call.a & 0xFFFFFFFF, own.height, pack.width(depth) // 4, read)
    else:
        left = _in_shared(w, cta, call.a, own.m, depth, pack, s.transposed_a, f.kind)
    scales = [] if scaling is None else [
        _scales(w, cta, call.scales[0], own.m, s.scales[0], scaling),
        _scales(w, cta, call.scales[1], own.width, s.scales[1], scaling),
    ]  # fmt: skip
    metadata: _Operand | None = None
    if f.sparse:
        held_in = 4 if f.kind in ("mxf4", "mxf4nvf4") else max(8, pack.bits)
        metadata = _metadata(w, cta, call.metadata, s, held_in, own)
    if at is None or left is None or None in scales or (f.sparse and metadata is None):
        return None
    part = _Part(cta, at, left, [o for o in scales if o], metadata, off[at[0] + own.lanes[:, 0]][:, None])
    if own.height < LANES and any(o.lane != at[0] for o in part.operands if o.area):
        w.log.add(BAD_STATE, "D and what else of a product of 64 rows is in tensor memory start at different lanes",
                  w.code[w.pc])  # fmt: skip
    return part


def _issue(w: Wave, lane: int, f: _Form, call: _Call) -> None:
    """Checks every operand and queues the product."""
    found = _read_descriptor(w, f, call.bits)
    ctas = pair_of(w, lane) if f.ctas == 2 else (int(w.cta[lane]),)
    if found is None or not ctas:
        return
    s, scaling = found
    memory = w.launch.tensor_memory
    own = Share(s.m // f.ctas, s.n, split=f.ctas == 2 and s.m == LANES and not f.sparse)
    pack = packing(f.kind, s.b, False)
    right = [_in_shared(w, c, call.b, s.n // f.ctas, s.k, pack, s.transposed_b, f.kind) for c in ctas]
    offs = call.off.reshape(f.ctas, LANES)
    parts = [_part(w, c, f, call, s, scaling, own, off) for c, off in zip(ctas, offs)]
    rights, shares = [o for o in right if o], [part for part in parts if part]
    if len(rights) < f.ctas or len(shares) < f.ctas:
        return
    used = rights + [o for part in shares for o in part.operands]
    granules = np.unique(np.concatenate([o.shared.reshape(-1) // 4 for o in used]))
    w.launch.asynchronous.proxy_read(w, granules, lane, True)
    for part in shares:
        written = part.at[1], part.at[1] + own.width
        for kind, area in [("write", written), *(("read", o.area) for o in part.operands if o.area)]:
            memory.check_stores(w, part.cta, _WINDOWS, slice(*area))
            memory.race(w, part.cta, _WINDOWS, slice(*area), lane, kind)

    def carry_out() -> None:
        y = np.concatenate([o.get() for o in rights])
        for part in shares:
            _multiply(memory.data[part.cta], part, -y if s.negate_b else y, s, own, f.scale if call.add else None)

    w.counters.mma[f"tcgen05{'.sp' if f.sparse else ''}.m{s.m}n{s.n}k{s.k}.{s.a}"] += 1
    span = slice(shares[0].at[1], shares[0].at[1] + own.width)
    memory.issue(w, int(w.cta[lane]), Pending(w.pc, carry_out, span, granules, ctas=ctas))


def _multiply(cells: Array, part: _Part, y: Array, s: Shape, own: Share, scale: float | None) -> None:
    """The part of a CTA into its `cells`."""
    x = part.left.get()
    x = x[None] if x.ndim == 2 else x
    scales = [o.get() for o in part.scales]
    places = part.metadata.get() if part.metadata else None
    products = _products(-x if s.negate_a else x, y, scales, places, own)
    where = part.at[0] + own.lanes, part.at[1] + own.columns
    old = cells[where]
    cells[where] = np.where(part.keep, old, _accumulate(s, products, old, scale))


def _scales(w: Wave, cta: int, address: int, rows: int, place: int, s: Scaling) -> _Operand | None:
    """The scales [4 windows, rows, count]."""
    return _in_tensor(w, cta, address, LANES, -(-rows // WINDOW), lambda cells: read_scales(cells, rows, place, s))


def _metadata(w: Wave, cta: int, address: int, s: Shape, bits: int, own: Share) -> _Operand | None:
    """The column [m, k / 2] of every element of A that is given; entries without meaning are reported."""
    layout, code = Metadata(s, bits, own), w.code[w.pc]
    if s.selector >= layout.selectors or (layout.selectors > 1 and address & 1):
        w.log.add(BAD_STATE, f"sparsity selector {s.selector} of metadata in column {address & 0xFFFF}", code)
        return None

    def read(cells: Array) -> Array:
        entries = layout.entries(cells)
        wrong = ~layout.legal[entries]
        if wrong.any():
            row, number = (int(place[0]) for place in np.nonzero(wrong))
            words = f"sparsity metadata 0b{int(entries[wrong][0]):04b} of row {row}, from column"
            words += f" {number * layout.grain.chunk} on, has no meaning"
            w.log.add(BAD_STATE, words, code, count=int(wrong.sum()))
        return layout.grain.places(entries)

    return _in_tensor(w, cta, address, own.height, 2, read)


# -- arithmetic ------------------------------------------------------------------------------------------------------


def _dot(x: Array, y: Array, places: Array | None) -> Array:
    """A [m, .] times B [n, k] transposed."""
    return x @ y.T if places is None else sparsity.dot(x, places, y.T)


def _products(x: Array, y: Array, scales: list[Array], places: Array | None, own: Share) -> Array:
    """A [copies, m, .] times B; with factors for blocks along k, of which every window of 32 lanes has its own copy."""
    out = np.zeros((own.m, own.n))
    for half, columns in enumerate(own.halves):
        left, right = x[half % len(x)], y[columns]
        if not scales:
            out[:, columns] = _dot(left, right, places)
            continue
        of_a, of_b = scales
        for rows, window in own.windows(half):
            a = left[rows] * np.repeat(of_a[window][rows], left.shape[1] // of_a.shape[2], axis=1)
            b = right * np.repeat(of_b[window], right.shape[1] // of_b.shape[2], axis=1)
            out[rows, columns] = _dot(a, b, None if places is None else places[rows])
    return out


def _accumulate(s: Shape, products: Array, old: Array, scale: float | None) -> Array:
    """The cells of D; None: without the old ones."""
    if s.d == "f16":
        start = tc.element_values((old & np.uint32(0xFFFF)).astype(np.uint16), "f16")
    else:
        start = old.view(np.int32 if s.d == "s32" else np.float32).astype(np.float64)
    start = np.zeros_like(start) if scale is None else start * scale
    if s.d == "s32":
        return tc.round_integers(products, start, s.saturate)
    return tc.round_sums(products + start, s.d).astype(np.uint32)

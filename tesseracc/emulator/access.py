"""Loads, stores and atomics on every state space, with all checks: bounds, alignment, initialisation, races.

Accesses that fail a check are reported and left out: such lanes load zero and store nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from tesseracc.emulator.findings import ASYNC_HAZARD, MISALIGNED, OUT_OF_BOUNDS, UNINITIALISED
from tesseracc.emulator.memory import BASES, RANK_SHIFT, WINDOW_BITS, Segment
from tesseracc.emulator.races import Shadow
from tesseracc.emulator.tensor_map import CHUNK
from tesseracc.emulator.types import Array, container

if TYPE_CHECKING:
    from tesseracc.emulator.wave import Wave

__all__ = ["Place", "atomic", "load", "load_chunks", "mark_initialised", "observe", "places_of", "resolve_shared",
           "shadow_of", "store"]  # fmt: skip

_WINDOWS = {base >> WINDOW_BITS: space for space, base in BASES.items() if base}


class Place:
    """Where the lanes of one access go: all of them into one segment, at byte `offset` [n]; `at` their positions.

    `dense`: each lane starts where the one before it ends. `within` is the range of addresses in a windowed space.
    """

    __slots__ = ("at", "dense", "lanes", "offset", "segment", "space", "within")

    def __init__(self, space: str, segment: Segment, lanes: Array, offset: Array, at: Array | None,
                 within: tuple[int, int] | None = None) -> None:  # fmt: skip
        self.space, self.segment, self.lanes, self.offset, self.at = space, segment, lanes, offset, at
        self.dense, self.within = False, within

    def keep(self, mask: Array) -> None:
        at = np.flatnonzero(mask)
        self.at = at if self.at is None else self.at[at]
        self.lanes, self.offset = self.lanes[at], self.offset[at]
        self.dense = False

    def units(self, size: int, first: int, width: int) -> Array:
        """The numbers of the `size`-byte units that hold byte `first` of each lane's `width`: an array or a slice."""
        if self.dense:
            step = width // size
            start = (int(self.offset[0]) + first) // size
            return slice(start, start + (len(self.offset) - 1) * step + 1, step)
        return (self.offset + first if first else self.offset) >> size.bit_length() - 1


def places_of(w: Wave, space: str, address: Array, width: int) -> list[Place]:
    """Split an access by segments; report lanes that are misaligned or out of bounds."""
    address = w.spread(address)
    lanes = w.lanes
    if space == "generic":
        return _generic(w, address, lanes, width)
    if space == "global":
        return _global(w, address, lanes, None, width)
    low, high = int(address.min()), int(address.max()) + width
    if space in ("shared", "local") and high <= w.launch.space_size(space):  # of the lane's own CTA, or its own
        bits = int(np.bitwise_or.reduce(address))
        offset = address.view(np.int64) + w.home(space)
        place = Place(space, w.launch.windowed(space), lanes, offset, None, (low, high))
        if bits & (width - 1):
            _aligned(w, place, width)
        return [place] if len(place.offset) else []
    segment, offset, fits = _windowed(w, space, address, lanes, width)
    place = Place(space, segment, lanes, offset, None)
    if not fits.all():
        bad = np.flatnonzero(~fits)
        size = w.launch.space_size(space)
        w.log.add(OUT_OF_BOUNDS, f"{width}-byte access at {space} address {int(address[bad[0]]):#x} by "
                  f"{w.launch.who(w, int(lanes[bad[0]]))}; the space has {size} bytes",
                  w.code[w.pc], count=len(bad))  # fmt: skip
        place.keep(fits)
    _aligned(w, place, width)
    return [place] if len(place.offset) else []


def _aligned(w: Wave, place: Place, width: int) -> None:
    wrong = place.offset & (width - 1)
    if wrong.any():
        bad = np.flatnonzero(wrong)
        w.log.add(MISALIGNED, f"{width}-byte access to {place.space} memory at a multiple of "
                  f"{int(wrong[bad[0]] & -wrong[bad[0]])} by {w.launch.who(w, int(place.lanes[bad[0]]))}",
                  w.code[w.pc], count=len(bad))  # fmt: skip
        place.keep(wrong == 0)


def resolve_shared(w: Wave, address: Array, lanes: Array) -> tuple[Array, Array]:
    """(CTA within the batch, byte offset) of shared::cluster addresses of `lanes`; CTA -1 where there is none."""
    address = address.astype(np.int64)
    rank = address >> RANK_SHIFT
    offset = address & ((1 << RANK_SHIFT) - 1)
    own = w.cta[lanes]
    size = w.launch.cluster_size
    cta = np.where(rank == 0, own, own // size * size + rank - 1)
    cta = np.where((rank >= 0) & (rank <= size), cta, -1)
    remote = (cta >= 0) & (cta != own)
    if remote.any():
        w.launch.remote.note(w, cta[remote], lanes[remote])
    return cta, offset


def _windowed(w: Wave, space: str, address: Array, lanes: Array, width: int) -> tuple[Segment, Array, Array]:
    launch = w.launch
    if space == "shared":
        cta, offset = resolve_shared(w, address, lanes)
        fits = (offset + width <= launch.shared_size) & (cta >= 0)
        return launch.shared, cta * launch.shared_stride + offset, fits
    offset = address.astype(np.int64)
    if space == "local":
        fits = (offset >= 0) & (offset <= launch.local_size - width)
        return launch.local, lanes * launch.local_stride + offset, fits
    segment = launch.const if space == "const" else launch.params
    return segment, offset, (offset >= 0) & (offset <= segment.size - width)


def _global(w: Wave, address: Array, lanes: Array, at: Array | None, width: int) -> list[Place]:
    """Places in global memory, one per allocation touched."""
    low, high = int(address.min()), int(address.max())
    memory = w.launch.memory
    segment = memory.find(low, 1)
    out: list[Place] = []
    if segment is not None and high + width <= segment.base + segment.size:
        place = Place("global", segment, lanes, (address - np.uint64(segment.base)).view(np.int64), at)
        step = np.diff(place.offset) if int(place.offset[-1] - place.offset[0]) == (len(lanes) - 1) * width else None
        place.dense = step is not None and bool((step == width).all())
        out.append(place)
    elif at is None and (address >> np.uint64(WINDOW_BITS) == BASES["const"] >> WINDOW_BITS).any():
        return _generic(w, address, lanes, width)  # constants lie in global memory too, at their generic addresses
    else:
        segments = memory.segments
        bases = np.array([s.base for s in segments], np.uint64)
        index = np.searchsorted(bases, address, side="right") - 1
        missed = np.ones(len(address), np.bool_)
        for k in np.unique(index[index >= 0]):
            s = segments[int(k)]
            room = s.size - width  # behind the offset; the sum of address and width may be 2^64 or more
            inside = (index == k) & (room >= 0) & (address - np.uint64(s.base) <= np.uint64(max(room, 0)))
            missed &= ~inside
            if inside.any():
                place = Place("global", s, lanes, (address - np.uint64(s.base)).astype(np.int64), at)
                place.keep(inside)
                out.append(place)
        if missed.any():
            bad = np.flatnonzero(missed)
            a = int(address[bad[0]])
            w.log.add(OUT_OF_BOUNDS, f"{width}-byte access at global address {a:#x} by "
                      f"{w.launch.who(w, int(lanes[bad[0]]))}{w.launch.nearest(a)}",
                       w.code[w.pc], count=len(bad))  # fmt: skip
    for place in out:
        _aligned(w, place, width)
    return [p for p in out if len(p.offset)]


def _generic(w: Wave, address: Array, lanes: Array, width: int) -> list[Place]:
    window = (address >> np.uint64(WINDOW_BITS)).astype(np.int64)
    out: list[Place] = []
    for number in np.unique(window):
        space = _WINDOWS.get(int(number))
        chosen = np.flatnonzero(window == number)
        at = None if len(chosen) == len(window) else chosen
        sub, who = (address, lanes) if at is None else (address[at], lanes[at])
        if space is None:
            out.extend(_global(w, sub, who, at, width))
            continue
        local = sub - np.uint64(BASES[space])
        kept = w.sel
        w.select(who)
        for place in places_of(w, space, local, width):
            if at is not None:
                place.at = at if place.at is None else at[place.at]
            out.append(place)
        w.select(kept)
    return out


# --- checks of accepted accesses -------------------------------------------------------------------------------------


def shadow_of(w: Wave, space: str, segment: Segment) -> Shadow:
    shadows = w.launch.shadows
    shadow = shadows.get((space, segment.base))
    if shadow is None:
        shadow = shadows[space, segment.base] = Shadow(len(segment.data) // w.launch.granule[space] + 1)
    return shadow


def observe(w: Wave, place: Place, width: int, kind: str, strong: bool, values: list[Array] | None) -> None:
    """Counters, initialisation, races for an access of `width` bytes; `kind` is read, write or both."""
    space, counters = place.space, w.counters
    if space == "param":
        return
    if kind != "write":
        counters.bytes_read[space] += width * len(place.offset)
    if kind != "read":
        counters.bytes_written[space] += width * len(place.offset)
    if w.launch.counting:
        if space == "global":
            counters.count_global(place.lanes, place.offset, width, place.dense)  # segments start at sectors
        elif space == "shared":
            counters.count_shared(place.lanes, place.offset, width)
    if not w.launch.detect or space == "const":
        return
    launch = w.launch
    if space == "shared" and launch.asynchronous.busy:
        _in_flight(w, place, width, kind)
    if space in ("shared", "local"):
        if kind != "write":
            _initialised(w, place, width)
        if kind != "read":
            if not (space == "shared" and launch.known.covers(place.within)):
                mark_initialised(launch.written[space], place.offset, width)
            if space == "shared":
                launch.asynchronous.note_generic_write(place.offset, width)
    if space == "local":
        return
    if strong:
        launch.flags.access(kind, place.segment.base, place.offset, place.lanes)
    shadow = shadow_of(w, space, place.segment)
    step = launch.granule[space]
    granules, span = place.units(step, 0, width), max(1, width // step)
    if kind == "read":
        launch.races.read(shadow, granules, place.lanes, w.pc, strong, space, span)
        return

    def changed(k: int) -> Array:
        size = width // len(stored)
        view = place.segment.view(container(8 * size))
        return view[place.units(size, k * step, width)] != stored[k * step // size]

    stored = values or []
    launch.races.write(shadow, granules, place.lanes, w.pc, strong, space, changed if stored else None, span)


def _initialised(w: Wave, place: Place, width: int) -> None:
    if place.space == "shared" and w.launch.known.covers(place.within):
        return
    known = w.launch.written[place.space]
    size = min(width, 8)
    good = np.ones(len(place.offset), np.bool_)
    full = container(8 * size)(0x0101010101010101 & ((1 << (8 * size)) - 1))
    view = known.view(container(8 * size))
    for k in range(width // size):
        good &= view[(place.offset + k * size) // size] == full
    if not good.all():
        bad = np.flatnonzero(~good)
        lane = int(place.lanes[bad[0]])
        base = w.launch.stride(place.space) if place.space != "global" else 1
        w.log.add(UNINITIALISED, f"read of {place.space} memory at offset {int(place.offset[bad[0]]) % base} that none "
                  f"has written, by {w.launch.who(w, lane)}", w.code[w.pc], count=len(bad))  # fmt: skip
    elif place.space == "shared" and place.within is not None:
        w.launch.known.explore(place.within, len(place.offset) * width)


def mark_initialised(known: Array, offset: Array, width: int) -> None:
    """Bytes [offset, offset + width) hold values now."""
    size = min(width, 8)
    view = known.view(container(8 * size))
    ones = container(8 * size)(0x0101010101010101 & ((1 << (8 * size)) - 1))
    for k in range(width // size):
        view[(offset + k * size) // size] = ones


def _in_flight(w: Wave, place: Place, width: int, kind: str) -> None:
    """An access to shared bytes that an unfinished asynchronous operation reads or writes."""
    state = w.launch.asynchronous
    if width >= 8:  # two marks at once
        pairs = [place.units(8, k, width) for k in range(0, width, 8)]
        marks = [state.writing] if kind == "read" else [state.writing, state.reading]
        if not any(m.view(np.uint64)[pair].any() for m in marks for pair in pairs):
            return
    for k in range(0, width, 4):
        granule = (place.offset + k) // 4
        owner = state.writing[granule]
        if kind != "read":
            owner = np.where(owner == 0, state.reading[granule], owner)
        if owner.any():
            bad = np.flatnonzero(owner)
            other = state.origin(int(owner[bad[0]]))
            w.log.add(ASYNC_HAZARD, f"{kind} of shared memory by {w.launch.who(w, int(place.lanes[bad[0]]))} that an "
                      "asynchronous operation still uses: no wait orders them", w.code[w.pc], other,
                       len(bad))  # fmt: skip
            return


# --- the accesses ----------------------------------------------------------------------------------------------------


def load(w: Wave, space: str, address: Array, size: int, count: int, strong: bool = False) -> list[Array]:
    """`count` consecutive elements of `size` bytes per lane, as unsigned arrays."""
    dtype = container(8 * size)
    width = size * count
    if address.ndim == 0 and space in ("const", "param"):
        segment = w.launch.const if space == "const" else w.launch.params
        at = int(address)
        if at + width <= segment.size and at % width == 0:
            view = segment.view(dtype)
            if space == "const":
                w.counters.bytes_read[space] += width * w.n
            return [view[at // size + k] for k in range(count)]
    places = places_of(w, space, address, width)
    results: list[Array] = []
    for place in places:
        observe(w, place, width, "read", strong, None)
    if len(places) == 1 and places[0].at is None:
        view, place = places[0].segment.view(dtype), places[0]
        if place.dense:
            return [view[place.units(size, k * size, width)].copy() for k in range(count)]
        index = place.units(size, 0, width)
        return [view[index + k] if k else view[index] for k in range(count)]
    for k in range(count):
        out = np.zeros(w.n, dtype)
        for place in places:
            where = slice(None) if place.at is None else place.at
            out[where] = place.segment.view(dtype)[place.offset // size + k]
        results.append(out)
    return results


def load_chunks(w: Wave, space: str, address: Array) -> Array:
    """16 bytes per lane, as elements of CHUNK."""
    places = places_of(w, space, address, 16)
    for place in places:
        observe(w, place, 16, "read", False, None)
    if len(places) == 1 and places[0].at is None:
        chunks: Array = places[0].segment.view(CHUNK)[places[0].units(16, 0, 16)]
        return chunks
    out = np.zeros(w.n, CHUNK)
    for place in places:
        out[slice(None) if place.at is None else place.at] = place.segment.view(CHUNK)[place.offset >> 4]
    return out


def store(w: Wave, space: str, address: Array, size: int, values: list[Array], strong: bool = False) -> None:
    """Store consecutive unsigned elements of `size` bytes per lane. Of lanes that collide the last one wins."""
    dtype = container(8 * size)
    values = [w.spread(v) for v in values]
    w.progress += 1
    for place in places_of(w, space, address, size * len(values)):
        mine = values if place.at is None else [v[place.at] for v in values]
        observe(w, place, size * len(values), "write", strong, mine)
        view = place.segment.view(dtype)
        if place.dense:
            for k, v in enumerate(mine):
                view[place.units(size, k * size, size * len(mine))] = v
            continue
        index = place.units(size, 0, size * len(mine))
        for k, v in enumerate(mine):
            view[index + k] = v
        if w.launch.detect and not strong and place.space in ("shared", "global"):
            for k, v in enumerate(mine):
                lost = view[index + k] != v
                if lost.any():
                    _collision(w, place, index + k, lost)


def _collision(w: Wave, place: Place, index: Array, lost: Array) -> None:
    losers = np.flatnonzero(lost)
    last = {int(a): int(lane) for a, lane in zip(index, place.lanes)}
    winners = np.array([last[int(index[k])] for k in losers])
    w.launch.races.same_step(place.lanes[losers], winners, w.pc, place.space)


def atomic(w: Wave, space: str, address: Array, size: int, update: Callable[[Array, Array], Array], need_old: bool,
           together: Callable[[Array, Array, Array], None] | None = None) -> Array:  # fmt: skip
    """Read-modify-write per lane, in lane order where lanes collide. Returns the old values (zeros if not needed).

    `update(old, positions)` gives the new values of the lanes at `positions` among the executing ones.
    `together(view, index, positions)` applies all of them at once in lane order, for reductions without a result.
    """
    dtype = container(8 * size)
    old = np.zeros(w.n, dtype)
    for place in places_of(w, space, address, size):
        observe(w, place, size, "both", True, None)
        view, index = place.segment.view(dtype), place.offset // size
        positions = np.arange(w.n) if place.at is None else place.at
        if together is not None and not need_old:
            together(view, index, positions)
            w.progress += 1
            continue
        for chosen in _rounds(index):
            before = view[index[chosen]]
            after = update(before, positions[chosen])
            if (after != before).any():
                w.progress += 1
            view[index[chosen]] = after
            old[positions[chosen]] = before
    return old


def _rounds(index: Array) -> list[Array]:
    """Positions split so that no address occurs twice in a round and colliding lanes keep their order."""
    order = np.argsort(index, kind="stable")
    ordered = index[order]
    fresh = np.ones(len(index), np.bool_)
    fresh[1:] = ordered[1:] != ordered[:-1]
    start = np.maximum.accumulate(np.where(fresh, np.arange(len(index)), 0))
    rank = np.arange(len(index)) - start
    deepest = int(rank.max(initial=0))
    if deepest == 0:
        return [np.arange(len(index))]
    by_rank = np.argsort(rank, kind="stable")
    bounds = np.searchsorted(rank[by_rank], np.arange(deepest + 2))
    return [order[by_rank[bounds[r] : bounds[r + 1]]] for r in range(deepest + 1)]

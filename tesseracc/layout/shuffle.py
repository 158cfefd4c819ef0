"""Conversions inside of a warp, as rounds of shfl.sync.idx.

In one round every lane offers one register and receives one. A round can carry a set of elements when no two of them
lie in one lane of the source, nor in one lane of the target. Let A and B be what the registers of source and target
span, and V = A meet B, with bases e of A and f of B over V. The subspace

    T = span(e_i + f_i)  +  a complement of A + B

meets neither A nor B, and has one element a lane; its cosets are the rounds. Elements of V of one word go together
(Zhou et al. 2025, section 5.4). Where lanes hold the same elements this does not apply, and every target register takes
one round for each source register that its lanes need.
"""

from __future__ import annotations

from dataclasses import dataclass

from tesseracc.layout.gf2 import Span, combine, extend, intersection, rank
from tesseracc.layout.linear import LinearLayout

__all__ = ["Round", "Shuffles", "plan_shuffles"]


@dataclass(frozen=True, slots=True)
class Round:
    """One shuffle: constants to which the plan's linear parts are added."""

    offer: int  # source register
    lane: int  # lane to read from
    target: int  # target register
    guard: int  # the value that `Shuffles.guards` must have for a lane to keep what it received


@dataclass(frozen=True, slots=True)
class Shuffles:
    """For a lane l of warp w (bits l | w << 5), with x . columns the XOR of the columns of x's bits:

        offer register        round.offer ^ l . offers
        read from lane        round.lane ^ (l, w) . lanes
        put into register     round.target ^ (l, w) . targets
        keep it where         (l, w) . guards == round.guard

    Every pair of `packs` is one bit of a word: registers offer ^ pack[0] go along, into target ^ pack[1].
    """

    rounds: tuple[Round, ...]
    offers: tuple[int, ...]
    lanes: tuple[int, ...]
    targets: tuple[int, ...]
    guards: tuple[int, ...]
    packs: tuple[tuple[int, int], ...]
    words: int  # of 32 bits in an element: each takes a shuffle

    @property
    def cost(self) -> int:
        """Shuffles (two slots each) and the selections of registers that depend on the lane."""
        words = len(self.rounds) * self.words
        chosen = (1 << rank(self.offers)) - 1 + rank(self.targets) + (1 if any(self.guards) else 0)
        return words * (2 + chosen)


def plan_shuffles(source: LinearLayout, target: LinearLayout, where: LinearLayout, bits: int) -> Shuffles:
    """The rounds for a conversion inside of warps; `where` is convert.locate(source, target)."""
    warps = len(where.columns) - where.in_shift("lane") - len(where.bases("lane"))
    if source.is_injective() and target.is_injective() and source.ins == target.ins:
        return _transversal(source, target, bits, warps)
    return _one_by_one(where, bits)


def _place(layout: LinearLayout, span: Span, coordinate: int) -> tuple[int, int]:
    """(register, lane) of a coordinate; span holds the layout's register and lane columns."""
    place = span.solve(coordinate)
    assert place is not None
    count = len(layout.bases("register"))
    return place & ((1 << count) - 1), place >> count


def _transversal(source: LinearLayout, target: LinearLayout, bits: int, warps: int) -> Shuffles:
    a, b = source.bases("register"), target.bases("register")
    la, lb = source.bases("lane"), target.bases("lane")
    in_source, in_target = Span([*a, *la]), Span([*b, *lb])
    common = intersection(a, b)
    packs: list[tuple[int, int]] = []
    while bits << len(packs) + 1 <= 32 and len(packs) < len(common):
        vector = common[len(packs)]
        packs.append((_place(source, in_source, vector)[0], _place(target, in_target, vector)[0]))
    across = [e ^ f for e, f in zip(extend(common, a), extend(common, b))]
    t = [*across, *extend([*a, *b], la)]
    offer, sender = zip(*(_place(source, in_source, vector) for vector in t))
    put, receiver = zip(*(_place(target, in_target, vector) for vector in t))
    by_sender, by_receiver = Span(sender), Span(receiver)

    def of_sender(lane: int) -> int:
        return combine(offer, by_sender.solve(lane) or 0)

    def of_receiver(lane: int) -> int:
        return by_receiver.solve(lane) or 0

    lanes = [combine(sender, of_receiver(1 << bit)) for bit in range(len(lb))]
    targets = [combine(put, of_receiver(1 << bit)) for bit in range(len(lb))]
    wa, wb = _others(source), _others(target)
    for bit in range(warps):  # the same element may lie elsewhere in other warps
        register, lane = _place(target, in_target, wa[bit] ^ wb[bit])
        lanes.append(combine(sender, of_receiver(lane)))
        targets.append(combine(put, of_receiver(lane)) ^ register)
    rounds = []
    steps = extend([combine(a, pack[0]) for pack in packs], a)
    for index in range(1 << len(steps)):
        start = combine(steps, index)
        register, lane = _place(target, in_target, start)
        first, _ = _place(source, in_source, start)
        at = of_receiver(lane)
        rounds.append(Round(first, combine(sender, at), register ^ combine(put, at), 0))
    offers = tuple(of_sender(1 << bit) for bit in range(len(la)))
    none = (0,) * len(lanes)
    return Shuffles(tuple(rounds), offers, tuple(lanes), tuple(targets), none, tuple(packs), max(1, bits // 32))


def _others(layout: LinearLayout) -> tuple[int, ...]:
    return tuple(c for name, _ in layout.ins if name not in ("register", "lane") for c in layout.bases(name))


def _one_by_one(where: LinearLayout, bits: int) -> Shuffles:
    shifts = {name: _out_shift(where, name) for name in ("register", "lane")}
    registers = (1 << dict(where.outs)["register"]) - 1
    mask = (1 << dict(where.outs)["lane"]) - 1
    columns = [*where.bases("lane"), *_others(where)]
    guards = [column >> shifts["register"] & registers for column in columns]
    lanes = [column >> shifts["lane"] & mask for column in columns]
    needed = extend((), guards)
    rounds = []
    for register in range(where.in_size("register")):
        first = where.flat(register)
        base, lane = first >> shifts["register"] & registers, first >> shifts["lane"] & mask
        for index in range(1 << len(needed)):
            value = combine(needed, index)
            rounds.append(Round(base ^ value, lane, register, value))
    still, offers = (0,) * len(lanes), (0,) * len(where.bases("lane"))
    return Shuffles(tuple(rounds), offers, tuple(lanes), still, tuple(guards), (), max(1, bits // 32))


def _out_shift(layout: LinearLayout, name: str) -> int:
    shift = layout.out_bits
    for dim, bits in layout.outs:
        shift -= bits
        if dim == name:
            return shift
    raise ValueError(f"no output is called {name}")

"""Linear layouts: maps from places in a machine to coordinates of a tile that are linear over GF(2).

A place is a tuple of small numbers with names (register 3 of lane 17 of warp 2, or an offset in shared memory); so is a
coordinate (row 9, column 4). All extents are powers of two. The layout L is fixed by its values at the powers of two:

    L(a xor b) = L(a) xor L(b)        for all places a, b

The idea is from "Linear Layouts: Robust Code Generation of Efficient Tensor Computation Using F2" (Zhou et al. 2025).

Order of bits. Inputs are named fastest first (register, lane, warp), outputs slowest first (row, column), so that the
flat output is the row-major index of the coordinate. An inverse swaps and reverses both lists and keeps flat numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tesseracc.layout.dims import Dims, axis_names, pack, pick, place, shift_of, union, unpack
from tesseracc.layout.gf2 import Span, combine, kernel, log2

__all__ = ["Dims", "LinearLayout", "axis_names"]

Number = TypeVar("Number", int, npt.NDArray[np.int64])


class LinearLayout:
    """An immutable layout; `columns[i]` is the flat output of input bit i, inputs fastest first."""

    __slots__ = ("_hash", "_places", "columns", "ins", "outs")

    ins: Dims
    outs: Dims
    columns: tuple[int, ...]
    _hash: int
    _places: dict[str, tuple[int, int]]  # of each input: its lowest bit in the flat input, and the number of its values

    def __init__(self, ins: Dims, outs: Dims, columns: Sequence[int]) -> None:
        for dims in (ins, outs):
            if len({name for name, _ in dims}) != len(dims) or any(bits < 0 for _, bits in dims):
                raise ValueError(f"dimensions {dims} repeat a name or have a negative size")
        width = sum(bits for _, bits in outs)
        if len(columns) != sum(bits for _, bits in ins) or any(not 0 <= column < 1 << width for column in columns):
            raise ValueError(f"{len(columns)} columns {tuple(columns)} do not map {ins} to {outs}")
        set_ = object.__setattr__
        set_(self, "ins", ins)
        set_(self, "outs", outs)
        set_(self, "columns", tuple(columns))
        set_(self, "_hash", hash((ins, outs, self.columns)))
        start, places = 0, {}
        for name, bits in ins:
            places[name] = (start, 1 << bits)
            start += bits
        set_(self, "_places", places)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("layouts are immutable")

    def __reduce__(self) -> tuple[Any, ...]:
        return LinearLayout, (self.ins, self.outs, self.columns)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LinearLayout):
            return NotImplemented
        return self.columns == other.columns and self.ins == other.ins and self.outs == other.outs

    def __hash__(self) -> int:
        return self._hash

    # --- making ---------------------------------------------------------------------------------------------------

    @staticmethod
    def make(
        bases: Mapping[str, Sequence[Sequence[int]]], shape: Sequence[int] | Mapping[str, int] | None = None
    ) -> LinearLayout:
        """The layout with these basis vectors: per input (fastest first) the coordinate of each of its bits.

        `shape` gives the outputs' sizes, by name or for dim0, dim1, ...; without it the smallest that hold the vectors.
        """
        vectors = [tuple(vector) for rows in bases.values() for vector in rows]
        if shape is None:
            rank = len(vectors[0]) if vectors else 0
            shape = [1 << max((v[axis].bit_length() for v in vectors), default=0) for axis in range(rank)]
        sizes = dict(shape) if isinstance(shape, Mapping) else dict(zip(axis_names(len(shape)), shape))
        outs = tuple((name, log2(size)) for name, size in sizes.items())
        columns = []
        for vector in vectors:
            if len(vector) != len(outs) or any(not 0 <= x < 1 << bits for x, (_, bits) in zip(vector, outs)):
                raise ValueError(f"basis vector {list(vector)} lies outside of {list(sizes.values())}")
            columns.append(pack(vector, outs))
        return LinearLayout(tuple((name, len(rows)) for name, rows in bases.items()), outs, columns)

    @staticmethod
    def identity(size: int, source: str, target: str) -> LinearLayout:
        """x -> x."""
        bits = log2(size)
        return LinearLayout(((source, bits),), ((target, bits),), [1 << bit for bit in range(bits)])

    @staticmethod
    def zeros(size: int, source: str, target: str) -> LinearLayout:
        """x -> 0: every value of the input holds the same element."""
        bits = log2(size)
        return LinearLayout(((source, bits),), ((target, 0),), [0] * bits)

    @staticmethod
    def empty() -> LinearLayout:
        """The neutral element of the product."""
        return LinearLayout((), (), ())

    # --- looking --------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the outputs."""
        return tuple(1 << bits for _, bits in self.outs)

    @property
    def in_bits(self) -> int:
        """Bits of the flat input."""
        return len(self.columns)

    @property
    def out_bits(self) -> int:
        """Bits of the flat output."""
        return sum(bits for _, bits in self.outs)

    def has_in(self, name: str) -> bool:
        """Whether there is an input of that name."""
        return name in self._places

    def in_size(self, name: str) -> int:
        """Number of values of an input; 1 for one that the layout does not have."""
        return self._places.get(name, (0, 1))[1]

    def out_size(self, name: str) -> int:
        """Number of values of an output; 1 for one that the layout does not have."""
        return 1 << dict(self.outs).get(name, 0)

    def in_shift(self, name: str) -> int:
        """The place of an input's lowest bit in the flat input."""
        return shift_of(self.ins, name)

    def bases(self, name: str) -> tuple[int, ...]:
        """Flat outputs of an input's bits; empty for an input that the layout does not have."""
        start, size = self._places.get(name, (0, 1))
        return self.columns[start : start + size.bit_length() - 1]

    def vectors(self, name: str) -> tuple[tuple[int, ...], ...]:
        """Coordinates of an input's bits."""
        return tuple(self.coordinate(column) for column in self.bases(name))

    def coordinate(self, flat: int) -> tuple[int, ...]:
        """The coordinate of a flat output."""
        return tuple(unpack(flat, self.outs).values())

    def flat(self, place: int) -> int:
        """The flat output of a flat input."""
        return combine(self.columns, place)

    def at(self, **place: int) -> tuple[int, ...]:
        """The coordinate of a place; inputs that are not named are 0."""
        total = 0
        for name, value in place.items():
            start = self._start(name, value)
            total ^= combine(self.columns, value << start)
        return self.coordinate(total)

    def _start(self, name: str, value: Any) -> int:
        """The lowest bit of an input in the flat input; ValueError where `value` is none of its values."""
        if name not in self._places:
            raise ValueError(f"no input is called {name}")
        start, size = self._places[name]
        if not (0 <= value < size if isinstance(value, int) else ((value >= 0) & (value < size)).all()):
            raise ValueError(f"{name} = {value} is outside of its {size} values")
        return start

    def apply(self, place: Mapping[str, Number]) -> dict[str, Number]:
        """Outputs by name, for numbers or (element by element) arrays of numbers; inputs that are not named are 0."""
        total: Any = 0
        for name, index in place.items():
            self._start(name, index)
            for bit, column in enumerate(self.bases(name)):
                total = total ^ (index >> bit & 1) * column
        return unpack(total, self.outs)

    def table(self) -> npt.NDArray[np.int64]:
        """Flat outputs of all flat inputs, in order."""
        out = np.zeros(1, np.int64)
        for column in self.columns:
            out = np.concatenate([out, out ^ column])
        return out

    def places(self) -> Iterator[dict[str, int]]:
        """All inputs, in the order of `table`."""
        for flat in range(1 << self.in_bits):
            yield {name: (flat >> shift_of(self.ins, name)) & ((1 << bits) - 1) for name, bits in self.ins}

    def __str__(self) -> str:
        """The text form; `tesseracc.layout.text.parse_layout` gives the layout back."""
        vectors = {name: [list(vector) for vector in self.vectors(name)] for name, _ in self.ins}
        text = ", ".join(f"{name}={rows}".replace(", ", ",") for name, rows in vectors.items())
        names = tuple(name for name, _ in self.outs)
        spanned = [self.coordinate(column) for column in self.columns]
        ending = ""
        if names != axis_names(len(names)):
            ending = " -> (" + ", ".join(f"{name}={1 << bits}" for name, bits in self.outs) + ")"
        elif not spanned or self.shape != tuple(1 << max(map(int.bit_length, axis)) for axis in zip(*spanned)):
            ending = f" -> {list(self.shape)}"
        return f"#layout<{text}{ending}>"

    def __repr__(self) -> str:
        return str(self)

    # --- questions ------------------------------------------------------------------------------------------------

    @property
    def rank(self) -> int:
        """Dimension of the image."""
        return Span(self.columns).rank

    def is_surjective(self) -> bool:
        """Whether every coordinate has a place."""
        return self.rank == self.out_bits

    def is_injective(self) -> bool:
        """Whether no two places have the same coordinate."""
        return self.rank == self.in_bits

    def is_bijective(self) -> bool:
        """Whether there is exactly one place for every coordinate."""
        return self.in_bits == self.out_bits == self.rank

    def is_identity(self) -> bool:
        """Whether every input goes unchanged to the output of its name, and there is no other output."""
        return sorted(self.ins) == sorted(self.outs) and all(
            self.apply({name: 1 << bit}) == {out: 1 << bit if out == name else 0 for out, _ in self.outs}
            for name, bits in self.ins
            for bit in range(bits)
        )

    def free_variables(self) -> dict[str, int]:
        """Per input a mask of the bits that say nothing new: changing one is made good by changing lower bits."""
        dependent = {combination.bit_length() - 1 for combination in kernel(self.columns)}
        masks = {}
        start = 0
        for name, bits in self.ins:
            masks[name] = sum(1 << bit for bit in range(bits) if start + bit in dependent)
            start += bits
        return masks

    # --- inputs and outputs -----------------------------------------------------------------------------------------

    def sublayout(self, ins: Sequence[str], outs: Sequence[str] | None = None) -> LinearLayout:
        """The part from some inputs (the others being 0) to some outputs, in the order in which they are given."""
        columns = [column for name in ins for column in self.bases(name)]
        sizes, out_sizes = dict(self.ins), dict(self.outs)
        kept = self.outs if outs is None else tuple((name, out_sizes[name]) for name in outs)
        picked = [pick(column, self.outs, kept) for column in columns]
        return LinearLayout(tuple((name, sizes[name]) for name in ins), kept, picked)

    def rename(self, ins: Mapping[str, str] | None = None, outs: Mapping[str, str] | None = None) -> LinearLayout:
        """The same map with other names."""
        new_ins = tuple(((ins or {}).get(name, name), bits) for name, bits in self.ins)
        new_outs = tuple(((outs or {}).get(name, name), bits) for name, bits in self.outs)
        return LinearLayout(new_ins, new_outs, self.columns)

    def with_ins(self, names: Sequence[str]) -> LinearLayout:
        """Exactly these inputs in this order, new ones with one value; inputs left out must have one value."""
        lost = [name for name, bits in self.ins if name not in names and bits]
        if lost:
            raise ValueError(f"inputs {lost} would be lost")
        sizes = dict(self.ins)
        columns = [column for name in names for column in self.bases(name)]
        return LinearLayout(tuple((name, sizes.get(name, 0)) for name in names), self.outs, columns)

    def reshape_ins(self, sizes: Mapping[str, int]) -> LinearLayout:
        """The same flat input, cut into other inputs, fastest first."""
        return LinearLayout(tuple((name, log2(size)) for name, size in sizes.items()), self.outs, self.columns)

    def reshape_outs(self, sizes: Mapping[str, int] | Sequence[int]) -> LinearLayout:
        """The same flat (row-major) output, cut into other outputs, slowest first: a reshape of the tile."""
        if not isinstance(sizes, Mapping):
            sizes = dict(zip(axis_names(len(sizes)), sizes))
        outs = tuple((name, log2(size)) for name, size in sizes.items())
        if sum(bits for _, bits in outs) != self.out_bits:
            raise ValueError(f"{self.shape} has not as many elements as {tuple(sizes.values())}")
        return LinearLayout(self.ins, outs, self.columns)

    def transpose_outs(self, order: Sequence[str]) -> LinearLayout:
        """The outputs in another order; their names go with them."""
        sizes = dict(self.outs)
        if sorted(order) != sorted(sizes):
            raise ValueError(f"{list(order)} is no order of {list(sizes)}")
        outs = tuple((name, sizes[name]) for name in order)
        return LinearLayout(self.ins, outs, [pick(column, self.outs, outs) for column in self.columns])

    # --- algebra ----------------------------------------------------------------------------------------------------

    def then(self, outer: LinearLayout) -> LinearLayout:
        """x -> outer(self(x)); self's outputs are outer's inputs, of the same names and at most as large."""
        sizes = dict(outer.ins)
        if {name for name, _ in self.outs} != set(sizes) or any(bits > sizes[name] for name, bits in self.outs):
            raise ValueError(f"outputs {self.outs} are not the inputs {outer.ins}")
        shifts = {name: shift_of(outer.ins, name) for name in sizes}
        columns = []
        for column in self.columns:
            middle = sum(value << shifts[name] for name, value in unpack(column, self.outs).items())
            columns.append(outer.flat(middle))
        return LinearLayout(self.ins, outer.outs, columns)

    def __mul__(self, other: LinearLayout) -> LinearLayout:
        """The direct product: other's bits above self's, in every input and output that both have.

        (A * B)(a + 2^|a| b) = A(a) + 2^|A| B(b), name by name.
        """
        names_in = union(self.ins, other.ins)
        outs = tuple((name, dict(self.outs).get(name, 0) + dict(other.outs).get(name, 0))
                     for name in union(self.outs, other.outs))  # fmt: skip
        low = dict(self.outs)
        columns: list[int] = []
        ins = []
        for name in names_in:
            mine, theirs = self.bases(name), other.bases(name)
            ins.append((name, len(mine) + len(theirs)))
            columns += [place(unpack(column, self.outs), outs) for column in mine]
            for column in theirs:
                parts = {out: value << low.get(out, 0) for out, value in unpack(column, other.outs).items()}
                columns.append(place(parts, outs))
        return LinearLayout(tuple(ins), outs, columns)

    def concat_ins(self, other: LinearLayout) -> LinearLayout:
        """Inputs of both, outputs shared: (x, y) -> self(x) xor other(y)."""
        if sorted(self.outs) != sorted(other.outs):
            raise ValueError(f"outputs {self.outs} and {other.outs} differ")
        moved = other.transpose_outs([name for name, _ in self.outs])
        return LinearLayout(self.ins + other.ins, self.outs, self.columns + moved.columns)

    def concat_outs(self, other: LinearLayout) -> LinearLayout:
        """Outputs of both, inputs shared: x -> (self(x), other(x))."""
        if sorted(self.ins) != sorted(other.ins):
            raise ValueError(f"inputs {self.ins} and {other.ins} differ")
        columns = []
        for name, _ in self.ins:
            columns += [mine << other.out_bits | theirs for mine, theirs in zip(self.bases(name), other.bases(name))]
        return LinearLayout(self.ins, self.outs + other.outs, columns)

    def divide(self, factor: LinearLayout) -> LinearLayout | None:
        """The layout Q with self = factor * Q; None where there is none. Q keeps all names of self."""
        low_in, low_out = dict(factor.ins), dict(factor.outs)
        if set(low_in) - {n for n, _ in self.ins} or set(low_out) - {n for n, _ in self.outs}:
            return None
        outs = tuple((name, bits - low_out.get(name, 0)) for name, bits in self.outs)
        ins = tuple((name, bits - low_in.get(name, 0)) for name, bits in self.ins)
        if any(bits < 0 for _, bits in (*ins, *outs)):
            return None
        columns = []
        for name, _ in self.ins:
            for column in self.bases(name)[low_in.get(name, 0) :]:
                parts = unpack(column, self.outs)
                columns.append(place({out: value >> low_out.get(out, 0) for out, value in parts.items()}, outs))
        quotient = LinearLayout(ins, outs, columns)
        whole = factor * quotient
        order = [name for name, _ in self.outs]
        return quotient if whole.with_ins([n for n, _ in self.ins]).transpose_outs(order) == self else None

    def inverse(self) -> LinearLayout:
        """The inverse of a bijective layout. ValueError for others."""
        if not self.is_bijective():
            raise ValueError("only a bijective layout has an inverse")
        return self.right_inverse()

    def right_inverse(self) -> LinearLayout:
        """R with self(R(y)) = y, of a surjective layout; among the places of y the one with the lowest bits in use."""
        if not self.is_surjective():
            raise ValueError("only a surjective layout has a right inverse")
        return self.pseudo_inverse()

    def left_inverse(self) -> LinearLayout:
        """L with L(self(x)) = x, of an injective layout; see pseudo_inverse for coordinates outside of its image."""
        if not self.is_injective():
            raise ValueError("only an injective layout has a left inverse")
        return self.pseudo_inverse()

    def pseudo_inverse(self) -> LinearLayout:
        """P with self(P(self(x))) = self(x): a right inverse on the image, 0 on unit vectors that complete it."""
        span = Span(self.columns)
        missing = [1 << bit for bit in range(self.out_bits) if span.add(1 << bit)]
        span = Span((*self.columns, *missing))
        mask = (1 << self.in_bits) - 1
        columns = [(span.solve(1 << bit) or 0) & mask for bit in range(self.out_bits)]
        return LinearLayout(self.outs[::-1], self.ins[::-1], columns)

    def solve(self, target: LinearLayout) -> LinearLayout:
        """X with self(X(x)) = target(x): where in self's places the element of target's place x lies.

        ValueError when target has coordinates that self does not reach.
        """
        if sorted(self.outs) != sorted(target.outs):
            raise ValueError(f"outputs {self.outs} and {target.outs} differ")
        span = Span(self.columns)
        columns = []
        for column in target.transpose_outs([name for name, _ in self.outs]).columns:
            combination = span.solve(column)
            if combination is None:
                raise ValueError(f"coordinate {self.coordinate(column)} has no place")
            columns.append(combination)
        return LinearLayout(target.ins, self.ins[::-1], columns)

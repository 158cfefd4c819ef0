"""How many of the lowest bits of every element are known to be 0, in kernels and through the buffers of programs.

An f32 whose 13 lowest bits are 0 is a tf32: rounding to tf32 leaves such values, and so do widened f16, bf16 and fp8.
What is known of a buffer is what holds for all that is written to it; a program's own parameters hold anything. The
facts about buffers are the greatest solution, found by taking everything for 0 first.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

from tesseracc.ir.rewrite import makers_of
from tesseracc.ir.types import BufType, bits_of, element
from tesseracc.ir.value import Func, Module, Op, Value

ALL = 64
TF32 = 13  # bits of an f32 that a tf32 has not
#: bits of mantissa of types that an f32 holds exactly
_MANTISSA = {"f16": 10, "bf16": 7, "fp8_e4m3": 3, "fp8_e5m2": 2}
_SAME = frozenset({"tile.splat", "tile.broadcast", "tile.transpose", "tile.full", "arith.neg", "arith.abs"})
_LOADS = frozenset({"tile.load", "tile.read"})
_STORES = {"tile.store": ("value", "buf"), "tile.write": ("value", "buf"), "tile.copy_async": ("src", "dst"),
           "tile.update": ("value", "buf"), "tile.update_block": ("value", "buf")}  # fmt: skip

Bits = dict[Value, int]


class LowBits:
    """The facts about one kernel, given those about its buffers."""

    def __init__(self, kernel: Func, buffers: Mapping[Value, int]) -> None:
        self.makers = makers_of(kernel)
        self.buffers = buffers

    def of(self, value: Value) -> int:
        """The number of low bits of each element's pattern that are 0."""
        op = self.makers.get(value)
        if isinstance(value.type, BufType):
            return self.buffers.get(value, 0)
        return 0 if op is None else self._made(op)

    def _made(self, op: Op) -> int:
        if op.name == "tile.zeros":
            return ALL
        if op.name == "arith.constant":
            return _zeros(_pattern(op.attrs["value"], element(op.result.type)))
        if op.name in _SAME or op.name == "arith.bitcast":
            return self.of(op.operands[0])
        if op.name in _LOADS:
            return self.of(op["buf"])
        if op.name == "arith.select":
            return min(self.of(op["a"]), self.of(op["b"]))
        if op.name in ("arith.or", "arith.xor"):
            return min(self.of(op["a"]), self.of(op["b"]))
        if op.name == "arith.and":
            return max(self.of(op["a"]), self.of(op["b"]))
        if op.name == "arith.shl":
            return min(ALL, self.of(op["a"]) + (self._number(op["b"]) or 0))
        if op.name == "arith.cast" and op.attrs["to"] == "f32":
            return 23 - _MANTISSA.get(element(op["a"].type), 23)
        return 0

    def _number(self, value: Value) -> int | None:
        """A constant in every element."""
        op = self.makers.get(value)
        while op is not None and op.name in ("tile.splat", "tile.full", "tile.broadcast"):
            op = self.makers.get(op.operands[0])
        return op.attrs["value"] if op is not None and op.name == "arith.constant" else None


def _pattern(value: int | float | bool, dtype: str) -> int:
    if isinstance(value, float):
        codes = {"f32": ("<f", "<I"), "f64": ("<d", "<Q")}
        if dtype not in codes:
            return 1
        number, word = codes[dtype]
        return int(struct.unpack(word, struct.pack(number, value))[0])
    return int(value) & (1 << bits_of(dtype)) - 1


def _zeros(pattern: int) -> int:
    return (pattern & -pattern).bit_length() - 1 if pattern else ALL


def known_low_bits(module: Module) -> dict[str, LowBits]:
    """By kernel: what is known of its values. Kernels that no program launches know nothing of their parameters."""
    kernels = {f.name: f for f in module.of_kind("tile.kernel")}
    programs = module.of_kind("tile.program")
    launched = {str(op.attrs["kernel"]) for p in programs for op in p.walk() if op.name == "tile.launch"}
    facts: Bits = {}
    for program in programs:
        facts |= {v: ALL for op in program.walk() for v in op.results if isinstance(v.type, BufType)}
        facts |= dict.fromkeys(_arguments(program), 0)
    inside = {name: _start(f, launched=name in launched) for name, f in kernels.items()}
    changed = True
    while changed:
        before = dict(facts), {name: dict(known) for name, known in inside.items()}
        for program in programs:
            for op in program.walk():
                _step(op, facts, kernels, inside)
        for name, kernel in kernels.items():
            _stores(kernel, inside[name])
        changed = (facts, inside) != before
    return {name: LowBits(kernel, inside[name]) for name, kernel in kernels.items()}


def _start(kernel: Func, *, launched: bool) -> Bits:
    """Every buffer of a kernel before anything is known."""
    params = {p: ALL if launched else 0 for p in kernel.params if isinstance(p.type, BufType)}
    return params | {v: ALL for op in kernel.walk() for v in op.results if op.name == "tile.alloc"}


def _arguments(program: Func) -> Iterable[Value]:
    """The program's parameters, and those of regions: what they stand for is not followed."""
    yield from program.params
    for op in program.walk():
        for region in op.regions:
            yield from region.args


def _step(op: Op, facts: Bits, kernels: Mapping[str, Func], inside: Mapping[str, Bits]) -> None:
    """What an operation of a program says of its buffers."""
    buffers = [v for v in (*op.operands, *op.results) if isinstance(v.type, BufType)]
    if op.name == "tile.temp":
        return
    if op.name in ("tile.view", "tile.copy"):
        _meet([(facts, v) for v in buffers])
    elif op.name == "tile.launch":
        kernel = kernels[str(op.attrs["kernel"])]
        for given, param in zip(op.operands, kernel.params, strict=False):
            if given in facts and param in inside[kernel.name]:
                _meet([(facts, given), (inside[kernel.name], param)])
    else:
        for value in buffers:
            facts[value] = 0


def _meet(places: list[tuple[Bits, Value]]) -> None:
    least = min(facts.get(value, 0) for facts, value in places)
    for facts, value in places:
        facts[value] = least


def _stores(kernel: Func, buffers: Bits) -> None:
    """Lowers what is known of the buffers that a kernel writes to."""
    known = LowBits(kernel, buffers)
    for op in kernel.walk():
        if op.name in _STORES:
            source, target = _STORES[op.name]
            buffers[op[target]] = min(buffers.get(op[target], 0), known.of(op[source]))
        elif op.name not in _LOADS:
            buffers.update(dict.fromkeys((v for v in op.operands if isinstance(v.type, BufType)), 0))

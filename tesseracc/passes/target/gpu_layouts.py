"""Which layout every tile of a kernel has on a GPU.

Tiles that operations combine element by element, and those that a loop or branch carries, form a class with one
layout. Classes are settled in this order:

1. accumulators of products, by the matrix instruction that the target's table has for the types;
2. operands of products that are read from shared memory: the instruction's fragments;
3. other matrices that are read from global memory: as memory is read best;
4. what folds, broadcasts and transposes connect to a settled class: so that they move nothing between threads;
5. the rest, the largest first, as memory is read best.

Where a value is needed in another layout than its class has, it is converted there (gpu_convert.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tesseracc.analysis.products import multiplied
from tesseracc.arch.arch import Arch
from tesseracc.ir.types import BufType, TileType, bits_of
from tesseracc.ir.value import Func, Op, Value
from tesseracc.layout.build import coalesced, transpose
from tesseracc.layout.linear import LinearLayout
from tesseracc.layout.select import Choice
from tesseracc.passes.target.gpu_convert import folded_layout, project
from tesseracc.passes.target.gpu_matrix import accumulator_layout, choose, operand_layout, warp_grid
from tesseracc.passes.target.gpu_placed import Placed, placed_operands
from tesseracc.passes.target.gpu_spread import padded
from tesseracc.passes.target.gpu_tensor_sums import Sum, load_layout, sums_in_tensor_memory
from tesseracc.passes.target.gpu_warpgroup import choose_for_warpgroups, unit_grid, unit_layout

#: values without memory or inputs: made in whatever layout they are needed
FREE = frozenset({"arith.constant", "tile.full", "tile.coordinate", "tile.zeros"})


class Layouts:
    """The layouts of one kernel. `choices` and `grids` say by which instruction and warp grid a product is made."""

    def __init__(self, kernel: Func, arch: Arch, warps: int, lanes: int) -> None:
        self.kernel, self.arch, self.warps, self.lanes = kernel, arch, warps, lanes
        self.parent: dict[Value, Value] = {}
        self.members: dict[Value, list[Value]] = {}
        self.settled: dict[Value, LinearLayout] = {}
        self.choices: dict[Value, Choice] = {}
        self.grids: dict[Value, tuple[int, int]] = {}
        self.placed: dict[Value, Placed] = {}  # operands that stay in shared memory
        self.sums: dict[Op, tuple[Sum, ...]] = {}  # pipelines whose sums are in tensor memory
        self.ops = list(kernel.walk())
        self.makers: dict[Value, Op] = {r: op for op in self.ops for r in op.results}
        for op in self.ops:
            self._connect(op)
        for value in list(self.parent):
            self.members.setdefault(self._root(value), []).append(value)
        self._place(placed_operands(kernel))
        self._accumulators()
        self._stay_for_fma(placed_operands(kernel))
        self._operands()
        self._global_matrices()
        self._derive()
        self._rest()

    def of(self, value: Value) -> LinearLayout:
        """The layout of a tile's class; of a free value without a class, the plain one."""
        found = self.settled.get(self._root(value)) if value in self.parent else None
        return found if found is not None else self._plain(value)

    # -- classes -----------------------------------------------------------------------------------------------------

    def _root(self, value: Value) -> Value:
        while self.parent.setdefault(value, value) is not value:
            self.parent[value] = self.parent[self.parent[value]]
            value = self.parent[value]
        return value

    def _join(self, values: Sequence[Value]) -> None:
        tiles = [v for v in values if isinstance(v.type, TileType) and not self._free(v)]
        for value in tiles:
            self.parent[self._root(value)] = self._root(tiles[0])

    def _free(self, value: Value) -> bool:
        op = self.makers.get(value)
        return op is not None and op.name in FREE

    def _connect(self, op: Op) -> None:
        for value in (*op.results, *(a for r in op.regions for a in r.args)):
            if isinstance(value.type, TileType) and not self._free(value):
                self._root(value)
        if op.defn.dialect == "arith":
            self._join([*op.operands, *op.results])
        elif op.name == "tile.mma":
            self._join([op["acc"], op.result])
        elif op.name == "tile.map":
            self._join([*op.group("tiles"), *op.results])
        elif op.name == "scf.for":
            self._carried(op, op.regions[0].args[1:], op.regions[0].yields)
        elif op.name == "tile.pipeline":
            self._carried(op, op.regions[1].args[2:], op.regions[1].yields)
        elif op.name == "scf.if":
            for result, *sides in zip(op.results, *(r.yields for r in op.regions), strict=True):
                self._join([result, *sides])
        elif op.name == "scf.while":
            test, work = op.regions
            for values in zip(op.results, op.group("inits"), test.args, work.args, work.yields, strict=True):
                self._join(values)

    def _carried(self, op: Op, args: Sequence[Value], yields: Sequence[Value]) -> None:
        for values in zip(op.results, args, yields, op.group("inits"), strict=True):
            self._join(values)

    def _plain(self, value: Value) -> LinearLayout:
        type_ = value.type
        assert isinstance(type_, TileType)
        return coalesced(padded(type_.shape), bits_of(type_.dtype), self.warps, lanes=self.lanes)

    # -- settling ----------------------------------------------------------------------------------------------------

    def _folded_rows(self) -> set[Value]:
        return {self._root(op["a"]) for op in self.ops if op.name == "tile.fold" and op.attrs["axis"] == 1}

    def _place(self, placed: dict[Value, Placed]) -> None:
        """Gives products to groups of warps. An operand stays in place if all products that it has read it there."""
        products = [op for op in self.ops if op.name == "tile.mma"]
        while True:
            self.sums = sums_in_tensor_memory(self.kernel, self.arch, self.warps, placed)
            chosen = {op.result: self._by_warpgroups(op, placed) for op in products}
            for part in self._all_sums():
                chosen |= {op.result: choice for op, choice in zip(part.products, part.choices, strict=True)}
            loaded = {op[side] for op in products for side in "ab" if chosen[op.result] is None}
            if not loaded & placed.keys():
                break
            placed = {value: where for value, where in placed.items() if value not in loaded}
        self.placed = placed
        self.stays = set(placed)  # with what is transposed on the way
        for op in self.ops:
            if op.name == "tile.transpose" and op.result in self.stays:
                self.stays.add(op["a"])
        self.choices = {value: choice for value, choice in chosen.items() if choice is not None}

    def _all_sums(self) -> list[Sum]:
        return [part for sums in self.sums.values() for part in sums]

    def _stay_for_fma(self, placed: dict[Value, Placed]) -> None:
        """Operands of products without an instruction are read element by element: where they lie, if they do."""
        users: dict[Value, list[Op]] = {}
        for op in self.ops:
            for side in "ab" if op.name == "tile.mma" else "":
                users.setdefault(op[side], []).append(op)
        for value in placed:
            type_ = value.type
            assert isinstance(type_, TileType)
            if padded(type_.shape) == tuple(type_.shape) and not any(op.result in self.choices for op in users[value]):
                self.stays.add(value)
                maker = self.makers[value]
                if maker.name == "tile.transpose":
                    self.stays.add(maker["a"])

    def _by_warpgroups(self, op: Op, placed: dict[Value, Placed]) -> Choice | None:
        a, b, acc = multiplied(op)
        full = self.lanes == self.arch.lanes
        where = placed.get(op["a"]), placed.get(op["b"])
        return choose_for_warpgroups(self.arch, a, b, acc, self.warps, where) if full else None

    def _accumulators(self) -> None:
        folded = self._folded_rows()
        loaded = {op.result: load_layout(part.place, part.shape, self.warps)
                  for part in self._all_sums() for op in part.products}  # fmt: skip
        for value, layout in loaded.items():
            assert layout is not None
            self.settled.setdefault(self._root(value), layout)
        products = [op for op in self.ops if op.name == "tile.mma" and op.result not in loaded]
        # products whose rows meet (one's result is another's operand, or scaled by a fold) keep rows in one warp
        rows_only = any(self._root(op.result) in folded for op in products)
        operands = {self._root(op[side]) for op in products for side in "ab"}
        chained = any(self._root(op.result) in operands for op in products)
        for op in products:
            a, b, acc = multiplied(op)
            high, wide = padded(acc.shape)
            choice = self.choices.get(op.result)
            if choice is not None:
                units = unit_grid(choice, (high, wide), self.warps)
                assert units is not None
                self.grids[op.result] = units
                self.settled.setdefault(self._root(op.result), unit_layout(choice, "c", (high, wide), units))
                continue
            full = self.lanes == self.arch.lanes
            choice = choose(self.arch, a, b, acc, self.warps) if full else None
            grid = warp_grid(choice, (high, wide), self.warps, rows_only=rows_only)
            layout = accumulator_layout(choice, (high, wide), grid, self.lanes, acc.dtype if chained else None)
            self.settled.setdefault(self._root(op.result), layout)
            self.grids[op.result] = grid
            if choice is not None:
                self.choices[op.result] = choice

    def _operands(self) -> None:
        for op in self.ops:
            choice = self.choices.get(op.result) if op.name == "tile.mma" else None
            for side in "ab" if choice is not None else "":
                if op[side] in self.placed:
                    continue
                root = self._root(op[side])
                if root in self.settled or not all(self._from_shared(v) for v in self.members.get(root, [])):
                    continue
                type_ = op[side].type
                assert isinstance(type_, TileType) and choice is not None
                rows, columns = padded(type_.shape)
                grid = self.grids[op.result]
                if choice.row.warps > 1:
                    self.settled[root] = unit_layout(choice, side, (rows, columns), grid)
                else:
                    self.settled[root] = operand_layout(choice, side, (rows, columns), grid)

    def _from_shared(self, value: Value) -> bool:
        """Whether a value is made, without products and loops, of reads of shared memory."""
        op = self.makers.get(value)
        if op is None:
            return False
        if op.name == "tile.read":
            type_ = op["buf"].type
            return isinstance(type_, BufType) and type_.space == "shared"
        if op.name == "tile.transpose":
            return self._from_shared(op["a"])
        return op.name in FREE or (op.defn.dialect == "arith" and all(self._from_shared(v) for v in op.operands))

    def _global_matrices(self) -> None:
        for op in self.ops:
            if op.name in ("tile.read", "tile.map") and op.results and self._root(op.result) not in self.settled:
                buf = op.operands[0].type if op.name == "tile.read" else None
                type_ = op.results[0].type
                assert isinstance(type_, TileType)
                if not (isinstance(buf, BufType) and buf.space == "shared") and sum(n > 1 for n in type_.shape) > 1:
                    self.settled[self._root(op.result)] = self._plain(op.result)

    def _derive(self) -> None:
        """Lays out what folds, broadcasts and transposes connect to settled classes, as long as there is any."""
        changed = True
        while changed:
            changed = False
            for value, layout in self._relations():
                root = self._root(value)
                if root not in self.settled and not self._free(value):
                    self.settled[root] = layout
                    changed = True

    def _relations(self) -> Iterator[tuple[Value, LinearLayout]]:
        """What settled classes say of others: (value, layout that it should have)."""
        for op in self.ops:
            if op.name not in ("tile.fold", "tile.broadcast", "tile.transpose"):
                continue
            source = op["a"]
            result = op.result
            known, made = self.settled.get(self._root(source)), (
                self.settled.get(self._root(result)) if isinstance(result.type, TileType) else None
            )  # fmt: skip
            if op.name == "tile.fold":
                if known is not None and isinstance(result.type, TileType):
                    yield result, folded_layout(known, op.attrs["axis"])
            elif op.name == "tile.broadcast":
                if made is not None:
                    assert isinstance(source.type, TileType)
                    yield source, project(made, op.attrs["axes"], source.type.shape)
            else:
                perm = list(op.attrs["perm"])
                if made is not None:
                    yield source, transpose(made, [perm.index(axis) for axis in range(len(perm))])
                elif known is not None:
                    yield result, transpose(known, perm)

    def _rest(self) -> None:
        def size(root: Value) -> tuple[int, int]:
            type_ = root.type
            assert isinstance(type_, TileType)
            count = 1
            for extent in type_.shape:
                count *= extent
            return -len(type_.shape), -count

        for root in sorted(self.members, key=size):
            if root not in self.settled:
                self.settled[root] = self._plain(root)
                self._derive()



"""Control flow of a kernel on a GPU: regions, loops and branches, which pass carried tiles register by register."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from tesseracc.ir.builder import Numbering
from tesseracc.ir.rewrite import made_in
from tesseracc.ir.types import ScalarType, TileType, Type, element
from tesseracc.ir.value import Op, Region, Value
from tesseracc.layout.linear import LinearLayout
from tesseracc.passes.target.gpu_memory import Shared, State
from tesseracc.passes.target.gpu_placed import Located
from tesseracc.passes.target.gpu_products import Flight, Products
from tesseracc.passes.target.gpu_spread import Free, Spread, registers

if TYPE_CHECKING:
    from tesseracc.arch.arch import Arch
    from tesseracc.passes.target.gpu_layouts import Layouts
    from tesseracc.passes.target.gpu_roles import Roles
    from tesseracc.passes.target.lower_gpu import Lowering

Held = Value | Spread | Free | Located | Flight


class Flow:
    """The part of a kernel's lowering that nests builders."""

    b: Numbering
    acting: Value | None
    arch: Arch
    env: dict[Value, Held]
    layouts: Layouts
    roles: Roles | None
    shared: Shared
    products: Products
    state: State
    varying: int

    @abstractmethod
    def ops(self, region: Region) -> None: ...

    @abstractmethod
    def get(self, value: Value) -> Value: ...

    @abstractmethod
    def tile(self, value: Value, layout: LinearLayout) -> Spread: ...

    @abstractmethod
    def barrier(self) -> None: ...

    @abstractmethod
    def land(self) -> None: ...

    def nested(self, args: Sequence[Type], body: Callable[[Lowering, list[Value]], Sequence[Value]]) -> Region:
        """A region filled by this lowering; what it learns about shared tiles stays."""
        outer = self.b
        values = [Value(type_) for type_ in args]
        acting = self.acting  # a value that is made in the region ends with it
        self.b = Numbering(outer.loc, outer)
        yields = body(cast("Lowering", self), values)
        region = self.b.region(values, yields)
        self.b, self.acting = outer, acting
        return region

    def branch(
        self,
        cond: Value | bool,
        then: Callable[[Lowering], list[Value]],
        orelse: Callable[[Lowering], list[Value]],
        types: Sequence[Type],
    ) -> tuple[Value, ...]:
        """What one of two sides gives; where it is known which, that side stands here."""
        if isinstance(cond, bool):
            return tuple((then if cond else orelse)(cast("Lowering", self)))
        regions = [self.nested([], lambda low, _: then(low)), self.nested([], lambda low, _: orelse(low))]
        return self.b.emit("scf.if", cond, types=list(types), regions=regions).results

    def flat(self, values: Sequence[Value]) -> list[Value]:
        """Values as scalars: a tile gives its elements."""
        found: list[Value] = []
        for value in values:
            if isinstance(value.type, TileType):
                found += self.tile(value, self.layouts.of(value)).as_elements(self.b)
            else:
                found.append(self.get(value))
        return found

    def flat_like(self, values: Sequence[Value], like: Sequence[Value]) -> list[Value]:
        """Values that become `like`: tiles in the layout of those."""
        found: list[Value] = []
        for value, other in zip(values, like, strict=True):
            if isinstance(value.type, TileType):
                found += self.tile(value, self.layouts.of(other)).as_elements(self.b)
            else:
                found.append(self.get(value))
        return found

    def flat_types(self, values: Sequence[Value]) -> list[Type]:
        types: list[Type] = []
        for value in values:
            count = registers(self.layouts.of(value)) if isinstance(value.type, TileType) else 1
            types += [ScalarType(element(value.type))] * count
        return types

    def bind(self, values: Sequence[Value], flat: Sequence[Value]) -> None:
        """The inverse of `flat`."""
        at = 0
        for value in values:
            if isinstance(value.type, TileType):
                layout = self.layouts.of(value)
                pieces = list(flat[at : at + registers(layout)])
                self.env[value] = Spread(layout, value.type.shape, value.type.dtype, elements=pieces)
                at += len(pieces)
            else:
                self.env[value] = flat[at]
                at += 1

    def region(self, region: Region, flat_args: Sequence[Value], like: Sequence[Value]) -> list[Value]:
        self.bind(region.args, flat_args)
        self.ops(region)
        return self.flat_like(region.yields, like)

    def do_scf_if(self, op: Op) -> None:
        self.land()
        before = self.state
        after: list[State] = []

        def side(region: Region) -> Region:
            self.state = before
            found = self.nested([], lambda low, _: low.region(region, [], op.results))
            after.append(self.state)
            return found

        regions = [side(r) for r in op.regions]
        self.state = after[0].joined(after[1])
        found = self.b.emit("scf.if", self.get(op["cond"]), types=self.flat_types(op.results), regions=regions)
        self.bind(op.results, found.results)

    def do_tile_if(self, op: Op) -> None:
        self.alone(op, self.do_scf_if)

    def alone(self, op: Op, lower: Callable[[Op], None]) -> None:
        """A region that only some threads may enter: there is no barrier in it, so it stands before."""
        if (self.state.tiles or any(access.tile for access in self.state.outside)) and not self.varying:
            self.barrier()
        self.varying += 1
        lower(op)
        self.varying -= 1

    def around(
        self, inside: Sequence[Region], build: Callable[[], list[Region]], *, groups: bool = False
    ) -> list[Region]:
        """The regions of a loop. At its head holds what was before, and what the end of an iteration leaves behind.

        That is the least state which an iteration does not add to: regions are built until there is no more to add.
        `groups`: an iteration does the work of another group than the one before, whose global memory is not its own.
        """
        before, taken = self.state, self.shared.copy()
        head = replace(before, copies=before.copies or self.starts_copies(inside))
        while True:
            self.state = head
            regions = build()
            end = self.state.passed(made_in(regions))
            after = head.joined(replace(end, outside=frozenset()) if groups else end)
            if after == head:
                break
            head, self.shared = after, taken.copy()
        self.state = self.state.joined(before)
        return regions

    def starts_copies(self, regions: Sequence[Region]) -> bool:
        """Whether the program starts copies there: other ones than pipelines fill their rings with."""
        ops = [inner for region in regions for op in region.ops for inner in op.walk()]
        fills = {inner for op in ops if op.name == "tile.pipeline" for inner in op.regions[0].ops}
        return self.arch.has("cp_async") and any(op.name == "tile.copy_async" and op not in fills for op in ops)

    def do_scf_for(self, op: Op) -> None:
        self.land()
        index = ScalarType(element(op.operands[0].type))
        rings = self.roles.within(op) if self.roles else []
        places = self.roles.places(rings) if self.roles else []
        types = [*self.flat_types(op.results), *(v.type for v in places)]
        inits = [*self.flat_like(op.group("inits"), op.results), *places]
        own = 1 + len(inits) - len(places)

        def step(low: Lowering, args: list[Value]) -> list[Value]:
            if low.roles:
                low.roles.place(rings, args[own:])
            found = low.region(op.regions[0], args[:own], op.results)
            return [*found, *(low.roles.places(rings) if low.roles else [])]

        regions = self.around(op.regions, lambda: [self.nested([index, *types], step)], groups=self._over_groups(op))
        bounds = [self.get(v) for v in op.operands[:3]]
        results = self.b.emit("scf.for", *bounds, inits, types=types, regions=regions).results
        self.bind(op.results, results)
        if self.roles:
            self.roles.place(rings, results[own - 1 :])

    def _over_groups(self, op: Op) -> bool:
        """Whether a loop takes the work of one group after the other (place-groups): as many on as blocks run."""
        maker = self.layouts.makers.get(op.operands[2])
        while maker is not None and maker.name == "arith.shr":
            maker = self.layouts.makers.get(maker["a"])
        return maker is not None and maker.name == "tile.group_count"

    def do_tile_for(self, op: Op) -> None:
        self.alone(op, self.do_scf_for)

    def do_scf_while(self, op: Op) -> None:
        self.land()
        types = self.flat_types(op.results)
        inits = self.flat_like(op.group("inits"), op.results)

        def build() -> list[Region]:
            test, work = op.regions
            first = self.nested(types, lambda low, args: low.region(test, args, test.yields))
            return [first, self.nested(types, lambda low, args: low.region(work, args, op.results))]

        regions = self.around(op.regions, build)
        self.bind(op.results, self.b.emit("scf.while", inits, types=types, regions=regions).results)

    def do_tile_while(self, op: Op) -> None:
        self.alone(op, self.do_scf_while)

"""The axes of a launch that the rules make: domain variables (R2), work loops (R3), batches (R4); whole stores (R9).

The value of every axis is one variable, `start + group_id(axis) * step`, assigned before the kernel's first statement.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tessera.dtypes import i64
from tessera.errors import Span, did_you_mean
from tessera.kernel.domains import Domain
from tessera.kernel.helpers import Helpers
from tessera.kernel.operands import Operand, Static, arithmetic, constant_dim, to_expr
from tessera.kernel.report import fail
from tessera.kernel.tile_operands import TileOp, key, may_equal
from tessera.kernel.tree import Assign, Axis, Buffer, Const, Elem, Expr, Id, Read, Stmt, Var, Window
from tessera.shapes import Dim, ceildiv, dim_max, known_equal, substitute, symbol, symbols_of
from tessera.shapes import Expr as DimExpr

__all__ = ["Work"]

_BLOCK = re.compile(r"(B|T|BLOCK_?|TILE_?)[A-Z][A-Z0-9]?")


@dataclass(frozen=True)
class Draft:
    """An axis of the launch, its extent as declared (or as a size), and the width of the slices that it places."""

    axis: Axis
    var: Var
    width: Dim
    declared: Dim


class Work(Helpers):
    """Makes the axes of the launch."""

    def prepare(
        self,
        domains: dict[str, Domain],
        outputs: Sequence[tuple[Dim, ...]],
        config: dict[str, int],
        fixed: dict[str, int],
    ) -> None:
        """`outputs` are the shapes, behind a batch axis, that tiles are stored to as a whole or returned (rule R9)."""
        self.domains = domains
        self.config = config
        self.fixed = fixed
        self.used: set[str] = set()  # schedule parameters that were read
        self.drafts: list[Draft] = []
        self.batch: Draft | None = None
        self.outputs = list(outputs)
        self.fixes: dict[str, int] = {}
        self.result: tuple[Buffer, tuple[Dim, ...]] | None = None  # where a returned tile goes
        self.found_outputs: list[Buffer] = []

    # -- names that a rule gives a meaning ---------------------------------------------------------------------------

    def free(self, name: str, span: Span) -> Operand | None:
        """A parallel domain variable (R2) or a schedule parameter (R11)."""
        domain = self.domains.get(name)
        if domain is not None:
            return self._domain(domain, span)
        if name in self.config and _BLOCK.fullmatch(name):
            self.used.add(name)
            return Static(self.config[name])
        if _BLOCK.fullmatch(name):
            self.used.add(name)
            self.config[name] = 32 if name.rstrip("0123456789").endswith("K") else 64
            self.report.once(f"R11: `{name}` is a schedule parameter; {self.config[name]} is taken", span)
            return Static(self.config[name])
        return None

    def _domain(self, domain: Domain, span: Span) -> Operand:
        for draft in self.drafts:
            if draft.axis.name == domain.name:
                return Read(draft.var, span)
        if not self.spread:
            raise fail("E211", f"`{domain.name}` is a domain variable (rule R2), but ids or grid= make the launch",
                       span, "compute it from ts.tile.group_id(), or leave the grid to the compiler")  # fmt: skip
        width = self.domain_width(domain)
        draft = self.add_axis(domain.name, Static(0), domain.dim, width, "domain", self.span(domain.first),
                              declared=domain.declared)
        self.report.note(f"R2: `{domain.name}` runs over `{domain.dim}` by {width}, in parallel", span)
        return Read(draft.var, span)

    def domain_width(self, domain: Domain) -> int:
        """The width of a domain variable's slices. Raises SourceError E211."""
        width = constant_dim(self.expr(domain.width))
        if width is None or width < 1:
            raise fail("E211", f"the width of the slices at `{domain.name}` is not known while compiling",
                       self.span(domain.width))  # fmt: skip
        return width

    def configured(self, name: str, span: Span) -> Operand:
        """`ctx.BLOCK_M`, `ctx.D`. Raises SourceError E203."""
        if name in self.config:
            self.used.add(name)
            return Static(self.config[name])
        if name in self.fixed:
            return Static(self.fixed[name])
        if name in self.dims:
            return Static(symbol(name))
        if name == "group_size":
            return Static(self.group)
        known = [*self.config, *self.fixed, *self.dims, "group_size"]
        help = did_you_mean(name, known) or f"it has {', '.join(known)}"
        raise fail("E203", f"the context has no `{name}`", span, help)

    def fix(self, dim: DimExpr, size: int, span: Span) -> None:
        """A dim must have this size: the kernel is for that size only."""
        symbols = symbols_of(dim)
        if len(symbols) == 1 and str(dim) == next(iter(symbols)):
            self.fixes.setdefault(str(dim), size)

    # -- axes --------------------------------------------------------------------------------------------------------

    def add_axis(self, name: str, start: Operand, stop: Dim, step: Dim, kind: str, span: Span, width: Dim = 0,
                 declared: Dim | None = None) -> Draft:
        """One more axis of the launch. Raises SourceError E211 for more than three."""
        if len(self.drafts) + (self.batch is not None and kind != "batch") >= 3:
            raise fail("E211", f"a launch has three axes, and `{name}` would be the fourth", span)
        assert isinstance(start, Static) and isinstance(start.value, (int, DimExpr))
        trips = stop if kind == "batch" else dim_max(0, ceildiv(stop - start.value, step))
        axis = Axis(name, start.value, stop, step, trips, kind)
        draft = Draft(axis, Var(f"{name}.block", Elem(i64)), width or step, stop if declared is None else declared)
        if kind == "batch":
            self.batch = draft
        else:
            self.drafts.append(draft)
        if isinstance(step, int):
            self.ranges[draft.var.name] = (start.value, stop, step)
        else:
            self.constant_names.add(draft.var.name)
        return draft

    def batch_index(self, extent: Dim, span: Span) -> Expr:
        """The index of the leading axis that the kernel is lifted over (rule R4). Raises SourceError E211."""
        if not self.spread:
            raise fail("E211", "a batch axis (rule R4) needs a launch that the compiler makes", span)
        if self.batch is None:
            self.add_axis("batch", Static(0), extent, 1, "batch", span)
        assert self.batch is not None
        if not known_equal(self.batch.axis.stop, extent):
            raise fail("E211", f"two batch axes, `{self.batch.axis.stop}` and `{extent}` (rule R4)", span)
        return Read(self.batch.var, span)

    def launch(self, span: Span) -> tuple[tuple[Axis, ...], list[Stmt]]:
        """The axes in grid order, and the assignments of their variables."""
        drafts = [*self.drafts, *([self.batch] if self.batch is not None else [])]
        out: list[Stmt] = []
        for at, draft in enumerate(drafts):
            group = Id("group", Elem(i64), span, at)
            step = Static(draft.axis.step)
            value = arithmetic("add", Static(draft.axis.start), arithmetic("mul", group, step, span), span)
            out.append(Assign(draft.var, to_expr(value, span, i64), span))
        return tuple(d.axis for d in drafts), out

    def same_axis(self, a: Dim, b: Dim) -> bool:
        """Whether two extents are of one axis: by their names, or by their sizes where one of them is a number only."""
        if isinstance(a, int) or isinstance(b, int):
            return known_equal(substitute(a, self.fixed), substitute(b, self.fixed))
        return known_equal(a, b)

    def needs_axis(self, dim: Dim) -> bool:
        """Whether an output of rule R9 has an axis of this extent that no variable binds yet."""
        for shape in self.outputs:
            for extent in shape:
                if self.same_axis(extent, dim):
                    bound = [d for d in self.drafts if self.same_axis(d.declared, dim)]
                    waiting = [d for d in self.domains.values() if d.written and self.same_axis(d.declared, dim)]
                    wanted = sum(self.same_axis(e, dim) for e in shape)
                    if len(bound) + len([w for w in waiting if not any(b.axis.name == w.name for b in bound)]) < wanted:
                        return True
        return False

    # -- whole stores (rule R9) --------------------------------------------------------------------------------------

    def store_output(self, buffer: Buffer, tile: TileOp, span: Span) -> None:
        """Stores a tile at the place that the axes of the launch name. Raises SourceError E211, E223."""
        starts: list[Expr] = []
        extents: list[Dim | None] = []
        dims = list(buffer.dims)
        axes = [buffer.axis(at) for at in range(buffer.rank)]
        if len(tile.shape) == buffer.rank - 1 and (self.batch is not None or buffer.name in self.batched):
            starts.append(self.batch_index(dims.pop(0), span))
            axes.pop(0)
            extents.append(None)
        if len(dims) != len(tile.shape):
            raise fail("E223", f"a tile of rank {len(tile.shape)} cannot be stored to `{buffer.name}` of rank "
                               f"{buffer.rank} as a whole", span, "store it to a slice")  # fmt: skip
        used: set[str] = set()
        for axis, (dim, extent) in enumerate(zip(dims, tile.shape, strict=True)):
            draft = self._place_of(axes[axis], dim, extent, tile.facts.origins[axis], used, buffer, span)
            if draft is None:
                if not may_equal(dim, extent):
                    raise fail("E211", f"nothing says where on axis `{dim}` of `{buffer.name}` the tile belongs", span,
                               "store it to a slice, as in O[i:i+64] = t")  # fmt: skip
                for a, b in ((dim, extent), (extent, dim)):
                    if isinstance(a, DimExpr) and isinstance(b, int):
                        self.fix(a, b, span)
                starts.append(Const(0, Elem(i64), span))
            else:
                used.add(draft.axis.name)
                starts.append(Read(draft.var, span))
            extents.append(extent)
        names = ", ".join(sorted(used)) or "the only one"
        self.report.once(f"R9: the tile is stored to the block of `{buffer.name}` of its iteration ({names})", span)
        self.store_window(Window(buffer, tuple(starts), tuple(extents)), tile, span)

    def _place_of(
        self, declared: Dim, dim: Dim, extent: Dim, origin: str | None, used: set[str], buffer: Buffer, span: Span
    ) -> Draft | None:
        fits = [
            d for d in self.drafts
            if d.axis.name not in used and self.same_axis(d.declared, declared) and may_equal(d.width, extent)
        ]  # fmt: skip
        for draft in fits:
            if origin == f"{dim}@{key(Read(draft.var, span))}":
                return draft
        if len(fits) > 1:
            names = " and ".join(f"`{d.axis.name}`" for d in fits)
            raise fail("E211", f"both {names} may place the tile on axis `{dim}` of `{buffer.name}`", span,
                       "store it to a slice")  # fmt: skip
        if fits and known_equal(dim, extent) and not known_equal(fits[0].width, extent):
            return None
        return fits[0] if fits else None

    def may_store(self, buffer: Buffer, span: Span) -> None:
        """Raises SourceError E208 for a parameter that is declared to be read only."""
        if buffer.name in self.readonly and buffer.space == "global":
            raise fail("E208", f"`{buffer.name}` is declared Region[read]", span)

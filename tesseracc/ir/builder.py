"""Builds operations in order; nested regions are built by calling back.

b = Builder()
total = b.op("arith.add", x, y)
(last,) = b.for_(lo, hi, step, [zero], lambda b, i, accs: [b.op("arith.add", accs[0], i)])
region = b.region(args, yields=[total])

`Numbering` is a builder that computes equal numbers once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from tessera_runtime.core.errors import TesseraError
from tesseracc.ir.define import OpDef, lookup
from tesseracc.ir.types import BOOL, I64, ScalarType, Type
from tesseracc.ir.value import Attr, Loc, Op, Region, Value

Arg = Value | Sequence[Value] | None


def pack(defn: OpDef, args: Sequence[Arg]) -> tuple[tuple[Value, ...], tuple[int, ...]]:
    """Cuts the arguments of one operation into its segments: one argument per segment, in order.

    A single segment takes a value, a `?` segment a value or None, a `*` segment a sequence. A trailing `*`
    segment may also take the rest of the arguments one by one.
    """
    flat: list[Value] = []
    sizes: list[int] = []
    specs = defn.operands
    rest = list(args)
    for at, spec in enumerate(specs):
        if spec.arity == "*":
            if at == len(specs) - 1 and all(isinstance(arg, Value) for arg in rest):
                group: list[Value] = [arg for arg in rest if isinstance(arg, Value)]
                rest = []
            else:
                found = rest.pop(0) if rest else ()
                assert not isinstance(found, Value), f"{defn.name}: segment {spec.name} takes a sequence"
                group = list(found or ())
        else:
            found = rest.pop(0) if rest else None
            assert found is None or isinstance(found, Value), f"{defn.name}: segment {spec.name} takes one value"
            group = [] if found is None else [found]
        flat += group
        sizes.append(len(group))
    assert not rest, f"{defn.name}: {len(rest)} operands too many"
    return tuple(flat), tuple(sizes)


def make(
    name: str,
    /,
    *args: Arg,
    types: Sequence[Type] | Type | None = None,
    regions: Sequence[Region] = (),
    loc: Loc | None = None,
    hints: Sequence[str] = (),
    **attrs: Attr,
) -> Op:
    """One operation. Result types are inferred where the definition can; else `types` states them."""
    defn = lookup(name)
    operands, segments = pack(defn, args)
    full = {
        key: attrs.get(key, spec.default)
        for key, spec in defn.attrs.items()  # in order of their names
        if key in attrs or not spec.required
    }
    if not defn.attrs.keys() >= attrs.keys():
        unknown = next(key for key in attrs if key not in defn.attrs)
        raise TesseraError("E402", f"`{name}` has no attribute `{unknown}`")
    if types is None:
        if defn.infer is None:
            types = ()
        else:
            types = defn.infer(operands, full)
    elif not isinstance(types, (tuple, list)):
        types = (types,)  # type: ignore[assignment]
    results = tuple(
        Value(type_, hints[i] if i < len(hints) else "")
        for i, type_ in enumerate(types)  # type: ignore[arg-type]
    )
    return Op(defn, operands, segments, results, full, tuple(regions), loc)


class Builder:
    """Collects operations; `loc` is attached to what is built while it is set."""

    def __init__(self, loc: Loc | None = None) -> None:
        self.ops: list[Op] = []
        self.loc = loc

    def emit(
        self,
        name: str,
        /,
        *args: Arg,
        types: Sequence[Type] | Type | None = None,
        regions: Sequence[Region] = (),
        **attrs: Attr,
    ) -> Op:
        """Appends an operation and returns it."""
        op = make(name, *args, types=types, regions=regions, loc=self.loc, **attrs)
        self.ops.append(op)
        return op

    def op(self, name: str, /, *args: Arg, types: Sequence[Type] | Type | None = None, **attrs: Attr) -> Value:
        """Appends an operation with one result and returns the result."""
        return self.emit(name, *args, types=types, **attrs).result

    def append(self, op: Op) -> tuple[Value, ...]:
        """Appends an existing operation."""
        self.ops.append(op)
        return op.results

    def const(self, value: int | float | bool, type_: Type | str = I64) -> Value:
        """`arith.constant` of a scalar, lanes or vec type."""
        if isinstance(type_, str):
            type_ = ScalarType(type_)
        return self.op("arith.constant", types=type_, value=value)

    def region(self, args: Sequence[Value] = (), yields: Sequence[Value] = ()) -> Region:
        """Closes what was built so far as a region."""
        return Region(tuple(args), tuple(self.ops), tuple(yields))

    def nested(
        self,
        arg_types: Sequence[Type],
        body: Callable[[Builder, list[Value]], Sequence[Value]],
        names: Sequence[str] = (),
    ) -> Region:
        """A region with fresh arguments, filled by `body(builder, arguments) -> yields`."""
        inner = Builder(self.loc)
        args = [Value(type_, names[i] if i < len(names) else "") for i, type_ in enumerate(arg_types)]
        yields = body(inner, args)
        return inner.region(args, yields)

    def for_(
        self,
        lo: Value,
        hi: Value,
        step: Value,
        inits: Sequence[Value],
        body: Callable[[Builder, Value, list[Value]], Sequence[Value]],
        *,
        name: str = "scf.for",
        hint: str = "i",
    ) -> tuple[Value, ...]:
        """A counted loop that carries `inits`; `name` may be `tile.for` for lane-wise bounds."""
        types = [value.type for value in inits]
        index = lo.type if name == "scf.for" else self._varying_index(lo, hi, step)
        region = self.nested([index, *types], lambda b, args: body(b, args[0], args[1:]), (hint,))
        return self.emit(name, lo, hi, step, list(inits), types=types, regions=[region]).results

    @staticmethod
    def _varying_index(*bounds: Value) -> Type:
        from tesseracc.ir.types import LanesType, element

        return LanesType(element(bounds[0].type))

    def if_(
        self,
        cond: Value,
        then: Callable[[Builder], Sequence[Value]],
        orelse: Callable[[Builder], Sequence[Value]] | None = None,
        types: Sequence[Type] = (),
    ) -> tuple[Value, ...]:
        """`scf.if` for a uniform condition, `tile.if` for a condition per lane."""
        name = "scf.if" if cond.type == BOOL else "tile.if"
        first = self.nested([], lambda b, _: then(b))
        second = self.nested([], lambda b, _: orelse(b) if orelse else ())
        return self.emit(name, cond, types=list(types), regions=[first, second]).results


class Numbering(Builder):
    """A builder whose `op` gives an earlier result where the same pure operation was built on the same operands, in its
    region or in one around it; `emit` always builds. A region inside continues with `Numbering(loc, outer)`."""

    def __init__(self, loc: Loc | None = None, outer: Numbering | None = None) -> None:
        super().__init__(loc)
        self.outer = outer
        self.known: dict[Hashable, Value] = {}

    def sees(self, other: Numbering) -> bool:
        """Whether what another builder has made is in reach: it builds this region, or one around it."""
        scope: Numbering | None = self
        while scope is not None and scope is not other:
            scope = scope.outer
        return scope is not None

    def op(self, name: str, /, *args: Arg, types: Sequence[Type] | Type | None = None, **attrs: Attr) -> Value:
        """The result of an operation with one result: that of an equal one, or of one that is appended."""
        if lookup(name).effect != "pure" or isinstance(types, list):
            return super().op(name, *args, types=types, **attrs)
        operands = tuple(arg if isinstance(arg, Value | None) else tuple(arg) for arg in args)
        # numbers that are equal may be different constants: 0.0 and -0.0, True and 1
        key = name, operands, types, repr(attrs) if attrs else ""
        scope: Numbering | None = self
        while scope is not None:
            found = scope.known.get(key)
            if found is not None:
                return found
            scope = scope.outer
        self.known[key] = made = super().op(name, *args, types=types, **attrs)
        return made

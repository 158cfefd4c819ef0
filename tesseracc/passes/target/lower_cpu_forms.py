"""How values of a CPU kernel cross the border of a region: the cheapest form that all incoming values share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tessera_runtime.core.errors import TesseraError
from tesseracc.ir.types import I64, LanesType, ScalarType, TileType, Type, element
from tesseracc.ir.value import Op, Value
from tesseracc.passes.target.lower_cpu_tiles import copy_tile, new_tile
from tesseracc.passes.target.lower_cpu_values import Affine, Kernel, Rep, Splat, Tile, Vec


@dataclass(frozen=True, slots=True)
class Form:
    """How a value is carried: a scalar, the base of an affine value of known stride, or a vector."""

    type: Type
    stride: int | None  # None: a vector, or a scalar of another type than i64

    def accepts(self, rep: Rep) -> bool:
        return self.stride is None or (isinstance(rep, Affine) and rep.stride == self.stride)

    def pack(self, k: Kernel, rep: Rep) -> Value:
        if self.stride is not None:
            assert isinstance(rep, Affine)
            return k.value(rep.base)
        return k.scalar(rep) if isinstance(self.type, ScalarType) else k.vector(rep, element(self.type))

    def unpack(self, k: Kernel, value: Value) -> Rep:
        if self.stride is not None:
            return Affine(value, self.stride)
        return Splat(value) if isinstance(self.type, ScalarType) else Vec(value)


def form_of(type_: Type, *reps: Rep) -> Form:
    """The cheapest form that carries all of these values."""
    if isinstance(type_, ScalarType):
        return Form(type_, 0 if type_ == I64 else None)
    if not isinstance(type_, LanesType):
        raise TesseraError("E404", f"a value of type {type_} cannot leave a region")
    if type_.dtype == "i64":
        strides = {rep.stride if isinstance(rep, Affine) else None for rep in reps}
        if len(strides) == 1:
            (stride,) = strides
            if isinstance(stride, int):
                return Form(type_, stride)
    return Form(type_, None)


Unpack = Callable[[Sequence[Value]], list[Rep]]
Pack = Callable[[Sequence[Rep]], list[Value]]
Emit = Callable[[list[Value], Unpack, Pack], Sequence[Value]]


def carried(k: Kernel, inits: Sequence[Rep], types: Sequence[Type], emit: Emit) -> list[Rep]:
    """Emits a loop that carries `inits`, in the cheapest form that the body keeps.

    `emit(first, unpack, pack)` builds the loop: `unpack` makes representations of the carried machine values, `pack`
    machine values of what the body yields. A body that breaks a form (an affine value becomes arbitrary) is thrown away
    and built again with a vector in its place.
    """
    forms = [form_of(type_, rep) for type_, rep in zip(types, inits, strict=True)]
    while True:
        mark = len(k.b.ops)
        broken: list[int] = []

        def unpack(values: Sequence[Value], forms: list[Form] = forms) -> list[Rep]:
            return [form.unpack(k, value) for form, value in zip(forms, values, strict=True)]

        def pack(reps: Sequence[Rep], forms: list[Form] = forms, broken: list[int] = broken) -> list[Value]:
            packed = []
            for at, (form, rep) in enumerate(zip(forms, reps, strict=True)):
                if not form.accepts(rep):
                    broken.append(at)
                    form = Form(form.type, None)
                packed.append(form.pack(k, rep))
            return packed

        results = emit(pack(inits), unpack, pack)
        if not broken:
            return unpack(results)
        del k.b.ops[mark:]
        forms = [Form(form.type, None) if at in broken else form for at, form in enumerate(forms)]


def choose(k: Kernel, cond: Value | bool, types: Sequence[Type], *branches: Callable[[], list[Rep]]) -> list[Rep]:
    """`scf.if` on representations: both branches are built first, then the form of each result is known."""
    if isinstance(cond, bool):
        return branches[0 if cond else 1]()
    saved = k.b
    built: list[tuple[list[Rep], list[Op]]] = []
    for branch in branches:
        k.b = type(saved)(saved.loc)
        reps = branch()
        built.append((reps, k.b.ops))
    k.b = saved
    homes = {
        i: new_tile(k, type_.shape, type_.dtype) for i, type_ in enumerate(types) if isinstance(type_, TileType)
    }  # fmt: skip
    forms = {i: form_of(type_, *(reps[i] for reps, _ in built)) for i, type_ in enumerate(types) if i not in homes}
    regions = []
    for reps, ops in built:
        k.b = type(saved)(saved.loc)
        k.b.ops = ops
        for i, home in homes.items():
            source = reps[i]
            assert isinstance(source, Tile)
            copy_tile(k, source, home)
        regions.append(k.b.region((), [form.pack(k, reps[i]) for i, form in forms.items()]))
    k.b = saved
    results = k.b.emit("scf.if", cond, types=[v.type for v in regions[0].yields], regions=regions).results
    found: dict[int, Rep] = {i: form.unpack(k, value) for (i, form), value in zip(forms.items(), results, strict=True)}
    found.update(homes)
    return [found[i] for i in range(len(types))]

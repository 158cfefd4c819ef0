"""`specialise`: a function's variants (attribute `variants`) as functions of their own, with sizes put in.

    f[B, S] with variants (B = 1, S = 512)      =>      f, and f__B1_S512 = f[1, 512]
    f[S]    with variants (64 divides S)        =>      f, and f__S64 = f[64 * S_64],  S_64 = S // 64

`join-variants` puts them together again behind a condition, when every level has made the best of what is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tessera.shapes import Dim, Expr, dim_max, substitute, symbol
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import clone_region
from tesseracc.ir.types import TensorType, Type
from tesseracc.ir.value import Attr, Func, Module, Op, Region, Value

Item = tuple[str, int, int, int]


def sizes_of(items: tuple[Item, ...]) -> tuple[dict[str, Dim], tuple[tuple[str, Dim], ...], Dim]:
    """What stands for each size, the new symbols with their values, and an expression that is 0 where the variant
    fits."""
    env: dict[str, Dim] = {}
    bind: list[tuple[str, Dim]] = []
    wrong: Dim = 0
    for name, low, high, multiple in items:
        size = symbol(name)
        if low == high:
            env[name] = low
            wrong = wrong + dim_max(size - low, low - size)
            continue
        part = f"{name}_{multiple}"
        env[name] = symbol(part) * multiple
        bind.append((part, size // multiple))
        wrong = wrong + size % multiple + dim_max(low - size, 0) + (0 if high < 0 else dim_max(size - high, 0))
    return env, tuple(bind), wrong


def variant_name(func: str, items: tuple[Item, ...]) -> str:
    return f"{func}__" + "_".join(f"{name}{low if low == high else multiple}" for name, low, high, multiple in items)


def _attr(value: Attr, env: Mapping[str, Dim]) -> Attr:
    if isinstance(value, tuple):
        return tuple(_attr(item, env) for item in value)
    return substitute(value, env) if isinstance(value, Expr) else value


def _type(type_: Type, env: Mapping[str, Dim]) -> Type:
    if not isinstance(type_, TensorType):
        return type_
    return TensorType(tuple(substitute(dim, env) for dim in type_.dims), type_.dtype)


def _sized(region: Region, env: Mapping[str, Dim]) -> Region:
    """A copy of a region with sizes put into every type and attribute."""
    same: dict[Value, Value] = {}

    def values(old: tuple[Value, ...]) -> tuple[Value, ...]:
        return tuple(same.setdefault(v, Value(_type(v.type, env), v.name)) for v in old)

    def change(region: Region) -> Region:
        args = values(region.args)
        ops = tuple(operation(op) for op in region.ops)
        return Region(args, ops, tuple(same[v] for v in region.yields))

    def operation(op: Op) -> Op:
        regions = tuple(map(change, op.regions))
        attrs = {key: _attr(value, env) for key, value in op.attrs.items()}
        operands = tuple(same[v] for v in op.operands)
        return replace(op, operands=operands, results=values(op.results), attrs=attrs, regions=regions)

    return change(clone_region(region, {}))


def variants(func: Func) -> list[Func]:
    """The function, and one for each of its variants."""
    found = [func.with_(attrs={key: value for key, value in func.attrs.items() if key != "variants"})]
    for items in func.attrs.get("variants", ()):
        env, bind, wrong = sizes_of(items)
        attrs = {key: value for key, value in found[0].attrs.items() if key != "assume"}
        attrs |= {"variant_of": func.name, "bind": bind, "unless": wrong}
        body = _sized(func.body, env)
        found.append(Func(func.kind, variant_name(func.name, items), body, attrs, func.loc))
    return found


@register("specialise", level="graph")
def run(module: Module, context: Context) -> Module:
    """Makes functions of variants."""
    funcs: list[Func] = []
    for func in module.funcs:
        funcs += variants(func) if func.kind == "graph.func" else [func]
    return module.with_(funcs=tuple(funcs))

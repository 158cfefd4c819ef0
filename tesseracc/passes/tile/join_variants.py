"""`join-variants`: a program and its variants (`specialise`) become one program, in which the sizes of a call choose.

    f, f__B1_S512   =>   f: tile.when {unless = 0 where B = 1 and S = 512} (steps of f__B1_S512) (steps of f)

Buffers of parameters and results are those of f; a variant sees them under its own shapes.
"""

from __future__ import annotations

from tesseracc.ir.builder import Builder
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import clone_op
from tesseracc.ir.value import Func, Module, Region, Value


def _steps(program: Func, params: tuple[Value, ...], results: dict[int, Value]) -> Region:
    """The steps of a program on other buffers for its parameters and results."""
    b = Builder(program.loc)
    same: dict[Value, Value] = {}

    def see(mine: Value, given: Value) -> None:
        same[mine] = given if given.type == mine.type else b.op("tile.view", given, types=mine.type)

    for mine, given in zip(program.params, params, strict=True):
        see(mine, given)
    made = {program.body.yields[i]: given for i, given in results.items()}
    for mine, given in made.items():
        see(mine, given)
    for op in program.body.ops:
        if op.name != "tile.temp" or op.result not in made:
            b.append(clone_op(op, same))
    return b.region()


def join(program: Func, variants: list[Func]) -> Func:
    """One program in place of several of the same parameters and results."""
    b = Builder(program.loc)
    params = tuple(Value(p.type, p.name) for p in program.params)
    yields: list[Value] = []
    results: dict[int, Value] = {}
    for i, value in enumerate(program.body.yields):
        if value in program.params:
            yields.append(params[program.params.index(value)])
        else:
            yields.append(b.op("tile.temp", types=value.type))
            results[i] = yields[-1]
    rest = _steps(program, params, results)
    for variant in reversed(variants):
        inner = Builder(program.loc)
        attrs = {key: variant.attrs[key] for key in ("bind", "unless")}
        inner.emit("tile.when", regions=[_steps(variant, params, results), rest], **attrs)
        rest = inner.region()
    b.ops += rest.ops
    return program.with_(body=b.region(params, yields))


@register("join-variants", level="tile")
def run(module: Module, context: Context) -> Module:
    """Puts programs and their variants together."""
    variants: dict[str, list[Func]] = {}
    for func in module.of_kind("tile.program"):
        if "variant_of" in func.attrs:
            variants.setdefault(func.attrs["variant_of"], []).append(func)
    funcs: list[Func] = []
    for func in module.funcs:
        if func.kind != "tile.program":
            funcs.append(func)
        elif "variant_of" not in func.attrs:
            funcs.append(join(func, variants[func.name]) if func.name in variants else func)
    return module.with_(funcs=tuple(funcs))

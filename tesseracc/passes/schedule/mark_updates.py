"""`mark-updates`: finds the state that can be updated where it lies.

A function's attribute `state` pairs parameters with the results that are their new values. Such a pair is an update in
place when the group that writes the result reads the parameter only at the element that it writes, in the same
iteration and before:

    w'[i] = f(w[i], g[i], ..)          may overwrite w;        w'[i] = w[i + 1]          may not

The pairs for which that holds become the attribute `updates`; the order of groups is judged later, when it is final
(`update-in-place`).
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from tesseracc.analysis.indices import Indices, walk_with_loops
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import map_funcs
from tesseracc.ir.types import TensorType
from tesseracc.ir.value import Func, Module, Op, Value


def overwrites(group: Op, names: set[Value], result: int) -> bool:
    """Whether every read of a tensor (under any of its names) is of the element that the same iteration then writes."""
    indices = Indices(group)
    seen = [(op, loops) for op, loops in walk_with_loops(group) if op.name in ("schedule.read", "schedule.write")]
    writes = [(n, op, loops) for n, (op, loops) in enumerate(seen)
              if op.name == "schedule.write" and op.attrs["result"] == result]  # fmt: skip
    if len(writes) != 1:
        return False
    at, write, around = writes[0]
    target = group.results[result].type
    place = [indices.of(v) for v in write.group("indices")]
    for n, (op, loops) in enumerate(seen):
        if op.name != "schedule.read" or op["tensor"] not in names:
            continue
        source = op["tensor"].type
        assert isinstance(source, TensorType) and isinstance(target, TensorType)
        same = source.dims == target.dims and [indices.of(v) for v in op.group("indices")] == place
        if n > at or loops != around or not same:
            return False
    return True


def mark(func: Func) -> Func:
    """The function with `updates` as its groups are now."""
    pairs = func.attrs.get("state", ())
    if not pairs:
        return func
    behind = {op.result: op["tensor"] for op in func.body.ops if op.name == "schedule.view"}
    groups = [op for op in func.body.ops if op.name == "schedule.group"]
    made = {result: (op, n) for op in groups for n, result in enumerate(op.results)}

    def origin(value: Value) -> Value:
        while value in behind:
            value = behind[value]
        return value

    params = {p.name: p for p in func.params}
    updates = []
    for name, number in pairs:
        result = origin(func.body.yields[number])
        if result not in made:
            continue
        group, which = made[result]
        names = {params[name], *(view for view in behind if origin(view) is params[name])}
        if overwrites(group, names, which):
            updates.append((name, number))
    return replace(func, attrs=MappingProxyType({**func.attrs, "updates": tuple(updates)}))


@register("mark-updates", level="schedule")
def run(module: Module, context: Context) -> Module:
    """Finds state that can be updated where it lies."""
    return module.with_(funcs=map_funcs(module.funcs, "schedule.func", mark))

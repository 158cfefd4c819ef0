"""What a bundle asks of sizes, and what it does with them: symbols, equalities, guards, variants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tessera_runtime import guards
from tessera_runtime.core import manifest as M
from tessera_runtime.core.shapeexpr import to_infix

Json = Any


def shapes(manifest: M.Manifest) -> Json:
    """Per function: where each symbol comes from, which extents must equal what, guards, results, and variants: per
    target the conditions under which steps of their own run."""
    plans = {(target.name, plan.function): plan for target in manifest.targets for plan in target.plans}
    return [
        {
            "function": guards.signature(f),
            "symbols": {s.name: _source(s) for s in f.symbols},
            "equal": _equal(f),
            "requires": [guard.message for guard in f.guards],
            "variants": {t.name: _variants(plans[t.name, f.name]) for t in manifest.targets},
        }
        for f in manifest.functions
    ]


def _source(symbol: M.Symbol) -> str:
    if symbol.axis < 0:
        return f"the value of {symbol.input}"
    extent = f"extent {symbol.axis} of {symbol.input}"
    if symbol.offset:
        extent = f"({extent} {'-' if symbol.offset > 0 else '+'} {abs(symbol.offset)})"
    return extent if symbol.scale == 1 else f"{extent} / {symbol.scale}"


def _equal(function: M.Function) -> dict[str, str]:
    """Extents of inputs that no symbol is taken from, and what they must be."""
    taken = {(s.input, s.axis) for s in function.symbols}
    return {
        f"extent {axis} of {item.name}": str(dim) if isinstance(dim, int) else to_infix(dim)
        for item in function.inputs
        for axis, dim in enumerate(item.shape)
        if (item.name, axis) not in taken
    }


def _variants(plan: M.Plan) -> list[Json]:
    """Conditions in the order in which they are tried, and how many steps each decides on."""
    found = []
    for step in plan.steps:
        if isinstance(step, M.When):
            unless = str(step.unless) if isinstance(step.unless, int) else to_infix(step.unless)
            found.append({"where": f"{unless} = 0", "steps": step.then})
    return found


def shapes_text(about: Sequence[Json]) -> str:
    """The document for people."""
    out = []
    for function in about:
        out.append(function["function"])
        out += [f"  {name} is {source}" for name, source in function["symbols"].items()]
        out += [f"  {extent} is {value}" for extent, value in function["equal"].items()]
        out += [f"  requires {message}" for message in function["requires"]]
        for target, variants in function["variants"].items():
            out += [f"  {target}: {v['steps']} steps of their own where {v['where']}" for v in variants]
        out.append("")
    return "\n".join(out)

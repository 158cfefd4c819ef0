"""Whether the parts of a manifest fit together: every index, name and shape is checked before anything is used.

E623 for a contradiction, E624 for a malformed shape expression. After `check`, executing a plan cannot index out of
range, lack a symbol, or pass a kernel other arguments than it declares.
"""

from __future__ import annotations

from collections.abc import Iterable

from tessera_runtime.core import manifest as m
from tessera_runtime.core.check_steps import bad, check_steps, dims_fit
from tessera_runtime.core.container import RESERVED
from tessera_runtime.core.dtypes import DTYPES
from tessera_runtime.core.shapeexpr import is_symbol

__all__ = ["check"]

MAX_WORK = 1 << 24  # items of kernels' shape expressions that one plan may need


def _distinct(names: Iterable[str], where: str, what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise bad(where, f"two {what} are named '{name}'")
        seen.add(name)


def check(manifest: m.Manifest) -> None:
    """Check the whole manifest; raises at the first fault."""
    entries = {entry.name: entry for entry in manifest.entries}
    names = [entry.name for entry in manifest.entries]
    if names != sorted(set(names)) or any(name in RESERVED for name in names):
        raise bad("entries", "names are not sorted, distinct and free of the reserved ones")
    for entry in manifest.entries:
        if len(entry.sha256) != -(-entry.size // m.CHUNK):
            raise bad(f"entry {entry.name}", f"{len(entry.sha256)} digests for {entry.size} bytes")
    used = _check_constants(manifest, entries)
    _distinct((f.name for f in manifest.functions), "functions", "functions")
    for function in manifest.functions:
        _check_function(function)
    _distinct((t.name for t in manifest.targets), "targets", "targets")
    for target in manifest.targets:
        used |= _check_target(target, manifest, entries)
    known = {function.name for function in manifest.functions}
    for test in manifest.tests:
        if test.function not in known:
            raise bad(f"test {test.name}", f"names the unknown function '{test.function}'")
        used.add(_entry(test.entry, "tests", entries, f"test {test.name}"))
    _distinct((t.name for t in manifest.tests), "tests", "tests")
    if unused := sorted(entries.keys() - used):
        raise bad(f"entry {unused[0]}", "is not used by anything")


def _entry(name: str, kind: str, entries: dict[str, m.Entry], where: str) -> str:
    if name not in entries or entries[name].kind != kind:
        raise bad(where, f"names the unknown {kind} entry '{name}'")
    return name


def _check_constants(manifest: m.Manifest, entries: dict[str, m.Entry]) -> set[str]:
    _distinct((c.name for c in manifest.constants), "constants", "constants")
    used: set[str] = set()
    for constant in manifest.constants:
        where = f"constant {constant.name}"
        used.add(_entry(constant.entry, "weights", entries, where))
        size = DTYPES[constant.dtype].itemsize
        for extent in constant.shape:
            size *= extent
        if size != constant.size:
            raise bad(where, f"has {constant.size} bytes where its shape needs {size}")
        if constant.offset % 64 or constant.offset + constant.size > entries[constant.entry].size:
            raise bad(where, "is misaligned or lies outside its entry")
    return used


def _check_function(function: m.Function) -> None:
    where = f"function {function.name}"
    _distinct((i.name for i in function.inputs), where, "inputs")
    _distinct((o.name for o in function.outputs), where, "outputs")
    _distinct((s.name for s in function.symbols), where, "symbols")
    inputs = {i.name: i for i in function.inputs}
    symbols = {s.name for s in function.symbols}
    for symbol in function.symbols:
        source = inputs.get(symbol.input)
        if not is_symbol(symbol.name) or source is None:
            raise bad(where, f"symbol {symbol.name} has no source")
        if symbol.axis < 0:
            if source.kind != "scalar" or DTYPES[source.dtype].kind not in "iu":
                raise bad(where, f"symbol {symbol.name} needs an integer scalar")
        elif source.kind != "tensor" or symbol.axis >= len(source.shape):
            raise bad(where, f"symbol {symbol.name} names an axis that {source.name} lacks")
    for item in function.inputs:
        if item.kind == "scalar" and (item.shape or item.inout):
            raise bad(where, f"scalar {item.name} has a shape or is written")
        dims_fit(item.shape, symbols, f"{where}, input {item.name}")
    for output in function.outputs:
        dims_fit(output.shape, symbols, f"{where}, output {output.name}")
        if output.alias is None:
            continue
        source = inputs.get(output.alias)
        if source is None or not source.inout or (source.dtype, source.shape) != (output.dtype, output.shape):
            raise bad(where, f"output {output.name} is not the in/out parameter '{output.alias}'")
    for guard in function.guards:
        dims_fit((guard.expr,), symbols, f"{where}, guard")


def _check_target(target: m.Target, manifest: m.Manifest, entries: dict[str, m.Entry]) -> set[str]:
    where = f"target {target.name}"
    cpu = target.kind == "cpu"
    if cpu != (target.format == "elf") or cpu != bool(target.machine) or cpu == (target.capability is not None):
        raise bad(where, "kind, format, machine and capability contradict each other")
    if (cpu and target.ptx is not None) or (not cpu and target.requires):
        raise bad(where, "has fields of another kind of target")
    used = {_entry(target.image, "code", entries, where)}
    if target.ptx is not None:
        used.add(_entry(target.ptx, "code", entries, where))
    _distinct((k.name for k in target.kernels), where, "kernels")
    for kernel in target.kernels:
        _check_kernel(f"{where}, kernel {kernel.name}", kernel)
    _distinct((p.function for p in target.plans), where, "plans for a function")
    if {p.function for p in target.plans} != {f.name for f in manifest.functions}:
        raise bad(where, "does not have one plan for each function")
    constants = {c.name: c for c in manifest.constants}
    functions = {f.name: f for f in manifest.functions}
    steps = (step for plan in target.plans for step in plan.steps)
    if manifest.versions.plan == 1 and not all(isinstance(step, (m.Launch, m.Copy)) for step in steps):
        raise bad(where, "has steps that plans of version 1 do not have")
    if (manifest.versions.plan == 1 or target.kind == "cpu") and any(kernel.maps for kernel in target.kernels):
        raise bad(where, "has tensor maps, which plans of version 1 and CPUs do not have")
    if manifest.versions.plan == 1 and any(kernel.flops or kernel.ops or kernel.parts for kernel in target.kernels):
        raise bad(where, "tells of operations or lines, which plans of version 1 do not")
    weights = [_weight(kernel) for kernel in target.kernels]
    for plan in target.plans:
        at = f"{where}, plan {plan.function}"
        _check_plan(at, plan, functions[plan.function], target, constants)
        if sum(weights[step.kernel] for step in plan.steps if isinstance(step, m.Launch)) > MAX_WORK:
            raise bad(at, "needs too much arithmetic on shapes")
    return used


def _weight(kernel: m.Kernel) -> int:
    """How many items of expressions are evaluated for one launch of a kernel, against its declaration or to profile."""
    dims = [*(kernel.grid or ()), kernel.dynamic_shared or 0]
    dims += [dim for param in kernel.params for dim in param.shape or ()] + [item.count for item in kernel.flops]
    return sum(1 if isinstance(dim, int) else len(dim) for dim in dims)


def _check_kernel(where: str, kernel: m.Kernel) -> None:
    """What a kernel declares of its launches is over symbols that stand for its dim parameters."""
    _distinct(kernel.symbols, where, "symbols")
    dims = sum(param.kind == "dim" for param in kernel.params)
    if len(kernel.symbols) not in (0, dims) or not all(is_symbol(name) for name in kernel.symbols):
        raise bad(where, f"has {len(kernel.symbols)} symbols for {dims} extents")
    dims_fit((*(kernel.grid or ()), kernel.dynamic_shared or 0), kernel.symbols, f"{where}, grid or shared memory")
    dims_fit([item.count for item in kernel.flops], kernel.symbols, f"{where}, operations")
    for slot, param in enumerate(kernel.params):
        if param.shape is not None:
            if param.kind != "buffer":
                raise bad(where, f"parameter {slot} is a {param.kind} with a shape")
            dims_fit(param.shape, kernel.symbols, f"{where}, parameter {slot}")
    for part in kernel.parts:
        held = [kernel.params[slot] if slot < len(kernel.params) else None for slot in part.params]
        if any(param is None or param.kind != "buffer" or param.access == "read" for param in held):
            raise bad(where, f"has no results of line {part.line} among its parameters")
    for entry in kernel.maps:
        source = kernel.params[entry.param] if entry.param < len(kernel.params) else None
        if source is None or source.shape is None or len(source.shape) != len(entry.box):
            raise bad(where, f"has a tensor map of parameter {entry.param}, no buffer of {len(entry.box)} axes")
        if entry.span not in (32, 64, 128) or entry.box[-1] * DTYPES[source.dtype].itemsize != entry.span:
            raise bad(where, f"has a tensor map whose rows of {entry.box[-1]} elements are not {entry.span} bytes")


def _check_plan(
    where: str, plan: m.Plan, function: m.Function, target: m.Target, constants: dict[str, m.Constant]
) -> None:
    symbols = {s.name for s in function.symbols}
    inputs = {i.name: i for i in function.inputs}
    outputs = {o.name: o for o in function.outputs}
    _distinct((f"{b.kind} {b.ref}" for b in plan.buffers if b.kind != "temp"), where, "buffers")
    for index, buffer in enumerate(plan.buffers):
        dims_fit(buffer.shape, symbols, f"{where}, buffer {index}")
        declared: m.Input | m.Output | m.Constant | None
        if buffer.kind == "input":
            declared = inputs.get(buffer.ref)
            if declared is not None and declared.kind != "tensor":
                declared = None
        elif buffer.kind == "output":
            declared = outputs.get(buffer.ref)
            if declared is not None and declared.alias is not None:
                declared = None
        elif buffer.kind == "constant":
            declared = constants.get(buffer.ref)
        elif buffer.ref:
            raise bad(where, f"temporary {index} has a name")
        else:
            continue
        if declared is None or (declared.dtype, declared.shape) != (buffer.dtype, buffer.shape):
            raise bad(where, f"buffer {index} is not the {buffer.kind} '{buffer.ref}'")

    defined = check_steps(where, plan, inputs, target.kernels, symbols)
    written = {plan.buffers[index].ref for index in defined if plan.buffers[index].kind == "output"}
    missing = sorted(o.name for o in function.outputs if o.alias is None and o.name not in written)
    if missing:
        raise bad(where, f"never writes the output '{missing[0]}'")

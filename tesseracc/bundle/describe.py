"""What a bundle holds, as a JSON document (`document`) and as text for people (`text`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tessera_runtime.bundle import BundleFile, weights_file
from tessera_runtime.core import manifest as M
from tessera_runtime.core.dtypes import DTYPES
from tessera_runtime.core.places import place
from tessera_runtime.core.shapeexpr import to_infix
from tessera_runtime.guards import signature, type_text
from tesseracc.bundle.code import kernel_code, resources

__all__ = ["dim_text", "document", "lifetimes", "text"]

Json = dict[str, Any]
_SHOWN = 12  # constants listed for people


def dim_text(dim: M.Dim) -> str:
    """An extent as a person reads it: `ceildiv(N, 128)`."""
    return str(dim) if isinstance(dim, int) else to_infix(dim)


def document(file: BundleFile) -> Json:
    """Everything about a verified bundle: sizes, functions, targets with kernels and plans, constants, provenance."""
    m = file.manifest
    return {
        "digest": file.digest,
        "bytes": file.header.file_size,
        "versions": m.versions.encode(),
        "signatures": [s.key.hex() for s in file.signatures],
        "sections": _sections(file),
        "entries": [{"name": e.name, "kind": e.kind, "bytes": e.size, "file": _file(file, e)} for e in m.entries],
        "functions": [_function(f) for f in m.functions],
        "constants": [
            {"name": c.name, "type": type_text(c.dtype, c.shape), "bytes": c.size, "entry": c.entry}
            for c in m.constants
        ],
        "targets": [_target(file, target) for target in m.targets],
        "tests": [{"name": t.name, "function": t.function, "atol": t.atol, "rtol": t.rtol} for t in m.tests],
        "provenance": m.provenance.encode(),
    }


def _file(file: BundleFile, entry: M.Entry) -> str | None:
    """The file that an entry lies in, where that is not the bundle."""
    return None if entry.name in file.inside else weights_file(entry)


def _sections(file: BundleFile) -> Json:
    """Bytes of the file by what they are for; `container` is headers and padding."""
    sizes = {"manifest": file.header.manifest_size, "code": 0, "weights": 0, "tests": 0}
    for entry in file.manifest.entries:
        sizes[entry.kind] += entry.size if entry.name in file.inside else 0
    return {**sizes, "container": file.header.file_size - sum(sizes.values())}


def _function(function: M.Function) -> Json:
    return {
        "name": function.name,
        "signature": signature(function),
        "doc": function.doc,
        "symbols": {s.name: _symbol(s) for s in function.symbols},
        "guards": [{"condition": f"{to_infix(g.expr)} {g.relation} 0", "message": g.message} for g in function.guards],
    }


def _symbol(symbol: M.Symbol) -> str:
    """Where the value comes from: `(extent 0 of x - 1) / 2`."""
    source = f"extent {symbol.axis} of {symbol.input}" if symbol.axis >= 0 else f"value of {symbol.input}"
    if symbol.offset:
        source = f"({source} {'-' if symbol.offset > 0 else '+'} {abs(symbol.offset)})"
    return source if symbol.scale == 1 else f"{source} / {symbol.scale}"


def _target(file: BundleFile, target: M.Target) -> Json:
    code = kernel_code(file, target)
    measured = resources(file.entry(target.image)) if target.format == "cubin" else {}
    sizes = {entry.name: entry.size for entry in file.manifest.entries}
    kernels = []
    for kernel in target.kernels:
        found = measured.get(kernel.symbol)
        kernels.append(
            {
                "name": kernel.name,
                "symbol": kernel.symbol,
                "grid": None if kernel.grid is None else [dim_text(d) for d in kernel.grid],
                "group": kernel.group,
                "registers": kernel.registers or (found.registers if found else 0),
                "spill_bytes": kernel.spill_bytes,
                "frame_bytes": found.frame_bytes if found else 0,
                "shared_bytes": kernel.shared_bytes,
                "dynamic_shared": None if kernel.dynamic_shared is None else dim_text(kernel.dynamic_shared),
                "scratch_bytes": kernel.scratch_bytes,
                "code_bytes": len(code.get(kernel.symbol, b"")),
                "params": [_param(p) for p in kernel.params],
                "maps": [{"param": m.param, "box": list(m.box), "span": m.span} for m in kernel.maps],
                "flops": [{"count": dim_text(f.count), "rate": f.rate} for f in kernel.flops],
                "ops": list(kernel.ops),
                "source": place(kernel) or None,
            }
        )
    capability = target.capability
    return {
        "name": target.name,
        "kind": target.kind,
        "format": target.format,
        "bytes": sizes[target.image],
        "preference": target.preference,
        "machine": target.machine,
        "requires": list(target.requires),
        "capability": f"{capability.match} {capability.major}.{capability.minor}" if capability else None,
        "kernels": kernels,
        "plans": [_plan(plan, target.kernels) for plan in target.plans],
    }


def _param(param: M.Param) -> str:
    if param.kind != "buffer":
        return f"{param.kind} {param.dtype}"
    return f"{param.access} {type_text(param.dtype, param.shape) if param.shape is not None else param.dtype + '[?]'}"


def lifetimes(plan: M.Plan) -> list[tuple[int, int]]:
    """First and last step between which each buffer of a plan lives; (0, -1) for one that no step uses.

    What a loop uses and steps outside of it use too lives as long as the loop.
    """
    spans: list[tuple[int, int]] = [(0, -1)] * len(plan.buffers)
    used = [[index for index in _used(step) if index is not None] for step in plan.steps]
    loops = [
        (number, number + (step.body if isinstance(step, M.Repeat) else step.head + step.body))
        for number, step in enumerate(plan.steps) if isinstance(step, (M.Repeat, M.Loop))
    ]  # fmt: skip
    for number, indices in enumerate(used):
        for index in indices:
            spans[index] = (spans[index][0] if spans[index][1] >= 0 else number, number)
    for start, stop in reversed(loops):  # inner ones before those around them
        for index in {index for indices in used[start : stop + 1] for index in indices}:
            first, last = spans[index]
            if first < start or last > stop:
                spans[index] = min(first, start), max(last, stop)
    return spans


def _used(step: M.Step) -> list[int | None]:
    """The buffers that a step itself uses."""
    if isinstance(step, M.Launch):
        return [a.buffer for a in step.args]
    if isinstance(step, (M.Branch, M.Loop)):
        return [step.on]
    return [] if isinstance(step, (M.Repeat, M.When)) else [step.src, step.dst]


def buffer_name(plan: M.Plan, index: int) -> str:
    """The name of what a buffer stands for; temporaries are `t` and their number in the plan."""
    return plan.buffers[index].ref or f"t{index}"


def _plan(plan: M.Plan, kernels: Sequence[M.Kernel]) -> Json:
    buffers = []
    for index, (buffer, (first, last)) in enumerate(zip(plan.buffers, lifetimes(plan), strict=True)):
        buffers.append(
            {
                "name": buffer_name(plan, index),
                "kind": buffer.kind,
                "type": type_text(buffer.dtype, buffer.shape),
                "bytes": _bytes_text(buffer),
                "steps": [first, last],
            }
        )
    steps: list[Json] = []
    for step in plan.steps:
        if not isinstance(step, M.Launch):
            steps.append(_step(plan, step))
            continue
        kernel = kernels[step.kernel]
        args = [
            buffer_name(plan, a.buffer) if a.buffer is not None
            else dim_text(a.dim) if a.dim is not None
            else str(a.scalar)
            for a in step.args
        ]  # fmt: skip
        steps.append(
            {
                "op": "launch",
                "kernel": kernel.name,
                "grid": [dim_text(d) for d in step.grid],
                "group": kernel.group,
                "dynamic_shared": dim_text(step.dynamic_shared),
                "args": args,
                "reads": _accessed(plan, step, kernel, "write"),
                "writes": _accessed(plan, step, kernel, "read"),
            }
        )
    return {"function": plan.function, "buffers": buffers, "steps": steps}


def _accessed(plan: M.Plan, step: M.Launch, kernel: M.Kernel, never: str) -> list[str]:
    """The buffers of a launch whose access is not `never`."""
    pairs = zip(step.args, kernel.params, strict=True)
    return [buffer_name(plan, a.buffer) for a, p in pairs if a.buffer is not None and p.access != never]


def _step(plan: M.Plan, step: M.Copy | M.Take | M.Put | M.Branch | M.When | M.Repeat | M.Loop) -> Json:
    """A step that launches nothing; `blocks` are the lengths of the blocks of steps that follow it."""
    if isinstance(step, M.Copy):
        return {"op": "copy", "src": buffer_name(plan, step.src), "dst": buffer_name(plan, step.dst)}
    if isinstance(step, (M.Take, M.Put)):
        names = {"src": buffer_name(plan, step.src), "dst": buffer_name(plan, step.dst)}
        return {"op": "take" if isinstance(step, M.Take) else "put", **names, "reverse": step.reverse}
    if isinstance(step, M.Repeat):
        return {"op": "repeat", "count": dim_text(step.count), "blocks": [step.body]}
    if isinstance(step, M.When):
        return {"op": "when", "unless": dim_text(step.unless), "blocks": [step.then, step.other]}
    if isinstance(step, M.Branch):
        return {"op": "branch", "on": buffer_name(plan, step.on), "blocks": [step.then, step.other]}
    return {"op": "loop", "on": buffer_name(plan, step.on), "blocks": [step.head, step.body]}


def step_text(step: Json) -> str:
    """A step in a line."""
    match step["op"]:
        case "launch":
            return f"{step['kernel']}({', '.join(step['args'])})"
        case "copy":
            return f"{step['dst']} = {step['src']}"
        case "take" | "put":
            index = "[last - i]" if step["reverse"] else "[i]"
            take = step["op"] == "take"
            return f"{step['dst']}{'' if take else index} = {step['src']}{index if take else ''}"
        case "repeat":
            return f"repeat {step['count']} times: the next {step['blocks'][0]}"
        case "when":
            return f"if {step['unless']} = 0: the next {step['blocks'][0]}, else {step['blocks'][1]} behind them"
        case "branch":
            return f"if {step['on']}: the next {step['blocks'][0]}, else {step['blocks'][1]} behind them"
        case _:
            return f"the next {step['blocks'][0]}; while {step['on']}: {step['blocks'][1]} behind them and these again"


def _bytes_text(buffer: M.Buffer) -> str:
    """The bytes of a buffer: a number, or a product of extents."""
    known, open_ = DTYPES[buffer.dtype].itemsize, []
    for dim in buffer.shape:
        if isinstance(dim, int):
            known *= dim
        else:
            shown = to_infix(dim)
            open_.append(shown if shown.isidentifier() or shown.endswith(")") else f"({shown})")
    return " * ".join([str(known), *open_])


def text(about: Json, name: str) -> str:
    """The document for people."""
    out = [f"{name}: {about['bytes']:,} bytes, sha256:{about['digest']}"]
    out.append("  " + ", ".join(f"{kind} {size:,}" for kind, size in about["sections"].items() if size))
    out += [f"  {e['name']} is in {e['file']}, {e['bytes']:,} bytes" for e in about["entries"] if e["file"]]
    out += [f"  signed by {key}" for key in about["signatures"]] or ["  not signed"]
    out.append("\nfunctions")
    for function in about["functions"]:
        out.append(f"  {function['signature']}")
        out += [f"      {line}" for line in function["doc"].strip().splitlines()[:1]]
        out += [f"      {symbol} = {where}" for symbol, where in function["symbols"].items()]
        out += [f"      requires {guard['message']}" for guard in function["guards"]]
    for target in about["targets"]:
        runs_on = target["capability"] or " ".join([target["machine"], *target["requires"]])
        out.append(f"\n{target['name']}: {target['format']}, {target['bytes']:,} bytes, for {runs_on}")
        out += _table(
            ["kernel", "grid", "group", "registers", "shared", "spills", "scratch", "code", "source", "computes"],
            [
                [
                    k["name"], " x ".join(g for i, g in enumerate(k["grid"] or ["?"]) if not i or g != "1"),
                    k["group"], k["registers"], shared_text(k), k["spill_bytes"], k["scratch_bytes"],
                    k["code_bytes"], k["source"] or "", " ".join(k["ops"]),
                ]
                for k in target["kernels"]
            ],
        )  # fmt: skip
        for plan in target["plans"]:
            out.append(f"  {plan['function']}:")
            for number, step in enumerate(plan["steps"]):
                out.append(f"    {number}: {step_text(step)}")
            out += [
                f"    {b['name']}: {b['type']}, {b['bytes']} bytes, steps {b['steps'][0]} to {b['steps'][1]}"
                for b in plan["buffers"]
                if b["kind"] == "temp"
            ]
    if about["constants"]:
        out.append("\nconstants")
        out += [f"  {c['name']}: {c['type']}, {c['bytes']:,} bytes" for c in about["constants"][:_SHOWN]]
        if len(about["constants"]) > _SHOWN:
            out.append(f"  and {len(about['constants']) - _SHOWN} more")
    if about["tests"]:
        out.append("\ntests")
        out += [f"  {t['name']}: {t['function']}, atol {t['atol']}, rtol {t['rtol']}" for t in about["tests"]]
    out.append("\nprovenance")
    for key, value in sorted((key, value) for key, value in about["provenance"].items() if value):
        out.append(f"  {key}: {' '.join(value) if isinstance(value, list) else value}")
    return "\n".join(out) + "\n"


def shared_text(kernel: Json) -> int | str:
    """The shared memory of a group in bytes: what the code has, and what a launch adds."""
    dynamic = kernel["dynamic_shared"] or "0"
    if dynamic.isdecimal():
        return int(kernel["shared_bytes"]) + int(dynamic)
    return f"{kernel['shared_bytes']} + {dynamic}" if kernel["shared_bytes"] else str(dynamic)


def _table(head: list[str], rows: list[list[Any]]) -> list[str]:
    """Aligned columns; numbers to the right, columns without a value left out."""
    kept = [i for i, name in enumerate(head) if i < 2 or any(row[i] for row in rows)]
    lines = [[head[i] for i in kept], *([str(row[i]) for i in kept] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(kept))]
    numeric = [bool(rows) and isinstance(rows[0][i], int) for i in kept]
    return [
        "  " + "  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in zip(line, widths, numeric)).rstrip()
        for line in lines
    ]


def json_text(about: Json) -> str:
    """The document as one line of JSON, keys sorted."""
    return json.dumps(about, sort_keys=True)

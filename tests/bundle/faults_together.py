"""Manifests whose parts do not fit together: rules F1 to F16 of specs/bundle.md."""

from __future__ import annotations

from typing import Any

from tests.bundle.base import Json, build, document, parts
from tests.bundle.faults import DROP, Fault, manifest_fault

STEP = "targets.0.plans.0.steps.0"
NOTHING = {"buffer": None, "dim": None, "scalar": None}


def together() -> list[Fault]:
    """The faults, one value changed each, but for those that need more."""
    first = document()
    kernel, plan, entry = first["targets"][0]["kernels"][0], first["targets"][0]["plans"][0], first["entries"][0]
    function, target, test = first["functions"][0], first["targets"][0], first["tests"][0]
    launch, copy = plan["steps"]
    changes: list[tuple[str, str, str, Json]] = [
        ("F1", "digests", "entries.0.sha256", ["0" * 64] * 2),
        ("F1", "unsorted", "entries", [first["entries"][1], first["entries"][0], *first["entries"][2:]]),
        ("F1", "twice", "entries", [entry, *first["entries"]]),
        ("F1", "reserved", "entries", sorted([*first["entries"], {**entry, "name": "tsb.signatures"}], key=_name)),
        ("F1", "unused", "entries", sorted([*first["entries"], {**entry, "name": "images/zzz"}], key=_name)),
        ("F1", "unknown", "targets.0.image", "images/none.elf"),
        ("F1", "image-in-weights", "targets.0.image", "weights.safetensors"),
        ("F1", "constant-in-code", "constants.0.entry", "images/cpu.elf"),
        ("F1", "test-in-weights", "tests.0.entry", "weights.safetensors"),
        ("F2", "functions", "functions.1.name", "scale"),
        ("F2", "constants", "constants.1.name", "w"),
        ("F2", "targets", "targets", [target, target]),
        ("F2", "tests", "tests", [test, test]),
        ("F2", "inputs", "functions.0.inputs.1.name", "x"),
        ("F2", "outputs", "functions.0.outputs", function["outputs"] * 2),
        ("F2", "symbols", "functions.0.symbols", function["symbols"] * 2),
        ("F2", "kernels", "targets.0.kernels", [kernel, kernel]),
        ("F3", "size", "constants.0.size", 12),
        ("F3", "shape", "constants.0.shape", [1 << 62, 1 << 62]),
        ("F3", "outside", "constants.0.offset", 1 << 40),
        ("F3", "misaligned", "constants.0.offset", first["constants"][0]["offset"] + 4),
        ("F4", "no-input", "functions.0.symbols.0.input", "q"),
        ("F4", "no-axis", "functions.0.symbols.0.axis", 2),
        ("F4", "tensor-as-scalar", "functions.0.symbols.0.axis", -1),
        ("F4", "scalar-as-tensor", "functions.1.symbols.0.axis", 0),
        ("F4", "float", "functions.1.inputs.1.dtype", "f64"),
        ("F4", "operator", "functions.1.symbols.0.name", "add"),
        ("F5", "scalar-with-shape", "functions.0.inputs.1.shape", [2]),
        ("F5", "scalar-in-out", "functions.0.inputs.1.inout", True),
        ("F5", "alias-of-read-only", "functions.1.inputs.0.inout", False),
        ("F5", "alias-of-nothing", "functions.1.outputs.0.alias", "z"),
        ("F5", "alias-of-another-type", "functions.1.outputs.0.dtype", "u32"),
        ("F6", "no-machine", "targets.0.machine", ""),
        ("F6", "format", "targets.0.format", "ptx"),
        ("F6", "capability", "targets.0.capability", {"major": 9, "minor": 0, "match": "exact"}),
        ("F6", "requires", "targets.1.requires", ["avx2"]),
        ("F6", "no-capability", "targets.1.capability", None),
        ("F6", "ptx", "targets.0.ptx", "images/sm_90.ptx"),
        ("F7", "symbols", "targets.0.kernels.0.symbols", ["N", "M"]),
        ("F7", "operator", "targets.0.kernels.0.symbols", ["min"]),
        ("F7", "scalar-shape", "targets.0.kernels.0.params.0.shape", [4]),
        ("F8", "missing", "targets.0.plans.1", DROP),
        ("F8", "twice", "targets.0.plans", [plan, *first["targets"][0]["plans"]]),
        ("F9", "ref", "targets.0.plans.0.buffers.0.ref", "q"),
        ("F9", "shape", "targets.0.plans.0.buffers.0.shape", [3, 4]),
        ("F9", "dtype", "targets.0.plans.0.buffers.1.dtype", "i32"),
        ("F9", "scalar", "targets.0.plans.0.buffers.0.ref", "a"),
        ("F9", "temporary", "targets.0.plans.0.buffers.2.ref", "t"),
        ("F9", "twice", "targets.0.plans.0.buffers", [*plan["buffers"], plan["buffers"][0]]),
        ("F9", "alias", "targets.0.plans.1.buffers.0.kind", "output"),
        ("F10", "kernel", f"{STEP}.kernel", 7),
        ("F10", "copy-from", "targets.0.plans.0.steps.1.src", 40),
        ("F10", "copy-to", "targets.0.plans.0.steps.1.dst", 40),
        ("F10", "copy-to-itself", "targets.0.plans.0.steps.1.dst", 2),
        ("F11", "buffer", f"{STEP}.args.1.buffer", 40),
        ("F11", "nothing", f"{STEP}.args.1", NOTHING),
        ("F11", "two-things", f"{STEP}.args.1", {"buffer": 0, "dim": 1, "scalar": None}),
        ("F11", "kind", f"{STEP}.args.1", {"buffer": None, "dim": 1, "scalar": None}),
        ("F11", "scalar", f"{STEP}.args.0.scalar", "x"),
        ("F11", "fewer", f"{STEP}.args.4", DROP),
        ("F11", "twice", f"{STEP}.args.1.buffer", 2),
        ("F11", "dim-type", "targets.0.kernels.0.params.4.dtype", "i32"),
        ("F11", "type", "targets.0.kernels.0.params.2.dtype", "i32"),
        ("F11", "scalar-type", "targets.0.kernels.0.params.0.dtype", "f64"),
        ("F12", "constant", f"{STEP}.args.3.buffer", 1),
        ("F12", "input", "targets.0.plans.0.steps.1.dst", 0),
        ("F12", "not-yet-written", "targets.0.plans.0.steps", [copy, launch]),
        ("F12", "reads-output", "targets.0.plans.0.steps", [{**copy, "src": 3, "dst": 2}, launch, copy]),
        ("F12", "no-result", "targets.0.plans.0.steps", [launch]),
        ("F12", "launch-reads", "targets.0.kernels.0.params.3.access", "readwrite"),
        ("F13", "unknown", "tests.0.function", "other"),
    ]
    return [
        *(manifest_fault(rule, name, "E623", path, new) for rule, name, path, new in changes),
        *(Fault("F7", name, "E623", lambda change=change: build(_maps(change), rehash=False))
          for name, change in _map_faults()),
        Fault("M3", "flops-rate", "E621", lambda: build(flops(rate=0), rehash=False)),
        Fault("M5", "flops", "E624", lambda: build(flops(count=["N", "mul"]), rehash=False)),
        Fault("F7", "flops-in-plan-1", "E623", lambda: build(flops(1), rehash=False)),
        Fault("F7", "ops-in-plan-1", "E623", lambda: build(_ops(), rehash=False)),
        Fault("F7", "parts-in-plan-1", "E623", lambda: build(_parts(1), rehash=False)),
        Fault("F7", "parts-of-input", "E623", lambda: build(_parts(2, 1), rehash=False)),
        Fault("F7", "parts-of-nothing", "E623", lambda: build(_parts(2, 9), rehash=False)),
        manifest_fault("M3", "ops-name", "E621", "targets.0.kernels.0.ops", ["mul; rm"]),
        manifest_fault("M3", "ops-many", "E621", "targets.0.kernels.0.ops", ["mul"] * 33),
        Fault("F14", "flops", "E623", lambda: build(_heavy(counts=True), rehash=False)),
        Fault("F2", "kernel-symbols", "E623", lambda: build(_two_dims(), rehash=False)),
        Fault("F10", "copy-between-types", "E623", lambda: build(_other_type(), rehash=False)),
        *(Fault(rule, name, "E623", lambda steps=steps: build(_controlled(steps), rehash=False))
          for rule, name, steps in _control_faults()),
        Fault("F14", "work", "E623", lambda: build(_heavy(), rehash=False)),
    ]


def _name(entry: Any) -> Any:
    return entry["name"]


def _map_faults() -> list[tuple[str, Json]]:
    return [
        ("map-in-plan-1", {"plan": 1}), ("map-of-cpu", {"target": 0}), ("map-of-nothing", {"param": 9}),
        ("map-of-scalar", {"param": 0}), ("map-axes", {"box": [1, 4, 8]}), ("map-span", {"box": [4, 24], "span": 96}),
        ("map-row", {"box": [4, 16]}),
    ]  # fmt: skip


def _maps(change: Json) -> Json:
    """A kernel with a tensor map, which is right but for the change."""
    value = document()
    entry = {"param": 1, "box": [4, 8], "span": 32, **change}
    value["versions"]["plan"] = entry.pop("plan", 2)
    value["targets"][entry.pop("target", 1)]["kernels"][0]["maps"] = [entry]
    return value


def flops(version: int = 2, **change: Any) -> Json:
    """A kernel that says how many operations it does."""
    value = document()
    value["versions"]["plan"] = version
    kernel = value["targets"][0]["kernels"][0]
    kernel["flops"] = [{"count": ["N", 8, "mul"], "rate": 32, **change}, {"count": 3, "rate": 8}]
    return value


def _ops() -> Json:
    value = document()
    value["versions"]["plan"] = 1
    value["targets"][0]["kernels"][0]["ops"] = ["mul"]
    return value


def _parts(version: int, *params: int) -> Json:
    """A kernel of two lines; these parameters are said to hold results of the second."""
    value = document()
    value["versions"]["plan"] = version
    kernel = value["targets"][0]["kernels"][0]
    kernel["parts"] = [{"file": "m.py", "line": 7, "params": []}, {"file": "m.py", "line": 8, "params": [*params]}]
    return value


def _two_dims() -> Json:
    value = document()
    kernel = value["targets"][0]["kernels"][0]
    kernel["params"].append(kernel["params"][-1])
    kernel["symbols"] = ["N", "N"]
    args = value["targets"][0]["plans"][0]["steps"][0]["args"]
    args.append(args[-1])
    return value


def _other_type() -> Json:
    value = document()
    plan = value["targets"][0]["plans"][0]
    plan["buffers"].append({"kind": "temp", "ref": "", "dtype": "i32", "shape": [["N"], 4]})
    plan["steps"].append({"op": "copy", "src": 3, "dst": 4})
    return value


def _heavy(counts: bool = False) -> Json:
    """2050 launches of a kernel whose shapes take 8192 items: four thousand times what the text would suggest. Or half
    of that, and a count of operations that makes it too much."""
    value = document()
    target = value["targets"][1]
    heavy: Json = ["N", *[1, "mul"] * 255]
    more: Json = {"flops": [{"count": heavy, "rate": 32}]} if counts else {}
    value["versions"]["plan"] = 2
    target["kernels"].append(
        {**target["kernels"][0], "name": "heavy", "grid": None,
         "params": [{"kind": "buffer", "dtype": "f32", "access": "readwrite", "shape": [heavy] * (32 - counts)},
                    {"kind": "dim", "dtype": "i64", "access": "read", "shape": None}], **more})  # fmt: skip
    plan = target["plans"][0]
    args = [{**NOTHING, "buffer": 3}, {**NOTHING, "dim": ["N"]}]
    step = {"op": "launch", "kernel": 1, "grid": [1, 1, 1], "args": args, "dynamic_shared": 0}
    plan["steps"] += [step] * 1030
    assert len(parts()[1]) == 5
    return value


def _controlled(steps: Json, version: int = 2) -> Json:
    """The first plan with these steps, and two more buffers: 4 has a row of x, 5 is an int."""
    value = document()
    value["versions"]["plan"] = version
    plan = value["targets"][0]["plans"][0]
    plan["buffers"].append({"kind": "temp", "ref": "", "dtype": "f32", "shape": [4]})
    plan["buffers"].append({"kind": "temp", "ref": "", "dtype": "i32", "shape": [4]})
    plan["steps"] = steps
    return value


def repeat(body: int) -> Json:
    return {"op": "repeat", "count": ["N"], "body": body}


def row(op: str, src: int, dst: int) -> Json:
    return {"op": op, "src": src, "dst": dst, "reverse": False}


def _control_faults() -> list[tuple[str, str, Json]]:
    launch, copy = document()["targets"][0]["plans"][0]["steps"]
    deep = [repeat(32 - i) for i in range(33)]
    return [
        ("F10", "row-nowhere", [launch, repeat(1), row("take", 0, 40), copy]),
        ("F12", "repeat", [repeat(1), launch, copy]),
        ("F12", "row-of-input", [launch, copy, repeat(2), row("take", 0, 4), row("put", 4, 0)]),
        ("F12", "row-not-written", [launch, copy, repeat(1), row("put", 4, 2)]),
        ("F12", "rows-read-too-early", [repeat(3), row("take", 0, 4), row("put", 4, 2), copy, launch, copy]),
        ("F15", "block-beyond", [launch, copy, repeat(1)]),
        ("F15", "block-beyond-its-block", [launch, copy, repeat(1), repeat(1), row("take", 0, 4)]),
        ("F15", "depth", [launch, copy, *deep]),
        ("F16", "row-outside", [launch, copy, row("take", 0, 4)]),
        ("F16", "row-type", [launch, copy, repeat(1), row("take", 0, 5)]),
        ("F16", "row-of-itself", [launch, copy, repeat(1), row("take", 2, 2)]),
        ("F16", "no-flag", [launch, copy, {"op": "branch", "on": 2, "then": 0, "other": 0}]),
        ("F16", "no-flag-in-a-loop", [launch, copy, {"op": "loop", "on": 2, "head": 0, "body": 0}]),
    ]

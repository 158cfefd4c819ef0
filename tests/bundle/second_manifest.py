"""The manifest for the second reader: JSON, a validator of the words that bundle.schema.json uses, sections 2 and 3."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

DTYPES = {
    "f64": ("F64", 8), "f32": ("F32", 4), "f16": ("F16", 2), "bf16": ("BF16", 2), "fp8_e4m3": ("F8_E4M3", 1),
    "fp8_e5m2": ("F8_E5M2", 1), "fp8_e8m0": ("F8_E8M0", 1), "fp6_e2m3": ("U8", 1), "fp6_e3m2": ("U8", 1),
    "fp4_e2m1": ("U8", 1), "i4": ("U8", 1), "u4": ("U8", 1), "i8": ("I8", 1), "i16": ("I16", 2), "i32": ("I32", 4),
    "i64": ("I64", 8), "u8": ("U8", 1), "u16": ("U16", 2), "u32": ("U32", 4), "u64": ("U64", 8), "bool": ("BOOL", 1),
}  # fmt: skip
WORDS = {"add", "sub", "mul", "floordiv", "ceildiv", "mod", "min", "max"}
SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)


class Refused(Exception):
    """The manifest breaks a rule."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def need(condition: bool, code: str = "E623") -> None:
    if not condition:
        raise Refused(code)


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    need(len({key for key, _ in pairs}) == len(pairs), "E620")
    return dict(pairs)


def parse(data: bytes, schema: Any) -> Any:
    """The manifest that a text spells, all its rules checked."""
    value = _json(data)
    _versions(value)
    _validate(value, schema, schema)
    _together(value)
    return value


def check_bounds(data: bytes) -> None:
    """The bounds that a text keeps before a parser sees it. E620."""
    depth = deepest = commas = digits = brackets = quotes = 0
    inside = escaped = False
    for byte in data:
        char = chr(byte)
        quotes += char == '"' and not escaped
        if inside:
            inside, escaped = escaped or char != '"', char == "\\" and not escaped
            continue
        inside = char == '"'
        brackets += char in "[]{}"
        depth += (char in "[{") - (char in "]}")
        deepest, commas = max(deepest, depth), commas + (char == ",")
        digits = digits + 1 if char.isdigit() else 0
        need(digits < 40, "E620")
    need(deepest <= 16 and commas <= 2097152 and brackets <= 4194304 and quotes <= 4194304, "E620")


def _json(data: bytes) -> Any:
    check_bounds(data)

    def refuse(text: str) -> Any:
        raise Refused("E620")

    try:
        value = json.loads(data.decode("ascii"), parse_float=refuse, parse_constant=refuse, object_pairs_hook=distinct)
    except (ValueError, RecursionError):
        raise Refused("E620") from None
    need(json.dumps(value, sort_keys=True, separators=(",", ":")).encode() == data, "E620")
    return value


def _versions(value: Any) -> None:
    need(isinstance(value, dict) and isinstance(value.get("versions"), dict), "E621")
    found = [value["versions"].get(part) for part in ("container", "plan", "kernel_abi")]
    found += [value[part].get("version") for part in ("mesh", "programs") if isinstance(value.get(part), dict)]
    highest = [1, 2, 1, 1, 1]
    need(all(type(n) is not int or not 0 <= n <= 65536 or 1 <= n <= h for n, h in zip(found, highest)), "E622")


def _validate(value: Any, rule: Any, schema: Any) -> None:
    if "$ref" in rule:
        rule = schema["$defs"][rule["$ref"].removeprefix("#/$defs/")]
    if "anyOf" in rule:
        need(any(_fits(value, option, schema) for option in rule["anyOf"]), "E621")
        return
    if "const" in rule or "enum" in rule:
        need(isinstance(value, str) and value in rule.get("enum", [rule.get("const")]), "E621")
        return
    types = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool, "null": type(None)}
    need(type(value) is types[rule["type"]], "E621")
    if isinstance(value, dict):
        need(set(rule["required"]) <= value.keys() <= rule["properties"].keys(), "E621")
        need(all(value[key] for key in value.keys() - set(rule["required"])), "E621")  # left out where it is empty
        for key, item in value.items():
            _validate(item, rule["properties"][key], schema)
    elif isinstance(value, list):
        need(rule["minItems"] <= len(value) <= rule["maxItems"], "E621")
        for item in value:
            _validate(item, rule["items"], schema)
    elif isinstance(value, str):
        need(len(value) <= rule["maxLength"] and re.fullmatch(rule.get("pattern", "(?s).*"), value) is not None, "E621")
    elif type(value) is int:
        need(rule["minimum"] <= value <= rule["maximum"], "E621")


def _fits(value: Any, rule: Any, schema: Any) -> bool:
    try:
        _validate(value, rule, schema)
    except Refused:
        return False
    return True


def _unique(names: Iterable[str]) -> set[str]:
    seen = list(names)
    need(len(set(seen)) == len(seen))
    return set(seen)


def _expressions(dims: Iterable[Any], symbols: Iterable[str]) -> None:
    known = set(symbols)
    for dim in dims:
        if isinstance(dim, list):
            depth = 0
            for item in dim:
                depth += -1 if item in WORDS else 1
                need(depth >= 1 and (isinstance(item, int) or item in WORDS or item in known), "E624")
            need(depth == 1, "E624")


def _together(m: Any) -> None:
    entries = {e["name"]: e for e in m["entries"]}
    need(list(entries) == sorted(entries) and len(entries) == len(m["entries"]))
    need(not entries.keys() & {"tsb.header", "tsb.signatures", "manifest.json"})
    for e in m["entries"]:
        need(len(e["sha256"]) == -(-e["size"] // (4 << 20)))
    used = {("weights", c["entry"]) for c in m["constants"]} | {("tests", t["entry"]) for t in m["tests"]}
    for t in m["targets"]:
        used |= {("code", name) for name in (t["image"], t["ptx"]) if name is not None}
    need(used == {(e["kind"], e["name"]) for e in m["entries"]})
    for part in ("constants", "functions", "targets", "tests"):
        _unique(item["name"] for item in m[part])
    for c in m["constants"]:
        size = DTYPES[c["dtype"]][1]
        for extent in c["shape"]:
            size *= extent
        need(c["size"] == size and c["offset"] % 64 == 0 and c["offset"] + size <= entries[c["entry"]]["size"])
    functions = {f["name"]: f for f in m["functions"]}
    for f in functions.values():
        _function(f)
    need(all(t["function"] in functions for t in m["tests"]))
    for t in m["targets"]:
        _target(t, functions, {c["name"]: c for c in m["constants"]}, m["versions"]["plan"])
        if m["versions"]["plan"] == 1:
            need(all(step["op"] in ("launch", "copy") for plan in t["plans"] for step in plan["steps"]))


def _function(f: Any) -> None:
    for part in ("inputs", "outputs", "symbols"):
        _unique(item["name"] for item in f[part])
    inputs, symbols = {i["name"]: i for i in f["inputs"]}, [s["name"] for s in f["symbols"]]
    for s in f["symbols"]:
        need(SYMBOL.fullmatch(s["name"]) is not None and s["name"] not in WORDS and s["input"] in inputs)
        source = inputs[s["input"]]
        if s["axis"] == -1:
            need(source["kind"] == "scalar" and source["dtype"][0] in "iu")
        else:
            need(source["kind"] == "tensor" and s["axis"] < len(source["shape"]))
    for i in f["inputs"]:
        need(i["kind"] == "tensor" or (not i["shape"] and not i["inout"]))
        _expressions(i["shape"], symbols)
    for o in f["outputs"]:
        _expressions(o["shape"], symbols)
        if o["alias"] is not None:
            source = inputs.get(o["alias"])
            need(source is not None and source["inout"])
            need((source["dtype"], source["shape"]) == (o["dtype"], o["shape"]))
    _expressions([g["expr"] for g in f["guards"]], symbols)


def _target(t: Any, functions: Any, constants: Any, version: int) -> None:
    cpu = t["kind"] == "cpu"
    need(cpu == (t["format"] == "elf") == (t["machine"] != "") == (t["capability"] is None))
    need(not (cpu and t["ptx"] is not None) and (cpu or not t["requires"]))
    _unique(k["name"] for k in t["kernels"])
    for k in t["kernels"]:
        _unique(k["symbols"])
        need(len(k["symbols"]) in (0, sum(p["kind"] == "dim" for p in k["params"])))
        need(all(SYMBOL.fullmatch(s) and s not in WORDS for s in k["symbols"]))
        _expressions([*(k["grid"] or []), k["dynamic_shared"]], k["symbols"])
        for p in k["params"]:
            need(p["shape"] is None or p["kind"] == "buffer")
            _expressions(p["shape"] or [], k["symbols"])
        need(version > 1 or not (k.get("flops") or k.get("ops") or k.get("parts")))
        for slot in [slot for part in k.get("parts", []) for slot in part["params"]]:
            need(slot < len(k["params"]) and k["params"][slot]["kind"] == "buffer")
            need(k["params"][slot]["access"] != "read")
        _expressions([item["count"] for item in k.get("flops", [])], k["symbols"])
        for entry in k.get("maps", []):
            need(version > 1 and not cpu and entry["param"] < len(k["params"]) and entry["span"] in (32, 64, 128))
            p = k["params"][entry["param"]]
            need(p["shape"] is not None and len(p["shape"]) == len(entry["box"]))
            need(entry["box"][-1] * DTYPES[p["dtype"]][1] == entry["span"])
    need(_unique(p["function"] for p in t["plans"]) == set(functions))
    for plan in t["plans"]:
        _plan(plan, functions[plan["function"]], t["kernels"], constants)


def _plan(plan: Any, f: Any, kernels: Any, constants: Any) -> None:
    symbols, buffers = [s["name"] for s in f["symbols"]], plan["buffers"]
    inputs, outputs = {i["name"]: i for i in f["inputs"]}, {o["name"]: o for o in f["outputs"]}
    tensors = {n: i for n, i in inputs.items() if i["kind"] == "tensor"}
    fresh = {n: o for n, o in outputs.items() if o["alias"] is None}
    _unique(f"{b['kind']} {b['ref']}" for b in buffers if b["kind"] != "temp")
    for b in buffers:
        _expressions(b["shape"], symbols)
        if b["kind"] == "temp":
            need(b["ref"] == "")
            continue
        stands = {"input": tensors, "output": fresh, "constant": constants}[b["kind"]].get(b["ref"])
        need(stands is not None and (stands["dtype"], stands["shape"]) == (b["dtype"], b["shape"]))
    filled = frozenset(i for i, b in enumerate(buffers) if b["kind"] in ("input", "constant"))
    run = _Run(buffers, inputs, kernels, symbols, plan["steps"])
    filled = run.block(0, len(plan["steps"]), filled, False, 0)[0]
    need(run.work <= 16777216)
    need(all(any(buffers[i]["ref"] == n for i in filled if buffers[i]["kind"] == "output") for n in fresh))


class _Run:
    """Steps of a plan, looked at in order: which buffers have contents behind each."""

    def __init__(self, buffers: Any, inputs: Any, kernels: Any, symbols: Any, steps: Any) -> None:
        self.buffers, self.inputs, self.kernels, self.symbols, self.steps = buffers, inputs, kernels, symbols, steps
        self.work = 0

    def block(self, at: int, end: int, filled: frozenset[int], rows: bool, inside: int) -> tuple[frozenset[int], Any]:
        """What is filled behind steps at..end, and the buffers whose rows they fill; `rows`: in a repeat."""
        need(inside <= 32)
        put: set[int] = set()
        while at < end:
            step = self.steps[at]
            at += 1
            if step["op"] == "launch":
                filled |= self.launch(step, filled)
            elif step["op"] in ("copy", "take", "put"):
                src, dst = step["src"], step["dst"]
                need(src < len(self.buffers) and dst < len(self.buffers) and src != dst)
                need(self.buffers[src]["dtype"] == self.buffers[dst]["dtype"] and src in filled)
                need(step["op"] == "copy" or rows)
                self.writable(dst)
                if step["op"] == "put":
                    put.add(dst)
                else:
                    filled |= {dst}
            else:
                parts = [step[name] for name in ("then", "other", "head", "body") if name in step]
                need(at + sum(parts) <= end)
                if step["op"] == "repeat":
                    _expressions([step["count"]], self.symbols)
                    filled |= self.block(at, at + parts[0], filled, True, inside + 1)[1]
                elif step["op"] in ("branch", "when"):
                    if step["op"] == "branch":
                        self.decides(step["on"], filled)
                    else:
                        _expressions([step["unless"]], self.symbols)
                    one = self.block(at, at + parts[0], filled, rows, inside + 1)[0]
                    filled = one & self.block(at + parts[0], at + sum(parts), filled, rows, inside + 1)[0]
                else:
                    filled = self.block(at, at + parts[0], filled, rows, inside + 1)[0]
                    self.decides(step["on"], filled)
                    self.block(at + parts[0], at + sum(parts), filled, rows, inside + 1)
                at += sum(parts)
        return filled, frozenset(put)

    def decides(self, index: int, filled: frozenset[int]) -> None:
        need(index < len(self.buffers) and self.buffers[index]["dtype"] == "bool" and index in filled)

    def writable(self, index: int) -> None:
        b = self.buffers[index]
        need(b["kind"] in ("temp", "output") or (b["kind"] == "input" and self.inputs[b["ref"]]["inout"]))

    def launch(self, step: Any, filled: frozenset[int]) -> frozenset[int]:
        need(step["kernel"] < len(self.kernels))
        k = self.kernels[step["kernel"]]
        _expressions([*step["grid"], step["dynamic_shared"]], self.symbols)
        dims = [*(k["grid"] or []), k["dynamic_shared"], *(d for p in k["params"] for d in p["shape"] or [])]
        dims += [item["count"] for item in k.get("flops", [])]
        self.work += sum(len(d) if isinstance(d, list) else 1 for d in dims)
        need(len(step["args"]) == len(k["params"]))
        passed: list[int] = []
        for arg, param in zip(step["args"], k["params"], strict=True):
            need([kind for kind in ("buffer", "dim", "scalar") if arg[kind] is not None] == [param["kind"]])
            if param["kind"] == "buffer":
                need(arg["buffer"] < len(self.buffers) and self.buffers[arg["buffer"]]["dtype"] == param["dtype"])
                passed.append(arg["buffer"])
            elif param["kind"] == "dim":
                need(param["dtype"] == "i64")
                _expressions([arg["dim"]], self.symbols)
            else:
                source = self.inputs.get(arg["scalar"])
                need(source is not None and source["kind"] == "scalar" and source["dtype"] == param["dtype"])
        pairs = [(arg["buffer"], p["access"]) for arg, p in zip(step["args"], k["params"], strict=True)]
        pairs = [(index, access) for index, access in pairs if index is not None]
        need(all(index in filled for index, access in pairs if access != "write"))
        changed = [index for index, access in pairs if access != "read"]
        for index in changed:
            need(passed.count(index) == 1)
            self.writable(index)
        return frozenset(changed)

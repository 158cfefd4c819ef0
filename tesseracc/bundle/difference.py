"""What differs between two bundles, in terms of what they mean: by function, kernel, constant, option."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tessera_runtime.bundle import BundleFile
from tesseracc.bundle.code import Code, read_code
from tesseracc.bundle.describe import document, step_text
from tesseracc.bundle.weights import SOURCE_PREFIX

__all__ = ["Change", "differences"]

Tree = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """One difference: where (`targets / sm_90 / kernels / f__0 / registers`), what kind, and both values."""

    path: tuple[str, ...]
    kind: str  # changed, added, removed
    before: Any = None
    after: Any = None

    def to_json(self) -> Tree:
        """A JSON object; `path` is a list of names."""
        return {"path": list(self.path), "kind": self.kind, "before": _plain(self.before), "after": _plain(self.after)}

    def text(self) -> str:
        """One line: `~ targets / sm_90 / kernels / f__0 / registers: 40 -> 42`."""
        sign = {"changed": "~", "added": "+", "removed": "-"}[self.kind]
        where = f"{sign} {' / '.join(self.path)}"
        if self.kind == "changed":
            return f"{where}: {_shown(self.before)} -> {_shown(self.after)}"
        value = self.before if self.kind == "removed" else self.after
        return where if isinstance(value, Mapping) else f"{where}: {_shown(value)}"


def _plain(value: Any) -> Any:
    """The value for JSON: code is told by its size and digest."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Code) else value


def _shown(value: Any) -> str:
    text = str(value) if not isinstance(value, str) else value or "''"
    return text if len(text) <= 160 else f"{text[:157]}..."


def differences(a: BundleFile, b: BundleFile) -> list[Change]:
    """All differences, in a stable order; empty if and only if both have the same content digest."""
    if a.digest == b.digest:
        return []
    found = list(_compare((), meaning(a), meaning(b)))
    found += _entries(a, b, found)
    found += _order(a, b)
    return found or [Change(("manifest",), "changed", a.digest, b.digest)]


def _entries(a: BundleFile, b: BundleFile, found: list[Change]) -> Iterator[Change]:
    """Files that differ although nothing above shows it, such as a comment in PTX."""
    explained = {change.path[:2] for change in found}
    before, after = ({e.name: list(e.sha256) for e in f.manifest.entries} for f in (a, b))
    owners: dict[str, tuple[str, str]] = {}
    for file in (a, b):
        for target in file.manifest.targets:
            owners.update({name: ("targets", target.name) for name in (target.image, target.ptx) if name})
    for change in _compare((), before, after):
        name = change.path[0]
        if name in owners and owners[name] not in explained:
            yield Change(("entries", name), change.kind, _short(before.get(name)), _short(after.get(name)))


def _order(a: BundleFile, b: BundleFile) -> Iterator[Change]:
    """Lists of the same names in another order, of which `meaning` knows nothing."""
    for part in ("functions", "constants", "targets", "tests"):
        before, after = ([item.name for item in getattr(f.manifest, part)] for f in (a, b))
        if before != after and sorted(before) == sorted(after):
            yield Change((part, "order"), "changed", ", ".join(before), ", ".join(after))


def _short(digests: list[str] | None) -> str | None:
    return None if digests is None else hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


def meaning(file: BundleFile) -> Tree:
    """A bundle as nested names, with digests for data and code."""
    about = document(file)
    constants: Tree = {}
    sources: Tree = {}
    for constant in file.manifest.constants:
        digest = hashlib.sha256(file.constant(constant)).hexdigest()
        if constant.name.startswith(SOURCE_PREFIX):
            sources[constant.name[len(SOURCE_PREFIX) :]] = digest[:16]
        else:
            constants[constant.name] = {"sha256": digest[:16]}
    for c in about["constants"]:
        if c["name"] in constants:
            constants[c["name"]]["type"] = c["type"]
    tests = {
        t.name: {
            "function": t.function, "atol": t.atol, "rtol": t.rtol,
            "sha256": hashlib.sha256(file.entry(t.entry)).hexdigest()[:16],
        }
        for t in file.manifest.tests
    }  # fmt: skip
    return {
        "versions": about["versions"],
        "functions": {f["name"]: {**f, "guards": [g["message"] for g in f["guards"]]} for f in about["functions"]},
        "constants": constants,
        "targets": {t["name"]: _target(file, i, t) for i, t in enumerate(about["targets"])},
        "tests": tests,
        "sources": sources,
        "provenance": _provenance(about["provenance"]),
    }


def _target(file: BundleFile, index: int, about: Tree) -> Tree:
    code, data = read_code(file, file.manifest.targets[index])
    kernels = {}
    for kernel in about["kernels"]:
        described = {key: value for key, value in kernel.items() if key not in ("name", "code_bytes")}
        described["code"] = code.get(kernel["symbol"], Code(b""))
        kernels[kernel["name"]] = described
    plans = {}
    for plan in about["plans"]:
        steps = [
            step_text(s) if s["op"] != "launch" else f"{step_text(s)} on {' x '.join(s['grid'])}"
            for s in plan["steps"]
        ]  # fmt: skip
        buffers = {b["name"]: f"{b['kind']} {b['type']}" for b in plan["buffers"]}
        plans[plan["function"]] = {"steps": dict(zip(map(str, range(len(steps))), steps)), "buffers": buffers}
    plain = {key: about[key] for key in ("kind", "format", "machine", "requires", "capability", "preference")}
    plain["data"] = hashlib.sha256(data).hexdigest()[:16]
    return {**plain, "kernels": kernels, "plans": plans}


def _provenance(about: Tree) -> Tree:
    """Options by name, so that one more is one difference; those of targets are left to the targets."""
    options: Tree = {}
    for option in about["options"]:
        name, equals, value = option.partition("=")
        if name != "--arch":
            options.setdefault(name, []).append(value if equals else "yes")
    return {**about, "options": options}


def _compare(path: tuple[str, ...], a: Any, b: Any) -> Iterator[Change]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in dict.fromkeys((*a, *b)):
            if key not in a:
                yield Change((*path, key), "added", after=b[key])
            elif key not in b:
                yield Change((*path, key), "removed", before=a[key])
            else:
                yield from _compare((*path, key), a[key], b[key])
    elif a != b:
        yield Change(path, "changed", a, b)

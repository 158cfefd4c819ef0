"""`tessera-run --bisect`: which reference, which inputs, and what is told."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tessera_runtime.api import Bundle, load
from tessera_runtime.bisect import Part, bisect
from tessera_runtime.bundle import BundleFile
from tessera_runtime.core.errors import BundleError, DeviceError, UsageError
from tessera_runtime.core.exitcodes import Exit

__all__ = ["bisect_report"]

Case = tuple[str, str, Mapping[str, Any]]  # what it is called, the function, its arguments


def bisect_report(
    bundle: Bundle, cases: Sequence[Case], options: argparse.Namespace, say: Callable[[str], object]
) -> tuple[dict[str, Any], int]:
    """Compare step by step, for each case until it differs. The report for --json, and the exit code."""
    reference = _reference(bundle, options.reference, options.threads)
    shown = f"{reference.target.name} on {reference.device.name}"
    bound = None
    if options.atol is not None or options.rtol is not None:
        bound = options.atol or 0.0, options.rtol or 0.0
    runs = [(title, function, bisect(bundle, reference, function, given, bound)) for title, function, given in cases]
    say(f"{bundle.target.name} on {bundle.device.name} against {shown}")
    found: list[dict[str, Any]] = []
    for title, function, steps in runs:
        say(f"{title}:")
        parts: list[dict[str, Any]] = []
        for part in steps:
            parts.append(_told(part, say))
            if part.differences:
                break
        first = next((part for part in parts if part["differences"]), None)
        found.append({"case": title, "function": function, "parts": parts, "first": first})
        if first is None:
            say(f"  no difference in {len(parts)} parts")
    differs = any(item["first"] for item in found)
    report = {"reference": {"device": reference.device.name, "target": reference.target.name}, "cases": found}
    return report, int(Exit.MISMATCH if differs else Exit.OK)


def _told(part: Part, say: Callable[[str], object]) -> dict[str, Any]:
    names = [f"{k} ({s})" if s else k for k, s in zip(part.kernels, part.sources, strict=True)]
    where = f"step {part.steps[0]}" if len(part.steps) == 1 else f"steps {part.steps[0]} to {part.steps[-1]}"
    text = f"  {where}: {', '.join(names)}" if part.steps else "  no steps"
    say(f"{text}: {'differs' if part.differences else 'ok'}")
    for name, difference in part.differences:
        say(f"    {name} {difference.message}")
    return {
        "steps": list(part.steps), "kernels": list(part.kernels), "sources": list(part.sources),
        "differences": [{"value": name, **difference._asdict()} for name, difference in part.differences],
    }  # fmt: skip


def _reference(bundle: Bundle, wanted: str | None, threads: int | None) -> Bundle:
    """The bundle to compare with: another target or device of the same one, or another bundle's file. E808."""
    if wanted and (wanted.endswith(".tsb") or "/" in wanted):
        other = load(wanted, bundle.device, threads)
        if other.functions != bundle.functions:
            raise BundleError("E661", f"the functions of '{wanted}' differ from those of the bundle under test")
        return other
    if wanted:
        return _opened(bundle.file, wanted, threads)
    # A plain image is a good judge: the least preferred CPU image that runs here, else PTX on the emulator.
    levels = sorted((t.preference, t.name) for t in bundle.manifest.targets if t.kind == "cpu")
    candidates = [f"cpu:{name}" for _, name in levels if name != bundle.target.name]
    if bundle.target.kind == "cpu":
        candidates.append("emulator")
    for device in candidates:
        try:
            return _opened(bundle.file, device, threads)
        except DeviceError:
            continue
    raise UsageError(
        "E808",
        f"the bundle has no second target that runs here beside {bundle.target.name}",
        help="give --reference: a device such as emulator or cpu:x86-64-v2, or another build's .tsb",
    )


def _opened(file: BundleFile, device: str, threads: int | None) -> Bundle:
    from tessera_runtime.devices import open_device

    return Bundle(file, open_device(device, threads))

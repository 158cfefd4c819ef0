"""Tuning records: YAML that says which configuration of a kernel was fastest, by target and size class.

    version: 1
    records:
      - kernel: gemm
        arch: sm_90
        sizes: {M: 4096, N: 4096}
        config: {BM: 128, BN: 128}
        seconds: 0.000251

The size class of a dim of n elements is the smallest power of two that is not below n. `arch: cpu` is every CPU level.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera.decorators import Kernel
from tessera.errors import did_you_mean
from tessera_runtime.core.errors import UsageError
from tessera_runtime.core.files import as_text, read_bytes
from tessera_runtime.core.numbers import short
from tesseracc.arch.arch import Arch, names
from tesseracc.tuning.space import spell

__all__ = ["Record", "beside", "fitting", "parse_records", "read_records", "size_class", "write_records"]

RECORDS_LIMIT = 1 << 20  # bytes
_FIELDS = ("kernel", "arch", "sizes", "config", "seconds")


@dataclass(frozen=True)
class Record:
    """What was measured: the fastest configuration, and its seconds."""

    kernel: str
    arch: str
    sizes: Mapping[str, int]
    config: Mapping[str, int]
    seconds: float

    @property
    def key(self) -> tuple[str, str, tuple[tuple[str, int], ...]]:
        """Kernel, target and size classes: a file has one record of each."""
        return self.kernel, self.arch, tuple(sorted((n, size_class(s)) for n, s in self.sizes.items()))


def size_class(size: int) -> int:
    """The smallest power of two that is not below `size`."""
    return 1 << max(0, size - 1).bit_length()


def beside(module: str | Path) -> Path:
    """Where the records of a module lie: `model.tuning.yaml` beside `model.py`."""
    return Path(os.path.splitext(module)[0] + ".tuning.yaml")


def read_records(file: str | Path) -> tuple[Record, ...]:
    """The records of a file. Raises E802 for what cannot be read or is no record."""
    return parse_records(as_text(read_bytes(file, RECORDS_LIMIT, regular=True), file), Path(file).name)


def parse_records(text: str, name: str) -> tuple[Record, ...]:
    """The records in a text. Raises E802."""
    import yaml

    class Plain(yaml.SafeLoader):
        """YAML without aliases, with which a few lines would stand for more than any memory holds."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("an alias, which records do not have")
            return super().compose_node(parent, index)

    try:
        data = yaml.load(text, Loader=Plain)
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: a number or a date that is none
        raise UsageError("E802", f"{name} is not YAML: {short(' '.join(str(error).split()), 300)}") from None
    if not isinstance(data, dict) or set(data) != {"version", "records"} or not isinstance(data["records"], list):
        raise UsageError("E802", f"{name} is no tuning record", help="it has `version: 1` and a list `records`")
    if data["version"] != 1:
        raise UsageError("E802", f"{name}: version {data['version']!r} is not known", help="this compiler reads 1")
    found: dict[Any, Record] = {}
    for index, item in enumerate(data["records"]):
        record = _record(item, f"{name}: record {index}")
        if record.key in found:
            raise UsageError("E802", f"{name}: record {index} is the second for {record.kernel} on {record.arch}")
        found[record.key] = record
    return tuple(found.values())


def _record(item: Any, where: str) -> Record:
    if not isinstance(item, dict):
        raise UsageError("E802", f"{where} is not a mapping")
    for key in item:
        if key not in _FIELDS:
            raise UsageError("E802", f"{where}: unknown field {key!r}", help=did_you_mean(str(key), _FIELDS))
    if missing := [key for key in _FIELDS if key not in item]:
        raise UsageError("E802", f"{where}: field {missing[0]!r} is missing")
    for key in ("sizes", "config"):
        value = item[key]
        if not isinstance(value, dict) or not all(isinstance(n, str) and _positive(v) for n, v in value.items()):
            raise UsageError("E802", f"{where}: {key} is not a mapping of names to positive integers")
    if not isinstance(item["kernel"], str):
        raise UsageError("E802", f"{where}: kernel is not a name")
    if item["arch"] != "cpu" and item["arch"] not in names():
        help = did_you_mean(str(item["arch"]), names()) or "`tesseracc targets` lists them"
        raise UsageError("E802", f"{where}: unknown target {item['arch']!r}", help=help)
    seconds = item["seconds"]
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < float("inf"):
        raise UsageError("E802", f"{where}: seconds is not a positive number")
    return Record(item["kernel"], item["arch"], item["sizes"], item["config"], float(seconds))


def _positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def write_records(file: str | Path, records: Sequence[Record]) -> None:
    """Writes them at once or not at all, sorted, so that equal records are equal bytes."""
    import yaml

    from tessera_runtime.core.files import write_atomic

    rows = [{f: dict(v) if isinstance(v := getattr(r, f), Mapping) else v for f in _FIELDS}
            for r in sorted(records, key=lambda r: r.key)]  # fmt: skip
    write_atomic(str(file), yaml.safe_dump({"version": 1, "records": rows}, sort_keys=False).encode())


def fitting(records: Sequence[Record], kernel: Kernel, arch: Arch, sizes: Mapping[str, int]) -> list[Record]:
    """The records for a kernel on a target that fit `sizes`: first the one that names most of these, then the one for
    the largest sizes. Raises E802 where one has a configuration that the space lacks, or a size that is none of the
    kernel's."""
    level = (arch.name, "cpu") if arch.kind == "cpu" else (arch.name,)
    found = [
        r for r in records
        if r.kernel == kernel.name and r.arch in level
        and all(size_class(sizes[n]) == size_class(s) for n, s in r.sizes.items() if n in sizes)
    ]  # fmt: skip
    found.sort(key=lambda r: (len(set(r.sizes) & set(sizes)), r.arch == arch.name, r.key[2]), reverse=True)
    for record in found:
        config, known = record.config, {*kernel.definition.symbols, *sizes}
        inside = set(config) == set(kernel.space) and all(v in kernel.space[n] for n, v in config.items())
        unknown = sorted(set(record.sizes) - known)
        what = f"the size `{unknown[0]}`, which it has not" if unknown else f"{spell(config)}, not in its space"
        if unknown or not inside:
            raise UsageError("E802", f"the tuning record of `{kernel.name}` for {record.arch} has {what}",
                             help="measure again with `tesseracc tune`")  # fmt: skip
    return found

"""Targets: one YAML file states every fact about a chip or a CPU level."""

from tesseracc.arch.arch import (
    Arch,
    Capability,
    Limits,
    Memory,
    MmaRow,
    Throughput,
    Toolchain,
    default_cpu_levels,
    load,
    names,
    resolve,
)

__all__ = [
    "Arch",
    "Capability",
    "Limits",
    "Memory",
    "MmaRow",
    "Throughput",
    "Toolchain",
    "default_cpu_levels",
    "load",
    "names",
    "resolve",
]

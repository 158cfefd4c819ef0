"""Facts about targets, read from the YAML files beside this module.

A file describes one chip or CPU level. `inherits: other` starts from another file: mappings merge key by key, lists
are appended to, everything else is replaced; `without:` first removes entries from inherited lists. A file whose name
starts with `_` is a base or a table and no target. A file that misses a field, has one too many or names an unknown
feature is refused, so that the rest of the compiler may trust every value, and asks `arch.has("tma")` where it would
otherwise compare model numbers.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Literal

from tessera_runtime.core.errors import TesseraError, UsageError
from tesseracc.arch.fields import Fields, invalid

__all__ = [
    "Arch",
    "Capability",
    "Costs",
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

Kind = Literal["cuda", "cpu"]
Image = Literal["cubin", "ptx", "elf"]
Match = Literal["exact", "minor", "forward"]
Scope = Literal["thread", "block", "cluster", "core", "sm", "device"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one launch may ask for. Sizes are bytes; `grid` and `block` are extents per axis (x, y, z)."""

    threads_per_block: int
    threads_per_sm: int
    blocks_per_sm: int
    block: tuple[int, int, int]
    grid: tuple[int, int, int]
    registers_per_thread: int  # of 32 bits
    registers_per_sm: int
    shared_static: int  # per block, without asking the driver
    shared_per_block: int  # per block, after asking the driver
    shared_per_sm: int
    shared_reserved: int  # what the system takes of every block's share
    parameter_bytes: int
    barriers: int
    cluster: int  # blocks in a cluster that every chip of this kind accepts; 1 where there are no clusters


@dataclass(frozen=True, slots=True)
class Memory:
    """One level of the memory hierarchy: `bytes` within one `scope` (0: as large as the device's)."""

    name: str
    scope: Scope
    bytes: int


@dataclass(frozen=True, slots=True)
class MmaRow:
    """One matrix instruction: D[m, n] = A[m, k] B[k, n] + C[m, n] with types a, b, acc; n lists all legal values.

    `a_layout`, `b_layout` and `c_layout` name the layouts of fragments, with `{n}` where they depend on n; empty where
    the operand is not in registers, or is in a layout that nobody may know.
    """

    op: str
    m: int
    n: tuple[int, ...]
    k: int
    a: str
    b: str
    acc: str
    shape: str  # as the instruction spells it, with `{n}`; m16n8k16
    needs: tuple[str, ...]  # features
    warps: int  # that execute it together
    rate: float  # the part of the rate of its op that this form reaches
    majors: tuple[str, ...]  # axes along which operands in shared memory may be contiguous: `k`, `mn` (m of A, n of B)
    full_k: int  # k after which a partial sum has lost so much that it must be added to a wider one; 0: never
    a_layout: str
    b_layout: str
    c_layout: str

    def rate_key(self) -> str:
        """The entry of `Throughput.tflops` that `rate` is a part of."""
        kind = "fp8" if self.a.startswith("fp8") else "i8" if self.a in ("i8", "u8") else self.a
        return f"mma.{kind}"


@dataclass(frozen=True, slots=True)
class Costs:
    """Issue slots of a warp, for choosing between ways to move data on a GPU."""

    wavefront: int = 0  # of shared memory
    sector: int = 0  # of global memory that an access touches
    line: int = 0  # likewise
    barrier: int = 0  # of the block


@dataclass(frozen=True, slots=True)
class Throughput:
    """Peak dense rates of a reference board, or one core of a reference CPU, published or measured: for cost models."""

    board: str
    units: int  # multiprocessors or cores that the rates cover
    clock_ghz: float  # the board's highest
    dram_gbytes_per_s: float
    tflops: Mapping[str, float]  # by element type; matrix units where the type has them, as `mma.f32` style keys say
    efficiency: Mapping[str, float]  # the part of `mma.` rates that an instruction can reach; 1 where not given

    def per_cycle(self, key: str) -> int:
        """Operations per cycle of one unit, for a key of `tflops`, else of the element type, else of f32: a power of
        two, for published rates are rounded, and those of matrix units at a lower clock."""
        kind = key.removeprefix("mma.")
        names = (key, "mma.fp8" if key.startswith("mma.fp8") else key, kind, "f32")
        rate = next(self.tflops[name] for name in names if name in self.tflops)
        return 1 << max(0, round(math.log2(rate * 1e3 / (self.units * self.clock_ghz))))


@dataclass(frozen=True, slots=True)
class Toolchain:
    """How code for the target is made: LLVM's triple, cpu and features, then the assembler's name for the chip."""

    triple: str
    cpu: str
    features: str
    image: Image
    assembler: str  # the assembler's -arch; empty for CPU levels
    disassembler: bool  # whether a disassembler that reads the image exists
    machine: str  # the ELF machine of a CPU image: x86-64 or aarch64; empty for cuda


@dataclass(frozen=True, slots=True)
class Capability:
    """The compute capability of an image: runs on exactly this one, on later minors too, or (PTX) on anything later."""

    major: int
    minor: int
    match: Match


@dataclass(frozen=True, slots=True)
class Arch:
    """Everything the compiler knows about a target. `load` makes them."""

    name: str
    kind: Kind
    description: str
    aliases: tuple[str, ...]
    default: bool  # a CPU level that `--arch cpu` includes
    default_for: tuple[str, ...]  # or only for programs that have elements of one of these types
    preference: int  # among images that a machine can run, the highest is taken
    lanes: int  # threads that execute one instruction: the warp; 1 for a CPU
    group: int  # logical lanes of a group unless the kernel says otherwise
    vector_bits: int  # widest load or store of one thread; on a CPU the vector register
    vector_registers: int  # vector registers of a CPU; 0 where registers are scalar
    cache_line: int  # bytes
    limits: Limits
    features: frozenset[str]
    memories: tuple[Memory, ...]
    mma: tuple[MmaRow, ...]
    throughput: Throughput
    costs: Costs  # of GPUs
    toolchain: Toolchain
    capability: Capability | None  # None for CPU levels
    requires: tuple[str, ...]  # CPU features that a machine must have, as /proc/cpuinfo spells them

    def has(self, feature: str) -> bool:
        """Whether the target has `feature`, a name of `_features.yaml`; another name is a mistake in the compiler."""
        if feature not in _features():
            raise ValueError(f"no feature is called {feature!r}; see arch/_features.yaml")
        return feature in self.features

    def tile_product(self, a: str, b: str, acc: str) -> MmaRow | None:
        """The instruction on a CPU's tile registers that multiplies these element types, if there is one."""
        return next((row for row in self.mma if row.op == "amx" and (row.a, row.b, row.acc) == (a, b, acc)), None)

    def memory(self, name: str) -> Memory:
        """The memory of that name."""
        for item in self.memories:
            if item.name == name:
                return item
        raise ValueError(f"{self.name} has no memory called {name!r}")


def names() -> tuple[str, ...]:
    """The names of all targets, sorted."""
    files = (entry.name for entry in resources.files(__package__).iterdir())
    return tuple(sorted(name[:-5] for name in files if name.endswith(".yaml") and not name.startswith("_")))


@cache
def load(name: str) -> Arch:
    """The target called `name` or having it as an alias. Raises E805, with the nearest name, when there is none."""
    if name in names():
        return _parse(name, _merged(name))
    known = _aliases()
    if name in known:
        return load(known[name])
    raise _unknown(name, [*names(), *known, "cpu"])


def resolve(wanted: Sequence[str], dtypes: Collection[str] = ()) -> tuple[Arch, ...]:
    """The targets that a list of `--arch` values means for a program with elements of `dtypes`: `cpu` is the default
    CPU levels; repeats are dropped."""
    found: dict[str, Arch] = {}
    for name in wanted:
        for arch in map(load, default_cpu_levels(frozenset(dtypes))) if name == "cpu" else (load(name),):
            found.setdefault(arch.name, arch)
    return tuple(found.values())


@cache
def default_cpu_levels(dtypes: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """The CPU levels that a bundle of a program with elements of `dtypes` holds unless told otherwise, least preferred
    first within each machine."""
    levels = [arch for arch in map(load, names()) if arch.kind == "cpu"]
    levels = [arch for arch in levels if arch.default or not dtypes.isdisjoint(arch.default_for)]
    levels.sort(key=lambda arch: (arch.toolchain.machine != "x86-64", arch.toolchain.machine, arch.preference))
    return tuple(arch.name for arch in levels)


def _unknown(name: str, candidates: Sequence[str]) -> TesseraError:
    from difflib import get_close_matches  # only needed on this path, and slow to import

    alike = [candidate for candidate in candidates if candidate[:1] == name[:1]]
    near = get_close_matches(name, alike, n=1, cutoff=0.5)
    guess = f"did you mean {near[0]}? " if near else ""
    return UsageError("E805", f"no target is called {name!r}", help=f"{guess}targets are cpu, {', '.join(names())}")


@cache
def _aliases() -> Mapping[str, str]:
    table: dict[str, str] = {}
    for name in names():
        for alias in _read(name).get("aliases", []):
            if table.setdefault(alias, name) != name or alias in names():
                raise invalid(name, f"alias {alias} is taken")
    return table


# --- reading -----------------------------------------------------------------------------------------------------


@cache
def _read(name: str) -> Mapping[str, Any]:
    import yaml  # not needed to print help, so not imported with the module

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    data = yaml.load(resources.files(__package__).joinpath(f"{name}.yaml").read_text(encoding="utf-8"), Loader=loader)
    if not isinstance(data, dict):
        raise invalid(name, "not a mapping")
    return data


@cache
def _features() -> Mapping[str, str]:
    return MappingProxyType({str(key): str(value) for key, value in _read("_features").items()})


# What describes one file alone and is never inherited.
_OWN = ("inherits", "without", "aliases", "description")


def _merged(name: str) -> dict[str, Any]:
    own = _read(name)
    base = _merged(own["inherits"]) if "inherits" in own else {}
    for key in _OWN:
        base.pop(key, None)
    for key, drop in own.get("without", {}).items():
        kept = [item for item in base.get(key, []) if _label(item) not in drop]
        if len(kept) == len(base.get(key, [])):
            raise invalid(name, f"`without: {key}` removes nothing")
        base[key] = kept
    merged = _merge(base, own)
    merged.pop("inherits", None)
    merged.pop("without", None)
    return merged


def _label(item: Any) -> Any:
    return item.get("op", item.get("name")) if isinstance(item, dict) else item


def _merge(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in own.items():
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            result[key] = _merge(old, value)
        elif isinstance(old, list) and isinstance(value, list) and key not in ("grid", "block"):
            # An entry with a `name` replaces the inherited entry of that name (memories).
            named = {item["name"] for item in value if isinstance(item, dict) and "name" in item}
            result[key] = [item for item in old if not (isinstance(item, dict) and item.get("name") in named)] + value
        else:
            result[key] = value
    return result


def _parse(name: str, data: Mapping[str, Any]) -> Arch:
    top = Fields(name, "", data)
    kind: Kind = top.choice("kind", Kind)
    features = frozenset(top.strings("features"))
    for feature in sorted(features - set(_features())):
        raise invalid(name, f"feature {feature} is not in _features.yaml")
    rows = [row for item in top.take("mma", list, []) for row in _mma(Fields(name, "mma: ", item))]
    arch = Arch(
        name=name,
        kind=kind,
        description=top.take("description", str),
        aliases=top.strings("aliases"),
        default=top.take("default", bool, False),
        default_for=top.strings("default_for"),
        preference=top.take("preference", int),
        lanes=top.take("lanes", int),
        group=top.take("group", int),
        vector_bits=top.take("vector_bits", int),
        vector_registers=top.take("vector_registers", int),
        cache_line=top.take("cache_line", int),
        limits=_limits(top.inner("limits")),
        features=features,
        memories=tuple(_memory(Fields(name, "memories: ", item)) for item in top.take("memories", list)),
        mma=tuple(row for row in rows if features.issuperset(row.needs)),
        throughput=_throughput(top.inner("throughput")),
        costs=_costs(top.inner("costs")) if kind == "cuda" else Costs(),
        toolchain=_toolchain(top.inner("toolchain")),
        capability=_capability(top.inner("capability")) if kind == "cuda" else None,
        requires=top.strings("requires"),
    )
    top.done()
    return arch


def _limits(fields: Fields) -> Limits:
    def axes(key: str) -> tuple[int, int, int]:
        value = fields.take(key, list)
        if len(value) != 3 or not all(type(item) is int and item > 0 for item in value):
            raise invalid(fields.file, f"limits.{key} is not three positive numbers")
        return (value[0], value[1], value[2])

    block, grid = axes("block"), axes("grid")
    numbers = {key: fields.take(key, int) for key in Limits.__dataclass_fields__ if key not in ("block", "grid")}
    fields.done()
    return Limits(block=block, grid=grid, **numbers)


def _memory(fields: Fields) -> Memory:
    memory = Memory(fields.take("name", str), fields.choice("scope", Scope), fields.take("bytes", int))
    fields.done()
    return memory


def _mma(fields: Fields) -> list[MmaRow]:
    op, m, k = fields.take("op", str), fields.take("m", int), fields.take("k", int)
    if isinstance(fields.data.get("n"), dict):
        span = fields.inner("n")
        n = tuple(range(span.take("from", int), span.take("to", int) + 1, span.take("step", int)))
        span.done()
    elif isinstance(fields.data.get("n"), list):
        n = tuple(fields.take("n", list))
    else:
        n = (fields.take("n", int),)
    layouts = Fields(fields.file, "mma: layouts.", fields.take("layouts", dict, {}))
    named = {f"{operand}_layout": layouts.take(operand, str, "") for operand in "abc"}
    layouts.done()
    warps, rate, full_k = fields.take("warps", int, 1), fields.take("rate", float, 1.0), fields.take("full_k", int, 0)
    shape, needs = fields.take("shape", str, f"m{m}n{{n}}k{k}"), fields.strings("needs")
    majors = fields.strings("majors") or ("k", "mn")
    rows = [
        MmaRow(op, m, n, k, a, b, acc, shape, needs, warps, rate, majors, full_k, **named)
        for a, b, acc in fields.take("types", list)
    ]
    fields.done()
    for feature in sorted(set(needs) - set(_features())):
        raise invalid(fields.file, f"mma: feature {feature} is not in _features.yaml")
    return rows


def _throughput(fields: Fields) -> Throughput:
    rates = {key: float(value) for key, value in fields.take("tflops", dict).items()}
    result = Throughput(
        board=fields.take("board", str),
        units=fields.take("units", int),
        clock_ghz=fields.take("clock_ghz", float),
        dram_gbytes_per_s=fields.take("dram_gbytes_per_s", float),
        tflops=MappingProxyType(rates),
        efficiency=MappingProxyType({key: float(value) for key, value in fields.take("efficiency", dict, {}).items()}),
    )
    fields.done()
    return result


def _costs(fields: Fields) -> Costs:
    costs = Costs(**{key: fields.take(key, int) for key in Costs.__dataclass_fields__})
    fields.done()
    return costs


def _toolchain(fields: Fields) -> Toolchain:
    result = Toolchain(
        triple=fields.take("triple", str),
        cpu=fields.take("cpu", str),
        features=fields.take("features", str, ""),
        image=fields.choice("image", Image),
        assembler=fields.take("assembler", str, ""),
        disassembler=fields.take("disassembler", bool),
        machine=fields.take("machine", str, ""),
    )
    fields.done()
    return result


def _capability(fields: Fields) -> Capability:
    result = Capability(fields.take("major", int), fields.take("minor", int), fields.choice("match", Match))
    fields.done()
    return result

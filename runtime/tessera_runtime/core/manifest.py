"""The manifest of a bundle: what its functions take and give, its code per target, and how to run it.

Shared by the writer and the reader; `decode` is strict and bounded (`core.schema`), and `core.check` then checks that
the parts fit together. `Dim` is an integer or a postfix expression over the symbols of the function concerned.
"""

from __future__ import annotations

from tessera_runtime.core.dtypes import DTYPES
from tessera_runtime.core.errors import BundleError
from tessera_runtime.core.plan_steps import (
    MAX_STEPS,
    STEPS,
    Arg,
    Branch,
    Copy,
    Dim,
    Launch,
    Loop,
    Put,
    Repeat,
    Step,
    Take,
    When,
)  # fmt: skip
from tessera_runtime.core.schema import (
    Array,
    Choice,
    Expression,
    Extent,
    Flag,
    Integer,
    Nested,
    Nullable,
    Record,
    Tagged,
    Text,
    canonical,
    field,
    parse_canonical,
    record,
)  # fmt: skip

__all__ = [
    "CHUNK",
    "CONTAINER_VERSION",
    "ENTRY_NAME",
    "KERNEL_ABI_VERSION",
    "MAX_MANIFEST",
    "MAX_VALUES",
    "PLAN_VERSION",
    "Arg",
    "Branch",
    "Buffer",
    "Capability",
    "Constant",
    "Copy",
    "Dim",
    "Entry",
    "Flops",
    "Function",
    "Guard",
    "Input",
    "Kernel",
    "Launch",
    "Loop",
    "Manifest",
    "Mesh",
    "Output",
    "Param",
    "Plan",
    "Provenance",
    "Put",
    "Ranks",
    "Repeat",
    "Source",
    "Step",
    "Symbol",
    "Take",
    "Target",
    "TensorMap",
    "Test",
    "Versions",
    "When",
    "from_json",
    "to_json",
]

CONTAINER_VERSION = 1
PLAN_VERSION = 2  # 1 has launches and copies only; it is written where nothing else is needed
KERNEL_ABI_VERSION = 1

MAX_MANIFEST = 64 << 20
CHUNK = 4 << 20  # bytes under one digest of an entry
MAX_RANK = 32
MAX_VALUES = 1 << 16  # inputs of a function, and outputs
ENTRY_NAME = r"[a-z0-9_-][a-z0-9_.-]*(/[a-z0-9_-][a-z0-9_.-]*){0,7}"

_Identifier = Text(256, r"[A-Za-z_][A-Za-z0-9_]*")
_Name = Text(256)
_DType = Choice(*DTYPES)
_Shape = Array(Extent(), MAX_RANK)
_Entry = Text(200, ENTRY_NAME)


@record
class Symbol(Record):
    """A symbolic extent and where its value comes from: `extent of input's axis = scale * symbol + offset`, exactly.

    Axis -1 takes the value of a scalar integer input instead of an extent.
    """

    name: str = field(Text(64, r"[A-Za-z_][A-Za-z0-9_]*"))
    input: str = field(_Identifier)
    axis: int = field(Integer(-1, MAX_RANK - 1))
    scale: int = field(Integer(1, 1 << 31), default=1)
    offset: int = field(Integer(-(1 << 31), 1 << 31), default=0)


@record
class Input(Record):
    """A parameter: a tensor of declared shape, or a scalar (no shape). `inout`: the function writes it."""

    name: str = field(_Identifier)
    kind: str = field(Choice("tensor", "scalar"))
    dtype: str = field(_DType)
    shape: tuple[Dim, ...] = field(_Shape, default=())
    inout: bool = field(Flag(), default=False)


@record
class Output(Record):
    """A result. With `alias`, it is the in/out parameter of that name, and has no buffer of its own."""

    name: str = field(_Identifier)
    dtype: str = field(_DType)
    shape: tuple[Dim, ...] = field(_Shape)
    alias: str | None = field(Nullable(_Identifier), default=None)


@record
class Guard(Record):
    """A condition on the extents: the expression's value is eq, ne, ge or gt 0. `message` is it in the user's names."""

    expr: tuple[int | str, ...] = field(Expression())
    relation: str = field(Choice("eq", "ne", "ge", "gt"))
    message: str = field(Text(4096))


@record
class Function(Record):
    """An entry point."""

    name: str = field(_Identifier)
    doc: str = field(Text(1 << 16))
    symbols: tuple[Symbol, ...] = field(Array(Nested(Symbol), 1024))
    inputs: tuple[Input, ...] = field(Array(Nested(Input), MAX_VALUES))
    outputs: tuple[Output, ...] = field(Array(Nested(Output), MAX_VALUES))
    guards: tuple[Guard, ...] = field(Array(Nested(Guard), 4096), default=())


@record
class Constant(Record):
    """A tensor of the bundle: `size` bytes at `offset` of the entry, a multiple of 64."""

    name: str = field(_Name)
    dtype: str = field(_DType)
    shape: tuple[int, ...] = field(Array(Integer(), MAX_RANK))
    entry: str = field(_Entry)
    offset: int = field(Integer())
    size: int = field(Integer())


@record
class Param(Record):
    """One 8-byte slot of a kernel's arguments: a buffer's address, an extent (i64), or a scalar's bits (low bytes).

    `shape` is how much of a buffer the code may touch, over the kernel's own symbols; null if it does not say.
    """

    kind: str = field(Choice("buffer", "dim", "scalar"))
    dtype: str = field(_DType)
    access: str = field(Choice("read", "write", "readwrite"), default="read")
    shape: tuple[Dim, ...] | None = field(Nullable(_Shape), default=None)


@record
class TensorMap(Record):
    """A kernel parameter of 128 bytes behind the others: a tensor map of the buffer of parameter `param`.

    Copies by it move boxes of `box` elements, an extent per axis; a row of a box has `span` bytes, which is how far its
    rows are swizzled.
    """

    param: int = field(Integer(0, 4095))
    box: tuple[int, ...] = field(Array(Integer(1, 256), 5, 2))
    span: int = field(Integer(32, 128))


@record
class Flops(Record):
    """Floating-point operations of one launch of a kernel, by units that each do at most `rate` of them per cycle.

    A unit is a multiprocessor's or a core's. `count` is over the kernel's symbols. For profiles, never for results.
    """

    count: Dim = field(Extent())
    rate: int = field(Integer(1, 1 << 20))


@record
class Source(Record):
    """Where a kernel comes from: a file's base name and a line."""

    file: str = field(Text(256, r"[^/\\\x00-\x1f\x7f-\x9f\ud800-\udfff]*"))
    line: int = field(Integer(0, 1 << 31))


@record
class Part(Record):
    """A line of the source that a kernel computes, and the parameters that hold its results."""

    file: str = field(Text(256, r"[^/\\\x00-\x1f\x7f-\x9f\ud800-\udfff]*"))
    line: int = field(Integer(0, 1 << 31))
    params: tuple[int, ...] = field(Array(Integer(0, 4095), 4096))


@record
class Kernel(Record):
    """A function of the target's image. `group` is threads per block; scratch is private memory per CPU thread.

    `symbols` name the values of its dim parameters, in order; `grid`, `dynamic_shared` and the parameters' shapes are
    expressions over them. Every launch is held against them before code runs. Null: not declared, any will do.
    `ops` names what the kernel computes, and `parts` the lines that it does where these are several, for people.
    """

    name: str = field(_Name)
    symbol: str = field(Text(1024, r"[A-Za-z_.$][A-Za-z0-9_.$]*"))
    params: tuple[Param, ...] = field(Array(Nested(Param), 4096))
    symbols: tuple[str, ...] = field(Array(Text(64, r"[A-Za-z_][A-Za-z0-9_]*"), 4096), default=())
    grid: tuple[Dim, ...] | None = field(Nullable(Array(Extent(), 3, 3)), default=None)
    dynamic_shared: Dim | None = field(Nullable(Extent()), default=None)
    group: int = field(Integer(1, 1024), default=1)
    shared_bytes: int = field(Integer(0, 1 << 20), default=0)
    scratch_bytes: int = field(Integer(0, 1 << 30), default=0)
    registers: int = field(Integer(0, 1024), default=0)
    spill_bytes: int = field(Integer(0, 1 << 20), default=0)
    source: Source | None = field(Nullable(Nested(Source)), default=None)
    maps: tuple[TensorMap, ...] = field(Array(Nested(TensorMap), 64), default=(), sparse=True)
    flops: tuple[Flops, ...] = field(Array(Nested(Flops), 16), default=(), sparse=True)
    ops: tuple[str, ...] = field(Array(Text(64, r"[a-z][a-z0-9_]*"), 32), default=(), sparse=True)
    parts: tuple[Part, ...] = field(Array(Nested(Part), 64, 2), default=(), sparse=True)


@record
class Buffer(Record):
    """Memory that a plan's steps use; `ref` names the input, output or constant, and is empty for a temporary."""

    kind: str = field(Choice("input", "output", "constant", "temp"))
    ref: str = field(_Name)
    dtype: str = field(_DType)
    shape: tuple[Dim, ...] = field(_Shape)


@record
class Plan(Record):
    """How a target runs a function: the steps in order. The steps of a branch, repeat or loop follow it."""

    function: str = field(_Identifier)
    buffers: tuple[Buffer, ...] = field(Array(Nested(Buffer), 1 << 16))
    steps: tuple[Step, ...] = field(Array(Tagged(STEPS), MAX_STEPS))


@record
class Capability(Record):
    """Which GPUs run an image made for major.minor.

    exact: that one; minor: the same major, from minor on; forward: that one and all later ones.
    """

    major: int = field(Integer(1, 999))
    minor: int = field(Integer(0, 99))
    match: str = field(Choice("exact", "minor", "forward"))


@record
class Target(Record):
    """Code for one arch. Among the targets that a machine can run, the one of highest `preference` is taken.

    `requires` are CPU features by their /proc/cpuinfo names; `machine` is x86-64 or aarch64, empty for cuda;
    `ptx` is the text that a cubin was assembled from.
    """

    name: str = field(Text(32, r"[a-z0-9_.-]+"))
    kind: str = field(Choice("cpu", "cuda"))
    format: str = field(Choice("elf", "cubin", "ptx"))
    image: str = field(_Entry)
    preference: int = field(Integer(0, 1 << 20))
    kernels: tuple[Kernel, ...] = field(Array(Nested(Kernel), 1 << 16))
    plans: tuple[Plan, ...] = field(Array(Nested(Plan), 4096))
    machine: str = field(Choice("", "x86-64", "aarch64"), default="")
    requires: tuple[str, ...] = field(Array(Text(32, r"[a-z0-9_]+"), 64), default=())
    capability: Capability | None = field(Nullable(Nested(Capability)), default=None)
    ptx: str | None = field(Nullable(_Entry), default=None)


@record
class Entry(Record):
    """A file of the container: `sha256` holds one digest for each 4 MiB of it, the last for the rest."""

    name: str = field(_Entry)
    kind: str = field(Choice("code", "weights", "tests"))
    size: int = field(Integer(1, 1 << 50))
    sha256: tuple[str, ...] = field(Array(Text(64, r"[0-9a-f]{64}"), 1 << 22, 1))


@record
class Test(Record):
    """An embedded test vector: safetensors with keys `in/NAME` and `out/NAME`. Tolerances are decimal text."""

    __test__ = False  # not for pytest to collect

    name: str = field(_Name)
    function: str = field(_Identifier)
    entry: str = field(_Entry)
    atol: str = field(Text(32, r"[0-9]{1,10}(\.[0-9]{1,10})?(e-?[0-9]{1,2})?"))
    rtol: str = field(Text(32, r"[0-9]{1,10}(\.[0-9]{1,10})?(e-?[0-9]{1,2})?"))


@record
class Versions(Record):
    """Versions of the parts; the reader refuses any that it does not know."""

    container: int = field(Integer(0, 1 << 16), default=CONTAINER_VERSION)
    plan: int = field(Integer(0, 1 << 16), default=1)
    kernel_abi: int = field(Integer(0, 1 << 16), default=KERNEL_ABI_VERSION)


@record
class Provenance(Record):
    """What made the bundle: no paths, no times."""

    compiler: str = field(_Name, default="")
    llvm: str = field(_Name, default="")
    assembler: str = field(_Name, default="")
    options: tuple[str, ...] = field(Array(Text(4096), 4096), default=())
    source_sha256: str = field(Text(64, r"([0-9a-f]{64})?"), default="")


@record
class Mesh(Record):
    """Device meshes: reserved, empty in version 1."""

    version: int = field(Integer(0, 1 << 16), default=1)
    meshes: tuple[object, ...] = field(Array(Flag(), 0), default=())


@record
class Ranks(Record):
    """Programs per rank: reserved, empty in version 1."""

    version: int = field(Integer(0, 1 << 16), default=1)
    ranks: tuple[object, ...] = field(Array(Flag(), 0), default=())


@record
class Manifest(Record):
    """Everything that a bundle says about itself."""

    functions: tuple[Function, ...] = field(Array(Nested(Function), 4096, 1))
    targets: tuple[Target, ...] = field(Array(Nested(Target), 64, 1))
    entries: tuple[Entry, ...] = field(Array(Nested(Entry), 1 << 16))
    constants: tuple[Constant, ...] = field(Array(Nested(Constant), 1 << 18), default=())
    tests: tuple[Test, ...] = field(Array(Nested(Test), 4096), default=())
    provenance: Provenance = field(Nested(Provenance), default=Provenance())
    mesh: Mesh = field(Nested(Mesh), default=Mesh())
    programs: Ranks = field(Nested(Ranks), default=Ranks())
    versions: Versions = field(Nested(Versions), default=Versions())

    def function(self, name: str) -> Function | None:
        """The function of that name."""
        return next((function for function in self.functions if function.name == name), None)


def to_json(manifest: Manifest) -> bytes:
    """The manifest's bytes: canonical JSON."""
    return canonical(manifest.encode())


def from_json(data: bytes) -> Manifest:
    """The manifest that `data` spells. E620 not canonical, E622 versions not supported, E621 a field is wrong."""
    value = parse_canonical(data)
    _check_versions(value)
    manifest: Manifest = Manifest.decode(value)
    return manifest


def _check_versions(value: object) -> None:
    """Before anything else, so that a newer manifest is refused for its version, not for a field it has added."""
    if not isinstance(value, dict) or not isinstance(value.get("versions"), dict):
        raise BundleError("E621", "manifest field versions: missing")
    versions: Versions = Versions.decode(value["versions"], "versions")
    found = {"container": versions.container, "plan": versions.plan, "kernel ABI": versions.kernel_abi}
    plan = min(max(versions.plan, 1), PLAN_VERSION)
    known = {"container": CONTAINER_VERSION, "plan": plan, "kernel ABI": KERNEL_ABI_VERSION}
    for part in ("mesh", "programs"):
        section = value.get(part)
        if isinstance(section, dict) and type(section.get("version")) is int:
            found[part], known[part] = section["version"], 1
    for what, version in found.items():
        if version != known[what]:
            raise BundleError(
                "E622", f"the bundle has {what} version {version}; this runtime reads version {known[what]}",
                help="build the bundle again with the compiler of this version, or update the runtime",
            )  # fmt: skip

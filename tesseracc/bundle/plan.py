"""From programs to plans: the manifest's description of functions, kernels and steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tessera.shapes import Dim, Expr, substitute, symbol, symbols_of
from tessera_runtime.core import manifest as M
from tessera_runtime.devices.elf import describe
from tesseracc.bundle.write import image_entry
from tesseracc.codegen.image import Image
from tesseracc.ir.types import BufType, Type, element
from tesseracc.ir.value import Func, Module, Op, Region, Value


def encode_dim(dim: Dim) -> M.Dim:
    """A size as the manifest writes it: an int or a postfix program."""
    return tuple(dim.to_postfix()) if isinstance(dim, Expr) else dim


def _shape(type_: Type) -> tuple[M.Dim, ...]:
    assert isinstance(type_, BufType)
    return tuple(encode_dim(dim) for dim in type_.dims)


def _symbols(program: Func) -> tuple[M.Symbol, ...]:
    """For each symbol, the first input dim that is linear in it alone: dim = scale * symbol + offset.

    A symbol that appears only in products of unknowns is an error of the front end, which has a place to show.
    """
    found: dict[str, M.Symbol] = {}
    for wants_bare in (True, False):
        for param in program.params:
            if not isinstance(param.type, BufType):
                continue
            for axis, dim in enumerate(param.type.dims):
                linear = _linear(dim)
                if linear is None or (wants_bare and linear[1:] != (1, 0)):
                    continue
                name, scale, offset = linear
                found.setdefault(name, M.Symbol(name, param.name, axis, scale, offset))
    return tuple(found[name] for name in sorted(found))


def _linear(dim: Dim) -> tuple[str, int, int] | None:
    """(symbol, scale, offset) of a dim of the form scale * symbol + offset."""
    if not isinstance(dim, Expr) or len(symbols_of(dim)) != 1:
        return None
    (name,) = symbols_of(dim)
    constant, scale = 0, 0
    for mono, coefficient in dim.terms:
        if mono == ():
            constant = coefficient
        elif mono == ((name, 1),):
            scale = coefficient
        else:
            return None
    return (name, scale, constant) if scale > 0 else None


def unsolved(program: Func) -> set[str]:
    """Symbols that no input dim determines."""
    names: set[str] = set()
    for value in (*program.params, *program.body.yields):
        if isinstance(value.type, BufType):
            for dim in value.type.dims:
                names |= symbols_of(dim)
    return names - {symbol.name for symbol in _symbols(program)}


def function(program: Func) -> M.Function:
    """The signature of a program. Its attributes `outputs` and `aliases` name the results."""
    written = _written_params(program)
    inputs = tuple(
        M.Input(p.name, "tensor", element(p.type), _shape(p.type), p in written)
        if isinstance(p.type, BufType)
        else M.Input(p.name, "scalar", element(p.type))
        for p in program.params
    )
    names = program.attrs.get("outputs") or default_names(len(program.body.yields))
    outputs = tuple(
        M.Output(name, element(value.type), _shape(value.type), value.name if value in written else None)
        for name, value in zip(names, program.body.yields, strict=True)
    )
    doc = "".join(c for c in str(program.attrs.get("doc", "")) if c in "\n\t" or c.isprintable())
    return M.Function(program.name, doc, _symbols(program), inputs, outputs, _guards(program))


def _guards(program: Func) -> tuple[M.Guard, ...]:
    """What tracing assumed of sizes (attribute `assume`: pairs of a size and a divisor), checked at every call."""
    guards = []
    for size, divisor in program.attrs.get("assume", ()):
        remainder = size % divisor
        if remainder != 0:
            expr = encode_dim(remainder)
            assert isinstance(expr, tuple), "a constant remainder is refused while tracing"
            guards.append(M.Guard(expr, "eq", f"{size} to be a multiple of {divisor}"))
    return tuple(guards)


def default_names(count: int) -> tuple[str, ...]:
    """`out` for a single result, else `out0`, `out1`, .."""
    return ("out",) if count == 1 else tuple(f"out{i}" for i in range(count))


def _written_params(program: Func) -> set[Value]:
    return {v for v in program.body.yields if v in program.params} | {
        v for v in program.params if v.name in program.attrs.get("inout", ())
    }


def plan(program: Func, kernels: Mapping[str, tuple[int, Func]]) -> M.Plan:
    """The steps of one program on one target."""
    names = program.attrs.get("outputs") or default_names(len(program.body.yields))
    outputs = dict(zip(program.body.yields, names, strict=True))
    buffers: list[M.Buffer] = []
    index: dict[Value, int] = {}
    bound: dict[str, Dim] = {}  # symbols of a variant: their values

    def add(value: Value, kind: str, ref: str) -> None:
        index[value] = len(buffers)
        shape = tuple(substitute(dim, bound) for dim in value.type.dims) if isinstance(value.type, BufType) else ()
        buffers.append(M.Buffer(kind, ref, element(value.type), tuple(encode_dim(dim) for dim in shape)))

    scalars: dict[Value, str] = {}
    for param in program.params:
        if isinstance(param.type, BufType):
            add(param, "input", param.name)
        else:
            scalars[param] = param.name
    steps: list[M.Step] = []

    def block(region: Region) -> int:
        """Appends the steps of a region; gives how many they are."""
        before = len(steps)
        for op in region.ops:
            match op.name:
                case "tile.temp":
                    add(op.result, *(("output", outputs[op.result]) if op.result in outputs else ("temp", "")))
                case "tile.constant":
                    name = str(op.attrs["name"])
                    if name not in constants:
                        constants[name] = len(buffers)
                        add(op.result, "constant", name)
                    index[op.result] = constants[name]
                case "tile.view":
                    index[op.result] = index[op["buf"]]
                case "tile.copy":
                    steps.append(M.Copy(index[op["src"]], index[op["dst"]]))
                case "tile.take":
                    steps.append(M.Take(index[op["src"]], index[op["dst"]], op.attrs["reverse"]))
                case "tile.put":
                    steps.append(M.Put(index[op["src"]], index[op["dst"]], op.attrs["reverse"]))
                case "tile.launch":
                    steps.append(_launch(op, kernels, index, scalars, bound))
                case _:
                    control(op)
        return len(steps) - before

    def control(op: Op) -> None:
        mine = len(steps)
        steps.append(M.Repeat(0, 0))  # its place; the lengths of its blocks follow from them
        if op.name == "tile.when":
            bound.update(op.attrs["bind"])
        lengths = [block(region) for region in op.regions]
        if op.name == "tile.when":
            steps[mine] = M.When(encode_dim(substitute(op.attrs["unless"], bound)), *lengths)
            return
        if op.name == "tile.repeat":
            steps[mine] = M.Repeat(encode_dim(substitute(op.attrs["count"], bound)), *lengths)
        else:
            steps[mine] = (M.Branch if op.name == "tile.branch" else M.Loop)(index[op["on"]], *lengths)

    constants: dict[str, int] = {}
    block(program.body)
    return M.Plan(program.name, tuple(buffers), tuple(steps))


def _launch(
    op: Op,
    kernels: Mapping[str, tuple[int, Func]],
    index: Mapping[Value, int],
    scalars: Mapping[Value, str],
    bound: Mapping[str, Dim],
) -> M.Launch:
    number, kernel = kernels[str(op.attrs["kernel"])]
    args = [M.Arg(scalar=scalars[v]) if v in scalars else M.Arg(buffer=index[v]) for v in op.operands]
    args += [M.Arg(dim=encode_dim(substitute(symbol(name), bound))) for name in kernel.attrs["symbols"]]
    return M.Launch(number, _grid(kernel, bound), tuple(args), int(kernel.attrs.get("dynamic_shared", 0)))


def _grid(kernel: Func, bound: Mapping[str, Dim]) -> tuple[M.Dim, ...]:
    """The grid over a kernel's symbols, or over what is bound to them."""
    grid = [encode_dim(substitute(dim, bound)) for dim in kernel.attrs["grid"]]
    return tuple(grid + [1] * (3 - len(grid)))


def _params(kernel: Func, launch: Op | None) -> tuple[M.Param, ...]:
    """The parameters of a kernel; the shapes of its buffers are those that it is launched with."""
    symbols = set(kernel.attrs["symbols"])
    shapes: list[tuple[M.Dim, ...] | None] = []
    for operand in launch.operands if launch is not None else ():
        dims = operand.type.dims if isinstance(operand.type, BufType) else ()
        known = all(symbols_of(dim) <= symbols for dim in dims)
        shapes.append(tuple(encode_dim(dim) for dim in dims) if known else None)
    params = [
        M.Param("scalar", dtype) if access == "value" else M.Param("buffer", dtype, access, shape)
        for dtype, access, shape in zip(
            kernel.attrs["dtypes"], kernel.attrs["access"], shapes or [None] * len(kernel.attrs["dtypes"]), strict=True
        )
    ]
    return (*params, *(M.Param("dim", "i64") for _ in kernel.attrs["symbols"]))


def target(module: Module, image: Image) -> tuple[M.Target, dict[str, bytes]]:
    """The manifest's record of one target (its module at the target level), and the entries that it names."""
    arch = image.arch
    info = {k.name: k for k in image.kernels}
    kernels: list[M.Kernel] = []
    numbers: dict[str, tuple[int, Func]] = {}
    launches = {
        str(op.attrs["kernel"]): op
        for program in module.of_kind("tile.program")
        for op in program.walk()
        if op.name == "tile.launch"
    }
    for kernel in module.of_kind("target.func"):
        symbol = str(kernel.attrs["symbol"])
        found = info.get(symbol)
        numbers[kernel.name] = (len(kernels), kernel)
        kernels.append(
            M.Kernel(
                kernel.name,
                symbol,
                _params(kernel, launches.get(kernel.name)),
                maps=tuple(M.TensorMap(param, box, span) for param, span, box in kernel.attrs.get("maps", ())),
                flops=tuple(M.Flops(encode_dim(count), rate) for count, rate in kernel.attrs.get("flops", ())),
                ops=tuple(kernel.attrs.get("ops", ())),
                parts=tuple(M.Part(file, line, params) for file, line, params in kernel.attrs.get("parts", ())),
                symbols=tuple(kernel.attrs["symbols"]),
                grid=_grid(kernel, {}),
                dynamic_shared=int(kernel.attrs.get("dynamic_shared", 0)),
                group=int(kernel.attrs["group"]) if arch.kind == "cuda" else 1,
                shared_bytes=int(kernel.attrs["shared"]) if arch.kind == "cuda" else 0,
                scratch_bytes=int(kernel.attrs["scratch"]),
                registers=found.registers if found else 0,
                spill_bytes=found.spill_stores + found.spill_loads if found else 0,
                source=M.Source(kernel.loc.file.rsplit("/", 1)[-1], kernel.loc.line) if kernel.loc else None,
            )
        )
    plans = tuple(plan(program, numbers) for program in module.of_kind("tile.program"))
    entry = image_entry(arch.name, arch.toolchain.image)
    entries = {entry: image.data}
    ptx = None
    if arch.toolchain.image == "cubin":
        ptx = image_entry(arch.name, "ptx")
        entries[ptx] = image.ptx.encode()
    capability = None
    if arch.capability is not None:
        capability = M.Capability(arch.capability.major, arch.capability.minor, arch.capability.match)
    record = M.Target(
        arch.name, arch.kind, arch.toolchain.image, entry, arch.preference, tuple(kernels), plans,
        machine=arch.toolchain.machine, requires=tuple(sorted(arch.requires)), capability=capability, ptx=ptx,
    )  # fmt: skip
    if record.kind == "cpu":
        entries[entry] += describe(record.kernels)
    return record, entries


def functions(tile: Module) -> tuple[M.Function, ...]:
    """The signatures of a module's programs."""
    return tuple(function(program) for program in tile.of_kind("tile.program"))


def constants_used(modules: Sequence[Module]) -> set[str]:
    """Names of the arrays that any program refers to."""
    return {
        str(op.attrs["name"])
        for m in modules
        for f in m.of_kind("tile.program")
        for op in f.walk()
        if op.name == "tile.constant"
    }

"""Target IR to LLVM IR text, one to one, without decisions.

    text = llvm_text(module.of_kind("target.func"), load("x86-64-v4"))

Structured control flow becomes blocks and phis; every other operation is a row of a table, in `llvm_arith`,
`llvm_target` or `llvm_ptx`. No fast-math flag and no contraction is ever written: only `arith.fma` is fused.
"""

from __future__ import annotations

from collections.abc import Sequence

from tessera_runtime.core.errors import TesseraError
from tesseracc.arch.arch import Arch
from tesseracc.codegen.llvm_arith import ARITH
from tesseracc.codegen.llvm_cpu import CPU
from tesseracc.codegen.llvm_debug import Debug
from tesseracc.codegen.llvm_ptx import PTX
from tesseracc.codegen.llvm_target import TARGET
from tesseracc.codegen.llvm_text import Table, Writer, is_signed
from tesseracc.ir.types import PtrType
from tesseracc.ir.value import Func, Op, Region

TABLE: Table = {**ARITH, **TARGET, **PTX, **CPU}


def llvm_text(funcs: Sequence[Func], arch: Arch, *, debug: bool = False) -> str:
    """LLVM IR of functions for one target; with `debug`, line tables from the operations' locations."""
    nvptx = arch.kind == "cuda"
    declarations: dict[str, str] = {}
    metadata = Debug() if debug else None
    bodies: list[str] = []
    for func in funcs:
        bodies.append(_function(func, arch, nvptx, declarations, metadata))
    parts = [
        f'target triple = "{arch.toolchain.triple}"',
        "",
        *bodies,
        *(declarations[name] for name in sorted(declarations)),
    ]
    if metadata is not None:
        parts += ["", *metadata.text()]
    elif any("!nontemporal !0" in body for body in bodies):
        parts += ["", "!0 = !{i32 1}"]
    return "\n".join(parts) + "\n"


def symbol_of(func: Func) -> str:
    """The linker's name of a function."""
    return str(func.attrs.get("symbol", func.name))


def _function(func: Func, arch: Arch, nvptx: bool, declarations: dict[str, str], debug: Debug | None) -> str:
    symbol = symbol_of(func)
    tail = debug.function(symbol, func.loc) if debug is not None else ""
    w = Writer(nvptx=nvptx, declarations=declarations, debug=debug, symbol=symbol)
    w.loc = func.loc
    params = []
    for at, param in enumerate(func.params):
        w.names[param] = f"%p{at}"
        params.append(f"{w.type(param.type)}{_parameter(func, at, nvptx)} %p{at}")
    _region(w, func.body)
    w.loc = func.loc
    w.line("ret void")
    convention = "ptx_kernel " if nvptx else ""
    head = f"define {convention}void @{symbol}({', '.join(params)}) {_attributes(func, arch, nvptx)}{tail} {{"
    shared = func.attrs.get("shared", 0)
    memory = []
    if nvptx and shared:
        memory = [f"@{symbol}_shared = internal addrspace(3) global [{shared} x i8] poison, align 1024", ""]
    elif nvptx and func.attrs.get("dynamic_shared", 0):
        memory = [f"@{symbol}_shared = external addrspace(3) global [0 x i8], align 1024", ""]
    return "\n".join([*memory, head, "entry:", *w.entry, *w.lines, "}", ""])


def _parameter(func: Func, at: int, nvptx: bool) -> str:
    """Parameter attributes: what the ABI of CPU kernels guarantees, or what the function states per parameter."""
    if not isinstance(func.params[at].type, PtrType):
        return ""
    if func.params[at].type == PtrType("map"):
        return ' byval([128 x i8]) align 64 "nvvm.grid_constant"'  # without the last, a copy in local memory
    if not nvptx:
        return " noalias nonnull readonly align 8" if at == 0 else " noalias nonnull align 64"
    text = " noalias" if at in func.attrs.get("noalias", ()) else ""
    aligns = func.attrs.get("align", ())
    return text + (f" align {aligns[at]}" if at < len(aligns) and aligns[at] > 1 else "")


def _attributes(func: Func, arch: Arch, nvptx: bool) -> str:
    words = ["nounwind"]
    if nvptx:
        threads = func.attrs.get("threads", func.attrs.get("group", 0))
        if threads:
            words.append(f'"nvvm.reqntid"="{threads},1,1"')
        for key, name in (("min_blocks", "nvvm.minctasm"), ("max_registers", "nvvm.maxnreg")):
            if func.attrs.get(key):
                words.append(f'"{name}"="{func.attrs[key]}"')
        if func.attrs.get("cluster"):
            words.append(f'"nvvm.cluster_dim"="{func.attrs["cluster"][0]},1,1"')
    else:
        bits = arch.vector_bits
        words += [f'"min-legal-vector-width"="{bits}"', f'"prefer-vector-width"="{bits}"']
    return " ".join(words)


# -- control flow ------------------------------------------------------------------------------------------------------


def _region(w: Writer, region: Region) -> None:
    for op in region.ops:
        w.loc = op.loc or w.loc
        flow = _FLOW.get(op.name)
        if flow is not None:
            flow(w, op)
            continue
        handler = TABLE.get(op.name)
        if handler is None:
            raise TesseraError(
                "E502",
                f"`{op.name}` has no machine instruction",
                help="run expand-math and expand-narrow before code generation",
            )
        found = handler(w, op)
        if op.results:
            assert found is not None
            w.names.update(zip(op.results, [found] if isinstance(found, str) else found, strict=True))


def _if(w: Writer, op: Op) -> None:
    then, orelse, end = w.label(), w.label(), w.label()
    w.branch(w[op["cond"]], then, orelse)
    ends: list[tuple[list[str], str]] = []
    for label, region in zip((then, orelse), op.regions, strict=True):
        w.open(label)
        _region(w, region)
        ends.append(([w[v] for v in region.yields], w.block))
        w.jump(end)
    w.open(end)
    for i, result in enumerate(op.results):
        w.names[result] = w.phi(w.type(result.type), *((values[i], block) for values, block in ends))


def _header(w: Writer, types: Sequence[str], inits: Sequence[str]) -> tuple[str, list[str], int]:
    """Opens a loop header: a phi per carried value, whose second half is filled in when the body is known."""
    before, header = w.block, w.label()
    w.jump(header)
    w.open(header)
    first = len(w.lines)
    names = [w.phi(type_, (init, before), ("?", "?")) for type_, init in zip(types, inits, strict=True)]
    return header, names, first


def _close(w: Writer, first: int, header: str, nexts: Sequence[str]) -> None:
    w.jump(header)
    for at, value in enumerate(nexts):
        w.lines[first + at] = w.lines[first + at].replace("[ ?, %? ]", f"[ {value}, %{w.block} ]", 1)


def _for(w: Writer, op: Op) -> None:
    lo, hi, step = op.operands[:3]
    region = op.regions[0]
    index_type = w.type(lo.type)
    types = [index_type, *(w.type(r.type) for r in op.results)]
    header, names, first = _header(w, types, [w[lo], *(w[v] for v in op.group("inits"))])
    body, end = w.label(), w.label()
    more = w.let(f"icmp {'slt' if is_signed(lo.type) else 'ult'} {index_type} {names[0]}, {w[hi]}")
    w.branch(more, body, end)
    w.open(body)
    w.names.update(zip(region.args, names, strict=True))
    _region(w, region)
    following = w.let(f"add {'nsw' if is_signed(lo.type) else 'nuw'} {index_type} {names[0]}, {w[step]}")
    _close(w, first, header, [following, *(w[v] for v in region.yields)])
    w.open(end)
    w.names.update(zip(op.results, names[1:], strict=True))


def _while(w: Writer, op: Op) -> None:
    test, work = op.regions
    types = [w.type(r.type) for r in op.results]
    header, names, first = _header(w, types, [w[v] for v in op.group("inits")])
    w.names.update(zip(test.args, names, strict=True))
    _region(w, test)
    body, end = w.label(), w.label()
    w.branch(w[test.yields[0]], body, end)
    w.open(body)
    w.names.update(zip(work.args, names, strict=True))
    _region(w, work)
    _close(w, first, header, [w[v] for v in work.yields])
    w.open(end)
    w.names.update(zip(op.results, names, strict=True))


_FLOW = {"scf.if": _if, "scf.for": _for, "scf.while": _while}

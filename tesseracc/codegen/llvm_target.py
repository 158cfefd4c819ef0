"""The `target` dialect in LLVM IR: memory, vectors, and what a GPU thread knows; one row per operation."""

from __future__ import annotations

from tesseracc.codegen.llvm_ptx import update
from tesseracc.codegen.llvm_text import Handler, Writer, is_signed, scalar_text
from tesseracc.ir.types import PtrType, ScalarType, Type, VecType, element, size_of
from tesseracc.ir.value import Op

_SREG = {
    **{f"{name}.{axis}": f"{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"},
    "laneid": "laneid",
    "warpid": "warpid",
}
#: the clamp operand of a warp shuffle: the last lane, except upwards
_SHFL_CLAMP = {"down": 31, "up": 0, "bfly": 31, "idx": 31}


# -- memory: a bool is a byte there ------------------------------------------------------------------------------------


def _is_bool(type_: Type) -> bool:
    return not isinstance(type_, PtrType) and element(type_) == "bool"


def _to_memory(w: Writer, text: str, type_: Type) -> str:
    return w.let(f"zext {w.type(type_)} {text} to {w.memory_type(type_)}") if _is_bool(type_) else text


def _from_memory(w: Writer, text: str, type_: Type) -> str:
    if not _is_bool(type_):
        return text
    zero = "zeroinitializer" if isinstance(type_, VecType) else "0"
    return w.let(f"icmp ne {w.memory_type(type_)} {text}, {zero}")


def _bytes(dtype: str) -> str:
    return "i8" if dtype == "bool" else scalar_text(dtype)


def _memory_mangled(w: Writer, type_: Type) -> str:
    """The suffix of masked intrinsics: the type in memory."""
    return w.mangled(VecType(type_.count, "u8")) if isinstance(type_, VecType) and _is_bool(type_) else w.mangled(type_)


def _offset(w: Writer, op: Op) -> str:
    return w.let(f"getelementptr {_bytes(op.attrs['dtype'])}, {w.typed(op['ptr'])}, {w.typed(op['index'])}")


def _load(w: Writer, op: Op) -> str:
    type_ = op.result.type
    volatile = "volatile " if op.attrs["volatile"] else ""
    found = w.let(f"load {volatile}{w.memory_type(type_)}, {w.typed(op['ptr'])}, align {op.attrs['align']}")
    return _from_memory(w, found, type_)


def _store(w: Writer, op: Op) -> None:
    type_ = op["value"].type
    volatile = "volatile " if op.attrs["volatile"] else ""
    hint = ", !nontemporal !0" if op.attrs["nontemporal"] and w.debug is None else ""
    value = _to_memory(w, w[op["value"]], type_)
    w.line(f"store {volatile}{w.memory_type(type_)} {value}, {w.typed(op['ptr'])}, align {op.attrs['align']}{hint}")


def _update(w: Writer, op: Op) -> None:
    if w.nvptx:
        update(w, op)
        return
    kind, type_ = op.attrs["kind"], op["value"].type
    name = f"u{kind}" if kind in ("min", "max") and not is_signed(type_) else kind
    size = size_of(element(type_))
    w.line(f"atomicrmw {name} {w.typed(op['ptr'])}, {w.typed(op['value'])} monotonic, align {size}")


def _masked_load(w: Writer, op: Op) -> str:
    type_ = op.result.type
    text = w.memory_type(type_)
    other = _to_memory(w, w[op["other"]], type_)
    name = f"llvm.masked.load.{_memory_mangled(w, type_)}.{w.mangled(op['ptr'].type)}"
    ptr = _aligned(w, op["ptr"].type, w[op["ptr"]], op.attrs["align"])
    found = w.value_call(name, text, ptr, w.typed(op["mask"]), f"{text} {other}")
    return _from_memory(w, found, type_)


def _aligned(w: Writer, type_: Type, value: str, align: int) -> str:
    return f"{w.type(type_)} align {align} {value}"


def _masked_store(w: Writer, op: Op) -> None:
    type_ = op["value"].type
    value = f"{w.memory_type(type_)} {_to_memory(w, w[op['value']], type_)}"
    name = f"llvm.masked.store.{_memory_mangled(w, type_)}.{w.mangled(op['ptr'].type)}"
    w.call(name, "void", value, _aligned(w, op["ptr"].type, w[op["ptr"]], op.attrs["align"]), w.typed(op["mask"]))


def _addresses(w: Writer, op: Op) -> tuple[str, str, int]:
    """Pointers per element, their type, and their alignment."""
    index = op["index"].type
    assert isinstance(index, VecType)
    dtype = op.attrs["dtype"]
    found = w.let(f"getelementptr {_bytes(dtype)}, {w.typed(op['ptr'])}, {w.typed(op['index'])}")
    return found, f"<{index.count} x {w.type(op['ptr'].type)}>", size_of(dtype)


def _gather(w: Writer, op: Op) -> str:
    type_ = op.result.type
    assert isinstance(type_, VecType)
    pointers, pointer_type, align = _addresses(w, op)
    text = w.memory_type(type_)
    other = _to_memory(w, w[op["other"]], type_)
    name = f"llvm.masked.gather.{_memory_mangled(w, type_)}.v{type_.count}{w.mangled(op['ptr'].type)}"
    found = w.value_call(name, text, f"{pointer_type} align {align} {pointers}", w.typed(op["mask"]), f"{text} {other}")
    return _from_memory(w, found, type_)


def _scatter(w: Writer, op: Op) -> None:
    type_ = op["value"].type
    assert isinstance(type_, VecType)
    pointers, pointer_type, align = _addresses(w, op)
    value = f"{w.memory_type(type_)} {_to_memory(w, w[op['value']], type_)}"
    name = f"llvm.masked.scatter.{_memory_mangled(w, type_)}.v{type_.count}{w.mangled(op['ptr'].type)}"
    w.call(name, "void", value, f"{pointer_type} align {align} {pointers}", w.typed(op["mask"]))


def _alloca(w: Writer, op: Op) -> str:
    name = w.fresh()
    space = ", addrspace(5)" if w.nvptx else ""
    w.entry.append(f"  {name} = alloca [{op.attrs['bytes']} x i8], align {op.attrs['align']}{space}")
    return name


def _shared(w: Writer, op: Op) -> str:
    base = f"ptr addrspace(3) @{w.symbol}_shared"
    return w.let(f"getelementptr i8, {base}, i64 {op.attrs['offset']}")


def _cast_ptr(w: Writer, op: Op) -> str:
    old, new = w.type(op["ptr"].type), w.type(op.result.type)
    return w[op["ptr"]] if old == new else w.let(f"addrspacecast {w.typed(op['ptr'])} to {new}")


def _prefetch(w: Writer, op: Op) -> None:
    name = f"llvm.prefetch.{w.mangled(op['ptr'].type)}"
    w.call(name, "void", w.typed(op["ptr"]), "i32 0", f"i32 {op.attrs['locality']}", "i32 1")


def _fence(w: Writer, op: Op) -> None:
    w.line("fence seq_cst")


# -- vectors -----------------------------------------------------------------------------------------------------------


def _splat(w: Writer, op: Op) -> str:
    type_ = op.result.type
    assert isinstance(type_, VecType)
    a = op["a"]
    if a in w.constants:
        w.constants[op.result] = w.constants[a]
        return w.splat(w.constants[a], type_)
    text = w.type(type_)
    first = w.let(f"insertelement {text} poison, {w.typed(a)}, i64 0")
    return w.let(f"shufflevector {text} {first}, {text} poison, <{type_.count} x i32> zeroinitializer")


def _iota(w: Writer, op: Op) -> str:
    dtype, count = op.attrs["dtype"], op.attrs["count"]
    return "<" + ", ".join(f"{scalar_text(dtype)} {i}" for i in range(count)) + ">"


def _extract(w: Writer, op: Op) -> str:
    return w.let(f"extractelement {w.typed(op['vec'])}, i64 {op.attrs['lane']}")


def _insert(w: Writer, op: Op) -> str:
    return w.let(f"insertelement {w.typed(op['vec'])}, {w.typed(op['a'])}, i64 {op.attrs['lane']}")


def _shuffle(w: Writer, op: Op) -> str:
    lanes = ", ".join(f"i32 {lane}" for lane in op.attrs["lanes"])
    return w.let(f"shufflevector {w.typed(op['a'])}, {w.typed(op['b'])}, <{len(op.attrs['lanes'])} x i32> <{lanes}>")


def _vote(w: Writer, op: Op) -> str:
    mask = op["mask"]
    if isinstance(mask.type, ScalarType):
        return w[mask]
    how = "or" if op.name == "target.any" else "and"
    return w.value_call(f"llvm.vector.reduce.{how}.{w.mangled(mask.type)}", "i1", w.typed(mask))


# -- GPU -------------------------------------------------------------------------------------------------------------


def _sreg(w: Writer, op: Op) -> str:
    return w.value_call(f"llvm.nvvm.read.ptx.sreg.{_SREG[op.attrs['name']]}", "i32")


def _barrier(w: Writer, op: Op) -> None:
    number = f"i32 {op.attrs['id']}"
    if op.attrs["threads"]:
        w.call("llvm.nvvm.barrier.cta.sync.aligned.count", "void", number, f"i32 {op.attrs['threads']}")
    else:
        w.call("llvm.nvvm.barrier.cta.sync.aligned.all", "void", number)


def _shfl(w: Writer, op: Op) -> str:
    type_, mode = op["a"].type, op.attrs["mode"]
    text = w.type(type_)
    kind = "f32" if text == "float" else "i32"
    name = f"llvm.nvvm.shfl.sync.{mode}.{kind}"
    return w.value_call(name, text, "i32 -1", w.typed(op["a"]), w.typed(op["offset"]), f"i32 {_SHFL_CLAMP[mode]}")


def _ballot(w: Writer, op: Op) -> str:
    return w.value_call("llvm.nvvm.vote.ballot.sync", "i32", "i32 -1", w.typed(op["a"]))


TARGET: dict[str, Handler] = {
    "target.offset": _offset,
    "target.load": _load,
    "target.store": _store,
    "target.masked_load": _masked_load,
    "target.masked_store": _masked_store,
    "target.update": _update,
    "target.gather": _gather,
    "target.scatter": _scatter,
    "target.alloca": _alloca,
    "target.shared": _shared,
    "target.cast_ptr": _cast_ptr,
    "target.prefetch": _prefetch,
    "target.fence": _fence,
    "target.splat": _splat,
    "target.iota": _iota,
    "target.extract": _extract,
    "target.insert": _insert,
    "target.shuffle": _shuffle,
    "target.any": _vote,
    "target.all": _vote,
    "target.sreg": _sreg,
    "target.barrier": _barrier,
    "target.shfl": _shfl,
    "target.ballot": _ballot,
}

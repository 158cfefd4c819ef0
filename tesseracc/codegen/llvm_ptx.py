"""Instructions of NVIDIA GPUs that are written as PTX: one inline assembly statement for each operation.

The compiler names matrix instructions as PTX does, so there is no table of LLVM's names for them. `sideeffect` and
`convergent` keep LLVM from moving a statement across a barrier, from merging two, and from putting one into a branch;
the memory clobber orders it with loads and stores.
"""

from __future__ import annotations

from collections.abc import Sequence

from tesseracc.codegen.llvm_text import Handler, Writer
from tesseracc.ir.types import PtrType, Type, element
from tesseracc.ir.value import Op, Value

_CONSTRAINTS = {"float": "f", "double": "d", "i64": "l", "i32": "r", "i16": "h"}


def _constraint(w: Writer, type_: Type) -> str:
    return _CONSTRAINTS[w.type(type_)]


def _assembly(
    w: Writer, text: str, results: Sequence[Value], args: Sequence[tuple[str, str]], *, memory: bool = False
) -> list[str]:
    """One statement; `args` are (constraint, typed operand). Returns the names of the results."""
    constraints = [f"={_constraint(w, r.type)}" for r in results] + [constraint for constraint, _ in args]
    if memory:
        constraints.append("~{memory}")
    types = [w.type(r.type) for r in results]
    type_ = "void" if not types else types[0] if len(types) == 1 else "{ " + ", ".join(types) + " }"
    operands = ", ".join(operand for _, operand in args)
    call = f'call {type_} asm sideeffect "{text}", "{",".join(constraints)}"({operands}) convergent'
    if not types:
        w.line(call)
        return []
    found = w.let(call)
    if len(types) == 1:
        return [found]
    return [w.let(f"extractvalue {type_} {found}, {i}") for i in range(len(types))]


def _list(first: int, count: int) -> str:
    return "{" + ", ".join(f"${first + i}" for i in range(count)) + "}"


def _value(w: Writer, value: Value) -> tuple[str, str]:
    return _constraint(w, value.type), w.typed(value)


def _shared_address(w: Writer, value: Value) -> tuple[str, str]:
    """An address in shared memory as the 32-bit number that instructions take."""
    assert isinstance(value.type, PtrType) and value.type.space == "shared"
    return "r", "i32 " + w.let(f"ptrtoint {w.typed(value)} to i32")


def _mma(w: Writer, op: Op) -> list[str]:
    groups = [op.group(name) for name in ("a", "b", "acc")]
    at, lists = len(op.results), [_list(0, len(op.results))]
    for group in groups:
        lists.append(_list(at, len(group)))
        at += len(group)
    args = [_value(w, value) for group in groups for value in group]
    return _assembly(w, f"{op.attrs['instruction']} {', '.join(lists)};", op.results, args)


def _ldmatrix(w: Writer, op: Op) -> list[str]:
    count = op.attrs["count"]
    trans = ".trans" if op.attrs["trans"] else ""
    text = f"ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {_list(0, count)}, [${count}];"
    return _assembly(w, text, op.results, [_shared_address(w, op["ptr"])], memory=True)


def _copy_async(w: Writer, op: Op) -> None:
    size = op.attrs["bytes"]
    cache = "cg" if size == 16 else "ca"
    text = f"cp.async.{cache}.shared.global [$0], [$1], {size}, $2;"
    source = op["src"]
    assert element(op["count"].type) == "i32"
    address = w.let(f"ptrtoint {w.typed(source)} to i64")
    args = [_shared_address(w, op["dst"]), ("l", f"i64 {address}"), _value(w, op["count"])]
    _assembly(w, text, [], args, memory=True)


def _commit(w: Writer, op: Op) -> None:
    _assembly(w, "cp.async.commit_group;", [], [], memory=True)


def _wait(w: Writer, op: Op) -> None:
    pending = op.attrs["pending"]
    text = f"cp.async.wait_group {pending};" if pending else "cp.async.wait_all;"
    _assembly(w, text, [], [], memory=True)


PTX: dict[str, Handler] = {
    "target.mma": _mma,
    "target.ldmatrix": _ldmatrix,
    "target.copy_async": _copy_async,
    "target.commit_copies": _commit,
    "target.wait_copies": _wait,
}

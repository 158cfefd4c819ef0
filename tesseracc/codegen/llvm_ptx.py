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


def _pure(w: Writer, op: Op, text: str) -> list[str]:
    """A statement that only computes: equal ones are one, and those of unused results go."""
    result = op.result.type
    constraints = ",".join([f"={_constraint(w, result)}", *(_constraint(w, v.type) for v in op.operands)])
    operands = ", ".join(w.typed(v) for v in op.operands)
    return [w.let(f'call {w.type(result)} asm "{text}", "{constraints}"({operands})')]


def _round(w: Writer, op: Op) -> list[str]:
    return _pure(w, op, f"cvt.rn.{op.attrs['to']}.f32 $0, $1;")


def _exp2(w: Writer, op: Op) -> list[str]:
    return _pure(w, op, "ex2.approx.ftz.f32 $0, $1;")


def _widen(w: Writer, op: Op) -> list[str]:
    return _pure(w, op, "cvt.f32.f16 $0, $1;")


def _ldmatrix(w: Writer, op: Op) -> list[str]:
    count = op.attrs["count"]
    trans = ".trans" if op.attrs["trans"] else ""
    text = f"ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {_list(0, count)}, [${count}];"
    return _assembly(w, text, op.results, [_shared_address(w, op["ptr"])], memory=True)


def _stmatrix(w: Writer, op: Op) -> None:
    words = op.group("words")
    trans = ".trans" if op.attrs["trans"] else ""
    text = f"stmatrix.sync.aligned.m8n8.x{len(words)}{trans}.shared.b16 [$0], {_list(1, len(words))};"
    _assembly(w, text, [], [_shared_address(w, op["ptr"]), *(_value(w, v) for v in words)], memory=True)


def _movmatrix(w: Writer, op: Op) -> list[str]:
    return _assembly(w, "movmatrix.sync.aligned.m8n8.trans.b16 $0, $1;", op.results, [_value(w, op["a"])])


def _round_pair(w: Writer, op: Op) -> list[str]:
    name = {"f16": "half", "bf16": "bfloat"}[op.attrs["to"]]
    intrinsic = f"llvm.nvvm.ff2{op.attrs['to']}x2.rn"
    pair = w.value_call(intrinsic, f"<2 x {name}>", w.typed(op["high"]), w.typed(op["low"]))
    return [w.let(f"bitcast <2 x {name}> {pair} to i32")]


def _copy_async(w: Writer, op: Op) -> None:
    size = op.attrs["bytes"]
    cache = "cg" if size == 16 else "ca"
    text = f"cp.async.{cache}.shared.global [$0], [$1], {size}, $2;"
    source = op["src"]
    assert element(op["count"].type) == "i32"
    address = w.let(f"ptrtoint {w.typed(source)} to i64")
    args = [_shared_address(w, op["dst"]), ("l", f"i64 {address}"), _value(w, op["count"])]
    _assembly(w, text, [], args, memory=True)


def update(w: Writer, op: Op) -> None:
    """`red`: relaxed, and seen by the whole GPU, or by the block where memory is its own."""
    value, ptr = op["value"], op["ptr"]
    kind, dtype = op.attrs["kind"], element(value.type)
    bits = dtype[1:]
    if kind in ("and", "or", "xor"):
        suffix = f"b{bits}"
    elif kind == "add" and bits == "64":
        suffix = "u64"  # there is no add.s64, nor need for one
    else:
        suffix = f"{'s' if dtype[0] == 'i' else 'u'}{bits}"
    assert isinstance(ptr.type, PtrType)
    if ptr.type.space == "shared":
        space, address = "cta.shared", _shared_address(w, ptr)
    else:
        space, address = "gpu.global", ("l", "i64 " + w.let(f"ptrtoint {w.typed(ptr)} to i64"))
    _assembly(w, f"red.relaxed.{space}.{kind}.{suffix} [$0], $1;", [], [address, _value(w, value)], memory=True)


def _wait(w: Writer, op: Op) -> None:
    pending = op.attrs["pending"]
    text = f"cp.async.wait_group {pending};" if pending else "cp.async.wait_all;"
    _assembly(w, text, [], [], memory=True)


def _shared_number(w: Writer, op: Op) -> str:
    _, operand = _shared_address(w, op["ptr"])
    return w.let(f"zext {operand} to i64")


def _wgmma(w: Writer, op: Op) -> list[str]:
    """The accumulators are read and written: inputs are tied to the outputs by number. Without them there is no sum."""
    acc, a = op.group("acc"), op.group("a")
    count = len(op.results)
    left = _list(count, len(a)) if len(a) > 1 else f"${count}"
    flags = "".join(f", {flag}" for flag in op.attrs["flags"])
    text = (
        f"{{ .reg .pred p; setp.{'eq' if acc else 'ne'}.b32 p, 0, 0; "
        f"{op.attrs['instruction']} {_list(0, count)}, {left}, ${count + len(a)}, p{flags}; }}"
    )
    args = [_value(w, v) for v in (*a, op["b"])] + [(str(i), w.typed(v)) for i, v in enumerate(acc)]
    return _assembly(w, text, op.results, args, memory=True)


def _wgmma_wait(w: Writer, op: Op) -> list[str]:
    args = [(str(i), w.typed(v)) for i, v in enumerate(op.group("acc"))]
    return _assembly(w, f"wgmma.wait_group.sync.aligned {op.attrs['pending']};", op.results, args, memory=True)


def _tie(w: Writer, op: Op) -> list[str]:
    args = [(str(i), w.typed(v)) for i, v in enumerate(op.group("a"))]
    return _assembly(w, "", op.results, args, memory=True)


def _plain(text: str) -> Handler:
    def write(w: Writer, op: Op) -> None:
        _assembly(w, text, [], [], memory=True)

    return write


def _elect(w: Writer, op: Op) -> list[str]:
    text = "{ .reg .pred p; elect.sync _|p, 0xffffffff; selp.b32 $0, 1, 0, p; }"
    word = w.let(f'call i32 asm sideeffect "{text}", "=r"() convergent')
    return [w.let(f"icmp ne i32 {word}, 0")]


def _set_registers(w: Writer, op: Op) -> None:
    way = "inc" if op.attrs["more"] else "dec"
    _assembly(w, f"setmaxnreg.{way}.sync.aligned.u32 {op.attrs['count']};", [], [], memory=True)


def _cluster_barrier(w: Writer, op: Op) -> None:
    _assembly(w, "barrier.cluster.arrive.release;", [], [], memory=True)
    _assembly(w, "barrier.cluster.wait.acquire;", [], [], memory=True)


def _mbarrier_init(w: Writer, op: Op) -> None:
    text = f"mbarrier.init.shared::cta.b64 [$0], {op.attrs['count']};"
    _assembly(w, text, [], [_shared_address(w, op["ptr"])], memory=True)


def _mbarrier_arrive(w: Writer, op: Op) -> None:
    count = op.attrs["bytes"]
    rank = op.optional("rank")
    if rank is not None:
        kind, address = _shared_address(w, op["ptr"])
        operands = f"{address}, {w.typed(rank)}"
        there = w.let(f'call i32 asm "mapa.shared::cluster.u32 $0, $1, $2;", "=r,{kind},r"({operands})')
        text = "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [$0];"
        _assembly(w, text, [], [("r", f"i32 {there}")], memory=True)
        return
    text = f"mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], {count};" if count else (
        "mbarrier.arrive.shared::cta.b64 _, [$0];"
    )  # fmt: skip
    _assembly(w, text, [], [_shared_address(w, op["ptr"])], memory=True)


def _mbarrier_wait(w: Writer, op: Op) -> None:
    again = "WAIT_${:uid}"  # a label of its own wherever the statement is copied to
    scope = ".acquire.cluster" if op.attrs["cluster"] else ""
    text = (
        f"{{ .reg .pred p; {again}: mbarrier.try_wait.parity{scope}.shared::cta.b64 p, [$0], $1; "
        f"@!p bra {again}; }}"
    )
    _assembly(w, text, [], [_shared_address(w, op["ptr"]), _value(w, op["parity"])], memory=True)


def _tensor_copy(w: Writer, op: Op) -> None:
    """To the block's own memory, which is said: where others' cannot be reached at all the assembler would check it."""
    at, blocks = op.group("at"), op.attrs["blocks"]
    form, mask = (".multicast::cluster", f", ${3 + len(at)}") if blocks > 1 else ("", "")
    space = "shared::cluster" if mask else "shared::cta"
    text = (
        f"cp.async.bulk.tensor.{len(at)}d.{space}.global.tile.mbarrier::complete_tx::bytes{form} "
        f"[$0], [$1, {_list(2, len(at))}], [${2 + len(at)}]{mask};"
    )
    address = w.let(f"ptrtoint {w.typed(op['map'])} to i64")
    args = [_shared_address(w, op["dst"]), ("l", f"i64 {address}"), *(_value(w, v) for v in at)]
    args.append(_shared_address(w, op["barrier"]))
    _assembly(w, text, [], [*args, *([_mask(blocks)] if mask else [])], memory=True)


def _mask(blocks: int) -> tuple[str, str]:
    """All blocks of a cluster."""
    return "h", f"i16 {(1 << blocks) - 1}"


def _tensor_store(w: Writer, op: Op) -> None:
    at = op.group("at")
    text = f"cp.async.bulk.tensor.{len(at)}d.global.shared::cta.tile.bulk_group [$0, {_list(2, len(at))}], [$1];"
    address = w.let(f"ptrtoint {w.typed(op['map'])} to i64")
    args = [("l", f"i64 {address}"), _shared_address(w, op["src"]), *(_value(w, v) for v in at)]
    _assembly(w, text, [], args, memory=True)


# -- tensor memory (tcgen05), of one CTA -------------------------------------------------------------------------------


def _tensor_alloc(w: Writer, op: Op) -> None:
    text = f"tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [$0], {op.attrs['columns']};"
    _assembly(w, text, [], [_shared_address(w, op["ptr"])], memory=True)


def _tensor_free(w: Writer, op: Op) -> None:
    text = f"tcgen05.dealloc.cta_group::1.sync.aligned.b32 $0, {op.attrs['columns']};"
    _assembly(w, text, [], [_value(w, op["address"])], memory=True)


def _tensor_mma(w: Writer, op: Op) -> None:
    text = (
        "{ .reg .pred p; setp.ne.b32 p, $4, 0; "
        f"{op.attrs['instruction']} [$0], $1, $2, $3, p; }}"
    )  # fmt: skip
    to, a, b, add = (_value(w, op[name]) for name in ("to", "a", "b", "add"))
    _assembly(w, text, [], [to, a, b, ("r", f"i32 {op.attrs['descriptor']}"), add], memory=True)


def _tensor_commit(w: Writer, op: Op) -> None:
    blocks = op.attrs["blocks"]
    form, mask = (".multicast::cluster", ", $1") if blocks > 1 else ("", "")
    text = f"tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster{form}.b64 [$0]{mask};"
    _assembly(w, text, [], [_shared_address(w, op["ptr"]), *([_mask(blocks)] if mask else [])], memory=True)


def _tensor_load(w: Writer, op: Op) -> list[str]:
    count, form = len(op.results), f"{op.attrs['shape']}.x{op.attrs['repeat']}"
    text = f"tcgen05.ld.sync.aligned.{form}.b32 {_list(0, count)}, [${count}];"
    return _assembly(w, text, op.results, [_value(w, op["address"])], memory=True)


def _tensor_wait_loads(w: Writer, op: Op) -> list[str]:
    """The loaded registers pass through, so that nothing that uses them moves in front of it."""
    args = [(str(i), w.typed(v)) for i, v in enumerate(op.group("values"))]
    return _assembly(w, "tcgen05.wait::ld.sync.aligned;", op.results, args, memory=True)


def _tensor_fence(w: Writer, op: Op) -> None:
    side = "before_thread_sync" if op.attrs["before"] else "after_thread_sync"
    _assembly(w, f"tcgen05.fence::{side};", [], [], memory=True)


PTX: dict[str, Handler] = {
    "target.tensor_alloc": _tensor_alloc,
    "target.tensor_commit": _tensor_commit,
    "target.tensor_fence": _tensor_fence,
    "target.tensor_free": _tensor_free,
    "target.tensor_load": _tensor_load,
    "target.tensor_mma": _tensor_mma,
    "target.tensor_relinquish": _plain("tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;"),
    "target.tensor_wait_loads": _tensor_wait_loads,
    "target.cluster_barrier": _cluster_barrier,
    "target.elect": _elect,
    "target.mbarrier_arrive": _mbarrier_arrive,
    "target.mbarrier_init": _mbarrier_init,
    "target.mbarrier_ready": _plain("fence.mbarrier_init.release.cluster;"),
    "target.mbarrier_wait": _mbarrier_wait,
    "target.set_registers": _set_registers,
    "target.tensor_copy": _tensor_copy,
    "target.warp_barrier": _plain("bar.warp.sync 0xffffffff;"),
    "target.fence_async": _plain("fence.proxy.async.shared::cta;"),
    "target.shared_address": _shared_number,
    "target.wgmma": _wgmma,
    "target.wgmma_commit": _plain("wgmma.commit_group.sync.aligned;"),
    "target.wgmma_fence": _plain("wgmma.fence.sync.aligned;"),
    "target.wgmma_wait": _wgmma_wait,
    "target.tie": _tie,
    "target.mma": _mma,
    "target.round": _round,
    "target.widen": _widen,
    "target.ldmatrix": _ldmatrix,
    "target.stmatrix": _stmatrix,
    "target.exp2": _exp2,
    "target.movmatrix": _movmatrix,
    "target.round_pair": _round_pair,
    "target.copy_async": _copy_async,
    "target.tensor_store": _tensor_store,
    "target.commit_stores": _plain("cp.async.bulk.commit_group;"),
    "target.wait_stores": _plain("cp.async.bulk.wait_group.read 0;"),
    "target.commit_copies": _plain("cp.async.commit_group;"),
    "target.wait_copies": _wait,
}

"""`target`: machine-near operations, one LLVM instruction or intrinsic each; printed to LLVM without decisions.

Types are scalars, `vec<NxT>` and `ptr<space>`; `bool` is i1 in registers and a byte in memory. Control flow is `scf`,
arithmetic `arith`. A `target.func` is one kernel for one arch.

CPU kernels have the parameters (args: ptr<global>, begin: i64, end: i64, scratch: ptr<global>); GPU kernels have
one parameter per slot: ptr<global>, i64 dims, scalars. Function attributes: group:int, shared:int (bytes of static
shared memory) or dynamic_shared:int (bytes that the launch gives), scratch:int (bytes per thread, CPU), symbol:str.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tessera_runtime.core.errors import TesseraError
from tesseracc.ir.define import define
from tesseracc.ir.types import BOOL, I64, PtrType, ScalarType, Type, VecType, element, with_element
from tesseracc.ir.value import Attr, Value

SREGS = (*(f"{reg}.{axis}" for reg in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"), "laneid", "warpid")


def _same(operands: Sequence[Value], attrs: Mapping[str, Attr]) -> tuple[Type, ...]:
    return (operands[0].type,)


def _element(operands: Sequence[Value], attrs: Mapping[str, Attr]) -> tuple[Type, ...]:
    from tesseracc.ir.types import ScalarType

    return (ScalarType(element(operands[0].type)),)


def _concat(operands: Sequence[Value], attrs: Mapping[str, Attr]) -> tuple[Type, ...]:
    type_ = operands[0].type
    if not isinstance(type_, VecType):
        raise TesseraError("E404", "needs a vector")
    return (VecType(len(attrs["lanes"]), type_.dtype),)


define(
    "target.offset",
    "ptr index",
    "dtype:str",
    infer=_same,
    doc="ptr + index * size of dtype (getelementptr); index: i64.",
)
define("target.load", "ptr", "align:int volatile:bool=false", effect="read", doc="A scalar or a contiguous vec.")
define(
    "target.store",
    "value ptr",
    "align:int volatile:bool=false nontemporal:bool=false",
    effect="write",
    doc="A scalar or a contiguous vec.",
)
define(
    "target.update",
    "value ptr",
    "kind:str",
    effect="write",
    doc="Memory at `ptr` = kind(memory, value), atomically: add, min, max, and, or, xor of an integer.",
)
define(
    "target.masked_load",
    "ptr mask other",
    "align:int",
    infer=lambda v, a: (v[2].type,),
    effect="read",
    doc="Contiguous; `other` where false.",
)
define(
    "target.masked_store", "value ptr mask", "align:int", effect="write", doc="Contiguous; only where the mask is true."
)
define(
    "target.gather",
    "ptr index mask other",
    "dtype:str",
    infer=lambda v, a: (v[3].type,),
    effect="read",
    doc="ptr[index] per element.",
)
define(
    "target.scatter",
    "value ptr index mask",
    "dtype:str",
    effect="write",
    doc="ptr[index] = value per element, in lane order.",
)
define(
    "target.alloca",
    attrs="bytes:int align:int=64",
    infer=lambda v, a: (PtrType("local"),),
    doc="Stack memory of the thread.",
)
define(
    "target.shared",
    attrs="offset:int",
    infer=lambda v, a: (PtrType("shared"),),
    doc="Address in the CTA's static shared memory.",
)
define("target.cast_ptr", "ptr", "space:str", infer=lambda v, a: (PtrType(a["space"]),), doc="Address space cast.")
define(
    "target.splat",
    "a",
    "count:int",
    infer=lambda v, a: (VecType(a["count"], element(v[0].type)),),
    doc="Scalar to vec.",
)
define(
    "target.iota", "", "count:int dtype:str", infer=lambda v, a: (VecType(a["count"], a["dtype"]),), doc="0, 1, 2, .."
)
define("target.extract", "vec", "lane:int", infer=_element, doc="One element.")
define("target.insert", "vec a", "lane:int", infer=_same, doc="The vec with one element replaced.")
define("target.shuffle", "a b", "lanes:tuple", infer=_concat, doc="Elements of a ++ b by number (shufflevector).")
define("target.any", "mask", infer=_element, doc="Whether any element is true.")
define("target.all", "mask", infer=_element, doc="Whether all elements are true.")
define("target.sreg", attrs="name:str", infer=lambda v, a: (with_element(I64, "i32"),), doc="A special register (GPU).")
define(
    "target.barrier",
    attrs="id:int=0 threads:int=0",
    effect="sync",
    doc="Barrier of the CTA, or of that many of its threads, a multiple of 32, under a number of their own (GPU).",
)
define(
    "target.shfl",
    "a offset",
    "mode:str",
    infer=_same,
    effect="sync",
    doc="Warp shuffle of a 32-bit value: down, up, bfly, idx (GPU).",
)
define("target.ballot", "a", infer=lambda v, a: (with_element(I64, "i32"),), effect="sync", doc="Warp vote (GPU).")
define("target.fence", effect="sync", doc="Earlier stores, non-temporal ones too, are visible before later ones (CPU).")
define("target.prefetch", "ptr", "locality:int=3", effect="sync", doc="Prefetch for reading (CPU).")
define(
    "target.round",
    "a",
    "to:str",
    infer=lambda v, a: (with_element(v[0].type, "u16"),),
    doc="The bits of an f32 rounded to f16 or bf16 (GPU).",
)
define(
    "target.widen",
    "a",
    infer=lambda v, a: (with_element(v[0].type, "f32"),),
    doc="The f32 of the bits of an f16 (GPU).",
)
define(
    "target.mma",
    "a* b* acc*",
    "instruction:str",
    effect="sync",
    doc="A matrix instruction on fragments in registers, as PTX spells it (GPU).",
)
define(
    "target.round_pair",
    "low high",
    "to:str",
    infer=lambda v, a: (ScalarType("u32"),),
    doc="Two f32 values rounded to f16 or bf16 (to nearest even), in the halves of a word; NaN is 7fff (GPU).",
)
define(
    "target.ldmatrix",
    "ptr",
    "count:int trans:bool=false",
    effect="read",
    doc="`count` 8x8 matrices of 16-bit units from shared memory, a word of each to every lane (GPU).",
)
define(
    "target.stmatrix",
    "ptr words*",
    "trans:bool=false",
    effect="write",
    doc="As many 8x8 matrices of 16-bit units as there are words to shared memory, of each a word by every lane (GPU).",
)
define("target.exp2", "a", infer=_same, doc="2^x of an f32 within 2 ulp; numbers below 2^-126 are 0 (GPU).")
define("target.movmatrix", "a", infer=_same, effect="sync", doc="An 8x8 matrix of 16-bit units transposed (GPU).")
define(
    "target.copy_async",
    "dst src count",
    "bytes:int",
    effect="write",
    doc="Starts a copy of `bytes` (4, 8, 16) from global to shared memory; bytes from `count` on are 0 (GPU).",
)
define("target.commit_copies", effect="sync", doc="Closes this thread's group of copies (GPU).")
define(
    "target.wait_copies",
    attrs="pending:int",
    effect="sync",
    doc="Until at most `pending` of this thread's groups of copies are unfinished; 0: all copies (GPU).",
)
define(
    "target.shared_address", "ptr", infer=lambda v, a: (I64,), doc="An address in shared memory as a number (GPU)."
)
define(
    "target.fence_async",
    effect="sync",
    doc="This thread's accesses to shared memory before those of copy engines and wgmma (GPU).",
)
define("target.wgmma_fence", effect="sync", doc="Registers and earlier wgmma before the next wgmma (GPU).")
define(
    "target.wgmma",
    "a* b acc*",
    "instruction:str flags:tuple",
    effect="sync",
    doc="acc + a b by four warps, as PTX spells it: `a` is a descriptor or words, `b` a descriptor; without acc: a b "
    "(GPU).",
)
define("target.wgmma_commit", effect="sync", doc="Closes the group of wgmma since the last one (GPU).")
define(
    "target.wgmma_wait",
    "acc*",
    "pending:int",
    effect="sync",
    doc="The accumulators, when at most `pending` groups of wgmma are unfinished (GPU).",
)
define(
    "target.tie",
    "a*",
    effect="sync",
    doc="The values, of which nothing that uses them moves in front of what stands before; no instruction (GPU).",
)
define("target.warp_barrier", effect="sync", doc="Barrier of a warp (GPU).")
define("target.elect", infer=lambda v, a: (BOOL,), effect="sync", doc="True in one lane of a converged warp (GPU).")
define(
    "target.set_registers",
    attrs="count:int more:bool",
    effect="sync",
    doc="Four warps take more registers a thread, or give some back (GPU).",
)
define(
    "target.mbarrier_init", "ptr", "count:int", effect="sync", doc="An mbarrier that waits for `count` arrivals (GPU)."
)
define("target.mbarrier_ready", effect="sync", doc="Initialised mbarriers before copy engines use them (GPU).")
define(
    "target.mbarrier_arrive",
    "ptr rank?",
    "bytes:int=0",
    effect="sync",
    doc=(
        "Arrives; with `bytes`, so many must also be written by copies before the phase completes; with `rank` (i32) "
        "at the mbarrier of that block of the cluster (GPU)."
    ),
)
define(
    "target.mbarrier_wait",
    "ptr parity",
    "cluster:bool=false",
    effect="sync",
    doc="Until the phase of this parity (i32) is complete, by arrivals of other blocks too if `cluster` (GPU).",
)
define(
    "target.tensor_copy",
    "dst map at* barrier",
    "blocks:int=1",
    effect="write",
    doc=(
        "Starts a copy of a box of a tensor; `at` (i32) is its first element, innermost axis first; to the same place "
        "in so many `blocks` of the cluster (GPU)."
    ),
)
define("target.cluster_barrier", effect="sync", doc="Barrier of all threads of the cluster (GPU).")
define(
    "target.tensor_store",
    "src map at*",
    effect="write",
    doc="Starts a copy of a box to a tensor; what lies outside of the tensor is dropped (GPU).",
)
define("target.commit_stores", effect="sync", doc="Closes this thread's group of copies to tensors (GPU).")
define("target.wait_stores", effect="sync", doc="Until this thread's copies to tensors have read their boxes (GPU).")

"""Compiles `kernels.py` to PTX with Triton 3.5.0 (`pip install triton==3.5.0`; no GPU): `python generate.py`.

Writes NAME.ptx without debug sections and one `launches.json`: kernel name, shared bytes, tensor descriptors of each.
Tests read these files and never run this. NAME ends with the architecture: 80, 90 (sm_90a), 100 (sm_100a).
"""

import json
import os
import re
from pathlib import Path

import kernels
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

os.environ["TRITON_DISABLE_LINE_INFO"] = "1"
HERE = Path(__file__).parent
KINDS = {"f16": "fp16", "bf16": "bf16", "tf32": "fp32", "e4m3": "fp8e4nv"}


def pointers(**types):
    """Signature of pointer parameters."""
    return {name: f"*{kind}" for name, kind in types.items()}


def boxes(kind, **shapes):
    """Signature of tensor descriptors."""
    return {name: f"tensordesc<{kind}[{rows},{columns}]>" for name, (rows, columns) in shapes.items()}


def integers(names):
    return dict.fromkeys(names.split(), "i32")


def simple():
    """name -> (kernel, signature, constants, options, sizes that the caller promises to be multiples of 16)"""
    yield "vector_add_80", kernels.vector_add, pointers(x="fp32", y="fp32", out="fp32") | integers("n"), {"BLOCK": 256}
    yield "softmax_80", kernels.softmax, pointers(x="fp32", out="fp32") | integers("columns stride"), {"BLOCK": 512}
    norm = pointers(x="fp16", gain="fp32", bias="fp32", out="fp16") | integers("columns") | {"eps": "fp32"}
    yield "layer_norm_90", kernels.layer_norm, norm, {"BLOCK": 256}
    arrays = pointers(x="i32", sums="i32", ordered="i32", histogram="i32")
    yield "scan_and_sort_90", kernels.scan_and_sort, arrays | integers("n"), {"BLOCK": 256}


def products():
    """Matrix products by pointers: cp.async and mma.sync on sm_80, wgmma on sm_90a, tcgen05 on sm_100a.

    Where the sizes are known to be multiples of 16 rows are copied by cp.async, else element by element.
    """
    for name, aligned in (
        ("f16_80", True), ("bf16_80", False), ("tf32_80", False), ("f16_90", True), ("bf16_90", False),
        ("tf32_90", True), ("e4m3_90", True), ("f16_100", True), ("tf32_100", True), ("e4m3_100", True),
    ):  # fmt: skip
        kind, arch = name.split("_")
        signature = pointers(a=KINDS[kind], b=KINDS[kind], c="fp32") | integers("m n k")
        narrow = kind == "tf32" or arch == "80"
        shape = {"BM": 64, "BN": 32 if arch == "80" else 64, "BK": 32 if narrow else 64}
        transposed = kind == "e4m3" or (kind == "tf32" and arch != "80")
        kernel = kernels.matmul_transposed if transposed else kernels.matmul
        yield f"matmul_{name}", kernel, signature, shape, "nk" if aligned else ""


def described():
    """Kernels that read and write through tensor descriptors; `specialized` gives copies to warps of their own."""
    sizes = integers("m n k")
    for arch in (90, 100):
        rows = 64 if arch == 90 else 128
        for name, bm in (("tma", 128), ("specialized", rows)):
            signature = boxes("bf16", a=(bm, 64), b=(64, 64), c=(bm, 64)) | sizes
            shape = {"BM": bm, "BN": 64, "BK": 64, "SPECIALIZE": name == "specialized"}
            yield f"matmul_{name}_{arch}", kernels.matmul_tma, signature, shape
        signature = boxes("bf16", a=(128, 64), b=(64, 64), c=(128, 64)) | sizes
        shape = {"PROGRAMS": 2, "BM": 128, "BN": 64, "BK": 64, "SPECIALIZE": arch == 100}
        yield f"matmul_persistent_{arch}", kernels.matmul_persistent, signature, shape
        signature = boxes("fp16", q=(64, 64), k=(64, 64), v=(64, 64), out=(64, 64)) | integers("queries keys")
        shape = {"D": 64, "BM": 64, "BN": 64, "SPECIALIZE": False}
        yield f"attention_tma_{arch}", kernels.attention_tma, signature | {"scale": "fp32"}, shape


def attentions():
    arrays = pointers(q="fp16", k="fp16", v="fp16", out="fp32")
    for name in ("attention_80", "attention_causal_90", "attention_causal_100"):
        shape = {"CAUSAL": "causal" in name, "D": 64, "BM": 64, "BN": 32 if name.endswith("_80") else 64}
        yield name, kernels.attention, arrays | integers("queries keys") | {"scale": "fp32"}, shape


def strip(ptx):
    """Without debug sections, comments and blank lines."""
    ptx = re.sub(r"^\t?\.section.*?^\t?\}\n", "", ptx, flags=re.S | re.M)
    ptx = re.sub(r"//.*", "", ptx)
    lines = [line.rstrip() for line in ptx.splitlines()]
    return "\n".join(line for line in lines if line and not line.lstrip().startswith((".file", ".loc"))) + "\n"


def build(name, kernel, signature, constants, multiples=""):
    place = {p: (k,) for k, p in enumerate(kernel.arg_names)}
    everything = signature | dict.fromkeys(constants, "constexpr")
    aligned = [p for p, kind in signature.items() if kind[0] == "*" or p in multiples]
    source = ASTSource(
        kernel, {p: everything[p] for p in kernel.arg_names}, {place[c]: v for c, v in constants.items()},
        {place[p]: [["tt.divisibility", 16]] for p in aligned},
    )  # fmt: skip
    target = GPUTarget("cuda", int(name.split("_")[-1]), 32)
    built = triton.compile(source, target=target, options={"num_warps": 4, "num_stages": 3})
    (HERE / f"{name}.ptx").write_text(strip(built.asm["ptx"]))
    meta = built.metadata
    launch = {"kernel": meta.name, "shared": meta.shared, "scratch": meta.global_scratch_size}
    if meta.tensordesc_meta:
        fields = ("block_size", "elem_type", "swizzle")
        launch["descriptors"] = [{f: d[f] for f in fields} for d in meta.tensordesc_meta]
    return launch


if __name__ == "__main__":
    specs = [*simple(), *products(), *described(), *attentions()]
    launches = {spec[0]: build(*spec) for spec in specs}
    text = ",\n".join(f"{json.dumps(name)}: {json.dumps(launches[name], sort_keys=True)}" for name in sorted(launches))
    (HERE / "launches.json").write_text(f"{{\n{text}\n}}\n")

"""The same computations by other libraries, each where it is installed: calls that leave their result where `result`
finds it.

Arguments are NumPy arrays (f32, or bf16 of ml_dtypes); what a library wants converted is converted before. Libraries
write into memory given to them where they can; where they allocate, the process keeps freed memory (`ENVIRONMENT`), so
nobody pays for fresh pages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np

Call = Callable[[], Any]
#: for every contender: no memory goes back to the system between calls
ENVIRONMENT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "-1", "MALLOC_TOP_PAD_": "268435456"}


def available() -> tuple[str, ...]:
    found = [name for name in ("torch", "onnxruntime", "jax") if find_spec(name) is not None]
    iree = "jax" in found and all(find_spec(name) for name in ("iree", "iree.compiler", "iree.runtime"))
    return (*found, "iree") if iree else tuple(found)


def versions() -> dict[str, str]:
    from importlib.metadata import version

    packages = {"iree": "iree-base-compiler"}
    return {name: version(packages.get(name, name)) for name in ("numpy", *available())}


def to_numpy(value: Any) -> Any:
    """A result as f32."""
    if type(value).__module__.startswith("torch"):
        return value.detach().float().numpy()
    return np.asarray(value, dtype=np.float32)


# -- torch -----------------------------------------------------------------------------------------------------------


def tensor(x: Any) -> Any:
    import torch

    if not isinstance(x, np.ndarray):
        return x
    if x.dtype.name == "bfloat16":
        return torch.from_numpy(x.view(np.uint16).copy()).view(torch.bfloat16)
    return torch.from_numpy(x)


def _torch(entry: str, args: tuple[Any, ...]) -> dict[str, Call]:
    import torch
    import torch.nn.functional as F

    a = [tensor(x) for x in args]

    def layer(x: Any, qkv: Any, out: Any, up: Any, down: Any) -> Any:
        b, s, d = x.shape
        h = F.layer_norm(x, (d,))
        q, k, v = (t.reshape(b, s, 16, d // 16).transpose(1, 2) for t in (h @ qkv).split(d, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + y.transpose(1, 2).reshape(b, s, d) @ out
        return x + F.gelu(F.layer_norm(x, (d,)) @ up) @ down

    def train(w1: Any, b1: Any, w2: Any, b2: Any, x: Any, target: Any) -> Any:
        n = target.numel()
        pre = torch.addmm(b1, x, w1)
        h = torch.relu(pre)
        g = (torch.addmm(b2, h, w2) - target) * (2.0 / n)
        gh = torch.where(pre > 0, g @ w2.t(), 0.0)
        return w1 - 0.01 * (x.t() @ gh), b1 - 0.01 * gh.sum(0), w2 - 0.01 * (h.t() @ g), b2 - 0.01 * g.sum(0)

    def chain(x: Any, w: Any, b: Any, r: Any) -> Any:
        return F.gelu(x * w + b, approximate="tanh") + r

    plain: Mapping[str, Callable[[], Any]] = {
        "matmul": lambda: torch.mm(a[0], a[1], out=into(a[0].shape[0], a[1].shape[1])),
        "decode": lambda: torch.mm(a[0], a[1], out=into(1, a[1].shape[1])),
        "matmul_bf16": lambda: torch.mm(a[0], a[1], out=into(a[0].shape[0], a[1].shape[1])),
        "attention": lambda: F.scaled_dot_product_attention(a[0], a[1], a[2]),
        "attention_bf16": lambda: F.scaled_dot_product_attention(a[0], a[1], a[2]),
        "causal_attention": lambda: F.scaled_dot_product_attention(a[0], a[1], a[2], is_causal=True),
        "softmax": lambda: torch.softmax(a[0], -1),
        "layer_norm": lambda: F.layer_norm(a[0], a[0].shape[-1:]),
        "saxpy": lambda: a[1].add_(a[0], alpha=a[2]),
        "column_sums": lambda: torch.sum(a[0], 0),
        "gelu_chain": lambda: chain(*a),
        "layer": lambda: layer(*a),
        "layer_bf16": lambda: layer(*a),
        "train_step": lambda: train(*a),
    }
    memory: dict[tuple[int, ...], Any] = {}

    def into(*shape: int) -> Any:
        if shape not in memory:
            memory[shape] = torch.empty(shape, dtype=a[0].dtype)
        return memory[shape]

    found: dict[str, Call] = {"torch": plain[entry]}
    compiled = {"gelu_chain": chain, "layer": layer, "layer_bf16": layer, "train_step": train}.get(entry)
    if compiled is not None:
        quick = torch.compile(compiled)
        found["torch.compile"] = lambda: quick(*a)
    return found


# -- onnxruntime and jax ---------------------------------------------------------------------------------------------

_ONNX = {"matmul": "MatMul", "decode": "MatMul", "softmax": "Softmax"}


def _onnxruntime(entry: str, args: tuple[Any, ...], threads: int) -> dict[str, Call]:
    if entry not in _ONNX or find_spec("onnx") is None:
        return {}
    import onnxruntime
    from onnx import TensorProto, helper

    names = [f"x{i}" for i in range(len(args))]
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, x.shape) for n, x in zip(names, args)]
    node = helper.make_node(_ONNX[entry], names, ["y"])
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = dict(zip(names, args))
    return {"onnxruntime": lambda: session.run(None, given)[0]}


def _functions() -> Mapping[str, Callable[..., Any]]:
    """The programs for compilers of JAX's functions."""
    import jax
    import jax.numpy as jnp

    def attention(q: Any, k: Any, v: Any) -> Any:
        return jax.nn.softmax((q @ jnp.swapaxes(k, -1, -2)) * 0.125, axis=-1) @ v

    def norm(x: Any) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        return centred * jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + 1e-5)

    return {
        "matmul": lambda a, b: a @ b,
        "decode": lambda a, b: a @ b,
        "matmul_bf16": lambda a, b: a @ b,
        "attention": attention,
        "attention_bf16": attention,
        "softmax": lambda x: jax.nn.softmax(x, axis=-1),
        "layer_norm": norm,
        "column_sums": lambda x: x.sum(0),
        "gelu_chain": lambda x, w, b, r: jax.nn.gelu(x * w + b, approximate=True) + r,
    }


def _jax(entry: str, args: tuple[Any, ...]) -> dict[str, Call]:
    import jax
    import jax.numpy as jnp

    function = _functions().get(entry)
    if function is None:
        return {}
    run, given = jax.jit(function), [jnp.asarray(x) for x in args]
    return {"jax": lambda: run(*given).block_until_ready()}


def _iree(entry: str, args: tuple[Any, ...], threads: int) -> dict[str, Call]:
    """IREE's llvm-cpu for this CPU, from the StableHLO of the same functions; data tiling and micro-kernels on."""
    import jax
    from iree import compiler, runtime

    function = _functions().get(entry)
    if function is None or any(getattr(x, "dtype", np.dtype("f4")) != np.float32 for x in args):
        return {}
    text = str(jax.jit(function).lower(*args).compiler_ir("stablehlo"))
    code = compiler.compile_str(
        text, input_type="stablehlo", target_backends=["llvm-cpu"],
        extra_args=["--iree-llvmcpu-target-cpu=host", "--iree-opt-data-tiling", "--iree-llvmcpu-enable-ukernels=all"],
    )  # fmt: skip
    if threads > 1:
        runtime.flags.parse_flags(f"--task_topology_group_count={threads}")
    config = runtime.Config("local-sync" if threads == 1 else "local-task")
    module = runtime.load_vm_module(runtime.VmModule.copy_buffer(config.vm_instance, code), config)
    given = [runtime.asdevicearray(config.device, x) for x in args]
    return {"iree": lambda: module.main(*given)}


def peers(entry: str, args: tuple[Any, ...], threads: int, chosen: tuple[str, ...]) -> dict[str, Call]:
    """The calls of the chosen libraries; `args` are not changed, except the second one of saxpy."""
    found: dict[str, Call] = {}
    if "torch" in chosen:
        found |= _torch(entry, args)
    if "onnxruntime" in chosen:
        found |= _onnxruntime(entry, args, threads)
    if "jax" in chosen:
        found |= _jax(entry, args)
    if "iree" in chosen:
        found |= _iree(entry, args, threads)
    return found

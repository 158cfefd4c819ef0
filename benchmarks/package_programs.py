"""The model of `benchmarks.packages` in each compiler's language, its inputs and its reference in f64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

FEATURES, HIDDEN, CLASSES = 64, 128, 10

TESSERA = """
from pathlib import Path

import numpy as np
import tessera as ts

weights = np.load(Path(__file__).parent / "mlp.npz")
w1, b1, w2, b2 = (ts.tensor(weights[name]) for name in ("w1", "b1", "w2", "b2"))


@ts.function
def f(x: ts.Tensor["N", 64, ts.f32]):
    return ts.softmax(ts.relu(x @ w1 + b1) @ w2 + b2, axis=-1)
"""

IREE_RUN = """
import sys, numpy as np
import iree.runtime as rt
package, x, y = sys.argv[1:]
module = rt.load_vm_flatbuffer_file(package, driver="local-sync")
np.save(y, np.asarray(module.f(np.load(x)).to_host()))
"""

_TORCH_MODEL = """
import sys, numpy as np, torch
class Model(torch.nn.Module):
    def __init__(self, w):
        super().__init__()
        for name in ("w1", "b1", "w2", "b2"):
            self.register_buffer(name, torch.from_numpy(w[name].copy()))
    def forward(self, x):
        return torch.softmax(torch.relu(x @ self.w1 + self.b1) @ self.w2 + self.b2, -1)
"""

TORCH_BUILD = (
    _TORCH_MODEL
    + """
model, package = sys.argv[1:]
x = torch.zeros(16, 64)
rows = torch.export.Dim("N", min=2, max=1 << 20)
program = torch.export.export(Model(np.load(model)).eval(), (x,), dynamic_shapes=({0: rows},))
torch._inductor.aoti_compile_and_package(program, package_path=package)
"""
)

_TORCH_LOADED = """
import sys, numpy as np, torch
import torch._inductor
"""

_TORCH_CALL = """
package, x, y = sys.argv[1:]
model = torch._inductor.aoti_load_package(package)
with torch.inference_mode():
    np.save(y, model(torch.from_numpy(np.load(x))).numpy())
"""

TORCH_RUN = _TORCH_LOADED + _TORCH_CALL

_CHILDREN = """
import os, signal, sys, time
{imports}
limit = float(sys.argv[1])
for line in sys.stdin:
    child = os.fork()
    if not child:
        code, silent = 1, os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(silent, number)
        try:
            sys.argv = ["-c", *line.rstrip("\\n").split("\\t")]
            exec({call!r})
            code = 0
        finally:
            os._exit(code)
    end = time.monotonic() + limit
    while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < end:
        time.sleep(0.002)
    if not ended[0]:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(ended[1]) if ended[0] else -100, flush=True)
"""


def in_children(imports: str, call: str) -> str:
    """A program that imports what takes seconds once, and makes each `call` in a child of its own, whose arguments are
    a line of stdin. It writes the child's exit code, negative the signal that ended it, -100 past the limit."""
    return _CHILDREN.format(imports=imports, call=call)


TORCH_CALLS = in_children(_TORCH_LOADED + "import torch._inductor.package, torch.utils.cpp_extension\n", _TORCH_CALL)


def weights() -> dict[str, Any]:
    """The model's weights, f32."""
    rng = np.random.default_rng(20)

    def normal(*shape: int) -> Any:
        return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)

    return {"w1": normal(FEATURES, HIDDEN), "b1": normal(HIDDEN), "w2": normal(HIDDEN, CLASSES), "b2": normal(CLASSES)}


def write(folder: Path, rows: int) -> None:
    """The weights and an input."""
    np.savez(folder / "mlp.npz", **weights())
    np.save(folder / "x.npy", np.random.default_rng(21).standard_normal((rows, FEATURES)).astype(np.float32))


def reference(x: Any) -> Any:
    """What the model means, in f64."""
    w = {name: value.astype(np.float64) for name, value in weights().items()}
    logits = np.maximum(x.astype(np.float64) @ w["w1"] + w["b1"], 0) @ w["w2"] + w["b2"]
    power = np.exp(logits - logits.max(-1, keepdims=True))
    return power / power.sum(-1, keepdims=True)


def mlir() -> str:
    """The model for IREE, in linalg on tensors."""
    rows, column, each = "affine_map<(i, j) -> (i, j)>", "affine_map<(i, j) -> (j)>", "affine_map<(i, j) -> (i)>"
    lines = []
    for name, value in weights().items():
        kind = f"tensor<{'x'.join(str(n) for n in value.shape)}xf32>"
        lines.append(f'%{name} = arith.constant dense<"0x{value.tobytes().hex().upper()}"> : {kind}')
    loops = 'iterator_types = ["parallel", "parallel"]'

    def product(out: str, left: str, right: str, k: int, n: int) -> None:
        lines.append(f"%{out}e = tensor.empty(%n) : tensor<?x{n}xf32>")
        lines.append(f"%{out}z = linalg.fill ins(%zero : f32) outs(%{out}e : tensor<?x{n}xf32>) -> tensor<?x{n}xf32>")
        types = f"tensor<?x{k}xf32>, tensor<{k}x{n}xf32>"
        outs = f"outs(%{out}z : tensor<?x{n}xf32>) -> tensor<?x{n}xf32>"
        lines.append(f"%{out} = linalg.matmul ins(%{left}, %{right} : {types}) {outs}")

    def pointwise(out: str, x: str, y: str, n: int, by_row: bool, body: str) -> None:
        second, other = (each, "tensor<?xf32>") if by_row else (column, f"tensor<{n}xf32>")
        full = f"tensor<?x{n}xf32>"
        lines.append(f"%{out}e = tensor.empty(%n) : {full}")
        lines.append(f"%{out} = linalg.generic {{indexing_maps = [{rows}, {second}, {rows}], {loops}}}")
        lines.append(f"  ins(%{x}, %{y} : {full}, {other}) outs(%{out}e : {full}) {{")
        lines.append(f"  ^bb0(%a: f32, %b: f32, %c: f32):\n{body}\n    linalg.yield %r : f32\n  }} -> {full}")

    def reduction(out: str, x: str, n: int, start: str, operation: str) -> None:
        lines.append(f"%{out}e = tensor.empty(%n) : tensor<?xf32>")
        lines.append(f"%{out}z = linalg.fill ins(%{start} : f32) outs(%{out}e : tensor<?xf32>) -> tensor<?xf32>")
        along = 'iterator_types = ["parallel", "reduction"]'
        lines.append(f"%{out} = linalg.generic {{indexing_maps = [{rows}, {each}], {along}}}")
        lines.append(f"  ins(%{x} : tensor<?x{n}xf32>) outs(%{out}z : tensor<?xf32>) {{")
        lines.append(f"  ^bb0(%a: f32, %c: f32):\n    %r = {operation} %a, %c : f32\n    linalg.yield %r : f32")
        lines.append("  } -> tensor<?xf32>")

    lines += ["%zero = arith.constant 0.0 : f32", "%low = arith.constant 0xFF800000 : f32"]
    lines.append("%i0 = arith.constant 0 : index")
    lines.append(f"%n = tensor.dim %x, %i0 : tensor<?x{FEATURES}xf32>")
    product("p", "x", "w1", FEATURES, HIDDEN)
    relu = "    %s = arith.addf %a, %b : f32\n    %r = arith.maximumf %s, %zero : f32"
    pointwise("h", "p", "b1", HIDDEN, False, relu)
    product("q", "h", "w2", HIDDEN, CLASSES)
    pointwise("l", "q", "b2", CLASSES, False, "    %r = arith.addf %a, %b : f32")
    reduction("m", "l", CLASSES, "low", "arith.maximumf")
    pointwise("e", "l", "m", CLASSES, True, "    %s = arith.subf %a, %b : f32\n    %r = math.exp %s : f32")
    reduction("t", "e", CLASSES, "zero", "arith.addf")
    pointwise("y", "e", "t", CLASSES, True, "    %r = arith.divf %a, %b : f32")
    body = "\n".join(f"  {line}" for line in lines)
    kind, result = f"tensor<?x{FEATURES}xf32>", f"tensor<?x{CLASSES}xf32>"
    return f"func.func @f(%x: {kind}) -> {result} {{\n{body}\n  return %y : {result}\n}}\n"

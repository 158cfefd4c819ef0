"""Tile IR as PTX: assembled for every GPU target without spills or advisories, and executed on the emulator, which
looks for races, stray accesses and uninitialised memory, against the Tile interpreter."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from tesseracc.arch.arch import load, names
from tesseracc.codegen.image import Image, build_images
from tesseracc.emulator import Counters, GlobalMemory, Report, TensorMap, launch, parse_ptx
from tesseracc.interpret import tile
from tesseracc.interpret.binding import evaluate_dim, solve_dims
from tesseracc.interpret.tile_memory import Memory
from tesseracc.ir.parser import parse_module
from tesseracc.ir.pipeline import Context, run_pipeline
from tesseracc.ir.value import Func, Module
from tesseracc.ir.verify import verify
from tesseracc.passes import pipelines
from tests.passes.schedule.test_to_tile import CASES, lowered

Array = np.ndarray[Any, Any]
GPUS = [name for name in names() if load(name).kind == "cuda"]
HEAD = """tile.kernel @k(%x: buf<f32[N], global>, %y: buf<f32[N], global>) {access = ["read", "write"],
    grid = [<ceildiv(N, 128)>], group = 128, symbols = ["N"]} {
  %i = tile.linear_id : lanes<i64>
  %l = tile.local_id : lanes<i64>
  %n = tile.dim {expr = <N>} : i64
  %m = tile.splat %n : lanes<i64>
  %c = arith.cmp %i, %m {pred = "lt"} : lanes<bool>
  %v = tile.load %x, [%i], where %c : lanes<f32>
"""
KERNELS = {
    "branches that merge": """
  %zero = arith.constant {value = 0.0} : lanes<f32>
  %p = arith.cmp %v, %zero {pred = "gt"} : lanes<bool>
  %r = tile.if %p () {
    %a = arith.add %v, %v : lanes<f32>
    yield %a
  } () {
    %b = arith.neg %v : lanes<f32>
    yield %b
  } : lanes<f32>
  tile.store %r, %y, [%i], where %c
}
""",
    "a loop with bounds per lane": """
  %zero = arith.constant {value = 0} : lanes<i64>
  %one = arith.constant {value = 1} : lanes<i64>
  %start = arith.constant {value = 0.0} : lanes<f32>
  %s = tile.for %zero, %l, %one, [%start] (%k: lanes<i64>, %acc: lanes<f32>) {
    %q = arith.cast %k {to = "f32"} : lanes<f32>
    %t = arith.add %acc, %q : lanes<f32>
    yield %t
  } : lanes<f32>
  %w = arith.add %s, %v : lanes<f32>
  tile.store %w, %y, [%i], where %c
}
""",
    "while until every lane is done": """
  %limit = arith.constant {value = 100.0} : lanes<f32>
  %two = arith.constant {value = 2.0} : lanes<f32>
  %a = arith.abs %v : lanes<f32>
  %b = arith.add %a, %two : lanes<f32>
  %r = tile.while %b (%g: lanes<f32>) {
    %h = arith.cmp %g, %limit {pred = "lt"} : lanes<bool>
    yield %h
  } (%g2: lanes<f32>) {
    %j = arith.mul %g2, %two : lanes<f32>
    yield %j
  } : lanes<f32>
  tile.store %r, %y, [%i], where %c
}
""",
    "neighbours through shared memory": """
  %s = tile.alloc : buf<f32[128], shared>
  tile.store %v, %s, [%l]
  tile.barrier
  %last = arith.constant {value = 127} : lanes<i64>
  %o = arith.sub %last, %l : lanes<i64>
  %r = tile.load %s, [%o] : lanes<f32>
  tile.store %r, %y, [%i], where %c
}
""",
    "the sum of the group in every lane": """
  %t = tile.reduce %v {kind = "add"} : f32
  %u = tile.splat %t : lanes<f32>
  %t2 = tile.reduce %u {kind = "max"} : f32
  %w = tile.splat %t2 : lanes<f32>
  %r = arith.add %w, %v : lanes<f32>
  tile.store %r, %y, [%i], where %c
}
""",
    "an array of its own for every lane": """
  %a = tile.alloc : buf<f32[3], local>
  %k0 = arith.constant {value = 0} : i64
  %k1 = arith.constant {value = 1} : i64
  tile.store %v, %a, [%k0]
  %d = arith.add %v, %v : lanes<f32>
  tile.store %d, %a, [%k1]
  %g = tile.load %a, [%k0] : lanes<f32>
  %h = tile.load %a, [%k1] : lanes<f32>
  %r = arith.mul %g, %h : lanes<f32>
  tile.store %r, %y, [%i], where %c
}
""",
}


_targets: dict[str, Module] = {}  # what an image was made of, by its code


def compiled(module: Module, name: str) -> Image:
    arch = load(name)
    target = run_pipeline(pipelines.TARGET["cuda"], module, Context(arch))
    image = build_images([(target, arch)])[0]
    _targets[image.ptx] = target
    return image


def versions(image: Image, kernel: Func) -> list[Func]:
    """The functions that a kernel became: for clusters, with tensor copies, if there are any, and the general one."""
    names = (f"{kernel.name}__cluster", f"{kernel.name}__tensor", kernel.name)
    return [f for f in _targets[image.ptx].of_kind("target.func") if f.name in names]


def run(module: Module, kernel: Func, image: Image, args: list[Any], symbols: dict[str, int]) -> tuple[str, Counters]:
    """Launches one kernel on the emulator; arrays change in place; any finding fails the test.

    The version with tensor copies runs where the shapes allow it. Gives the name of what ran, and its counters.
    """
    found = attempt(kernel, image, args, symbols)
    if found is None:
        return "", Counters()
    name, report = found
    assert not report.findings, [f.render() for f in report.findings]
    return name, report.counters


def attempt(
    kernel: Func, image: Image, args: list[Any], symbols: dict[str, int], *, ptx: str = "", blocks: int = 0,
    version: str = "", **options: Any,
) -> tuple[str, Report] | None:  # fmt: skip
    """A launch of a kernel, of another text if one is given, whatever comes of it; None for an empty grid.

    `blocks` are launched of a kernel that loops over its work, if it would have more (pairs of them, where it is made
    for pairs); `version` is the one that runs, if not the best for the sizes.
    """
    memory = GlobalMemory()
    addresses = {i: memory.alloc(a.nbytes) for i, a in enumerate(args) if isinstance(a, np.ndarray) and a.ndim}
    for i, address in addresses.items():
        memory.write(address, args[i])
    chosen, maps = versions(image, kernel)[-1], []
    for found in versions(image, kernel):
        if version not in ("", found.name) or (found.attrs.get("cluster") and not takes_pairs(kernel, found, symbols)):
            continue
        try:
            maps = [tensor_map(args, addresses, m) for m in found.attrs.get("maps", ())]
        except ValueError:
            continue
        chosen = found
        break
    grid = [evaluate_dim(d, symbols) for d in chosen.attrs["grid"]]
    if 0 in grid:
        return None
    if blocks:
        assert "nctaid" in text_of(ptx or image.ptx, chosen.name)
        grid[0] = min(grid[0], blocks * chosen.attrs.get("cluster", (1,))[0])
    x, y, z = *grid, *[1] * (3 - len(grid))
    given = [np.int64(addresses[i]) if i in addresses else a for i, a in enumerate(args)]
    values = [*given, *(np.int64(symbols[s]) for s in kernel.attrs["symbols"]), *maps]
    shared = int(chosen.attrs.get("dynamic_shared", 0))
    report = launch(
        parse_ptx(ptx or image.ptx), chosen.name, (x, y, z), (int(chosen.attrs["group"]), 1, 1), values,
        memory=memory, dynamic_shared=shared, **options,
    )  # fmt: skip
    for i, address in addresses.items():
        args[i].reshape(-1).view(np.uint8)[:] = np.frombuffer(memory.read(address, args[i].nbytes), np.uint8)
    return chosen.name, report


def takes_pairs(kernel: Func, version: Func, symbols: dict[str, int]) -> bool:
    """Whether the launch has an even number of blocks along the axis that pairs are made along."""
    blocks, axis = version.attrs["cluster"]
    return evaluate_dim(kernel.attrs["grid"][axis], symbols) % blocks == 0


def text_of(ptx: str, name: str) -> str:
    """The text of one kernel."""
    return next(part for part in ptx.split(".entry ")[1:] if part.startswith(f"{name}("))


def tensor_map(args: list[Any], addresses: dict[int, int], entry: tuple[int, int, tuple[int, ...]]) -> bytes:
    """The map of a row-major tensor. ValueError where the hardware has none."""
    param, span, box = entry
    array = args[param]
    kind = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}
    name = kind[array.dtype.name] if array.itemsize > 1 else "u8"
    strides = array.strides[:-1][::-1]
    return TensorMap(name, addresses[param], array.shape[::-1], strides, box[::-1], swizzle=span).encode()


@cache
def case(name: str) -> tuple[Module, Image]:
    module = lowered(CASES[name][0], "sm_90")
    return module, compiled(module, "sm_90")


@pytest.mark.parametrize("name", sorted(CASES))
def test_strategies_on_the_emulator(name: str) -> None:
    module, image = case(name)
    program, kernel = module.func("f"), module.of_kind("tile.kernel")[0]
    rng = np.random.default_rng(17)
    for shapes in CASES[name][2]:
        inputs: list[Any] = [rng.standard_normal(s).astype(np.float32) for s in shapes]
        expected = tile.run(module, "f", inputs)
        found = [np.full(e.shape, 7, e.dtype) for e in expected]
        symbols = solve_dims([p.type.dims for p in program.params], [x.shape for x in inputs])  # type: ignore[union-attr]
        run(module, kernel, image, [*inputs, *(x.reshape(-1) for x in found)], symbols)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-6)  # exp differs from NumPy's by an ulp


@cache
def kernel_of(name: str) -> tuple[Module, Image]:
    module = verify(parse_module(HEAD + KERNELS[name]))
    return module, compiled(module, "sm_90")


@pytest.mark.parametrize("n", [0, 1, 127, 128, 129, 300])
@pytest.mark.parametrize("name", sorted(KERNELS))
def test_kernels_on_the_emulator(name: str, n: int) -> None:
    module, image = kernel_of(name)
    kernel = module.func("k")
    x = np.random.default_rng(n).standard_normal(n).astype(np.float32)
    expected, found = np.zeros_like(x), np.zeros_like(x)
    tile.run_kernel(kernel, [Memory(x, None), Memory(expected, None)], {"N": n})
    run(module, kernel, image, [x, found], {"N": n})
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("arch", GPUS)
def test_assembles_everywhere(arch: str) -> None:
    for name in CASES:
        image = compiled(lowered(CASES[name][0], arch), arch)
        assert image.findings == (), (name, image.findings)
        assert all(k.spill_stores == k.spill_loads == k.stack == 0 for k in image.kernels), name


def test_shared_memory_beyond_the_limit_is_an_error() -> None:
    text = HEAD + KERNELS["neighbours through shared memory"].replace("f32[128], shared", "f32[60000], shared")
    with pytest.raises(Exception, match=r"E541.*240000 bytes") as caught:
        compiled(verify(parse_module(text)), "sm_90")
    assert getattr(caught.value, "code", "") == "E541"


def test_a_finding_names_the_line_of_the_program() -> None:
    lines = (HEAD + KERNELS["neighbours through shared memory"]).splitlines()
    placed = (f'{t} loc("user.py":{i}:0:9)' if " = tile." in t else t for i, t in enumerate(lines, 1))
    text = "\n".join(placed).replace("  tile.barrier\n", "")
    module = verify(parse_module(text))
    module = module.with_(funcs=(module.funcs[0].with_(loc=next(o.loc for o in module.funcs[0].walk() if o.loc)),))
    image = compiled(module, "sm_90")
    x = np.ones(128, np.float32)
    report = launch(parse_ptx(image.ptx), "k", (1, 1, 1), (128, 1, 1), [x, x.copy(), np.int64(128)])
    read = next(i for i, line in enumerate(lines, 1) if "%r = tile.load %s" in line)
    assert any("user.py:" + str(read) in f.render() for f in report.findings), [f.render() for f in report.findings]

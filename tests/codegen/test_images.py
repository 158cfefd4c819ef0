"""CPU images: what they compute, how they are loaded, and what is refused."""

from __future__ import annotations

import ctypes
import mmap
import re
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tessera_runtime.core.errors import TesseraError
from tesseracc.arch import default_cpu_levels, load
from tesseracc.codegen.elf import PAGE, link_image, read_image
from tesseracc.codegen.host import compile_cpu
from tesseracc.codegen.pool import Request, compile_many
from tests.codegen.codegen_samples import COEFFICIENTS, micro_kernel, polynomial

ROWS = 3


def _runs_here(name: str) -> bool:
    info = Path("/proc/cpuinfo").read_text()
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", info, re.MULTILINE)
    return flags is not None and set(load(name).requires) <= set(flags.group(1).split())


LEVELS = default_cpu_levels()
RUNNABLE = [name for name in LEVELS if _runs_here(name)]


def _module(name: str) -> str:
    """Constant-pool code on every level, and FMA where the level has it."""
    arch = load(name)
    lanes = arch.vector_bits // 32
    return polynomial(lanes) + (micro_kernel(ROWS, lanes) if arch.has("fma") else "")


def _image(name: str, ir: str, *more: str) -> bytes:
    arch = load(name)
    return link_image([compile_cpu(text, arch) for text in (ir, *more)], arch.toolchain.machine)


class _Copied:
    """An image loaded as the runtime does it: copied to fresh pages, which are then made executable."""

    def __init__(self, image: bytes) -> None:
        self.memory = mmap.mmap(-1, len(image), prot=mmap.PROT_READ | mmap.PROT_WRITE)
        self.memory[:] = image
        self.symbols = read_image(image)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        assert protect(self.start, len(image), mmap.PROT_READ | mmap.PROT_EXEC) == 0

    def address(self, name: str) -> int:
        return self.start + self.symbols[name]


class _Opened:
    """An image loaded by dlopen."""

    def __init__(self, image: bytes, folder: Path) -> None:
        path = folder / "image.so"
        path.write_bytes(image)
        self.library = ctypes.CDLL(str(path))

    def address(self, name: str) -> int:
        found = ctypes.cast(getattr(self.library, name), ctypes.c_void_p).value
        assert found is not None
        return found


def _call(address: int, *arguments: np.ndarray | int) -> None:
    kinds = [ctypes.c_void_p if isinstance(item, np.ndarray) else ctypes.c_int64 for item in arguments]
    values = [item.ctypes.data if isinstance(item, np.ndarray) else item for item in arguments]
    ctypes.CFUNCTYPE(None, *kinds)(address)(*values)


def test_this_machine_runs_something() -> None:
    assert RUNNABLE


@pytest.mark.parametrize("how", ["copied", "opened"])
@pytest.mark.parametrize("name", RUNNABLE)
def test_image_computes(name: str, how: str, tmp_path: Path) -> None:
    image = _image(name, _module(name))
    loaded = _Copied(image) if how == "copied" else _Opened(image, tmp_path)
    lanes = load(name).vector_bits // 32
    random = np.random.default_rng(7)

    x = random.standard_normal(5 * lanes).astype(np.float32)
    y = np.full_like(x, np.nan)
    _call(loaded.address("poly"), x, y, x.size)
    scale = np.tile(1 + np.arange(lanes), 5)
    c0, c1, c2, c3 = ((np.float64(c) * scale).astype(np.float32) for c in COEFFICIENTS)
    # Every operation of the kernel rounds once, so NumPy in f32 gives the same bits.
    assert np.array_equal(y, ((c3 * x + c2) * x + c1) * x + c0)

    if load(name).has("fma"):
        a = random.standard_normal((10, ROWS)).astype(np.float32)
        b = random.standard_normal((10, lanes)).astype(np.float32)
        c = np.full((ROWS, lanes), np.nan, np.float32)
        _call(loaded.address("micro"), a, b, c, 10)
        exact = a.T.astype(np.float64) @ b.astype(np.float64)
        bound = 10 * 2.0**-24 * (np.abs(a).T.astype(np.float64) @ np.abs(b).astype(np.float64))
        assert np.all(np.abs(c - exact) <= bound)


@pytest.mark.parametrize("opt", [0, 1, 2, 3])
def test_every_optimisation_level_computes_the_same(opt: int) -> None:
    name = RUNNABLE[0]
    arch = load(name)
    lanes = arch.vector_bits // 32
    loaded = _Copied(link_image([compile_cpu(polynomial(lanes), arch, opt=opt)], arch.toolchain.machine))
    x = np.random.default_rng(11).standard_normal(3 * lanes).astype(np.float32)
    y = np.full_like(x, np.nan)
    _call(loaded.address("poly"), x, y, x.size)
    scale = np.tile(1 + np.arange(lanes), 3)
    c0, c1, c2, c3 = ((np.float64(c) * scale).astype(np.float32) for c in COEFFICIENTS)
    assert np.array_equal(y, ((c3 * x + c2) * x + c1) * x + c0)


@pytest.mark.parametrize("name", LEVELS)
def test_image_is_as_specified(name: str) -> None:
    image = _image(name, _module(name))
    page = PAGE[load(name).toolchain.machine]
    count = struct.unpack_from("<H", image, 56)[0]
    segments = [struct.unpack_from("<IIQQQQQQ", image, 64 + 56 * i) for i in range(count)]
    loaded = [segment for segment in segments if segment[0] == 1]
    assert [segment[1] for segment in loaded] == [4, 5, 6]
    for _, _, offset, address, _, size, memory, alignment in loaded:
        assert offset == address and size == memory and alignment == page and offset % page == 0
    assert [segment[1] for segment in segments if segment[0] == 0x6474E551] == [6]
    dynamic = next(segment for segment in segments if segment[0] == 2)
    tags = [tag for tag, _ in struct.iter_unpack("<QQ", image[dynamic[2] : dynamic[2] + dynamic[5]])]
    assert not set(tags) & {1, 7, 17, 20, 22, 23}  # nothing needed, no relocations
    symbols = read_image(image)
    assert set(symbols) == ({"poly", "micro"} if load(name).has("fma") else {"poly"})
    code = loaded[1]
    assert all(code[2] <= offset < code[2] + code[5] for offset in symbols.values())


def test_wide_vectors_are_used() -> None:
    tool = load("x86-64-v4").toolchain
    request = Request(micro_kernel(14, 32), tool.triple, tool.cpu, tool.features, "assembly")
    assembly = compile_many([request])[0].data.decode()
    fused = re.findall(r"vfmadd\w+ps\t.*", assembly)
    assert len(fused) == 2 * 14 * 2 and all("zmm" in line for line in fused)
    assert not re.search(r"zmm.*\(%rsp\)", assembly)  # 28 accumulators, 2 vectors of b: no spills


@pytest.mark.parametrize("name", LEVELS)
def test_image_is_reproducible(name: str) -> None:
    assert _image(name, _module(name)) == _image(name, _module(name))


def test_binutils_read_the_image(tmp_path: Path) -> None:
    tools = [tool for tool in ("readelf", "objdump") if shutil.which(tool)]
    path = tmp_path / "image.so"
    path.write_bytes(_image("x86-64-v3", _module("x86-64-v3")))
    for tool in tools:
        command = [tool, "-Wa" if tool == "readelf" else "-d", str(path)]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        assert not run.stderr and "poly" in run.stdout and "micro" in run.stdout
        if tool == "objdump":
            assert re.search(r"vfmadd\d+ps .*ymm", run.stdout)
        else:
            assert "There are no relocations in this file" in run.stdout
    assert read_image(path.read_bytes())  # where neither tool is installed this is all there is


CALLER = """
declare float @twice(float)
define float @four(float %x) {
  %a = call float @twice(float %x)
  %b = call float @twice(float %a)
  ret float %b
}
"""
TWICE = "define float @twice(float %x) {\n  %y = fmul float %x, 2.0\n  ret float %y\n}\n"


@pytest.mark.parametrize("name", LEVELS)
def test_objects_call_each_other(name: str) -> None:
    image = _image(name, CALLER, TWICE)
    assert set(read_image(image)) == {"four", "twice"}
    if name in RUNNABLE:
        loaded = _Copied(image)
        assert ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_float)(loaded.address("four"))(1.25) == 5.0


# Functions and data of another object, not marked `dso_local`, in all the ways that LLVM has to refer to them.
THROUGH_TABLE = """
declare float @twice(float)
declare float @far(float) nonlazybind
@table = external constant [4 x float]
define ptr @give() {
  ret ptr @twice
}
define float @pick(i64 %i) {
  %p = getelementptr float, ptr @table, i64 %i
  %v = load float, ptr %p
  ret float %v
}
define float @tail(float %x) nounwind {
  %y = musttail call float @far(float %x)
  ret float %y
}
define float @through(float %x) nounwind {
  %y = call float @far(float %x)
  %z = fadd float %y, 1.0
  ret float %z
}
"""
THROUGH_TABLE_TARGETS = (
    TWICE
    + """
@table = constant [4 x float] [float 1.0, float 2.5, float -3.0, float 8.0]
define float @far(float %x) {
  %y = fmul float %x, 0.5
  ret float %y
}
"""
)


@pytest.mark.parametrize("name", LEVELS)
def test_addresses_of_functions_through_the_global_offset_table(name: str) -> None:
    image = _image(name, THROUGH_TABLE, THROUGH_TABLE_TARGETS)
    assert {"give", "pick", "twice", "far", "tail", "through"} == set(read_image(image))
    if name in RUNNABLE:
        loaded = _Copied(image)
        given = ctypes.CFUNCTYPE(ctypes.c_void_p)(loaded.address("give"))()
        assert given == loaded.address("twice")
        pick = ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_int64)(loaded.address("pick"))
        assert [pick(i) for i in range(4)] == [1.0, 2.5, -3.0, 8.0]
        unary = ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_float)
        assert unary(loaded.address("tail"))(3.0) == 1.5 and unary(loaded.address("through"))(3.0) == 2.5


def test_shared_helpers_are_kept_once() -> None:
    helper = "$h = comdat any\ndefine linkonce_odr hidden float @h(float %x) noinline comdat {\n"
    helper += "  %y = fmul float %x, 3.0\n  ret float %y\n}\n"

    def user(name: str) -> str:
        return helper + f"define float @{name}(float %x) {{\n  %y = call float @h(float %x)\n  ret float %y\n}}\n"

    one, two = _image(RUNNABLE[0], user("f")), _image(RUNNABLE[0], user("f"), user("g"))
    assert set(read_image(one)) == {"f"} and set(read_image(two)) == {"f", "g"}
    loaded = _Copied(two)
    for name in ("f", "g"):
        assert ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_float)(loaded.address(name))(2.0) == 6.0


CALLS_EXPF = (
    "declare float @expf(float)\ndefine float @f(float %x) {\n %y = call float @expf(float %x)\n ret float %y\n}"
)
READS_N = "\ndefine i32 @f() {\n %v = load i32, ptr @n\n ret i32 %v\n}"
HOLDS_ADDRESS = "@n = constant ptr @g\ndefine ptr @g() {\n %v = load volatile ptr, ptr @n\n ret ptr %v\n}"


@pytest.mark.parametrize(
    ("name", "ir", "code", "says"),
    [
        ("x86-64-v2", CALLS_EXPF, "E521", "expf"),
        ("aarch64", CALLS_EXPF, "E521", "expf"),
        ("x86-64-v2", micro_kernel(1, 4), "E521", "fmaf"),
        ("x86-64-v3", "@n = global i32 1" + READS_N, "E522", ".data"),
        ("x86-64-v3", "@n = global i32 0" + READS_N, "E522", ".bss"),
        ("x86-64-v3", HOLDS_ADDRESS, "E522", ".data.rel.ro"),
        ("x86-64-v3", "@n = thread_local global i32 5" + READS_N, "E522", "per-thread"),
    ],
)
def test_what_an_image_cannot_hold(name: str, ir: str, code: str, says: str) -> None:
    with pytest.raises(TesseraError) as caught:
        _image(name, ir)
    assert caught.value.code == code and says in caught.value.message and caught.value.exit_code == 4


def test_the_same_function_twice() -> None:
    with pytest.raises(TesseraError, match="twice is defined in object 0 and in object 1") as caught:
        _image("x86-64-v3", TWICE, TWICE)
    assert caught.value.code == "E524"


def test_loops_do_not_become_library_calls() -> None:
    clear = """define void @clear(ptr noalias %p, i64 %n) {
entry:
  %some = icmp sgt i64 %n, 0
  br i1 %some, label %loop, label %exit
loop:
  %i = phi i64 [0, %entry], [%j, %loop]
  %q = getelementptr i8, ptr %p, i64 %i
  store i8 0, ptr %q
  %j = add nuw nsw i64 %i, 1
  %more = icmp slt i64 %j, %n
  br i1 %more, label %loop, label %exit
exit:
  ret void
}
"""
    for opt in (1, 2, 3):
        arch = load("x86-64-v3")
        assert read_image(link_image([compile_cpu(clear, arch, opt=opt)], arch.toolchain.machine))


def test_damaged_objects_are_refused() -> None:
    arch = load("x86-64-v3")
    good = compile_cpu(_module("x86-64-v3"), arch)
    for bad in (b"", b"hello", good[:40], good[:-80], b"\x7fELF" + good[3:], good[:0x28] + b"\xff" * 8 + good[0x30:]):
        with pytest.raises(TesseraError) as caught:
            link_image([bad], "x86-64")
        assert caught.value.code == "E520"
    with pytest.raises(TesseraError, match="machine"):
        link_image([good], "aarch64")


def test_altered_images_are_refused() -> None:
    image = _image("x86-64-v3", _module("x86-64-v3"))
    code_start, _, _, code_size = struct.unpack_from("<4Q", image, 64 + 56 + 8)
    random = np.random.default_rng(3)
    # What an image says is its code and, for each symbol, the last 16 of 24 bytes: offset and size. All else is form.
    symbols = 64 + 5 * 56
    said = {symbols + 24 * index + byte for index in (1, 2) for byte in range(8, 24)}
    said.update(range(code_start, code_start + code_size))
    outside = [i for i in range(len(image)) if i not in said]
    for at in [*range(symbols), *(outside[int(i)] for i in random.integers(0, len(outside), 300))]:
        altered = bytearray(image)
        altered[at] ^= 1 << int(random.integers(8))
        with pytest.raises(TesseraError) as caught:
            read_image(bytes(altered))
        assert caught.value.code == "E525"
    for bad in (b"", image[:100], image[:-1], image + b"\0"):
        with pytest.raises(TesseraError):
            read_image(bad)

"""The NVIDIA driver from compiled code: finding its library and its calls, one module for the process, in LLVM IR.

What a library keeps between calls is one writable block of 64-bit words, zero at first. A lock guards its making; a
call that finds it made takes no lock. Nothing is kept of an attempt that fails but which device was asked for, so the
next call tries again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tessera_runtime.core.manifest import Target
from tessera_runtime.devices.cuda import INTEGRATED
from tesseracc.native.sizes import Body

__all__ = ["CALLS", "CODES", "IMPORTS", "NEEDED", "Words", "call", "driver_text", "test", "word"]

NEEDED = "libc.so.6"
IMPORTS = ("dlclose", "dlopen", "dlsym", "sched_yield")
#: return codes beside those of every library
CODES = {
    "DRIVER": (4, "there is no NVIDIA driver that serves, or no GPU"),
    "DEVICE": (5, "the library has no code for this GPU"),
    "MEMORY": (6, "the GPU's memory ran out"),
    "FAULT": (7, "a call of the NVIDIA driver failed"),
}
#: what is asked of the driver, by the names that its library exports
CALLS = (
    "cuInit", "cuDeviceGet", "cuDeviceGetAttribute", "cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRelease_v2",
    "cuCtxPushCurrent_v2", "cuCtxPopCurrent_v2", "cuCtxSynchronize", "cuModuleLoadData", "cuModuleUnload",
    "cuModuleGetFunction", "cuFuncSetAttribute", "cuMemAlloc_v2", "cuMemFree_v2", "cuMemcpyHtoD_v2",
    "cuMemcpyDtoH_v2", "cuMemcpyDtoD_v2", "cuLaunchKernel",
)  # fmt: skip
MAPS = "cuTensorMapEncodeTiled"  # of CUDA 12: asked for where kernels have maps
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, MINOR
_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_DEFAULT_SHARED = 48 << 10
_OUT_OF_MEMORY = 2
_NOW = 2  # RTLD_NOW


class Words:
    """The numbers of the block's words."""

    LOCK, ORDINAL, READY, TARGET, LIBRARY, DEVICE, CONTEXT, MODULE, CONSTANTS, FIRST = range(10)
    FUNCTIONS = FIRST + len(CALLS) + 1


class Code(NamedTuple):
    """A target, and the symbol of its image."""

    target: Target
    image: str


def word(number: int) -> str:
    """The address of a word of the block."""
    return f"getelementptr (i64, ptr @tessera.block, i64 {number})"


def call(body: Body, name: str, arguments: str) -> str:
    """Call the driver; the result's number as an i32."""
    number = len(CALLS) if name == MAPS else CALLS.index(name)
    function = body.value(f"load ptr, ptr {word(Words.FIRST + number)}, align 8")
    return body.value(f"call i32 {function}({arguments})")


def test(body: Body, result: str, to: str) -> None:
    """Go to the label `to` with the code of `result` in %status where that is not 0."""
    good = body.label("good")
    code = body.value(f"call i32 @tessera.code(i32 {result})")
    body.line(f"store i32 {code}, ptr %status, align 4")
    body.line(f"br i1 {body.value(f'icmp eq i32 {code}, 0')}, label %{good}, label %{to}")
    body.line(f"{good}:")


def _load(body: Body, number: int, kind: str = "ptr") -> str:
    return body.value(f"load {kind}, ptr {word(number)}, align 8")


def _zeroed(text: str) -> str:
    """The initializer of a text that ends in a zero byte."""
    return "".join(f"\\{byte:02X}" for byte in text.encode() + b"\0")


class _Texts:
    """Names as constants of the module."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        return self._known.setdefault(text, f"@name.{len(self._known)}")

    def __str__(self) -> str:
        return "".join(
            f'{name} = private constant [{len(text.encode()) + 1} x i8] c"{_zeroed(text)}"\n'
            for text, name in self._known.items()
        )


def driver_text(codes: Sequence[Code], library: str, constants: Mapping[str, int]) -> str:
    """`i32 tessera.open()`: make everything ready, once; `tessera.close()`: give everything back.

    `constants` gives the symbol of the constants' bytes and how many there are, or nothing. Words beyond those of the
    driver are the kernels, of the target whose number is in TARGET.
    """
    texts = _Texts()
    parts = [_HELPERS, *(f"@{code.image} = external hidden constant i8, align 64\n" for code in codes)]
    parts += [f"@{symbol} = external hidden constant i8, align 64\n" for symbol in constants]
    parts += [_OPEN, _find(codes, library, texts), _select(codes)]
    parts += [_loading(code, number, constants, texts) for number, code in enumerate(codes)]
    parts += [_release()]
    return "\n".join([*parts, str(texts)])


_HELPERS = f"""
@tessera.block = external hidden global i8, align 64
@tessera.slot.dlclose = external hidden global ptr, align 8
@tessera.slot.dlopen = external hidden global ptr, align 8
@tessera.slot.dlsym = external hidden global ptr, align 8
@tessera.slot.sched_yield = external hidden global ptr, align 8

define internal i32 @tessera.code(i32 %result) nounwind {{
  %memory = icmp eq i32 %result, {_OUT_OF_MEMORY}
  %code = select i1 %memory, i32 {CODES["MEMORY"][0]}, i32 {CODES["FAULT"][0]}
  %good = icmp eq i32 %result, 0
  %all = select i1 %good, i32 0, i32 %code
  ret i32 %all
}}
"""


_OPEN = f"""
define internal i32 @tessera.open() nounwind {{
entry:
  %before = load atomic i64, ptr {word(Words.READY)} acquire, align 8
  %made = icmp ne i64 %before, 0
  br i1 %made, label %good, label %spin
spin:
  %pair = cmpxchg ptr {word(Words.LOCK)}, i64 0, i64 1 acquire monotonic
  %mine = extractvalue {{ i64, i1 }} %pair, 1
  br i1 %mine, label %locked, label %wait
wait:
  %yield = load ptr, ptr @tessera.slot.sched_yield, align 8
  %ignored = call i32 %yield()
  br label %spin
locked:
  %again = load atomic i64, ptr {word(Words.READY)} acquire, align 8
  %meanwhile = icmp ne i64 %again, 0
  br i1 %meanwhile, label %unlock, label %make
make:
  %status = call i32 @tessera.find()
  %fine = icmp eq i32 %status, 0
  br i1 %fine, label %publish, label %undo
publish:
  store atomic i64 1, ptr {word(Words.READY)} release, align 8
  br label %unlock
undo:
  call void @tessera.release()
  store atomic i64 0, ptr {word(Words.LOCK)} release, align 8
  ret i32 %status
unlock:
  store atomic i64 0, ptr {word(Words.LOCK)} release, align 8
  br label %good
good:
  ret i32 0
}}
"""


def _find(codes: Sequence[Code], library: str, texts: _Texts) -> str:
    """The library, its calls, the device, the code for it, a context with the code in it."""
    body, no = Body({}), f"i32 {CODES['DRIVER'][0]}"
    number = body.value("alloca i32, align 4")
    minor = body.value("alloca i32, align 4")
    opener = body.value("load ptr, ptr @tessera.slot.dlopen, align 8")
    handle = body.value(f"call ptr {opener}(ptr {texts(library)}, i32 {_NOW})")
    body.leave(body.value(f"icmp eq ptr {handle}, null"), no)
    body.line(f"store ptr {handle}, ptr {word(Words.LIBRARY)}, align 8")
    finder = body.value("load ptr, ptr @tessera.slot.dlsym, align 8")
    maps = any(kernel.maps for code in codes for kernel in code.target.kernels)
    for place, name in enumerate((*CALLS, MAPS) if maps else CALLS):
        found = body.value(f"call ptr {finder}(ptr {handle}, ptr {texts(name)})")
        body.leave(body.value(f"icmp eq ptr {found}, null"), no)
        body.line(f"store ptr {found}, ptr {word(Words.FIRST + place)}, align 8")
    body.leave(_failed(body, call(body, "cuInit", "i32 0")), no)
    ordinal = body.value(f"load i32, ptr {word(Words.ORDINAL)}, align 8")
    body.leave(_failed(body, call(body, "cuDeviceGet", f"ptr {number}, i32 {ordinal}")), no)
    device = body.value(f"load i32, ptr {number}, align 4")
    body.line(f"store i32 {device}, ptr {word(Words.DEVICE)}, align 8")
    body.leave(_failed(body, call(body, "cuDeviceGetAttribute", f"ptr {number}, i32 {_MAJOR}, i32 {device}")), no)
    body.leave(_failed(body, call(body, "cuDeviceGetAttribute", f"ptr {minor}, i32 {_MINOR}, i32 {device}")), no)
    having = [body.value(f"load i32, ptr {each}, align 4") for each in (number, minor)]
    chosen = body.value(f"call i32 @tessera.select(i32 {having[0]}, i32 {having[1]})")
    body.leave(body.value(f"icmp slt i32 {chosen}, 0"), f"i32 {CODES['DEVICE'][0]}")
    body.line(f"store i64 {body.value(f'zext i32 {chosen} to i64')}, ptr {word(Words.TARGET)}, align 8")
    retained = call(body, "cuDevicePrimaryCtxRetain", f"ptr {word(Words.CONTEXT)}, i32 {device}")
    body.leave(_failed(body, retained), f"i32 {body.value(f'call i32 @tessera.code(i32 {retained})')}")
    pushed = call(body, "cuCtxPushCurrent_v2", f"ptr {_load(body, Words.CONTEXT)}")
    body.leave(_failed(body, pushed), f"i32 {body.value(f'call i32 @tessera.code(i32 {pushed})')}")
    status = body.value("alloca i32, align 4")
    body.line(f"switch i32 {chosen}, label %done [ " + " ".join(
        f"i32 {n}, label %load.{n}" for n in range(len(codes))) + " ]")  # fmt: skip
    for n in range(len(codes)):
        body.line(f"load.{n}:")
        body.line(f"store i32 {body.value(f'call i32 @tessera.load.{n}()')}, ptr {status}, align 4")
        body.line("br label %done")
    body.line("done:")
    call(body, "cuCtxPopCurrent_v2", f"ptr {body.value('alloca ptr, align 8')}")
    body.line(f"ret i32 {body.value(f'load i32, ptr {status}, align 4')}")
    return _function("i32 @tessera.find()", body)


def _select(codes: Sequence[Code]) -> str:
    """The rule of bundles: of the targets that run there, the one of highest preference; -1 for none."""
    body, value = Body({}), "-1"
    for number, code in sorted(enumerate(codes), key=lambda c: (c[1].target.preference, c[1].target.name)):
        needed = code.target.capability
        assert needed is not None, "targets of cuda have one"
        same = body.value(f"icmp eq i32 %major, {needed.major}")
        alone = needed.match == "exact" or (needed.match == "minor" and (needed.major, needed.minor) in INTEGRATED)
        later = body.value(f"icmp {'eq' if alone else 'sge'} i32 %minor, {needed.minor}")
        runs = body.value(f"and i1 {same}, {later}")
        if needed.match == "minor" and not alone:
            for other in sorted(minor for major, minor in INTEGRATED if major == needed.major):
                runs = body.value(f"and i1 {runs}, {body.value(f'icmp ne i32 %minor, {other}')}")
        if needed.match == "forward":
            runs = body.value(f"or i1 {runs}, {body.value(f'icmp sgt i32 %major, {needed.major}')}")
        value = body.value(f"select i1 {runs}, i32 {number}, i32 {value}")
    body.line(f"ret i32 {value}")
    return _function("i32 @tessera.select(i32 %major, i32 %minor)", body)


def _loading(code: Code, number: int, constants: Mapping[str, int], texts: _Texts) -> str:
    """The module, its kernels, and the constants in the device's memory."""
    body = Body({})
    body.line("%status = alloca i32, align 4")
    test(body, call(body, "cuModuleLoadData", f"ptr {word(Words.MODULE)}, ptr @{code.image}"), "end")
    module = _load(body, Words.MODULE)
    for place, kernel in enumerate(code.target.kernels):
        at = Words.FUNCTIONS + place
        arguments = f"ptr {word(at)}, ptr {module}, ptr {texts(kernel.symbol)}"
        test(body, call(body, "cuModuleGetFunction", arguments), "end")
        shared = kernel.dynamic_shared or 0
        assert isinstance(shared, int), "the compiler knows what a kernel needs"
        if shared > _DEFAULT_SHARED:
            arguments = f"ptr {_load(body, at)}, i32 {_DYNAMIC_SHARED}, i32 {shared}"
            test(body, call(body, "cuFuncSetAttribute", arguments), "end")
    for symbol, nbytes in constants.items():
        test(body, call(body, "cuMemAlloc_v2", f"ptr {word(Words.CONSTANTS)}, i64 {nbytes}"), "end")
        block = _load(body, Words.CONSTANTS, "i64")
        test(body, call(body, "cuMemcpyHtoD_v2", f"i64 {block}, ptr @{symbol}, i64 {nbytes}"), "end")
    body.line("store i32 0, ptr %status, align 4")
    body.line("br label %end")
    body.line("end:")
    body.line(f"ret i32 {body.value('load i32, ptr %status, align 4')}")
    return _function(f"i32 @tessera.load.{number}()", body)


def _release() -> str:
    """Give back what the block has, in the order opposite to its making, and forget it."""
    body = Body({})
    body.line("%old = alloca ptr, align 8")
    context = _load(body, Words.CONTEXT)
    body.line(f"br i1 {body.value(f'icmp eq ptr {context}, null')}, label %unload, label %inside")
    body.line("inside:")
    pushed = call(body, "cuCtxPushCurrent_v2", f"ptr {context}")
    body.line(f"br i1 {body.value(f'icmp eq i32 {pushed}, 0')}, label %own, label %outside")
    body.line("own:")
    for number, name, kind in ((Words.CONSTANTS, "cuMemFree_v2", "i64"), (Words.MODULE, "cuModuleUnload", "ptr")):
        held, some, after = _load(body, number, kind), body.label("some"), body.label("after")
        none = "0" if kind == "i64" else "null"
        body.line(f"br i1 {body.value(f'icmp eq {kind} {held}, {none}')}, label %{after}, label %{some}")
        body.line(f"{some}:")
        call(body, name, f"{kind} {held}")
        body.line(f"br label %{after}")
        body.line(f"{after}:")
    call(body, "cuCtxPopCurrent_v2", "ptr %old")
    body.line("br label %outside")
    body.line("outside:")
    call(body, "cuDevicePrimaryCtxRelease_v2", f"i32 {_load(body, Words.DEVICE, 'i32')}")
    body.line("br label %unload")
    body.line("unload:")
    library = _load(body, Words.LIBRARY)
    body.line(f"br i1 {body.value(f'icmp eq ptr {library}, null')}, label %end, label %shut")
    body.line("shut:")
    body.value(f"call i32 {body.value('load ptr, ptr @tessera.slot.dlclose, align 8')}(ptr {library})")
    body.line("br label %end")
    body.line("end:")
    for number in range(Words.READY, Words.FIRST):
        body.line(f"store i64 0, ptr {word(number)}, align 8")
    body.line("ret void")
    return _function("void @tessera.release()", body)


def _failed(body: Body, result: str) -> str:
    """Whether a call of the driver gave anything but 0."""
    return body.value(f"icmp ne i32 {result}, 0")


def _function(head: str, body: Body) -> str:
    return f"define internal {head} nounwind {{\nentry:\n" + "\n".join(body.lines) + "\n}\n"

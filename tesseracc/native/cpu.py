"""Whether the machine has the instructions that a library uses: the CPU's own answer, in LLVM IR.

Sources: Intel SDM volume 2, CPUID; volume 1, 13.2 for what the system must have enabled in XCR0.
"""

from __future__ import annotations

from collections.abc import Collection

from tesseracc.codegen.objects import Object, Section, Symbol

__all__ = ["X86_BITS", "questions", "supported_text"]

#: feature by its /proc/cpuinfo name -> leaf, subleaf, register (0 eax, 1 ebx, 2 ecx, 3 edx), bit
X86_BITS = {
    "pni": (1, 0, 2, 0), "ssse3": (1, 0, 2, 9), "fma": (1, 0, 2, 12), "cx16": (1, 0, 2, 13), "sse4_1": (1, 0, 2, 19),
    "sse4_2": (1, 0, 2, 20), "movbe": (1, 0, 2, 22), "popcnt": (1, 0, 2, 23), "xsave": (1, 0, 2, 27),
    "avx": (1, 0, 2, 28), "f16c": (1, 0, 2, 29), "bmi1": (7, 0, 1, 3), "avx2": (7, 0, 1, 5), "bmi2": (7, 0, 1, 8),
    "avx512f": (7, 0, 1, 16), "avx512dq": (7, 0, 1, 17), "avx512cd": (7, 0, 1, 28), "avx512bw": (7, 0, 1, 30),
    "avx512vl": (7, 0, 1, 31), "avx512_vnni": (7, 0, 2, 11), "avx512_bf16": (7, 1, 0, 5),
    "lahf_lm": (0x80000001, 0, 2, 0), "abm": (0x80000001, 0, 2, 5),
}  # fmt: skip
_AVX, _AVX512 = 0x6, 0xE6  # XCR0: the registers that the system saves
# Two instructions that LLVM IR has no words for, as functions in machine code (System V calling convention):
# void cpuid(edi leaf, esi subleaf, rdx u32[4]): push rbx; mov r8, rdx; mov eax, edi; mov ecx, esi; cpuid;
#   mov [r8], eax; mov [r8+4], ebx; mov [r8+8], ecx; mov [r8+12], edx; pop rbx; ret
# u32 xgetbv(): xor ecx, ecx; xgetbv; ret
_CPUID = bytes.fromhex("53 4989d0 89f8 89f1 0fa2 418900 41895804 41894808 4189500c 5b c3")
_XGETBV = bytes.fromhex("31c9 0f01d0 c3")


def supported_text(name: str, machine: str, requires: Collection[str]) -> str:
    """A function `int name(void)` that returns 1 where all of `requires` is there, else 0.

    KeyError for a feature whose bit is not known. What every aarch64 CPU has is not asked for.
    """
    if machine != "x86-64":
        return f"define i32 @{name}() nounwind {{\n  ret i32 1\n}}\n"
    wanted: dict[tuple[int, int], dict[int, int]] = {}
    for feature in sorted(requires):
        leaf, sub, register, bit = X86_BITS[feature]
        masks = wanted.setdefault((leaf, sub), {})
        masks[register] = masks.get(register, 0) | 1 << bit
    state = _AVX512 if any(f.startswith("avx512") for f in requires) else _AVX if "avx" in requires else 0
    lines = ["entry:", "  %answer = alloca [4 x i32], align 16"]
    # A leaf beyond the highest gives another one's answer, so the range is asked first; both ranges count from their 0.
    for number, ((leaf, sub), masks) in enumerate(sorted(wanted.items())):
        low = leaf & 0x80000000
        lines += [
            f"  call void @tessera.cpuid(i32 {_signed(low)}, i32 0, ptr %answer)",
            f"  %max{number} = load i32, ptr %answer, align 4",
            f"  %has{number} = icmp uge i32 %max{number}, {_signed(leaf)}",
            f"  br i1 %has{number}, label %leaf{number}, label %no",
            f"leaf{number}:",
            f"  call void @tessera.cpuid(i32 {_signed(leaf)}, i32 {sub}, ptr %answer)",
        ]
        for register, mask in sorted(masks.items()):
            tag = f"{number}.{register}"
            lines += [
                f"  %p{tag} = getelementptr i32, ptr %answer, i64 {register}",
                f"  %r{tag} = load i32, ptr %p{tag}, align 4",
                f"  %m{tag} = and i32 %r{tag}, {_signed(mask)}",
                f"  %ok{tag} = icmp eq i32 %m{tag}, {_signed(mask)}",
                f"  br i1 %ok{tag}, label %next{tag}, label %no",
                f"next{tag}:",
            ]
    if state:  # xgetbv exists where bit 27 (xsave above) is set, which all levels with AVX require
        lines += [
            "  %xcr = call i32 @tessera.xgetbv()",
            f"  %xmask = and i32 %xcr, {state}",
            f"  %xok = icmp eq i32 %xmask, {state}",
            "  br i1 %xok, label %yes, label %no",
            "yes:",
        ]
    lines += ["  ret i32 1", "no:", "  ret i32 0"]
    declared = "declare hidden void @tessera.cpuid(i32, i32, ptr)\ndeclare hidden i32 @tessera.xgetbv()\n"
    return f"{declared}define i32 @{name}() nounwind {{\n" + "\n".join(lines) + "\n}\n"


def questions(machine: str) -> Object:
    """The object that defines what `supported_text` calls."""
    code = _CPUID + _XGETBV if machine == "x86-64" else b""
    section = Section(1, ".text.questions", True, False, 16, len(code), code, ())
    symbols = [
        Symbol("tessera.cpuid", 1, 0, len(_CPUID), True, False, False),
        Symbol("tessera.xgetbv", 1, len(_CPUID), len(_XGETBV), True, False, False),
    ]
    return Object("the questions to the CPU", [section], symbols, []) if code else Object("nothing", [], [], [])


def _signed(value: int) -> int:
    return value - (1 << 32) if value >> 31 else value

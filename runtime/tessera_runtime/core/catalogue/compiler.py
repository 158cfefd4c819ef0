"""Codes of the compiler: IR, passes, toolchain."""

from __future__ import annotations

from tessera_runtime.core.catalogue.entry import Entry

__all__ = ["ENTRIES"]

ENTRIES = (
    # --- E4xx: IR text, verifier, passes ---------------------------------------------------------------------------
    Entry("E401", "unknown operation", 3,
          "No dialect defines an operation of that name."),
    Entry("E402", "unknown attribute", 3,
          "The operation does not have that attribute."),
    Entry("E403", "IR text not understood", 3,
          "The IR text breaks the grammar (specs/ir.md), or uses a value that is not defined."),
    Entry("E404", "IR invalid", 3,
          "An operation breaks a rule of its definition. In code that the compiler made, this is a fault of the "
          "compiler."),
    Entry("E405", "pass list not understood", 3,
          "A pass or an option of a pass is not known. `tesseracc opt --list` prints them."),
    Entry("E406", "target needed", 3,
          "A pass depends on the target. Give one with --arch."),
    Entry("E407", "program beyond the bundle format", 3,
          "A name, a text or a number of things in the program is one that the bundle format (specs/bundle.md) does "
          "not have: functions, kernels, parameters, lengths. The message has the field and its limit."),
    Entry("E411", "element not written once", 3,
          "A schedule.group leaves an element of its result unwritten, or writes it twice. Found by the Schedule "
          "interpreter."),
    Entry("E412", "read out of bounds", 3,
          "An operator's element rule, or a schedule.read, accesses an element that the tensor does not have."),
    # --- E5xx: toolchain -------------------------------------------------------------------------------------------
    Entry("E501", "target description invalid", 70,
          "A file of tesseracc/arch misses a field, has an unknown one, or contradicts itself. This is a fault of "
          "the compiler."),
    Entry("E502", "no machine instruction", 70,
          "An operation reached code generation that the machine has no instruction for; a pass should have "
          "expanded it."),
    Entry("E510", "LLVM worker did not start", 4,
          "The process that runs LLVM ended before it was ready. Usually llvmlite is missing or was built for "
          "another Python."),
    Entry("E511", "LLVM refused the IR", 4,
          "LLVM could not parse or verify the text that the compiler gave it. The message is LLVM's. This is a "
          "fault of the compiler, or of an LLVM module that was edited by hand."),
    Entry("E512", "LLVM gave up on a kernel", 4,
          "LLVM ended its process while it made code for the named kernel: the target lacks an instruction or a "
          "library function for one of its operations. The message holds LLVM's last words."),
    Entry("E513", "LLVM took too long", 4,
          "LLVM did not finish a module in its time limit and was stopped. Split the kernel."),
    Entry("E520", "object file not understood", 4,
          "An object handed to the image linker is not an ELF64 relocatable object for the image's machine, or is "
          "damaged."),
    Entry("E521", "code image needs an external symbol", 4,
          "A CPU image is loaded without a linker and can import nothing. The message names the function that LLVM "
          "would call: an operation that the CPU level lacks, such as fma before x86-64-v3, or the conversion of a "
          "narrow float."),
    Entry("E522", "code image would need writable data", 4,
          "A CPU image is shared and read-only. The message names the section. Constants must hold no addresses."),
    Entry("E523", "relocation not supported", 4,
          "An object refers to a symbol in a way that position-independent images cannot resolve."),
    Entry("E524", "symbol defined twice", 4,
          "Two objects of one image define the same symbol."),
    Entry("E525", "code image malformed", 4,
          "An image does not have the exact form that the linker writes. The message says where it differs."),
    Entry("E530", "assembler not installed", 4,
          "Code for NVIDIA GPUs needs the assembler of the package nvidia-cuda-nvcc-cu12, in exactly the version "
          "that the message names: another version gives other bytes."),
    Entry("E531", "assembler refused the PTX", 4,
          "The message is the assembler's. This is a fault of the compiler, or of PTX edited by hand."),
    Entry("E532", "assembler undid an optimisation", 4,
          "An advisory (C75xx) says that the assembler ignored a request or serialised asynchronous matrix "
          "instructions: the kernel would be correct but several times too slow."),
    Entry("E533", "assembler took too long", 4,
          "The assembler did not finish in its time limit and was stopped. Split the kernel."),
    Entry("E534", "disassembler not available", 4,
          "Listing machine code needs nvdisasm, on PATH or from the package nvidia-cuda-nvdisasm."),
    Entry("E535", "no listing for this target", 4,
          "No disassembler that can still be had reads code for this target."),
    Entry("E541", "too much shared memory", 4,
          "A kernel needs more shared memory for one group than the target has. Use smaller tiles or fewer buffers."),
    Entry("W511", "LLVM warning", 0,
          "LLVM printed a warning while it compiled a module."),
    Entry("W532", "assembler advisory", 0,
          "The assembler inserted a wait or otherwise changed what was asked, at some cost in speed."),
    Entry("W533", "registers spilled", 0,
          "The kernel needs more registers than a thread may have, and some values go through memory."),
    Entry("W534", "local memory used", 0,
          "The kernel keeps data of a thread in memory rather than in registers, usually an array with an index "
          "that is not constant."),
    Entry("W535", "assembler warning", 0,
          "The assembler printed a warning."),
)  # fmt: skip

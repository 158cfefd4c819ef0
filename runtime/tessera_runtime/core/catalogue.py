"""The one catalogue of error and warning codes. Every code raised anywhere has an entry here; keep each range sorted.

Ranges: E1xx loading and parsing a module; E2xx kernel language; E3xx shapes, dtypes and operators at trace time;
E4xx IR text, verifier, passes; E5xx toolchain; E6xx bundle; E7xx inputs and guards; E8xx command line and files;
E9xx devices, execution, emulator findings. Warnings are Wxyz in the same ranges.
"""

from __future__ import annotations

from typing import NamedTuple

from tessera_runtime.core.exitcodes import Exit

__all__ = ["CATALOGUE", "Entry", "exit_code_of"]


class Entry(NamedTuple):
    """One code: a short title, the exit code it leads to, and what it means and how to put it right."""

    code: str
    title: str
    exit_code: int
    explanation: str


# The exit code of a code's range, for codes without an entry of their own.
_RANGE_EXIT = {
    "1": Exit.SOURCE, "2": Exit.SOURCE, "3": Exit.SOURCE, "4": Exit.SOURCE, "5": Exit.TOOLCHAIN,
    "6": Exit.BUNDLE, "7": Exit.INPUT, "8": Exit.USAGE, "9": Exit.DEVICE,
}  # fmt: skip

_ENTRIES = (
    # --- E1xx: loading and parsing a module ------------------------------------------------------------------------
    Entry("E101", "module is not valid Python", 3,
          "The file is not UTF-8 text or not a Python program of this Python version."),
    Entry("E102", "import fails", 3,
          "An import statement of the module fails. The compiler executes the module as `import` would."),
    Entry("E103", "module raises an exception", 3,
          "A statement at the module's top level raises an exception while the compiler loads the module."),
    Entry("E104", "nothing to build", 3,
          "The module defines no function or kernel, or not the one that --entry names. Mark one with @ts.function "
          "or @ts.kernel."),
    Entry("E105", "function raises an exception", 3,
          "The body of a function raises an exception while the compiler traces it with symbolic values."),
    Entry("E106", "program nested too deeply", 3,
          "Expressions, calls or chains of operators are nested more deeply than the compiler follows. Split the "
          "expression, or compute in a loop of fewer steps."),
    # --- E2xx: kernel language -------------------------------------------------------------------------------------
    Entry("E201", "kernel source not readable", 3,
          "A kernel or a helper is read from its source file. It was defined where there is none, such as an "
          "interactive session."),
    Entry("E202", "not supported in a kernel", 3,
          "The statement or expression is Python that kernels do not have: lambda, try, with, comprehensions, "
          "classes, nested functions, break, star arguments and the like."),
    Entry("E203", "unknown name", 3,
          "A name in a kernel is neither a variable, a parameter, a dim of the signature, nor anything of the "
          "module."),
    Entry("E204", "unknown operation", 3,
          "The function is not one that kernels know. They call ts.tile.*, element functions such as ts.exp, and "
          "plain Python functions."),
    Entry("E205", "kernel parameter not understood", 3,
          "A kernel parameter is a ts.Tensor[...], a ts.Tile[...], an element type, or a compile-time int or bool "
          "with a default."),
    Entry("E206", "types do not fit", 3,
          "An operation was given something of the wrong type: a float where an integer must stand, a tensor where "
          "one element is needed, and so on."),
    Entry("E207", "wrong rank of a subscript", 3,
          "An element of a tensor has one index per axis; a slice at most so many. A tile has `:` and `None`."),
    Entry("E208", "cannot be stored to", 3,
          "Only elements of tensor parameters and of shared memory can be stored to, and names bound."),
    Entry("E209", "group operation under divergent control flow", 3,
          "A barrier, an allocation or a group reduction must be reached by all lanes of a group or by none."),
    Entry("E210", "used before assignment", 3,
          "A variable has no value on some path that leads to its use."),
    Entry("E211", "launch size not known", 3,
          "The number of groups cannot be told from the kernel, or is ambiguous. State it with "
          "@ts.kernel(grid=...)."),
    Entry("E212", "bad allocation of shared memory", 3,
          "Shared memory and tiles have a shape of compile-time integers, or of dims that are then fixed when the "
          "kernel is compiled, and an element type."),
    Entry("E213", "bad result of a kernel", 3,
          "A kernel returns parameters, tiles, or scalars that are the same for all lanes, and the same on every "
          "path; not inside a loop."),
    Entry("E214", "state carried across a work loop", 3,
          "The iterations of a work loop run in parallel (rule R3), so no variable can pass from one to the next."),
    Entry("E215", "race", 3,
          "Two lanes, or two groups, access one element, one of them stores, and no barrier orders them."),
    Entry("E216", "index out of bounds", 3,
          "An element access lies outside of its tensor. Indices do not count from the end."),
    Entry("E217", "shared memory read before it is written", 3,
          "Shared memory has no defined contents until it is stored to."),
    Entry("E218", "wrong arguments of a call in a kernel", 3,
          "A helper or an operation was called with too many or too few arguments, or with a name that it does not "
          "have."),
    Entry("E219", "bad step of a range", 3,
          "The step of a range must be positive; a negative one needs compile-time bounds."),
    Entry("E220", "compile-time arithmetic failed", 3,
          "An expression of compile-time numbers divides by zero, overflows, or does not fit the type that it "
          "meets."),
    Entry("E221", "bad kernel option", 3,
          "group= (or 32 num_warps) is a power of two up to 1024; grid= is one to three sizes made of dims of the "
          "signature; space= names schedule parameters that the kernel reads, and some point of it is legal."),
    Entry("E222", "wrong arguments of a kernel", 3,
          "A kernel was called with arguments that it does not have, or with memory that it cannot use."),
    Entry("E223", "tiles do not fit together", 3,
          "The shapes of tiles do not agree, or a vector meets a tile of rank 2 and nothing says whether it has one "
          "element per row or per column. Write v[:, None] or v[None, :]."),
    Entry("E224", "bad slice of memory", 3,
          "A slice names a tile of one to three axes whose widths are known while compiling, as in x[i:i+64]. What "
          "lies past the end of the tensor is masked."),
    Entry("E225", "copy still in flight", 3,
          "Shared memory is used while an asynchronous copy into it may not have completed. Put cp_commit_group and "
          "cp_wait_group, or a barrier, in between."),
    Entry("W201", "returned parameter never written", 3,
          "The kernel returns a parameter that it does not store to."),
    Entry("W202", "shared memory not used", 3,
          "Shared memory is allocated and never read."),
    Entry("W203", "dim hides a name", 3,
          "A dim of the signature has the name of something in the module; in the kernel it means the dim."),
    Entry("W204", "kernel without effect", 3,
          "The kernel stores to no parameter and returns nothing."),
    Entry("W205", "vector along the wrong axis", 3,
          "A vector with one element per row of a tile is laid along that tile's columns. Where both have the same "
          "size nothing else would show it."),
    Entry("W206", "double correction", 3,
          "A sum of exp(x - m) is multiplied by exp(y - m) with the same m, so that it is scaled to the maximum twice. "
          "In an online softmax the sum of a block is added as it is when its terms use the new maximum."),
    Entry("W207", "parameter not used", 3,
          "A tensor parameter is neither read nor written; perhaps it was meant to be an output."),
    Entry("W208", "wait without copy", 3,
          "A cp_wait_group finds no committed group of copies that it could wait for. Copies belong to a group only "
          "after cp_commit_group."),
    Entry("W209", "copy never read", 3,
          "An asynchronous copy fills shared memory that is not read before it is filled again or the kernel ends. In "
          "a pipeline the last stage may not be consumed."),
    # --- E3xx: shapes, dtypes, operators at trace time -------------------------------------------------------------
    Entry("E301", "element type or policy not understood", 3,
          "A dtype string, policy or dtype argument names no element type. The message shows the column where "
          "reading stopped."),
    Entry("E302", "shapes do not fit", 3,
          "The sizes of an operator's operands do not agree. The message names the operator and both sizes; "
          "symbolic sizes agree only when their expressions are equal."),
    Entry("E303", "element type not supported", 3,
          "An operator does not take operands of this element type. Convert them with ts.cast."),
    Entry("E304", "wrong rank or axis", 3,
          "An operand does not have the axes that the operator needs, or an axis is out of range."),
    Entry("E305", "argument of an operator not usable", 3,
          "A shape, index, step, option or annotation has a value that the operator or decorator cannot take."),
    Entry("E306", "dim expression not understood", 3,
          "A dim is an int, a name, `?`, or an expression of ints and names with + - * // %, ceildiv, min and max."),
    Entry("E307", "argument does not match its annotation", 3,
          "An argument's rank, element type or size differs from the parameter's annotation, or two arguments give "
          "one dim two sizes."),
    Entry("E308", "symbolic size used as a number", 3,
          "While a function is traced its sizes are symbols: they cannot decide an `if`, bound a Python range or "
          "become a number."),
    Entry("E309", "elements not known while tracing", 3,
          "A traced tensor has a type and no elements: it cannot be printed, compared in an `if`, or converted to "
          "NumPy."),
    Entry("E310", "operator or rule missing", 3,
          "No operator has this name, or the operator lacks a rule (derivative, lowering) that is needed."),
    Entry("E311", "not a tensor", 3,
          "An operand or argument is not a tensor, a number, or nested lists of numbers, or their number is wrong."),
    Entry("E312", "tensors are immutable", 3,
          "An element of a tensor was assigned. Tensors are values; kernels assign elements."),
    Entry("E313", "derivative not possible", 3,
          "The function's result is not a float scalar, there is nothing to differentiate by, or a (co)tangent has "
          "the wrong shape."),
    Entry("E314", "function called with wrong arguments", 3,
          "A function was called with too many or too few arguments, or an unknown name."),
    Entry("E316", "kernel called inside a traced function", 3,
          "A kernel mutates its parameters, so it is launched by the host program and not inside a traced or "
          "differentiated function."),
    Entry("E317", "result does not match its annotation", 3,
          "What a function returns has another rank, element type or size than it declares."),
    Entry("E318", "compiler not installed", 3,
          "Showing IR needs the compiler, the package tesseracc; running functions eagerly does not."),
    Entry("E319", "kernel word used outside a kernel", 3,
          "Operations of ts.tile have a meaning only inside a function marked @ts.kernel."),
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
    Entry("W511", "LLVM warning", 4,
          "LLVM printed a warning while it compiled a module."),
    Entry("W532", "assembler advisory", 4,
          "The assembler inserted a wait or otherwise changed what was asked, at some cost in speed."),
    Entry("W533", "registers spilled", 4,
          "The kernel needs more registers than a thread may have, and some values go through memory."),
    Entry("W534", "local memory used", 4,
          "The kernel keeps data of a thread in memory rather than in registers, usually an array with an index "
          "that is not constant."),
    Entry("W535", "assembler warning", 4,
          "The assembler printed a warning."),
    # --- E6xx: bundle ----------------------------------------------------------------------------------------------
    Entry("E601", "not a bundle", 5,
          "The file does not start with a `tsb.header` entry: it is no bundle, or its first bytes were altered."),
    Entry("E602", "bundle has the wrong length", 5,
          "The file is shorter or longer than its header says: it was truncated, or something was appended."),
    Entry("E603", "container version not supported", 5,
          "The bundle has a container version that this runtime does not read. The message has both numbers."),
    Entry("E604", "bundle header invalid", 5,
          "A field of `tsb.header` is out of range, a reserved byte is not zero, or its checksum is wrong."),
    Entry("E605", "manifest digest mismatch", 5,
          "The manifest's bytes do not have the SHA-256 that the header names: the bundle was altered."),
    Entry("E606", "ZIP local header outside the strict profile", 5,
          "A local header uses compression, flags, dates, sizes or fields that the bundle format forbids."),
    Entry("E607", "ZIP central directory disagrees", 5,
          "A central directory record differs from the entry's local header or from the manifest."),
    Entry("E608", "ZIP end record invalid", 5,
          "The end-of-central-directory records are not exactly those that the entries imply."),
    Entry("E609", "entry name not allowed", 5,
          "An entry's name is outside the whitelist, repeated, or out of order."),
    Entry("E610", "gap or misaligned entry", 5,
          "The bytes between entries are not exactly the zero padding that alignment needs."),
    Entry("E611", "entry digest mismatch", 5,
          "An entry's bytes do not have the SHA-256 that the manifest names: the bundle was altered."),
    Entry("E612", "entry not in the bundle", 5,
          "An entry was asked for that the bundle's manifest does not list."),
    Entry("E613", "entry checksum mismatch", 5,
          "An entry's bytes do not have the CRC-32 of its ZIP record."),
    Entry("E614", "weights not found", 5,
          "The bundle does not hold its weights (`tesseracc build --external-weights`): they are in a file named by "
          "their digest beside it, or in the folder that `--weights` or `load(.., weights=..)` names."),
    Entry("E620", "manifest is not canonical JSON", 5,
          "The manifest is not the one canonical spelling of its value: sorted unique keys, no spaces, integers "
          "only, ASCII."),
    Entry("E621", "manifest field invalid", 5,
          "A manifest field is missing, unknown, of the wrong type, or beyond its limit. The message has its path."),
    Entry("E622", "manifest version not supported", 5,
          "A version of the manifest is one that this runtime does not read. The message has both numbers."),
    Entry("E623", "manifest inconsistent", 5,
          "Parts of the manifest contradict each other: an index out of range, an unknown name, arguments that do "
          "not fit a kernel."),
    Entry("E624", "shape expression invalid", 5,
          "A shape expression in the manifest is not a well-formed postfix program over the function's symbols."),
    Entry("E625", "launch contradicts its kernel", 5,
          "At the extents of this call, the plan launches a kernel over another grid, or with smaller or larger "
          "buffers, than the kernel declares. No code of the call was run."),
    Entry("E630", "code image invalid", 5,
          "A code image is not in the strict form that the loader accepts. Nothing of it was executed."),
    Entry("E631", "kernel not in its image", 5,
          "A kernel's symbol is missing from the code image, or lies outside its executable range."),
    Entry("E632", "PTX is not text", 5,
          "A PTX entry of the bundle is not ASCII text."),
    Entry("E633", "kernels described otherwise", 5,
          "A code image holds a digest of how its kernels are described (parameters, shapes, grid, scratch memory), "
          "and the manifest describes them otherwise. Nothing of it was executed."),
    Entry("E640", "safetensors file invalid", 5,
          "The weights are not a well-formed safetensors file: header length, JSON, offsets, dtype or shape."),
    Entry("E641", "embedded test invalid", 5,
          "The tensors of an embedded test are not the inputs and results of its function."),
    Entry("E650", "signatures malformed", 5,
          "The signatures of a bundle are not in the one form that the format allows: 96 bytes each, sorted by key."),
    Entry("E651", "bundle not signed by a trusted key", 5,
          "A signature was required, and the bundle has none of the required key, or of any key in the keyring."),
    Entry("E652", "signature wrong", 5,
          "A signature in the bundle does not belong to its content: the bundle was altered after it was signed, or "
          "the signature was made for another."),
    Entry("E660", "bundle's recipe cannot be repeated", 5,
          "The bundle does not say from what and how it was built, says it in words of another compiler, or the source "
          "that was given is not the recorded one. Use the compiler and the source that `tesseracc inspect` names."),
    Entry("E661", "bundles do not go together", 5,
          "The bundles to merge were not made from the same program: their functions, constants, sources or options "
          "differ; `tesseracc diff` shows where. Or nothing would be left of a bundle to strip."),
    # --- E7xx: inputs and guards -----------------------------------------------------------------------------------
    Entry("E701", "wrong arguments", 7,
          "A function was called with too many or too few arguments, or with a name that it does not have."),
    Entry("E702", "wrong rank", 7,
          "An input does not have the number of axes that the function's signature declares."),
    Entry("E703", "wrong element type", 7,
          "An input's element type is not the declared one. Inputs are never converted silently."),
    Entry("E704", "wrong extent", 7,
          "An input's axis does not have the declared extent."),
    Entry("E705", "extents disagree", 7,
          "Two inputs give different values to the same symbolic extent."),
    Entry("E706", "extent not of the declared form", 7,
          "No symbol value makes the declared shape equal the actual extent, such as an odd extent for `2*N`."),
    Entry("E707", "guard not satisfied", 7,
          "The inputs' extents do not satisfy a condition under which the bundle was compiled."),
    Entry("E708", "array not usable", 7,
          "An argument is not an array of a supported kind, or is not stored as the function needs."),
    Entry("E709", "scalar not usable", 7,
          "A scalar argument is not a number or does not fit its declared type."),
    Entry("E710", "shape arithmetic failed", 7,
          "A shape expression overflowed 64 bits, divided by zero, or gave a negative extent."),
    Entry("E711", "input specification not understood", 7,
          "Write NAME=VALUE where VALUE is `@x.npy`, `@f.npz:key`, `@f.safetensors:key`, `4x64xf32=1`, `2x2xf32=[[1 "
          "2][3 4]]`, `randn:4x64xbf16` or a number."),
    Entry("E712", "input file not usable", 7,
          "An input file is not a well-formed .npy, .npz or .safetensors file, or lacks the key."),
    Entry("E713", "input too large", 7,
          "An input or temporary would need more memory than the limit."),
    Entry("E714", "no such function", 7,
          "The bundle has no function of that name."),
    Entry("E715", "state does not fit", 7,
          "A state file is damaged or has other tensors than the function updates, or nothing makes the first state."),
    # --- E8xx: command line, files ---------------------------------------------------------------------------------
    Entry("E801", "command line not understood", 2,
          "An option or its value is not known. See --help."),
    Entry("E802", "file cannot be read", 2,
          "A file named on the command line does not exist or cannot be read, or is no usable tuning record."),
    Entry("E803", "file cannot be written", 2,
          "An output file cannot be written. Nothing is left half written."),
    Entry("E804", "function not chosen", 2,
          "The bundle has several functions and none was chosen with --function."),
    Entry("E805", "target unknown", 2,
          "A value of --arch is no target's name or alias. See `tesseracc targets`."),
    Entry("E806", "key not usable", 2,
          "A key file does not hold one Ed25519 key in PEM form, holds a private key where a public one is expected or "
          "the other way round, or a keyring holds no keys. `tesseracc keygen` makes keys."),
    Entry("E807", "no embedded tests", 2,
          "`--validate` runs the tests that a bundle carries; this one has none. `build --embed-tests` puts them in."),
    Entry("E808", "nothing to compare with", 2,
          "`--bisect` needs a reference beside the target under test: give `--reference`, a device or a bundle."),
    # --- E9xx: devices, execution, emulator findings ---------------------------------------------------------------
    Entry("E901", "device unknown", 6,
          "The device is not one of cpu[:TARGET], cuda[:N] or an installed plug-in such as emulator."),
    Entry("E902", "no image for this CPU", 6,
          "None of the bundle's CPU images runs on this machine. The message names the missing CPU features."),
    Entry("E903", "device not available", 6,
          "The device's driver or its Python package is not installed, or no such device is present."),
    Entry("E904", "no image for this device", 6,
          "The bundle holds no image, and no PTX fallback, that this device can run."),
    Entry("E905", "driver call failed", 6,
          "The device's driver reported an error. The message names the call and, for a launch, the kernel."),
    Entry("E906", "out of device memory", 6,
          "A buffer could not be allocated on the device."),
    Entry("E907", "launch not possible", 6,
          "A launch needs a grid or shared memory beyond the device's limits."),
    Entry("E908", "executable memory refused", 6,
          "The operating system does not allow this process to map executable memory."),
    Entry("E909", "no CUDA graph", 6,
          "With strict graph capture a call must run as a CUDA graph, and this one cannot, or graph_limit is reached."),
    Entry("E921", "index out of bounds", 6,
          "A kernel accessed an element outside its buffer."),
    Entry("E922", "memory read before it was written", 6,
          "A kernel read memory of the group that nothing has written."),
    Entry("E923", "race", 6,
          "Two lanes of a group touched one element, one of them writing, without a barrier between."),
    Entry("E924", "kernel does not end", 6,
          "A kernel ran for more steps than the interpreter allows."),
    Entry("E940", "PTX syntax", 6,
          "The emulator's parser does not understand the PTX text. The message gives the PTX line."),
    Entry("E941", "PTX instruction not modelled", 6,
          "The emulator does not know this instruction, modifier or operand form. The message gives the PTX line."),
    Entry("E942", "emulator launch invalid", 2,
          "The kernel's name, grid, block, cluster or arguments do not fit the PTX entry."),
    Entry("E943", "emulator memory invalid", 6,
          "Device memory was read, written or freed through the host interface outside a live allocation."),
    Entry("E951", "access out of bounds", 6,
          "A thread read or wrote memory outside every live allocation or beyond its state space."),
    Entry("E952", "access misaligned", 6,
          "The address of an access is not a multiple of its width."),
    Entry("E953", "uninitialised read", 6,
          "A thread read shared or local memory, or another lane's register, that nobody has written."),
    Entry("E954", "divergent barrier", 6,
          "A barrier or .sync instruction is executed by part of the threads that it needs, or after others exited."),
    Entry("E955", "race in shared memory", 6,
          "Two threads access one shared location, at least one of them writes, and nothing orders the two "
          "accesses."),
    Entry("E956", "race in global memory", 6,
          "Two threads access one global location, at least one of them writes, and nothing orders the two "
          "accesses."),
    Entry("E957", "deadlock", 6,
          "Every thread that is left waits for something that none of them can bring about."),
    Entry("E958", "step limit", 6,
          "The launch did not finish within its budget of steps: most likely an endless loop."),
    Entry("E959", "unfinished asynchronous copy", 6,
          "Memory or registers were used that an asynchronous operation still reads or writes: a wait is missing or "
          "waits for the wrong phase."),
    Entry("E960", "synchronisation object misused", 6,
          "A barrier, mbarrier, member mask or matrix instruction is used outside its rules; the message says how."),
    Entry("E961", "proxy fence missing", 6,
          "Ordinary writes are read by the asynchronous proxy (TMA, wgmma) with no fence.proxy.async between."),
)  # fmt: skip

CATALOGUE: dict[str, Entry] = {entry.code: entry for entry in _ENTRIES}


def exit_code_of(code: str) -> int:
    """The exit code that an error of this code leads to; internal error (70) for a code of no known range."""
    entry = CATALOGUE.get(code)
    if entry is not None:
        return entry.exit_code
    return int(_RANGE_EXIT.get(code[1:2], Exit.INTERNAL))

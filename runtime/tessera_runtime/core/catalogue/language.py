"""Codes of the language: modules, kernels, shapes and operators at trace time."""

from __future__ import annotations

from tessera_runtime.core.catalogue.entry import Entry

__all__ = ["ENTRIES"]

ENTRIES = (
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
          "Expressions or calls are nested more deeply than the compiler follows. Split the expression, or compute in "
          "a loop of fewer steps."),
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
          "Only elements of tensor parameters and of shared memory can be stored to, and names bound. A Region[read] "
          "is not stored to, and a Region[reduce_sum] (reduce_max, reduce_min) takes atomics of its kind only."),
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
          "signature; space= names schedule parameters that the kernel reads, and some point of it is legal; the "
          "extents of tiles and of shared memory are numbers when the kernel is compiled."),
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
    Entry("E226", "result would depend on the order of lanes", 3,
          "Atomic updates come in no order. Those of integers give the same result in any; sums of floats round, and "
          "the old value of an element is another one each time, so neither is in the language. Sum in a fixed tree."),
    Entry("W201", "returned parameter never written", 0,
          "The kernel returns a parameter that it does not store to."),
    Entry("W202", "shared memory not used", 0,
          "Shared memory is allocated and never read."),
    Entry("W203", "dim hides a name", 0,
          "A dim of the signature has the name of something in the module; in the kernel it means the dim."),
    Entry("W204", "kernel without effect", 0,
          "The kernel stores to no parameter and returns nothing."),
    Entry("W205", "vector along the wrong axis", 0,
          "A vector with one element per row of a tile is laid along that tile's columns. Where both have the same "
          "size nothing else would show it."),
    Entry("W206", "double correction", 0,
          "A sum of exp(x - m) is multiplied by exp(y - m) with the same m, so that it is scaled to the maximum twice. "
          "In an online softmax the sum of a block is added as it is when its terms use the new maximum."),
    Entry("W207", "parameter not used", 0,
          "A tensor parameter is neither read nor written; perhaps it was meant to be an output."),
    Entry("W208", "wait without copy", 0,
          "A cp_wait_group finds no committed group of copies that it could wait for. Copies belong to a group only "
          "after cp_commit_group."),
    Entry("W209", "copy never read", 0,
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
          "differentiated function. A function with ts.custom_vjp may launch it, for its rule is the derivative."),
    Entry("E317", "result does not match its annotation", 3,
          "What a function returns has another rank, element type or size than it declares."),
    Entry("E318", "compiler not installed", 3,
          "Showing IR needs the compiler, the package tesseracc; running functions eagerly does not."),
    Entry("E319", "kernel word used outside a kernel", 3,
          "Operations of ts.tile have a meaning only inside a function marked @ts.kernel."),
    Entry("E320", "function of NumPy called with a tensor", 3,
          "NumPy's own functions do not compute with tensors, eagerly or traced: use those of ts. Its arrays may be "
          "operands of functions and operators, and np.asarray(x) gives the elements of an eager tensor."),
)  # fmt: skip

"""The C header of a library, and an example that calls it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tessera_runtime.core.dtypes import DTYPES
from tessera_runtime.core.errors import TesseraError
from tessera_runtime.core.manifest import Function, Input, Output
from tessera_runtime.core.shapeexpr import evaluate
from tessera_runtime.guards import signature, type_text
from tesseracc.native.entries import CODES, GUARDS_FROM, Entry, parameters_of

__all__ = ["c_type", "example", "header"]


def c_type(dtype: str) -> str:
    """The C type of an element; narrow floats by their bits, bool as one byte of 0 or 1."""
    entry = DTYPES[dtype]
    if dtype in ("f32", "f64"):
        return {"f32": "float", "f64": "double"}[dtype]
    return f"{'' if entry.kind == 'i' else 'u'}int{8 * entry.itemsize}_t"


def _dims(function: Function) -> list[str]:
    return [f"int64_t {symbol.name}" for symbol in function.symbols]


def prototypes(entry: Entry) -> list[str]:
    """The declarations of one function, its workspace and the shapes of its results."""
    function = entry.function
    inputs, outputs = parameters_of(entry)
    parameters = [
        f"{c_type(i.dtype)} {i.name}" if i.kind == "scalar"
        else f"{'' if i.inout else 'const '}{c_type(i.dtype)} *{i.name}"
        for i in inputs
    ] + [f"{c_type(o.dtype)} *{_output_name(function, o.name)}" for o in outputs]  # fmt: skip
    dims = _dims(function)
    run = ", ".join([*parameters, *dims, "void *workspace", "int64_t workspace_bytes"])
    lines = [f"int {entry.name}({run});", f"int64_t {entry.name}_workspace({', '.join(dims) or 'void'});"]
    for output in outputs:
        extents = f"int64_t extents[{max(len(output.shape), 1)}]"
        lines.append(f"int {entry.name}_{output.name}_shape({', '.join([*dims, extents])});")
    return lines


def _output_name(function: Function, name: str) -> str:
    """A result's parameter name, apart from those of inputs and sizes."""
    taken = {item.name for item in function.inputs} | {symbol.name for symbol in function.symbols}
    while name in taken | {"workspace", "workspace_bytes"}:
        name += "_"
    return name


def header(
    stem: str, prefix: str, entries: Sequence[Entry], requires: Sequence[str], made_by: str,
    gpu: Mapping[str, tuple[int, str]] | None = None,
) -> str:  # fmt: skip
    """The text of the header file; `gpu` has the codes of a library for GPUs."""
    codes = CODES | dict(gpu or {})
    guard = f"TESSERA_{prefix.upper()}_H"
    lines = [
        f"/* {stem}.h: the functions of lib{stem}.so, by {made_by}.",
        "   Arrays are dense, row-major, and must not overlap. Sizes are the caller's word: arrays have them.",
        "   A function needs `workspace`, at least as many bytes as NAME_workspace tells (negative: minus a code), one",
        "   workspace per thread. It allocates nothing, calls nothing, keeps nothing, and returns a code below. */",
        f"#ifndef {guard}",
        f"#define {guard}",
        "#include <stdint.h>",
        "#ifdef __cplusplus",
        'extern "C" {',
        "#endif",
        "",
        "enum {",
        *(f"  {prefix.upper()}_{name} = {code}, /* {text} */" for name, (code, text) in codes.items()),
        f"  {prefix.upper()}_GUARD = {GUARDS_FROM} /* and above: a condition of the function does not hold */",
        "};",
        "",
        "/* What a code means. */",
        f"const char *{prefix}_message(int code);",
        f"/* 1 if there is a GPU for the code: {' '.join(requires)}. */" if gpu else
        f"/* 1 if this CPU has what the code needs: {' '.join(requires) or 'nothing'}; else do not call it. */",
        f"int {prefix}_supported(void);",
    ]  # fmt: skip
    if gpu:
        lines += ["/* Give back what calls keep: module, constants. Not while one runs; another begins anew. */"]
        lines += [f"void {prefix}_close(void);"]
        lines += ["/* Which GPU calls use from now on, by the driver's number; 0 at first. Closes, as above. */"]
        lines += [f"void {prefix}_device(int number);"]
    for entry in entries:
        function = entry.function
        lines += ["", f"/* {signature(function)}"]
        lines += [f"   {text.replace('*/', '* /')}" for text in function.doc.strip().splitlines()[:1]]
        for symbol in function.symbols:
            place = f"axis {symbol.axis} of {symbol.input}" if symbol.axis >= 0 else f"the value of {symbol.input}"
            form = symbol.name if symbol.scale == 1 else f"{symbol.scale}*{symbol.name}"
            form += f" + {symbol.offset}" if symbol.offset > 0 else f" - {-symbol.offset}" if symbol.offset else ""
            lines.append(f"   {place} is {form}")
        for number, condition in enumerate(function.guards):
            lines.append(f"   code {entry.guards + number}: needs {condition.message.replace('*/', '* /')}")
        lines[-1] += " */"
        lines += prototypes(entry)
    lines += ["", "#ifdef __cplusplus", "}", "#endif", "#endif", ""]
    return "\n".join(lines)


def example(stem: str, prefix: str, entry: Entry) -> str:
    """A C99 program that calls one function with every size a small number and all inputs 1."""
    function = entry.function
    inputs, outputs = parameters_of(entry)
    sizes = sample_sizes(function)
    given = {s.input: sizes[s.name] * s.scale + s.offset for s in function.symbols if s.axis < 0}
    calls = [str(given.get(i.name, 1)) if i.kind == "scalar" else "" for i in inputs] + [""] * len(outputs)
    variables: dict[str, str] = {}  # of tensors
    lines: list[str] = []
    tensors: list[Input | Output] = [*inputs, *outputs]
    for place, item in enumerate(tensors):
        if calls[place]:
            continue
        shape = [dim if isinstance(dim, int) else evaluate(dim, sizes) for dim in item.shape]
        calls[place] = name = f"v{len(lines)}"
        variables.setdefault(item.name, name)
        lines.append(f"  static {c_type(item.dtype)} {name}[{max(math.prod(shape), 1)}]; "
                     f"/* {item.name}: {type_text(item.dtype, shape)} */")  # fmt: skip
    filled = [variables[i.name] for i in inputs if i.kind == "tensor"]
    fills = [f"  for (size_t i = 0; i < sizeof {v} / sizeof *{v}; i++) {v}[i] = 1;" for v in filled]
    results = [calls[len(inputs) + n] for n in range(len(outputs))] + [variables[i.name] for i in inputs if i.inout]
    shown = f"{results[0]}[0]" if results else "0"
    numbers = ", ".join(str(sizes[symbol.name]) for symbol in function.symbols)
    arguments = ", ".join([*calls, *([numbers] if numbers else []), "workspace", "bytes"])
    return "\n".join([
        f"/* cc -std=c99 example.c -L. -l:lib{stem}.so -Wl,-rpath,'$ORIGIN' -o example */",
        "#include <stdio.h>", "#include <stdlib.h>", f'#include "{stem}.h"', "", "int main(void) {", *lines,
        f"  if (!{prefix}_supported()) return fputs(\"this machine cannot run it\\n\", stderr), 1;",
        *fills,
        f"  int64_t bytes = {entry.name}_workspace({numbers});",
        "  void *workspace = bytes > 0 ? malloc((size_t)bytes) : NULL;",
        "  if (!workspace) return fputs(\"no workspace\\n\", stderr), 1;",
        f"  int code = {entry.name}({arguments});",
        f"  if (code) fprintf(stderr, \"%s\\n\", {prefix}_message(code));",
        f"  else printf(\"%g\\n\", (double){shown});",
        "  free(workspace);", "  return code;", "}", "",
    ])  # fmt: skip


def sample_sizes(function: Function) -> Mapping[str, int]:
    """Equal values of all symbols for which the guards hold: the smallest of a few that usually do."""
    names = [symbol.name for symbol in function.symbols]
    tests = {"eq": lambda v: v == 0, "ne": lambda v: v != 0, "ge": lambda v: v >= 0, "gt": lambda v: v > 0}
    for size in (4, 8, 16, 32, 64, 128):
        env = dict.fromkeys(names, size)
        try:
            if all(tests[guard.relation](evaluate(guard.expr, env)) for guard in function.guards):
                return env
        except TesseraError:
            continue
    return dict.fromkeys(names, 4)

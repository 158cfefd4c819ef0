"""A corpus file: PTX with one seeded bug, from which its correct twin follows.

The file as it stands is the bug. Its head says what is wrong and how to run it; three marks in the body:

    //ok instruction          only the correct twin has this line
    instruction  // bad       only the bug has it
    instruction  // fault: C  where the emulator must report code C (`value`: no report, but a wrong result);
                              with several such lines it depends on the seed which of them comes first

Head lines, as Python expressions over NumPy: `// launch: grid=2, block=64, shared=0, strict=False` (keywords),
`// args: ...` (the arguments, called a, b, c, ...; A, B, .. as they were before), `// arrays: X = ...` (a statement
before that), `// want: ...` (what must hold after a correct run).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tesseracc.emulator import GlobalMemory, Report, launch, parse_ptx
from tests.emulator.outside.support import tensor_map

__all__ = ["CORPUS", "Case", "execute", "read"]

CORPUS = Path(__file__).parent / "corpus"
NAMES = "abcdefgh"


@dataclass(frozen=True)
class Case:
    """`faults`: by line, counted from 1, the codes of which one must be reported there."""

    name: str
    head: dict[str, str]
    bug: str
    twin: str
    faults: dict[int, tuple[str, ...]]


def read(path: Path) -> Case:
    """A file of the corpus."""
    lines = path.read_text().split("\n")
    head = {m[1]: m[2] for line in lines if (m := re.match(r"// (launch|arrays|args|want): (.*)", line))}
    twin = [re.sub(r"^(\s*)//ok ", r"\1", line) for line in lines]
    twin = ["" if re.search(r"// bad\b", line) else line for line in twin]
    faults = {
        k: tuple(m[1].split("|")) for k, line in enumerate(lines, 1) if (m := re.search(r"// fault: (\S+)", line))
    }
    assert faults, path.name
    return Case(path.stem, head, "\n".join(lines), "\n".join(twin), faults)


class _Arguments:
    """What an `args:` line may call."""

    def __init__(self, memory: GlobalMemory) -> None:
        self.memory, self.random = memory, np.random.default_rng(3)

    def rand(self, *shape: int, dtype: Any = np.float32) -> Any:
        if np.issubdtype(dtype, np.integer):
            return self.random.integers(0, 100, shape).astype(dtype)
        return self.random.normal(size=shape).astype(dtype)

    def tensor(self, array: Any, dtype: str, box: tuple[int, ...], swizzle: int = 0) -> bytes:
        return tensor_map(self.memory, array, dtype, box, swizzle)[0]


def execute(case: Case, text: str, seed: int) -> tuple[Report, bool]:
    """One run: the report, and whether the results are right."""
    memory = GlobalMemory()
    make = _Arguments(memory)
    scope = {"np": np, "rand": make.rand, "tensor": make.tensor, "zeros": np.zeros, "arange": np.arange,
             "i32": np.int32, "u32": np.uint32, "f16": np.float16, "f32": np.float32}  # fmt: skip
    if "arrays" in case.head:
        exec(case.head["arrays"], scope)
    arguments = list(eval(f"({case.head['args']},)", scope))
    options = eval(f"dict({case.head['launch']})", scope)
    before = {NAMES[k].upper(): x.copy() for k, x in enumerate(arguments) if isinstance(x, np.ndarray)}
    report = launch(parse_ptx(text), "k", (options["grid"],), (options["block"],), arguments,
                    dynamic_shared=options.get("shared", 0), seed=seed, memory=memory, max_steps=50_000,
                    strict=options.get("strict", False))  # fmt: skip
    after = dict(zip(NAMES, arguments))
    return report, bool(np.all(eval(case.head["want"], {**scope, **before, **after})))

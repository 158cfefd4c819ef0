"""PTX to machine code by NVIDIA's assembler, and back to a listing.

The assembler comes from one exact version of its package, because another version gives other bytes. It runs without
files: PTX through standard input, the cubin through standard output, and what it says about each kernel through
standard error, from which come `KernelInfo` and findings. It must not fuse multiplications with additions: `fma` is an
operation of its own in every IR. Line tables, where the PTX has `.loc`, are kept.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from tessera_runtime.core.errors import TesseraError
from tesseracc.arch import Arch
from tesseracc.codegen.findings import Finding

__all__ = ["ASSEMBLER", "Assembly", "KernelInfo", "assemble", "assemble_many", "assembler_path"]

ASSEMBLER = "12.9.86"
_PACKAGE = "nvidia-cuda-nvcc-cu12"
TIME_LIMIT = 300.0  # seconds for one module
_CACHE_SIZE = 128  # assemblies kept, most recently used


@dataclass(frozen=True, slots=True)
class KernelInfo:
    """What the assembler says of one kernel. Sizes are bytes."""

    name: str
    registers: int
    stack: int  # of a thread, in local memory
    spill_stores: int
    spill_loads: int
    shared: int  # static
    barriers: int
    constant: int  # over all banks


@dataclass(frozen=True, slots=True)
class Assembly:
    """A cubin, its kernels in the order of the PTX, and what is to be reported."""

    cubin: bytes
    kernels: tuple[KernelInfo, ...]
    findings: tuple[Finding, ...]


@cache
def assembler_path() -> str:
    """Where the assembler is. Raises E530 when its package is missing or of another version."""
    help_line = f"pip install {_PACKAGE}=={ASSEMBLER}"
    for folder in package_folders("nvidia.cuda_nvcc"):
        program = folder / "bin" / "ptxas"
        site = folder.parent.parent
        if not program.is_file():
            continue
        stem = _PACKAGE.replace("-", "_")
        if not (site / f"{stem}-{ASSEMBLER}.dist-info").is_dir():
            found = sorted(entry.name.split("-")[1].removesuffix(".dist") for entry in site.glob(f"{stem}-*.dist-info"))
            have = ", ".join(found) or "an unknown version"
            raise TesseraError("E530", f"the assembler is {have} of {_PACKAGE}, not {ASSEMBLER}", help=help_line)
        return str(program)
    raise TesseraError("E530", f"the assembler is not installed: {_PACKAGE}=={ASSEMBLER}", help=help_line)


def package_folders(name: str) -> list[Path]:
    try:
        spec = find_spec(name)
    except ModuleNotFoundError:  # not even the namespace package above it
        return []
    return [Path(entry) for entry in (spec.submodule_search_locations or [])] if spec is not None else []


_cache: OrderedDict[bytes, Assembly] = OrderedDict()


def assemble(ptx: str, arch: Arch, *, label: str = "module", limit: float = TIME_LIMIT) -> Assembly:
    """Machine code of a PTX module. Raises E530, E531, E533; advisories and spills are in `findings`, never raised.

    For a target that ships PTX this checks the PTX by assembling it for the oldest chip that it runs on.
    """
    options = [f"-arch={arch.toolchain.assembler}", "-v", "-fmad=false"]
    key = hashlib.sha256("\0".join([*options, label, ptx]).encode()).digest()
    if key in _cache:
        _cache.move_to_end(key)
        return _cache[key]
    result = _run(ptx, options, arch, label, limit)
    _cache[key] = result
    while len(_cache) > _CACHE_SIZE:
        _cache.popitem(last=False)
    return result


def assemble_many(modules: Sequence[tuple[str, Arch]], *, label: str = "module", jobs: int = 2) -> list[Assembly]:
    """Assemblies of several (PTX, target) pairs, in order, `jobs` at once. The first failure in order is raised."""
    if len(modules) < 2 or jobs < 2:
        return [assemble(ptx, arch, label=label) for ptx, arch in modules]
    from concurrent.futures import ThreadPoolExecutor  # slow to import, and a single module does without

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(lambda module: assemble(*module, label=label), modules))


def _run(ptx: str, options: list[str], arch: Arch, label: str, limit: float) -> Assembly:
    command = [assembler_path(), *options, "/dev/stdin", "-o", "/dev/stdout"]
    environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"}
    try:
        run = subprocess.run(command, input=ptx.encode(), capture_output=True, env=environment, timeout=limit)
    except subprocess.TimeoutExpired:
        raise TesseraError(
            "E533", f"the assembler worked on {label} for {arch.name} for more than {limit:g} s and was stopped",
            help="split the kernel, or use smaller tiles",
        ) from None  # fmt: skip
    except OSError as error:
        raise TesseraError("E530", f"the assembler cannot be run: {error.strerror}") from error
    said = run.stderr.decode(errors="replace")
    if run.returncode != 0 or run.stdout[:4] != b"\x7fELF":
        raise TesseraError(
            "E531",
            f"the assembler refused {label} for {arch.name}: {_refusal(said, ptx) or f'exit status {run.returncode}'}",
            help="look at it with --emit ptx",
        )
    kernels, findings = parse_report(said, label)
    order = {name: index for index, name in enumerate(_KERNEL.findall(ptx))}  # the assembler has its own
    kernels.sort(key=lambda info: order.get(info.name, len(order)))
    return Assembly(run.stdout, tuple(kernels), tuple(findings))


def _refusal(said: str, ptx: str) -> str:
    """The assembler's complaints, each with the line of PTX that it is about."""
    lines = ptx.splitlines()
    result = []
    for complaint in said.splitlines():
        place = re.match(r"ptxas /dev/stdin, line (\d+); error\s*: (.*)", complaint)
        if place:
            number = int(place.group(1))
            source = lines[number - 1].strip() if 0 < number <= len(lines) else ""
            result.append(f"line {number}: {place.group(2)} in `{source}`")
        elif re.match(r"ptxas (error|fatal)", complaint) and "aborted due to errors" not in complaint:
            result.append(complaint.split(":", 1)[-1].strip())
    return "; ".join(result[:5])


_KERNEL = re.compile(r"\.entry\s+([\w$%.]+)")
_ADVISORY = re.compile(r"\((C75\d\d)\)\s*(.*)")
_ENTRY = re.compile(r"ptxas info\s*: Compiling entry function '([^']+)' for '[^']+'")
_PROPERTIES = re.compile(r"ptxas info\s*: Function properties for (\S+)")
_FRAME = re.compile(r"\s*(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"ptxas info\s*: Used (\d+) registers(.*)")
_NOISE = re.compile(r"ptxas info\s*: (\d+ bytes gmem.*|Compile time = .*)|\s*")


def parse_report(said: str, label: str) -> tuple[list[KernelInfo], list[Finding]]:
    """What `-v` prints: kernels as they come, and everything that is not mere statistics as findings.

    Advisories rarely name their kernel and come in no fixed order: with several kernels they are about `label`.
    """
    kernels: list[KernelInfo] = []
    findings: list[Finding] = []
    entries = _ENTRY.findall(said)
    entry = subject = entries[0] if len(entries) == 1 else label
    default = entry
    frames: dict[str, tuple[int, int, int]] = {}
    for line in said.splitlines():
        if found := _ENTRY.match(line):
            entry = subject = found.group(1)
        elif found := _PROPERTIES.match(line):
            subject = found.group(1)
        elif found := _FRAME.match(line):
            stack, stores, loads = map(int, found.groups())
            frames[subject] = (stack, stores, loads)
            if stores or loads:
                findings.append(Finding("W533", subject, f"{stores} bytes of spill stores, {loads} of loads"))
            elif stack:
                findings.append(Finding("W534", subject, f"{stack} bytes of local memory a thread"))
        elif found := _USED.match(line):
            stack, stores, loads = frames.get(entry, (0, 0, 0))

            def amount(pattern: str, rest: str = found.group(2)) -> int:
                return sum(map(int, re.findall(pattern, rest)))

            kernels.append(
                KernelInfo(
                    entry, int(found.group(1)), stack, stores, loads,
                    shared=amount(r"(\d+) bytes smem"), barriers=amount(r"used (\d+) barriers"),
                    constant=amount(r"(\d+) bytes cmem"),
                )
            )  # fmt: skip
        elif found := _ADVISORY.search(line):
            number, text = found.groups()
            code = "E532" if re.search(r"serializ|ignored", text) else "W532"
            findings.append(Finding(code, _named(text) or default, f"{number}: {text}"))
        elif not _NOISE.fullmatch(line):
            findings.append(Finding("W535", _named(line) or default, line.split(":", 1)[-1].strip()))
    return kernels, findings


def _named(text: str) -> str | None:
    """The function that a message is about, where it says so."""
    found = re.search(r"function '([^']+)'", text)
    return found.group(1) if found else None

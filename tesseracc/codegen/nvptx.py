"""LLVM IR to PTX text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tesseracc.arch import Arch
from tesseracc.codegen.findings import Finding, report
from tesseracc.codegen.pool import Request, compile_many

__all__ = ["compile_ptx", "compile_ptx_many", "tidy"]


def compile_ptx(
    ir: str, arch: Arch, *, opt: int = 1, label: str = "module", findings: list[Finding] | None = None
) -> str:
    """PTX text for one target. Raises E51x; see `compile_ptx_many` for `findings`."""
    return compile_ptx_many([(ir, arch)], opt=opt, jobs=1, label=label, findings=findings)[0]


def compile_ptx_many(
    modules: Sequence[tuple[str, Arch]],
    *,
    opt: int = 1,
    jobs: int = 2,
    label: str = "module",
    findings: list[Finding] | None = None,
) -> list[str]:
    """PTX of several (IR text, target) pairs, in order, made by up to `jobs` workers.

    `opt` is described in `worker.py`. LLVM's warnings are appended to `findings`; without a list they are raised.
    """
    requests = []
    for ir, arch in modules:
        tool = arch.toolchain
        if tool.image == "elf":
            raise ValueError(f"{arch.name} has no PTX")
        requests.append(Request(ir, tool.triple, tool.cpu, tool.features, "assembly", opt, label))
    responses = compile_many(requests, jobs=jobs)
    for response in responses:
        report(response.findings, findings)
    return [tidy(response.data.decode()) for response in responses]


_SECTION = re.compile(r"^[ \t]*\.section[ \t]+\.debug_\w+[ \t]*\{\s*\}[ \t]*\n", re.MULTILINE)
_BANNER = re.compile(r"\A(?://[^\n]*\n|\s)*")
_GLOBL = re.compile(r"^[ \t]*//[ \t]*\.globl[^\n]*\n", re.MULTILINE)
# A time and a size that stand in the directive keep the assembler from looking for the file and noting its own.
_FILE = re.compile(r'^(\s*\.file\s+\d+\s+"[^"\n]*")[ \t]*$', re.MULTILINE)
_BLANK = re.compile(r"\n{3,}")


def tidy(ptx: str) -> str:
    """PTX without what carries no information: LLVM's banner, `.globl` comments, empty sections, runs of blank lines.

    Directives of source positions stay, `.file` with a fixed time and size; all instructions stay as they are.
    """
    ptx = _SECTION.sub("", _GLOBL.sub("", _BANNER.sub("", ptx)))
    ptx = "\n".join(line.rstrip() for line in ptx.splitlines())
    ptx = _FILE.sub(r"\1, 1, 1", ptx)
    return _BLANK.sub("\n\n", ptx).rstrip() + "\n"

"""LLVM IR to relocatable objects for CPUs."""

from __future__ import annotations

from collections.abc import Sequence

from tesseracc.arch import Arch
from tesseracc.codegen.findings import Finding, report
from tesseracc.codegen.pool import Request, compile_many

__all__ = ["compile_cpu", "compile_cpu_many"]


def compile_cpu(
    ir: str, arch: Arch, *, opt: int = 1, label: str = "module", findings: list[Finding] | None = None
) -> bytes:
    """An ELF relocatable object, position independent. Raises E51x; see `compile_cpu_many` for `findings`."""
    return compile_cpu_many([(ir, arch)], opt=opt, jobs=1, label=label, findings=findings)[0]


def compile_cpu_many(
    modules: Sequence[tuple[str, Arch]],
    *,
    opt: int = 1,
    jobs: int = 2,
    label: str = "module",
    findings: list[Finding] | None = None,
) -> list[bytes]:
    """Objects of several (IR text, CPU level) pairs, in order, made by up to `jobs` workers.

    `opt` is described in `worker.py`. LLVM's warnings are appended to `findings`; without a list they are raised.
    """
    requests = []
    for ir, arch in modules:
        tool = arch.toolchain
        if tool.image != "elf":
            raise ValueError(f"{arch.name} is not a CPU level")
        requests.append(Request(ir, tool.triple, tool.cpu, tool.features, "object", opt, label))
    responses = compile_many(requests, jobs=jobs)
    for response in responses:
        report(response.findings, findings)
    return [response.data for response in responses]

"""From Target IR to the code of one target: an ELF image, or PTX and the cubin assembled from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from tesseracc.arch.arch import Arch
from tesseracc.codegen.assemble import KernelInfo, assemble_many
from tesseracc.codegen.elf import link_image
from tesseracc.codegen.findings import Finding
from tesseracc.codegen.llvm import llvm_text
from tesseracc.codegen.nvptx import tidy
from tesseracc.codegen.pool import Request, compile_many
from tesseracc.ir.value import Module


@dataclass(frozen=True, slots=True)
class Image:
    """The code of one target. `ptx` is empty for CPUs, `data` is the PTX text itself where no cubin is made."""

    arch: Arch
    llvm: str
    data: bytes
    ptx: str = ""
    kernels: tuple[KernelInfo, ...] = ()
    findings: tuple[Finding, ...] = field(default=())


def request(module: Module, arch: Arch) -> Request:
    """What LLVM is asked for: one module with all kernels of a target."""
    text = llvm_text(module.of_kind("target.func"), arch, debug=arch.kind == "cuda")
    tool = arch.toolchain
    emit: Literal["object", "assembly"] = "assembly" if arch.kind == "cuda" else "object"
    return Request(text, tool.triple, tool.cpu, tool.features, emit, label=f"the kernels for {arch.name}")


def build_images(modules: Sequence[tuple[Module, Arch]], *, jobs: int = 2) -> list[Image]:
    """The images of several targets, compiled side by side. Raises E5xx."""
    requests = [request(module, arch) for module, arch in modules]
    responses = compile_many(requests, jobs=jobs)
    ptx = {i: tidy(r.data.decode()) for i, (r, (_, arch)) in enumerate(zip(responses, modules)) if arch.kind == "cuda"}
    # a target that ships PTX is assembled too: that checks the text
    assembled = dict(zip(ptx, assemble_many([(ptx[i], modules[i][1]) for i in ptx], jobs=jobs)))
    images = []
    for i, ((_, arch), asked, response) in enumerate(zip(modules, requests, responses)):
        if i in ptx:
            found = assembled[i]
            data = found.cubin if arch.toolchain.image == "cubin" else ptx[i].encode()
            findings = (*response.findings, *found.findings)
            images.append(Image(arch, asked.ir, data, ptx[i], found.kernels, findings))
        else:
            data = link_image([response.data], arch.toolchain.machine)
            images.append(Image(arch, asked.ir, data, findings=tuple(response.findings)))
    return images


def assembly(module: Module, arch: Arch) -> str:
    """The assembly text of a CPU target."""
    asked = replace(request(module, arch), emit="assembly")
    return compile_many([asked])[0].data.decode()


def listing(image: Image) -> str:
    """The machine code of a cubin as text (SASS). Raises E534, E535."""
    from tesseracc.codegen.disassemble import disassemble

    return disassemble(image.data, image.arch)

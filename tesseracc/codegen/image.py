"""From Target IR to the code of one target: an ELF image, or PTX and the cubin assembled from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tesseracc.arch.arch import Arch
from tesseracc.codegen.assemble import KernelInfo, assemble_many
from tesseracc.codegen.elf import link_image
from tesseracc.codegen.findings import Finding
from tesseracc.codegen.host import cpu_request
from tesseracc.codegen.llvm import llvm_text
from tesseracc.codegen.nvptx import ptx_request, tidy
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
    return ptx_request(text, arch) if arch.kind == "cuda" else cpu_request(text, arch)


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
            images.append(Image(arch, asked.ir, data, ptx[i], found.kernels, found.findings))
        else:
            images.append(Image(arch, asked.ir, link_image([response.data], arch.toolchain.machine)))
    return images

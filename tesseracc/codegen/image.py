"""From Target IR to the code of one target: an ELF image, or PTX and the cubin assembled from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from tesseracc.arch.arch import Arch
from tesseracc.codegen.assemble import KernelInfo, assemble
from tesseracc.codegen.elf import link_image
from tesseracc.codegen.findings import Finding
from tesseracc.codegen.llvm import llvm_text
from tesseracc.codegen.nvptx import tidy
from tesseracc.codegen.pool import Request, abandon, compile_many
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


def build_image(module: Module, arch: Arch) -> Image:
    """The image of one target. Raises E5xx."""
    asked = request(module, arch)
    (response,) = compile_many([asked])
    if arch.kind != "cuda":
        data = link_image([response.data], arch.toolchain.machine)
        return Image(arch, asked.ir, data, findings=tuple(response.findings))
    ptx = tidy(response.data.decode())
    found = assemble(ptx, arch)  # a target that ships PTX is assembled too: that checks the text
    data = found.cubin if arch.toolchain.image == "cubin" else ptx.encode()
    return Image(arch, asked.ir, data, ptx, found.kernels, (*response.findings, *found.findings))


def build_images(modules: Iterable[tuple[Module, Arch]], *, jobs: int = 2) -> list[Image]:
    """The images of several targets, so many at once, each from when its module is there: what makes the next module
    runs meanwhile. Raises E5xx, of several that of the first target."""
    if jobs < 2:
        return [build_image(module, arch) for module, arch in modules]
    from concurrent.futures import ThreadPoolExecutor  # slow to import

    pool = ThreadPoolExecutor(jobs)
    try:
        made = [pool.submit(build_image, module, arch) for module, arch in modules]
        return [image.result() for image in made]
    except BaseException:
        abandon()  # nobody waits for what is under way
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def assembly(module: Module, arch: Arch) -> str:
    """The assembly text of a CPU target."""
    asked = replace(request(module, arch), emit="assembly")
    return compile_many([asked])[0].data.decode()


def named_ptx(image: Image, module: Module) -> str:
    """The PTX text for readers: above each kernel a comment with its parameters' names, which NVPTX only numbers."""
    text = image.ptx
    for func in module.of_kind("target.func"):
        head = f".visible .entry {func.attrs['symbol']}("
        names = ", ".join(param.name for param in func.params)
        text = text.replace(head, f"// {func.attrs['symbol']}({names})\n{head}")
    return text


def listing(image: Image) -> str:
    """The machine code of a cubin as text (SASS). Raises E534, E535."""
    from tesseracc.codegen.disassemble import disassemble

    return disassemble(image.data, image.arch)

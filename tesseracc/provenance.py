"""What compiles a bundle, for its manifest: versions of the compiler, LLVM and the assembler; no paths, no times."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from tesseracc import __version__
from tesseracc.arch.arch import Arch

__all__ = ["assembler", "compiler", "llvm"]


def compiler() -> str:
    """The compiler's version."""
    return str(__version__)


def llvm() -> str:
    """The version of what carries LLVM."""
    return f"llvmlite {version('llvmlite')}"


def assembler(targets: Sequence[Arch]) -> str:
    """The assembler that these targets need; empty without GPU targets."""
    from tesseracc.codegen.assemble import ASSEMBLER

    return f"ptxas {ASSEMBLER}" if any(arch.kind == "cuda" for arch in targets) else ""

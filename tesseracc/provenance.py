"""What made a bundle, for its manifest: versions, options and the source's digest; no paths, no times."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from tessera_runtime.core.manifest import Provenance
from tesseracc import __version__
from tesseracc.arch.arch import Arch


def provenance(
    targets: Sequence[Arch], digest: str, entries: Sequence[str], specs: Sequence[str], fixed: Sequence[str] = ()
) -> Provenance:
    """The record of one build."""
    options = [f"--arch={arch.name}" for arch in targets]
    options += [f"--entry={name}" for name in entries]
    options += [f"--input-spec={spec}" for spec in specs]
    options += [f"--specialize={text}" for text in sorted(fixed)]
    return Provenance(
        compiler=__version__,
        llvm=f"llvmlite {version('llvmlite')}",
        assembler=_assembler(targets),
        options=tuple(options),
        source_sha256=digest,
    )


def _assembler(targets: Sequence[Arch]) -> str:
    from tesseracc.codegen.assemble import ASSEMBLER

    return f"ptxas {ASSEMBLER}" if any(arch.kind == "cuda" for arch in targets) else ""

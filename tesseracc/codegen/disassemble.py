"""Machine code listings, for `--emit sass` and for tests of what the assembler did."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from tessera_runtime.core.errors import TesseraError
from tesseracc.arch import Arch
from tesseracc.codegen.assemble import package_folders

__all__ = ["disassemble", "disassembler_path"]

# Where the disassembler is in its package, by the layouts of different versions.
_PACKAGES = ("nvidia.cu13", "nvidia.cuda_nvdisasm")


def disassembler_path() -> str | None:
    """Where nvdisasm is: in a package of this environment, else on PATH; None where it is not."""
    for package in _PACKAGES:
        for folder in package_folders(package):
            if (folder / "bin" / "nvdisasm").is_file():
                return str(folder / "bin" / "nvdisasm")
    return shutil.which("nvdisasm")


def disassemble(cubin: bytes, arch: Arch) -> str:
    """A listing of a cubin's code. Raises E534 without a disassembler, E535 where none reads this target's code."""
    if not arch.toolchain.disassembler or arch.toolchain.image != "cubin":
        raise TesseraError("E535", f"no disassembler reads code for {arch.name}", help="look at it with --emit ptx")
    program = disassembler_path()
    if program is None:
        raise TesseraError("E534", "nvdisasm is not installed", help="pip install nvidia-cuda-nvdisasm")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "code.cubin").write_bytes(cubin)
        run = subprocess.run([program, "-c", "code.cubin"], cwd=folder, capture_output=True, text=True)
    if run.returncode != 0:
        raise TesseraError("E534", f"nvdisasm failed: {run.stderr.strip() or run.returncode}")
    return run.stdout

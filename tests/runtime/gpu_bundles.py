"""Bundles for the fake GPU: the images are names, its kernels Python functions."""

from __future__ import annotations

from typing import Any

from tessera_runtime.core.manifest import Capability
from tesseracc.bundle import image_entry, write
from tests.runtime.support import contents, cpu_target


def cuda_target(name: str, major: int, minor: int, match: str, preference: int, image_format: str = "cubin") -> Any:
    return cpu_target(name, kind="cuda", format=image_format, image=image_entry(name, image_format), machine="",
                      capability=Capability(major, minor, match), preference=preference)  # fmt: skip


def bundle_of(*targets: Any) -> bytes:
    images = {t.image: f"image {t.name}".encode() for t in targets if t.kind == "cuda"}
    images |= {name: image for name, image in contents().images.items() if any(t.image == name for t in targets)}
    return write(None, contents(targets=targets, images=images))


HOPPER = cuda_target("sm_90", 9, 0, "exact", 900)

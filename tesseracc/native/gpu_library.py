"""A shared library for NVIDIA GPUs: cubins of several targets, their compiled plans, and the constants."""

from __future__ import annotations

from tesseracc.arch.arch import Arch
from tesseracc.bundle import plan
from tesseracc.codegen.elf import Wants, link_image
from tesseracc.codegen.image import Image
from tesseracc.codegen.objects import Object, Section, Symbol
from tesseracc.codegen.pool import compile_many
from tesseracc.ir.value import Module
from tesseracc.native.driver import CODES, IMPORTS, NEEDED, Code, Words, driver_text
from tesseracc.native.gpu import gpu_text
from tesseracc.native.header import example, header
from tesseracc.native.library import (
    Library,
    entries_of,
    exports,
    messages_of,
    plain,
    prefix_of,
    weights_of,
)
from tesseracc.native.messages import message_text

__all__ = ["DRIVER", "gpu_library"]

DRIVER = "libcuda.so.1"
_ALIGN = 256  # of constants, as everything on the device
_BLOCK = "tessera.constants"


def gpu_library(
    stem: str, targets: list[tuple[Module, Module, Image]], host: Arch, made_by: str, driver: str = DRIVER
) -> Library:
    """The library of a module for GPUs: of each target its modules at the target and the tile level, and its code.

    `host` is a CPU target of the machine that calls, `driver` what is opened at the first call. Raises as `library`.
    """
    prefix = prefix_of(stem)
    records = [plan.target(module, image)[0] for module, _, image in targets]
    entries = [entries_of(prefix, record, tile) for record, (_, tile, _) in zip(records, targets, strict=True)]
    names = exports(prefix, entries[0], ("close", "device"))
    tiles = [tile for _, tile, _ in targets]
    held = {name: array for tile in tiles for name, array in tile.constants.items()}
    arrays = {name: held[name] for name in sorted(plan.constants_used(tiles))}
    weights = weights_of(arrays, {name: f"tessera.weight.{n}" for n, name in enumerate(arrays)}, _ALIGN)
    offsets = {name: symbol.value for name, symbol in zip(arrays, weights.symbols, strict=True)}
    if arrays:  # all of them go to the device at once
        size = weights.sections[0].size
        weights.symbols.append(Symbol(_BLOCK, 1, 0, size, True, False, False))
    codes = [Code(record, f"tessera.image.{number}") for number, record in enumerate(records)]
    text = "\n".join([
        driver_text(codes, driver, {_BLOCK: size} if arrays else {}), gpu_text(entries, codes, offsets, prefix),
        message_text(f"{prefix}_message", messages_of(entries[0], CODES)),
    ])  # fmt: skip
    (made,) = compile_many([plain(text, host)])
    kernels = max(len(record.kernels) for record in records)
    image = link_image(
        [made.data], host.toolchain.machine, data=[weights, _images([image for _, _, image in targets], codes)],
        exports=names, wants=Wants(NEEDED, IMPORTS, nbytes=8 * (Words.FUNCTIONS + kernels)),
    )  # fmt: skip
    shown = [record.name for record in records]
    return Library(
        image, header(stem, prefix, entries[0], shown, made_by, CODES), example(stem, prefix, entries[0][0]),
        tuple(entry.name for entry in entries[0]),
    )  # fmt: skip


def _images(images: list[Image], codes: list[Code]) -> Object:
    """The code of all targets as read-only data; PTX ends in a zero byte, as the driver wants text."""
    data = bytearray()
    table: list[Symbol] = []
    for image, code in zip(images, codes, strict=True):
        data += bytes(-len(data) % _ALIGN)
        raw = image.data + b"\0" if code.target.format == "ptx" else image.data
        table.append(Symbol(code.image, 1, len(data), len(raw), True, False, False))
        data += raw
    section = Section(1, ".rodata.images", False, False, _ALIGN, len(data), bytes(data), ())
    return Object("the code for GPUs", [section], table, [])

"""The instructions, by family. Importing this package fills the table."""

from tesseracc.emulator.operations import (
    arithmetic as arithmetic,
    atomics as atomics,
    bits as bits,
    compare as compare,
    control as control,
    convert as convert,
    floating as floating,
    memory as memory,
    moves as moves,
    synchronize as synchronize,
    warp as warp,
)

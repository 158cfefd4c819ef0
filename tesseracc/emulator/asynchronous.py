"""Asynchronous operations of one batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tesseracc.emulator.types import Array

if TYPE_CHECKING:
    from tesseracc.emulator.launch import Launch
    from tesseracc.emulator.ptx import Instruction
    from tesseracc.emulator.wave import Wave


class AsyncEngine:
    """Pending copies."""

    def __init__(self, launch: Launch, w: Wave) -> None:
        self.launch = launch
        self.busy = False
        self.writing: Array = np.zeros(1, np.int32)
        self.reading: Array = np.zeros(1, np.int32)

    def deliver_one(self, w: Wave) -> bool:
        """Let one pending operation finish."""
        return False

    def finish(self, w: Wave) -> None:
        """Everything still pending completes."""

    def origin(self, number: int) -> Instruction:
        return self.launch.program.code[number]

    def proxy_fence(self, w: Wave) -> None:
        """fence.proxy.async."""

    def store_async(self, w: Wave, address: Array, values: list[Array], size: int, barrier: Array) -> None:
        """st.async."""

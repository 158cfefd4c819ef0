"""Draws the loss of a training run: the CSV of `tessera-run --log` as a PNG, with the standard library alone.

    python samples/loss_curve.py loss.csv loss.png [COLUMN]

The light line is every call, the dark one the mean of the last calls (a fiftieth of them).
"""

from __future__ import annotations

import csv
import math
import struct
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 400, 56, 16, 16, 28
WHITE, GRID, INK, LIGHT, DARK = (255, 255, 255), (226, 226, 226), (90, 90, 90), (176, 204, 232), (20, 80, 150)
#: 3x5 pixels of each sign, a row in three bits
SIGNS = {"0": 0x7B6F, "1": 0x2C97, "2": 0x73E7, "3": 0x73CF, "4": 0x5BC9, "5": 0x79CF, "6": 0x79EF, "7": 0x7249,
         "8": 0x7BEF, "9": 0x7BCF, ".": 0x0002, "-": 0x01C0}
Colour = tuple[int, int, int]


class Picture:
    """Pixels, from the top left."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.data = bytearray(bytes(WHITE) * (width * height))

    def dot(self, x: int, y: int, colour: Colour) -> None:
        if 0 <= x < self.width and 0 <= y < self.height:
            self.data[3 * (y * self.width + x) : 3 * (y * self.width + x) + 3] = bytes(colour)

    def line(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, thick: int = 1) -> None:
        steps = max(1, math.ceil(max(abs(x1 - x0), abs(y1 - y0))))
        for i in range(steps + 1):
            x, y = x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps
            for dy in range(thick):
                self.dot(round(x), round(y) + dy, colour)

    def text(self, x: int, y: int, text: str, colour: Colour, size: int = 2) -> None:
        for place, sign in enumerate(text):
            bits = SIGNS[sign]
            for i in range(15):
                if bits >> (14 - i) & 1:
                    for dx in range(size):
                        for dy in range(size):
                            self.dot(x + (4 * place + i % 3) * size + dx, y + i // 3 * size + dy, colour)

    def png(self) -> bytes:
        """The file: 8 bits per channel, one IDAT."""
        row = 3 * self.width
        raw = b"".join(b"\0" + self.data[i : i + row] for i in range(0, len(self.data), row))

        def chunk(kind: bytes, data: bytes) -> bytes:
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        header = struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)
        parts = ((b"IHDR", header), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in parts)


def ticks(low: float, high: float) -> list[float]:
    """About five round values between the two."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def curve(values: Sequence[float]) -> Picture:
    """The picture of a series."""
    finite = [v for v in values if math.isfinite(v)] or [0.0]
    low, high = min(0.0, *finite), max(max(finite), 1e-9)
    picture = Picture(WIDTH, HEIGHT)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    count = max(len(values) - 1, 1)

    def at(i: float, v: float) -> tuple[float, float]:
        return LEFT + (right - LEFT) * i / count, bottom - (bottom - TOP) * (v - low) / (high - low)

    for v in ticks(low, high):
        y = at(0, v)[1]
        picture.line(LEFT, y, right, y, GRID)
        text = f"{v:.3g}"
        picture.text(LEFT - 8 - 8 * len(text), round(y) - 5, text, INK)
    for i in ticks(0, count):
        x = at(i, low)[0]
        picture.line(x, bottom, x, bottom + 4, INK)
        text = f"{i:.0f}"
        picture.text(round(x) - 4 * len(text), bottom + 9, text, INK)
    picture.line(LEFT, bottom, right, bottom, INK)
    window = max(1, len(values) // 50)
    smooth = [sum(values[max(0, i - window + 1) : i + 1]) / min(window, i + 1) for i in range(len(values))]
    for series, colour, thick in ((values, LIGHT, 1), (smooth, DARK, 2)):
        points = [at(i, v) for i, v in enumerate(series) if math.isfinite(v)]
        for a, b in zip(points, points[1:], strict=False):
            picture.line(*a, *b, colour, thick)
    return picture


def read(path: Path, column: str) -> list[float]:
    """A column of a CSV file."""
    with path.open(newline="") as file:
        return [float(row[column]) for row in csv.DictReader(file)]


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    target.write_bytes(curve(read(source, sys.argv[3] if len(sys.argv) > 3 else "loss")).png())


if __name__ == "__main__":
    main()

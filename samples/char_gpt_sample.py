"""Writes text with the trained characters of `char_gpt.py`. Needs the runtime's wheel only.

    python samples/char_gpt_sample.py gpt.tsb gpt.safetensors [--start "ROMEO:"] [--length 400] [--temperature 0.7]

One character at a time: `next_character` keeps the keys and values of the last characters in caches, its state, so a
character costs the same at any place, and the caches are never copied.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import tessera_runtime
from tessera_runtime.core import safetensors

ALPHABET = "".join(sorted(set((Path(__file__).parent / "data" / "romeo.txt").read_text(encoding="ascii"))))


def generate(bundle: Path, state: Path, start: str, length: int, temperature: float) -> str:
    """`start` and `length` characters that follow."""
    function = tessera_runtime.load(bundle, threads=1)["next_character"]
    trained = safetensors.load(state.read_bytes())
    names = {item.name: item for item in function.function.inputs}
    params = {name: array for name, array in trained.items() if name in names}
    kept = {name: np.zeros(item.shape, item.dtype.replace("i", "int").replace("f", "float"))
            for name, item in names.items() if item.inout}
    written = start
    for place in range(len(start) + length - 1):
        character = np.array(ALPHABET.index(written[place]), np.int32)
        results = function(**params, **kept, character=character, temperature=np.float32(temperature))
        drawn = dict(zip(function.outputs, results, strict=True))["drawn"]
        if place + 1 >= len(start):
            written += ALPHABET[int(drawn)]
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description="Write text with a trained char_gpt.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("state", type=Path)
    parser.add_argument("--start", default="ROMEO:\n")
    parser.add_argument("--length", type=int, default=400)
    parser.add_argument("--temperature", type=float, default=0.7)
    options = parser.parse_args()
    print(generate(options.bundle, options.state, options.start, options.length, options.temperature))


if __name__ == "__main__":
    main()

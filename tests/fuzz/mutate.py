"""Random changes to texts: tokens deleted, swapped, repeated, replaced; numbers changed."""

from __future__ import annotations

import random
import re

_TOKENS = re.compile(r'\s+|%?@?[A-Za-z_0-9.]+|"(?:[^"\\\n]|\\.)*"|.', re.DOTALL)
NUMBERS = ("0", "1", "-1", "2", "7", "64", "4294967296", "9223372036854775808", "-9223372036854775809", "1e999", "0.5",
           "1" * 40, "9" * 5000)
WORDS = ("N", "f32", "i64", "bool", "fp8_e4m3", "lanes", "none", "true", "inf", "[", "]", "<", ">", "(", ")", "{", "}",
         "->", ":", ",", "=", "yield", "loc", '"text"', '"\\u00"', "%x", "@f", "arith.add", "graph.relu", "module",
         "floordiv", "max(N, 0)", "N // 0", "vec<4xf32>", "tensor<f32[N]>", "buf<f32[N], global>", "ptr<global>",
         "\x00",
         "ä", "'", "//", "\n", "add", "axis", "-", "*", "- N", "{loc = 1}", "{types = 1, name = 2}",
         'loc("a":1)', 'loc("\\"":1:2:3)', '"\\ud800"', "٣",
         "vec<4xzz>", "vec<0xf32>", "{outputs = [1]}", "{domain = [<N>]}", "%0", "%1", "{axis = 9}",
         "{dtype = \"f99\"}")  # fmt: skip


def tokens(text: str) -> list[str]:
    return _TOKENS.findall(text)


def mutated(text: str, rng: random.Random) -> str:
    """The text after 1 to 3 changes, most of them within one line, so that many results still parse."""
    parts = tokens(text)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        solid = [i for i, part in enumerate(parts) if not part.isspace()]
        if not solid:
            break
        i = rng.choice(solid)
        numbers = [k for k in solid if parts[k].lstrip("-").replace(".", "").isdigit()]
        match rng.randrange(8):
            case 0:
                del parts[i]
            case 1:
                j = rng.choice(solid)
                parts[i], parts[j] = parts[j], parts[i]
            case 2:
                parts.insert(i, parts[i] + " ")
            case 3:
                parts[i] = rng.choice(WORDS)
            case 4:
                parts[i] = parts[rng.choice(solid)]
            case 5:
                del parts[i : i + rng.randrange(1, 20)]
            case _ if numbers:
                parts[rng.choice(numbers)] = rng.choice(NUMBERS)
            case _:
                parts[i] = rng.choice(NUMBERS)
    return "".join(parts)

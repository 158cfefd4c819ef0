"""The text of return codes, as a function of the library: `const char *message(int code)`."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["message_text"]


def message_text(name: str, messages: Mapping[int, str]) -> str:
    """LLVM IR: `messages` by code; other codes are an unknown error. Chosen by comparisons: a table would hold
    addresses, which an image without relocations cannot."""
    parts, lines = [_constant(0, "unknown error")], ["entry:"]
    current = "@message.0"
    for number, (code, text) in enumerate(messages.items(), 1):
        parts.append(_constant(number, text))
        lines.append(f"  %is{number} = icmp eq i32 %code, {code}")
        lines.append(f"  %m{number} = select i1 %is{number}, ptr @message.{number}, ptr {current}")
        current = f"%m{number}"
    body = "\n".join([*lines, f"  ret ptr {current}"])
    return "\n".join(parts) + f"\ndefine ptr @{name}(i32 %code) nounwind {{\n{body}\n}}\n"


def _constant(number: int, text: str) -> str:
    data = text.encode() + b"\0"
    shown = "".join(chr(byte) if 32 <= byte < 127 and byte not in (34, 92) else f"\\{byte:02X}" for byte in data)
    return f'@message.{number} = private constant [{len(data)} x i8] c"{shown}"'

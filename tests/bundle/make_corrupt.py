"""Writes tests/bundle/corrupt/: one file for each fault of `faults.py`. `python -m tests.bundle.make_corrupt`"""

from __future__ import annotations

from pathlib import Path

from tests.bundle.faults import all_faults

CORRUPT = Path(__file__).parent / "corrupt"


def main() -> None:
    """Write every file and remove what no fault makes any more."""
    CORRUPT.mkdir(exist_ok=True)
    wanted = {f"{fault.rule}-{fault.name}.tsb": fault.make() for fault in all_faults()}
    for path in CORRUPT.iterdir():
        if path.name not in wanted:
            path.unlink()
    for name, data in wanted.items():
        (CORRUPT / name).write_bytes(data)


if __name__ == "__main__":
    main()

"""Runs the digits bundle on the test images with `tessera-run` and shows what it read. Needs the runtime's wheel only.

    python samples/demo.py DIGITS.tsb [--device cpu] [--at-least 96]

Exits with 1 when the accuracy, computed from the file that `tessera-run` wrote, is below the stated percentage.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tessera_runtime
from digits_data import load

INK = " .:-=+*#%@"


def tessera_run(bundle: Path, images: NDArray[np.uint8], device: str) -> dict[str, NDArray[Any]]:
    """The results of `classify`, through files, as any program would use them; the files lie beside the bundle."""
    folder = bundle.parent
    np.save(folder / "images.npy", images)
    search = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    program = shutil.which("tessera-run", path=search) or "tessera-run"
    command = [program, str(bundle), "--function", "classify", "--device", device,
               "--input", f"images=@{folder / 'images.npy'}"]
    for name in ("label", "probability"):
        (folder / f"{name}.npy").unlink(missing_ok=True)
        command += ["--output", f"{name}=@{folder / name}.npy"]
    print("$", " ".join(["tessera-run", *command[1:]]))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("label", "probability")}


def picture(image: NDArray[np.uint8]) -> list[str]:
    """Eight lines of text, two characters per pixel."""
    return ["".join(2 * INK[int(p) * (len(INK) - 1) // 16] for p in row) for row in image.reshape(8, 8)]


def show(images: NDArray[np.uint8], captions: list[str]) -> None:
    """Images side by side, captions below."""
    pictures = [picture(image) for image in images]
    for row in range(8):
        print("   ".join(lines[row] for lines in pictures).rstrip())
    print("   ".join(f"{caption:<16}" for caption in captions).rstrip() + "\n")


def seconds_per_call(bundle: Path, images: NDArray[np.uint8], device: str) -> float:
    """The median of 20 calls through the Python interface, after two to warm up."""
    classify = tessera_runtime.load(bundle, device=device)["classify"]
    times = []
    for _ in range(22):
        start = time.perf_counter()
        classify(images)
        times.append(time.perf_counter() - start)
    return float(np.median(times[2:]))


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the digits bundle on its test images.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--at-least", type=float, default=96.0, metavar="PERCENT")
    options = parser.parse_args()

    images, labels = load(test=True)
    start = time.perf_counter()
    try:
        results = tessera_run(options.bundle, images, options.device)
    except subprocess.CalledProcessError as error:
        return int(error.returncode)
    process = time.perf_counter() - start

    predicted, sure = results["label"], results["probability"]
    right = predicted == labels
    accuracy = 100 * float(np.mean(right))
    wrong = np.flatnonzero(~right)[:1]
    chosen = np.concatenate([np.flatnonzero(right)[: 4 - len(wrong)], wrong])
    print()
    show(images[chosen], [f"read {predicted[i]} is {labels[i]} {sure[i]:4.0%}" for i in chosen])

    batch = seconds_per_call(options.bundle, images, options.device)
    single = seconds_per_call(options.bundle, images[:1], options.device)
    print(f"accuracy  {accuracy:.2f} % of {len(labels)} test images ({int(right.sum())} right)")
    print(f"time      {1e6 * batch / len(images):.2f} us per image in one batch, {1e6 * single:.0f} us for one alone, "
          f"{process:.2f} s for the whole tessera-run process")
    print(f"bundle    {options.bundle} ({options.bundle.stat().st_size / 1024:.0f} KiB)")
    if accuracy < options.at_least:
        print(f"error: less than {options.at_least:g} %", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

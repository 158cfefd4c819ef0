"""Builds a training bundle, trains with `tessera-run`, draws the loss, and shows what was learned.

    python samples/train.py digits [--steps 4000] [--folder OUT]
    python samples/train.py gpt [--steps 1500] [--folder OUT]

Training that was interrupted goes on where it stopped: the state is in the folder.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tessera_runtime.core import safetensors

HERE = Path(__file__).parent
MODULES = {"digits": ("digits_training", 4000), "gpt": ("char_gpt", 1500)}


def command(*words: object) -> None:
    """Run a command of the project, shown before."""
    name, *rest = map(str, words)
    search = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    print("$", " ".join([name, *rest]), flush=True)
    subprocess.run([shutil.which(name, path=search) or name, *rest], check=True)


def parameters(state: Path) -> list[str]:
    """The trained parameters as inputs of a command line."""
    names = [name for name in safetensors.load(state.read_bytes()) if name.startswith("params_")]
    return [word for name in sorted(names) for word in ("--input", f"{name}=@{state}:{name}")]


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a sample from a bundle.")
    parser.add_argument("sample", choices=sorted(MODULES))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--folder", type=Path, default=Path("."))
    options = parser.parse_args()
    module, steps = MODULES[options.sample]
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    bundle, state, log = (folder / f"{options.sample}.{end}" for end in ("tsb", "safetensors", "csv"))
    command("tesseracc", "build", HERE / f"{module}.py", "--arch", "cpu", "-o", bundle)
    command("tessera-run", bundle, "--function", "step", "--repeat", options.steps or steps, "--state", state,
            "--save-every", 100, "--log", log)
    command(sys.executable, HERE / "loss_curve.py", log, folder / f"{options.sample}.png")
    measure = "accuracy" if options.sample == "digits" else "evaluate"
    command("tessera-run", bundle, "--function", measure, *parameters(state))
    if options.sample == "gpt":
        command(sys.executable, HERE / "char_gpt_sample.py", bundle, state)


if __name__ == "__main__":
    main()

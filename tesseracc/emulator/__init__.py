"""A PTX emulator: PTX text, a launch and buffers go in; results, findings and counters come out."""

from tesseracc.emulator.counters import Counters
from tesseracc.emulator.findings import EmulatorError, Finding, Report
from tesseracc.emulator.launch import Emulator, launch
from tesseracc.emulator.memory import GlobalMemory
from tesseracc.emulator.parser import parse_ptx
from tesseracc.emulator.ptx import Module
from tesseracc.emulator.tensor_map import TensorMap

__all__ = [
    "Counters", "Emulator", "EmulatorError", "Finding", "GlobalMemory", "Module", "Report", "TensorMap", "launch",
    "parse_ptx",
]  # fmt: skip

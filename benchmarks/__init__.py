"""Measurements: compiled CPU code beside NumPy, builds, and start-up. Run `python -m benchmarks --help`."""

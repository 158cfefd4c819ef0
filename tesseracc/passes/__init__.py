"""Passes, one per file, by the level that they work on."""

"""Interpreters of the Graph, Schedule and Tile levels: the meaning of each level, executable."""

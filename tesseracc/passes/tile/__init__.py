"""Passes on the Tile level."""

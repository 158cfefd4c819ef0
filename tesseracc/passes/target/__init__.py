"""Passes on the Target level."""

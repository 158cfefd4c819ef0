"""Passes on the Schedule level."""

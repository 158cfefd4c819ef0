"""Passes on the Graph level."""

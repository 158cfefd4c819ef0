"""Options that several subcommands share."""

from __future__ import annotations

import click

__all__ = ["weights_option"]

weights_option = click.option(
    "--weights", type=click.Path(), metavar="FOLDER",
    help="Where the weights are that a bundle does not hold; default: beside it.",
)  # fmt: skip

"""Options that several subcommands share, their types, and what the shell may complete them to."""

from __future__ import annotations

from typing import Any

import click
from click.shell_completion import CompletionItem

from tessera_runtime.core.numbers import integer

__all__ = ["Target", "Whole", "weights_option"]

weights_option = click.option(
    "--weights", type=click.Path(), metavar="FOLDER",
    help="Where the weights are that a bundle does not hold; default: beside it.",
)  # fmt: skip


class Whole(click.ParamType):  # type: ignore[type-arg]
    """An integer of low..high, in ASCII digits."""

    name = "integer"

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return value if isinstance(value, int) else integer(value, self.low, self.high)
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "N"


class Target(click.ParamType):  # type: ignore[type-arg]
    """A target's name or alias; of one `kind` (cuda, cpu) only, if given, and `more` words. The command looks it up."""

    name = "target"

    def __init__(self, kind: str = "", more: tuple[str, ...] = ()) -> None:
        self.kind, self.more = kind, more

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from tesseracc.arch.arch import load, names

        known = [name for name in names() if not self.kind or load(name).kind == self.kind]
        return [CompletionItem(name) for name in (*self.more, *known) if name.startswith(incomplete)]

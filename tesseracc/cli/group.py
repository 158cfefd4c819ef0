"""`tesseracc`: the group of subcommands."""

from __future__ import annotations

import importlib

import click

#: subcommand -> one line for --help; each lives in tesseracc.cli.<name> as `command`
COMMANDS = {
    "build": "Compile a Tessera module to a bundle.",
    "opt": "Run passes on IR text.",
    "emulate": "Run a PTX kernel on the emulator.",
    "explain": "What an error code means and how to put it right.",
    "inspect": "Show what a bundle holds.",
    "rebuild": "Build a bundle again from its recipe, and compare.",
    "merge": "Put the targets of several bundles into one.",
    "strip": "Write a bundle with fewer targets.",
    "diff": "Show what differs between two bundles.",
    "check": "Say whether a bundle runs on a device.",
    "keygen": "Make a key for signing bundles.",
    "sign": "Sign a bundle.",
    "verify": "Verify a bundle and its signatures.",
    "tune": "Measure a kernel's configurations and record the fastest.",
    "targets": "The targets that --arch accepts.",
}


class _Lazy(click.Group):
    """Imports a subcommand's file when it runs, so that `--help` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"tesseracc.cli.{name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, 1)
            hint = f" Did you mean `{near[0]}`?" if near else ""
            raise click.UsageError(f"No such command `{args[0]}`.{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tesseracc", prog_name="tesseracc")
def cli() -> None:
    """Ahead-of-time compiler for Tessera programs.

    \b
    tesseracc build model.py --arch sm_90 -o model.tsb    any machine, no GPU needed
    tessera-run model.tsb --input x=@x.npy                the CPU; a GPU with --device cuda
    """


def work(args: list[str]) -> int:
    """Runs a subcommand; its exit code. Raises TesseraError, also for a command line that is not understood."""
    try:
        code = cli.main(args=args, prog_name="tesseracc", standalone_mode=False)
    except click.exceptions.Exit as error:
        code = error.exit_code
    except click.Abort:
        raise KeyboardInterrupt from None
    except RecursionError as error:  # in a pass; the front end says where
        from tessera_runtime.core.errors import TesseraError

        help = "compute in a loop of fewer steps, or in several functions"
        raise TesseraError("E106", "the program is longer or deeper than the compiler follows", help=help) from error
    except click.ClickException as error:
        if args:
            raise _usage(error) from None
        error.show()  # the help
        code = 2
    return code if isinstance(code, int) else 0


def _usage(error: click.ClickException) -> Exception:
    """What the command line's parser says, as an error of ours."""
    from tessera_runtime.core.errors import UsageError

    text = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "tesseracc"
    return UsageError("E801", text[:1].lower() + text[1:], help=f"`{path} --help` says what it takes")

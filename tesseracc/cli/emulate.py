"""`tesseracc emulate`: one kernel of a PTX file on arrays, without the rest of the compiler."""

from __future__ import annotations

import click

from tesseracc.cli.options import Whole

FINDINGS = 6  # the exit code of device errors: the kernel did something that it must not


@click.command("emulate")
@click.argument("file", type=click.Path())
@click.option("--kernel", help="The entry to run; needed where the file has several.")
@click.option("--grid", default="1,1,1", show_default=True, help="Groups along x,y,z.")
@click.option("--block", default="1,1,1", show_default=True, help="Threads of a group along x,y,z.")
@click.option("--cluster", help="Groups of a cluster along x,y,z.")
@click.option(
    "--arg", "arguments", multiple=True,
    help="In order: @x.npy (a buffer), i32=201, f32=1.5, hex=00ff; or by name: x=@x.npy, N=201. Repeats.",
)  # fmt: skip
@click.option(
    "--output",
    "outputs",
    multiple=True,
    help="N=@y.npy writes the buffer of argument N (from 0, or its name); repeats.",
)
@click.option(
    "--dynamic-shared", default=0, show_default=True, type=Whole(0, 2**31 - 1), help="Bytes of dynamic shared memory."
)
@click.option(
    "--seed", default=0, show_default=True, type=Whole(0, 2**32 - 1),
    help="Chooses the order in which asynchronous copies land.",
)  # fmt: skip
@click.option("--detect/--no-detect", default=True, help="Look for races, stray and uninitialised accesses.")
@click.option("--counters", is_flag=True, help="Print instructions, memory traffic, bank conflicts, barriers.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def command(
    ctx: click.Context,
    file: str,
    kernel: str | None,
    grid: str,
    block: str,
    cluster: str | None,
    arguments: tuple[str, ...],
    outputs: tuple[str, ...],
    dynamic_shared: int,
    seed: int,
    detect: bool,
    counters: bool,
    as_json: bool,
) -> None:
    """Run a kernel of the PTX in FILE on the emulator, and tell races, stray accesses and what else is wrong.

    \b
    tesseracc emulate k.ptx --grid 2,1,1 --block 128,1,1 --arg @x.npy --arg @y.npy --arg i32=201 --output 1=@y_out.npy

    A kernel that tesseracc built takes the tensors and scalars of its signature in order, then its dims (i64) in the
    order of their names; `build --emit ptx` and `tesseracc inspect` show them as k(x, y, a, M, N), and each may be
    given by its name:

    \b
    tesseracc emulate k.ptx --grid 2 --block 128 --arg N=201 --arg x=@x.npy --arg y=@y.npy --output y=@y_out.npy

    Buffers are written whatever was found. Exit codes: 0, 2 usage (the kernel's name, a dimension, an argument, a
    file), 6 there are findings, or the PTX is not understood.
    """
    from tesseracc.emulator.tool import emulate

    code, text = emulate(
        file,
        kernel,
        grid,
        block,
        arguments,
        outputs,
        dynamic_shared=dynamic_shared,
        cluster=cluster,
        seed=seed,
        detect=detect,
        counters=counters,
        as_json=as_json,
    )
    click.echo(text)
    ctx.exit(FINDINGS if code else 0)

"""`tesseracc check`: will a bundle run there, from its first bytes."""

from __future__ import annotations

import click

from tesseracc.cli.options import Target


@click.command("check")
@click.argument("bundle", type=click.Path())
@click.option("--device", metavar="NAME", help="A device of this machine: cpu, cuda, cuda:N.")
@click.option(
    "--arch", type=Target("cuda"), metavar="NAME",
    help="A GPU: sm_90, sm_103, or an alias that `tesseracc targets` lists.",
)  # fmt: skip
@click.option("--cpu", type=Target("cpu"), metavar="LEVEL", help="A CPU level: x86-64-v3.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def command(bundle: str, device: str | None, arch: str | None, cpu: str | None, as_json: bool) -> None:
    """Say whether BUNDLE runs on a device, a GPU or a CPU, and which of its targets is taken.

    Reads the first 2192 bytes; nothing is verified. Without an option it asks for this machine's CPU.

    \b
    tesseracc check m.tsb --device cuda:0
    tesseracc check m.tsb --arch sm_90 --json
    tesseracc check m.tsb --cpu x86-64-v3

    Exit codes: 0 it runs, 6 it does not, 2 files and options, 5 no bundle.
    """
    import json
    from dataclasses import asdict

    from tesseracc.bundle.preflight import check, machine_of, read_header

    if device is None and arch is None and cpu is None:
        device = "cpu"
    header = read_header(bundle)
    answer = check(header.targets, machine_of(device=device, arch=arch, cpu=cpu))
    if as_json:
        document = {
            "bundle": bundle, "digest": header.manifest_sha256.hex(), "signatures": header.signatures,
            "machine": answer.machine, "runs": answer.target is not None, "target": answer.target, "rule": answer.rule,
            "targets": [asdict(verdict) for verdict in answer.verdicts],
        }  # fmt: skip
        click.echo(json.dumps(document, sort_keys=True))
    else:
        if answer.target is not None:
            click.echo(f"{bundle} runs on {answer.machine}: {answer.target} ({answer.rule})")
        else:
            click.echo(f"{bundle} does not run on {answer.machine}")
        for verdict in answer.verdicts:
            if verdict.target != answer.target:
                click.echo(f"  {verdict.target}: {verdict.runs}{', ' if verdict.reason else ''}{verdict.reason}")
    if answer.target is None:
        raise click.exceptions.Exit(6)

"""`tesseracc strip`: a bundle with fewer targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from tesseracc.cli.options import Target, weights_option

if TYPE_CHECKING:
    from tessera_runtime.bundle import BundleFile


@click.command("strip")
@click.argument("bundle", type=click.Path())
@click.option(
    "--keep", multiple=True, type=Target("", ("cpu",)), metavar="TARGET",
    help="A target that stays, or cpu for all CPU levels; repeats. Default: all.",
)  # fmt: skip
@click.option("--tests", is_flag=True, help="Remove the embedded tests.")
@click.option("--sources", is_flag=True, help="Remove the embedded sources.")
@click.option("--external-weights", "outside", is_flag=True, help="Put the weights into a file beside the output.")
@click.option("-o", "--output", required=True, type=click.Path(), help="The bundle to write.")
@weights_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def command(
    bundle: str, keep: tuple[str, ...], tests: bool, sources: bool, outside: bool, output: str, weights: str | None,
    as_json: bool,
) -> None:
    """Write BUNDLE with only the targets that --keep names, and the constants that they use. Signatures are dropped.

    The result is what building for these targets gives, byte for byte.

    \b
    tesseracc strip m.tsb --keep sm_90 --keep x86-64-v3 -o small.tsb
    tesseracc strip m.tsb --tests --sources -o release.tsb
    tesseracc strip m.tsb --external-weights -o thin.tsb
    tesseracc strip thin.tsb -o m.tsb                         the weights inside again

    Exit codes: 0, 2 files or a target that is not there (E805), 5 the bundle is invalid.
    """
    import json
    import os

    from tessera_runtime.bundle import BundleFile
    from tessera_runtime.core.errors import UsageError
    from tessera_runtime.core.files import check_output, write_atomic
    from tesseracc.bundle.combine import strip
    from tesseracc.bundle.detach import write_detached

    check_output(output)
    file = BundleFile(bundle, verify_weights=True, weights=weights)
    if not (keep or tests or sources or outside or file.header.detached):
        raise UsageError("E801", "nothing to do: give --keep, --tests, --sources or --external-weights")
    names = [target.name for target in file.manifest.targets]
    data = strip(file, _meant(file, keep) or names, tests=not tests, sources=not sources)
    result = BundleFile(data)
    size = len(data)
    if outside:
        write_detached(output, result)
        size = os.stat(output).st_size
    else:
        write_atomic(output, data)
    targets = [target.name for target in result.manifest.targets]
    if as_json:
        document = {"bundle": output, "bytes": size, "digest": result.digest, "targets": targets}
        click.echo(json.dumps(document, sort_keys=True))
    else:
        saved = file.header.file_size - size
        change = f"{abs(saved):,} {'less' if saved >= 0 else 'more'}"
        click.echo(f"{output}: {', '.join(targets)}; {size:,} bytes, {change}, sha256:{result.digest}")


def _meant(file: BundleFile, keep: Sequence[str]) -> list[str]:
    """The names in the bundle that --keep means: its own, aliases of targets, and `cpu` for all CPU levels in it."""
    from tessera_runtime.core.errors import UsageError
    from tesseracc.arch.arch import load

    kinds = {target.name: target.kind for target in file.manifest.targets}
    found: list[str] = []
    for name in keep:
        levels = [target for target, kind in kinds.items() if kind == "cpu"]
        if name in kinds or (name == "cpu" and not levels):
            found.append(name)
        elif name == "cpu":
            found += levels
        else:
            try:
                found.append(load(name).name)
            except UsageError:  # of another compiler, or of none: the bundle lacks it
                found.append(name)
    return found

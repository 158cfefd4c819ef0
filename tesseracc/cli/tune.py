"""`tesseracc tune`: measures the configurations of an autotuned kernel, and records the fastest."""

from __future__ import annotations

import copy
import json
from typing import Any

import click

from tesseracc.cli.options import Target


@click.command("tune")
@click.argument("file", type=click.Path())
@click.option("--kernel", "name", required=True, metavar="NAME", help="The kernel to measure.")
@click.option(
    "--arch", type=Target("", ("cpu",)), default="cpu", show_default=True,
    help="cpu, or the target of a GPU in this machine.",
)  # fmt: skip
@click.option("--sizes", multiple=True, metavar="DIM=N,..", help="Sizes of all dims; repeats, one record each.")
@click.option("-o", "--output", type=click.Path(), help="The record; default: FILE with the suffix .tuning.yaml.")
@click.option("--json", "as_json", is_flag=True, help="Report as one JSON object on stdout.")
def command(file: str, name: str, arch: str, sizes: tuple[str, ...], output: str | None, as_json: bool) -> None:
    """Measure every legal configuration of a kernel in the module FILE, and write the fastest into a tuning record.

    A record that exists keeps its other entries. `tesseracc build` finds it beside the module, or by --tuning.

    \b
    tesseracc tune gemm.py --kernel gemm --sizes M=512,N=512,K=512
    tesseracc tune gemm.py --kernel gemm --arch sm_90 --sizes M=4096,N=4096,K=4096 -o gemm.tuning.yaml
    tesseracc build gemm.py --tuning gemm.tuning.yaml --notes -o gemm.tsb

    Exit codes: 0, 2 usage and files, 3 the source, 4 the toolchain, 6 no such device.
    """
    from pathlib import Path

    from tessera.decorators import Kernel
    from tessera_runtime import load as load_bundle
    from tessera_runtime.core.errors import UsageError
    from tessera_runtime.core.files import check_apart, check_output
    from tesseracc.arch.arch import load
    from tesseracc.driver import Build, host_level, place_of
    from tesseracc.frontend import kernel as kernels
    from tesseracc.frontend import source
    from tesseracc.frontend.specs import parse_variants
    from tesseracc.tuning.measure import measure
    from tesseracc.tuning.record import beside, read_records, write_records
    from tesseracc.tuning.space import spell

    path = str(beside(file)) if output is None else output
    check_apart(path, file)
    check_output(path)
    records = {r.key: r for r in read_records(path)} if Path(path).is_file() else {}
    entry = source.choose(source.load(file), (name,))[name]
    if not isinstance(entry, Kernel) or not entry.space:
        raise UsageError("E801", f"`{name}` has no space", help="mark it with @ts.kernel.autotune(space={...})")
    entry = copy.copy(entry)
    entry.name = name  # as a build calls it, which may differ from the name of its `def`
    target = host_level() if arch == "cpu" else load(arch)
    device: Any = "cpu"
    if target.kind == "cuda":
        device, found = place_of("cuda:0")
        if found.name != target.name:
            raise UsageError("E801", f"the GPU of this machine is for {found.name}, not {target.name}")
    elif target.name != host_level().name:
        raise UsageError("E801", f"this machine runs {host_level().name}, not {target.name}")

    def compiled(definition: Any) -> Any:
        data = Build(kernels.lower(definition), (target,)).bundle()
        return load_bundle(data, device=device, require_signature=())[definition.name]

    told = []
    for variant in parse_variants(sizes) or [{}]:
        measured = measure(entry, target, variant, compiled)
        records[measured.record.key] = measured.record
        points = [
            {"config": dict(p.config), "seconds": seconds, "reason": p.reason} for p, seconds in measured.rows
        ]  # fmt: skip
        told.append({"sizes": variant, "best": dict(measured.record.config), "points": points})
        if not as_json:
            for point, seconds in measured.rows:
                text = f"illegal: {point.reason}" if seconds is None else f"{seconds * 1e3:.3f} ms"
                click.echo(f"{spell(point.config)}: {text}")
            click.echo(f"fastest at {spell(variant) or 'any size'}: {spell(measured.record.config)}")
    write_records(path, list(records.values()))
    if as_json:
        click.echo(json.dumps({"record": path, "kernel": name, "arch": target.name, "runs": told}, sort_keys=True))
    else:
        click.echo(path)

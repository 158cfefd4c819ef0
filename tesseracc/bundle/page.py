"""A bundle as one HTML page that needs nothing else: no scripts, no fonts, no network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

from tessera_runtime.bundle import BundleFile
from tessera_runtime.core import manifest as M
from tessera_runtime.core.errors import TesseraError
from tessera_runtime.plan import instantiate
from tesseracc.bundle.code import ptx_kernels
from tesseracc.bundle.describe import shared_text
from tesseracc.bundle.drawing import graph, timeline
from tesseracc.bundle.style import STYLE

__all__ = ["Levels", "page"]

Json = Mapping[str, Any]
_LOC = re.compile(r"^\s*\.loc\s+\d+\s+(\d+)", re.MULTILINE)
_SAMPLE = 1024  # the value of every symbol where memory is drawn
_LONGEST = 400  # lines of code shown of a kernel


@dataclass(frozen=True)
class Levels:
    """IR for the page: graphs by function; tile kernels by target and kernel. `missing` says why there is none."""

    graphs: Mapping[str, str] = field(default_factory=dict)
    tiles: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    missing: str = ""


def page(file: BundleFile, about: Json, name: str, sources: Mapping[str, str], levels: Levels) -> str:
    """The page of a verified bundle; `about` is its `describe.document`."""
    body = [
        _head(about, name),
        _sizes(about),
        _functions(about, levels),
        *(_target(file, about, i, sources, levels) for i in range(len(about["targets"]))),
        _constants(about),
        _provenance(about),
        *(
            _fold(f"Source of {escape(n)}", _code(text), id_=f"source-{i}")
            for i, (n, text) in enumerate(sources.items())
        ),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)}</title><style>{STYLE}</style></head><body><main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main></body></html>\n"
    )


def _head(about: Json, name: str) -> str:
    kernels = sum(len(t["kernels"]) for t in about["targets"])
    cards = [
        (f"{about['bytes']:,}", "bytes"),
        (str(len(about["functions"])), "functions"),
        (str(len(about["targets"])), "targets"),
        (str(kernels), "kernels"),
        (str(len(about["tests"])), "embedded tests"),
        (str(len(about["signatures"])) if about["signatures"] else "none", "signatures"),
    ]
    shown = "".join(f'<div class="card"><b>{value}</b><span>{label}</span></div>' for value, label in cards)
    links = " ".join(f'<a href="#{escape(t["name"])}">{escape(t["name"])}</a>' for t in about["targets"])
    return (
        f'<header><h1>{escape(name)}</h1><p class="digest">sha256:{about["digest"]}</p>'
        f'<div class="cards">{shown}</div><nav><a href="#functions">functions</a> {links} '
        f'<a href="#provenance">provenance</a></nav></header>'
    )


def _sizes(about: Json) -> str:
    total = max(about["bytes"], 1)
    parts = [(kind, size) for kind, size in about["sections"].items() if size]
    bar = "".join(
        f'<i class="{kind}" style="width:{100 * size / total:.3f}%" title="{kind}: {size:,} bytes"></i>'
        for kind, size in parts
    )
    legend = "".join(f'<span><i class="{kind}"></i>{kind} {size:,}</span>' for kind, size in parts)
    rows = [[escape(e["name"]), e["kind"], f"{e['bytes']:,}"] for e in about["entries"]]
    return (
        f'<section><h2>Sizes</h2><div class="bar">{bar}</div><div class="legend">{legend}</div>'
        + _fold(f"{len(rows)} entries", _table(["entry", "kind", "bytes"], rows, numeric={2}))
        + "</section>"
    )


def _functions(about: Json, levels: Levels) -> str:
    out = ['<section id="functions"><h2>Functions</h2>']
    for f in about["functions"]:
        out.append(f'<div class="function"><pre class="signature">{escape(f["signature"])}</pre>')
        if f["doc"].strip():
            out.append(f"<p>{escape(f['doc'].strip())}</p>")
        facts = [f"<li><code>{escape(s)}</code> = {escape(where)}</li>" for s, where in f["symbols"].items()]
        facts += [f"<li>requires {escape(g['message'])}</li>" for g in f["guards"]]
        out.append(f"<ul>{''.join(facts)}</ul>" if facts else "")
        if f["name"] in levels.graphs:
            out.append(_fold("Graph IR after the graph passes", _code(levels.graphs[f["name"]])))
        out.append("</div>")
    return "".join(out) + "</section>"


def _target(file: BundleFile, about: Json, index: int, sources: Mapping[str, str], levels: Levels) -> str:
    record, shown = file.manifest.targets[index], about["targets"][index]
    runs = shown["capability"] or " ".join([shown["machine"], *shown["requires"]])
    rows = []
    for k in shown["kernels"]:
        rows.append(
            [
                f'<a href="#{escape(shown["name"])}-{escape(k["symbol"])}">{escape(k["name"])}</a>',
                escape(" ".join(k["ops"])),
                escape(" × ".join(g for i, g in enumerate(k["grid"] or ["?"]) if not i or g != "1")),
                *(f"{k[key]:,}" for key in ("group", "registers")),
                _number(shared_text(k)),
                *(f"{k[key]:,}" for key in ("spill_bytes", "frame_bytes", "scratch_bytes", "code_bytes")),
                escape(" + ".join(f["count"] for f in k["flops"])),
                escape(k["source"] or ""),
            ]
        )
    head = ["kernel", "computes", "grid", "group", "registers", "shared", "spills", "stack", "scratch", "code", "flops",
            "source"]  # fmt: skip
    tiles = {k["name"]: _tile_of(k["name"], levels.tiles.get(shown["name"], {})) for k in shown["kernels"]}
    computed = {k["name"]: " ".join(k["ops"]) for k in shown["kernels"]}
    out = [
        f"<p>{escape(shown['format'])}, {shown['bytes']:,} bytes, for {escape(runs)}; "
        f"preference {shown['preference']}</p>",
        _table(head, rows, numeric=set(range(3, 10))),
    ]
    for plan_record, plan in zip(record.plans, shown["plans"], strict=True):
        out.append(f"<h3>{escape(plan['function'])}</h3>")
        out.append(f'<div class="scroll">{graph(plan, computed)}</div>')
        drawn = _memory(file.manifest, record, plan_record)
        if drawn:
            symbols = ", ".join(s.name for s in _function(file.manifest, plan_record).symbols)
            at = f" at {symbols} = {_SAMPLE}" if symbols else ""
            out.append(f"<h4>Temporary memory{escape(at)}</h4><div class='scroll'>{drawn}</div>")
    code = _listings(file, record)
    for kernel, k in zip(record.kernels, shown["kernels"], strict=True):
        out.append(_kernel(shown["name"], kernel, k, code, sources, tiles.get(kernel.name, "")))
    best = max(range(len(about["targets"])), key=lambda i: about["targets"][i]["preference"])
    opened = " open" if index == best else ""
    return (
        f'<details class="target" id="{escape(shown["name"])}"{opened}><summary><h2>{escape(shown["name"])}</h2>'
        f"<span>{len(rows)} kernels</span></summary>{''.join(out)}</details>"
    )


def _number(value: int | str) -> str:
    return f"{value:,}" if isinstance(value, int) else escape(value)


def _tile_of(kernel: str, tiles: Mapping[str, str]) -> str:
    """The Tile IR that a kernel was made from: that of its name, or of the name that it is a version of."""
    names = [name for name in tiles if kernel == name or kernel.startswith(f"{name}__")]
    return tiles[max(names, key=len)] if names else ""


def _function(manifest: M.Manifest, plan: M.Plan) -> M.Function:
    found = manifest.function(plan.function)
    assert found is not None, "the manifest was checked"
    return found


def _memory(manifest: M.Manifest, target: M.Target, plan: M.Plan) -> str:
    env = {symbol.name: _SAMPLE for symbol in _function(manifest, plan).symbols}
    try:
        return timeline(instantiate(plan, target.kernels, env))
    except TesseraError:  # sizes that guards would refuse
        return ""


def _listings(file: BundleFile, target: M.Target) -> tuple[str, Mapping[str, str], Mapping[str, str]]:
    """The kind of listing, the listings by symbol, and the PTX by symbol (which has source lines)."""
    text = target.ptx or (target.image if target.format == "ptx" else None)
    ptx = ptx_kernels(file.entry(text).decode("ascii")) if text else {}
    if target.format == "cubin":
        from tesseracc.arch.arch import load
        from tesseracc.codegen.disassemble import disassemble

        try:
            listing = disassemble(file.entry(target.image), load(target.name))
            parts = re.split(r"^\s*\.section\s+\.text\.([\w.$]+).*$", listing, flags=re.MULTILINE)
            return "SASS", dict(zip(parts[1::2], map(_instructions, parts[2::2]))), ptx
        except TesseraError:
            pass
    return "PTX", ptx, ptx


def _instructions(listing: str) -> str:
    """Labels and instructions of a listing, without the assembler's directives and columns."""
    lines = (" ".join(line.split()) for line in listing.splitlines())
    shown = (line if line.endswith(":") else f"  {line}" for line in lines if line.startswith(("/*", ".L")))
    return "\n".join(shown)


def _kernel(
    target: str,
    kernel: M.Kernel,
    about: Json,
    code: tuple[str, Mapping[str, str], Mapping[str, str]],
    sources: Mapping[str, str],
    tile: str,
) -> str:
    kind, listings, ptx = code
    columns = []
    text = _text_of(sources, kernel.source.file) if kernel.source else ""
    if kernel.source and text:
        used = {int(line) for line in _LOC.findall(ptx.get(kernel.symbol, ""))} | {kernel.source.line}
        used |= {part.line for part in kernel.parts if part.file == kernel.source.file}
        columns.append((f"Source, {kernel.source.file}", _lines(text, used)))
    if tile:
        columns.append(("Tile IR", _code(tile)))
    if kernel.symbol in listings:
        columns.append((kind, _code(listings[kernel.symbol])))
    params = "".join(f"<li><code>{escape(p)}</code></li>" for p in about["params"])
    body = f"<ol class='params' start='0'>{params}</ol>"
    if columns:
        shown = "".join(f"<div><h5>{escape(title)}</h5>{content}</div>" for title, content in columns)
        body += f'<div class="columns">{shown}</div>'
    return _fold(f"Kernel <code>{escape(kernel.name)}</code>", body, id_=f"{target}-{kernel.symbol}")


def _text_of(sources: Mapping[str, str], file: str) -> str:
    """The text of a kernel's file: of that name, or of that name in a package."""
    named = (text for name, text in sources.items() if name.endswith(f"/{file}"))
    return sources[file] if file in sources else next(named, "")


def _lines(text: str, used: set[int]) -> str:
    """The lines of a source that a kernel comes from, marked, with a little around them."""
    lines = text.splitlines()
    known = {n for n in used if 0 < n <= len(lines)}
    if not known:
        return ""
    first, last = max(1, min(known) - 3), min(len(lines), max(known) + 3, min(known) + _LONGEST)
    rows = [
        f'<span class="{"hit" if n in known else "line"}"><b>{n:>4}</b> {escape(lines[n - 1]) or " "}</span>'
        for n in range(first, last + 1)
    ]
    return f"<pre>{chr(10).join(rows)}</pre>"


def _code(text: str) -> str:
    lines = text.strip("\n").splitlines()
    more = f"\n… {len(lines) - _LONGEST} more lines" if len(lines) > _LONGEST else ""
    return f"<pre>{escape(chr(10).join(lines[:_LONGEST]))}{more}</pre>"


def _constants(about: Json) -> str:
    if not about["constants"]:
        return ""
    rows = [[escape(c["name"]), escape(c["type"]), f"{c['bytes']:,}", escape(c["entry"])] for c in about["constants"]]
    table = _table(["constant", "type", "bytes", "entry"], rows, numeric={2})
    return (
        f"<section><h2>Constants</h2>{table if len(rows) <= 20 else _fold(f'{len(rows)} constants', table)}</section>"
    )


def _provenance(about: Json) -> str:
    rows = [
        [escape(key), f"<code>{escape(' '.join(v) if isinstance(v, list) else str(v))}</code>"]
        for key, v in sorted(about["provenance"].items())
    ]
    rows += [["signed by", f"<code>{key}</code>"] for key in about["signatures"]]
    return f'<section id="provenance"><h2>Provenance</h2>{_table(["", ""], rows)}</section>'


def _table(head: list[str], rows: list[list[str]], numeric: set[int] = frozenset()) -> str:  # type: ignore[assignment]
    """Cells are HTML. Columns that hold only 0 or nothing are left out."""
    kept = [i for i in range(len(head)) if not i or not any(head) or any(row[i] not in ("", "0") for row in rows)]

    def cells(row: list[str], tag: str) -> str:
        return "".join(f"<{tag}{' class=n' if i in numeric else ''}>{row[i]}</{tag}>" for i in kept)

    top = f"<thead><tr>{cells(head, 'th')}</tr></thead>" if any(head) else ""
    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>'


def _fold(title: str, content: str, id_: str = "") -> str:
    name = f' id="{escape(id_)}"' if id_ else ""
    return f"<details{name}><summary>{title}</summary>{content}</details>"

"""`tesseracc inspect`: every fact against its source, and a page that is whole, well formed and needs no network."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tessera_runtime.bundle import BundleFile
from tessera_runtime.core.errors import BundleError
from tesseracc.bundle.code import kernel_code, resources
from tesseracc.codegen.disassemble import disassembler_path
from tesseracc.report import write_out
from tests.cli.run import Runner
from tests.cli.samples import build, write_model

VOID = {"meta", "br", "hr", "img", "input", "link"}


@pytest.fixture
def tesseracc(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)


@pytest.fixture
def bundle(tesseracc: Runner, tmp_path: Path) -> Path:
    options = ("--arch", "x86-64-v3", "--arch", "sm_90", "--embed-source", "--embed-tests")
    return build(tesseracc, write_model(tmp_path / "src"), tmp_path / "m.tsb", *options)


class Page(HTMLParser):
    """Checks that elements nest, and collects what matters."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.counts: dict[str, int] = {}
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        found = dict(attrs)
        assert not {"src", "onclick", "onload"} & found.keys()
        if found.get("id"):
            self.ids.append(str(found["id"]))
        if found.get("href"):
            self.links.append(str(found["href"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_json(tesseracc: Runner, bundle: Path) -> None:
    said = tesseracc("inspect", bundle, "--json")
    about, file = json.loads(said.out), BundleFile(bundle)
    assert said.code == 0 and about["digest"] == file.digest and about["bytes"] == bundle.stat().st_size
    assert sum(about["sections"].values()) == about["bytes"] and about["sections"]["container"] > 0
    model, scale = about["functions"]
    assert (model["doc"], scale["doc"]) == ("A layer <with> a sum.", "x *= factor, in place.")
    assert model["signature"] == "model(x: f32[N, 24]) -> total: f32[], y: f32[N, 12]"
    assert model["symbols"] == {"N": "extent 0 of x"} and "inout" in scale["signature"]
    cpu, gpu = about["targets"]
    assert (cpu["name"], gpu["name"], gpu["capability"]) == ("x86-64-v3", "sm_90", "exact 9.0")
    for shown, target in zip(about["targets"], file.manifest.targets, strict=True):
        code = kernel_code(file, target)
        assert [k["symbol"] for k in shown["kernels"]] == [k.symbol for k in target.kernels]
        assert [k["code_bytes"] for k in shown["kernels"]] == [len(code[k.symbol]) for k in target.kernels]
        assert all(k["code_bytes"] > 16 and k["source"].startswith("model.py:") for k in shown["kernels"])
    assert [t["name"] for t in about["tests"]] == ["model/0", "model/1", "scale/0", "scale/1"]
    plan = gpu["plans"][0]
    temporaries = [b for b in plan["buffers"] if b["kind"] == "temp"]
    assert temporaries and all(0 <= b["steps"][0] <= b["steps"][1] < len(plan["steps"]) for b in temporaries)
    assert tesseracc("inspect", bundle, "--json").out == said.out


def test_registers_are_those_of_the_cubin(bundle: Path) -> None:
    """Two witnesses: what the assembler printed, which the manifest has, and the attributes in the cubin."""
    file = BundleFile(bundle)
    (target,) = [t for t in file.manifest.targets if t.format == "cubin"]
    found = resources(file.entry(target.image))
    assert {k.symbol: k.registers for k in target.kernels} == {name: r.registers for name, r in found.items()}
    assert all(r.registers > 4 and r.frame_bytes == 0 for r in found.values())


def test_text(tesseracc: Runner, bundle: Path) -> None:
    said = tesseracc("inspect", bundle)
    assert said.code == 0
    for part in ("not signed", "ceildiv(N, ", "registers", "N = extent 0 of x", "w: f32[24, 12]", "model/0"):
        assert part in said.out
    assert all(line == line.rstrip() for line in said.out.splitlines())
    tesseracc("strip", bundle, "--keep", "cpu", "-o", bundle)
    assert "assembler" in said.out and "assembler" not in tesseracc("inspect", bundle).out


def test_page(tesseracc: Runner, bundle: Path, tmp_path: Path) -> None:
    html = tmp_path / "m.html"
    said = tesseracc("inspect", bundle, "--html", html, "--trust-source")
    assert said.code == 0 and "m.html" in said.out
    text = html.read_text()
    page = Page()
    page.feed(text)
    assert not page.open and len(page.ids) == len(set(page.ids))
    assert page.links and all(link[1:] in page.ids for link in page.links if link.startswith("#"))
    assert all(link.startswith("#") for link in page.links)
    assert not re.search(r"https?:|<script|@import|url\(", text)
    # 2 targets x 2 functions have a graph each; the temporaries of `model` are drawn
    assert page.counts["svg"] >= 4 + 2 and page.counts["path"] >= 10
    shown = "".join(page.words)
    code = ("SASS", "EXIT") if disassembler_path() else ("PTX", "ld.param")
    for part in ("A layer <with> a sum.", "Tile IR", *code, "x[i] = factor * x[i]", "FACTOR = 0.5", "graph."):
        assert part in shown, part
    assert ">matmul " in text and re.search(r"<td>[a-z ]*exp[a-z ]* div", text)  # what was fused into kernels
    assert re.search(r'class="hit"><b> +17</b>', text)  # the line of the kernel's multiplication
    assert [re.findall('id="(.*?)"', tag) for tag in re.findall("<details[^>]* open>", text)] == [["sm_90"]]
    tesseracc("inspect", bundle, "--html", tmp_path / "again.html", "--trust-source")
    assert (tmp_path / "again.html").read_text() == text


def test_page_with_the_source_given_or_without(tesseracc: Runner, tmp_path: Path) -> None:
    source = write_model(tmp_path / "src")
    bundle = build(tesseracc, source, tmp_path / "m.tsb", "--arch", "sm_80")
    assert tesseracc("inspect", bundle, "--html", tmp_path / "a.html").code == 0
    assert tesseracc("inspect", bundle, "--html", tmp_path / "b.html", "--source", source).code == 0
    bare, full = (tmp_path / "a.html").read_text(), (tmp_path / "b.html").read_text()
    assert "Tile IR" not in bare and "Tile IR" in full
    assert ("SASS" if disassembler_path() else "PTX") in bare
    (target,) = BundleFile(bundle).manifest.targets
    ops = {" ".join(kernel.ops) for kernel in target.kernels}
    assert {"matmul", "max", "exp"} <= {word for words in ops for word in words.split()}
    assert all(f"<td>{words}</td>" in bare for words in ops)


def test_a_carried_source_is_executed_only_where_it_is_trusted(tesseracc: Runner, tmp_path: Path) -> None:
    source, ran = write_model(tmp_path / "src"), tmp_path / "ran"
    source.write_text(f"open({str(ran)!r}, 'a').close()\n" + source.read_text())
    bundle = build(tesseracc, source, tmp_path / "m.tsb", "--arch", "sm_80", "--embed-source")
    ran.unlink()
    assert tesseracc("inspect", bundle, "--html", tmp_path / "a.html").code == 0
    assert not ran.exists() and "Tile IR" not in (tmp_path / "a.html").read_text()
    assert tesseracc("inspect", bundle, "--html", tmp_path / "b.html", "--trust-source").code == 0
    assert ran.exists() and "Tile IR" in (tmp_path / "b.html").read_text()


@pytest.mark.parametrize("name", ["../outside.py", "/outside.py", "a/../../outside.py"])
def test_names_of_sources_stay_in_their_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    with pytest.raises(BundleError, match="leads out of its folder"):
        write_out(folder, {name: "x = 1"})
    assert not list(tmp_path.rglob("outside.py"))


@pytest.mark.parametrize("names", [("",), (".",), ("a.py", "a.py/b.py"), ("a/b.py", "a")])
def test_names_of_sources_are_names_of_files(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(BundleError, match="is the name of a folder"):
        write_out(tmp_path, dict.fromkeys(names, "x = 1"))


def test_bad_input(tesseracc: Runner, bundle: Path, tmp_path: Path) -> None:
    assert tesseracc("inspect", tmp_path / "none.tsb").code == 2
    assert "E801" in tesseracc("inspect", bundle, "--source", "x.py").err
    data = bytearray(bundle.read_bytes())
    data[-2000] ^= 1
    (tmp_path / "bad.tsb").write_bytes(data)
    said = tesseracc("inspect", tmp_path / "bad.tsb", "--json")
    assert said.code == 5 and json.loads(said.out)["errors"][0]["code"].startswith("E6")
    said = tesseracc("inspect", bundle, "--html", tmp_path / "no" / "m.html")
    assert said.code == 2 and "E803" in said.err

"""Drawings of plans as SVG: the graph of kernels and tensors, and where temporaries lie in memory over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from tessera_runtime.plan import Instance
from tesseracc.bundle.describe import buffer_name, lifetimes, step_text

__all__ = ["PlanGraph", "graph", "timeline"]

Json = Mapping[str, Any]
_ROW, _COLUMN, _WIDTH, _HEIGHT = 88, 190, 166, 50


def graph(plan: Json, about: Mapping[str, str]) -> str:
    """Inputs and constants above, kernels in order of what they need, results and what inputs became below.

    `about` is a line per kernel.
    """
    drawn = PlanGraph(plan, about)
    return _draw(drawn.nodes, drawn.edges)


Made = dict[str, frozenset[int]]  # buffer -> nodes that may have given it its present value


class PlanGraph:
    """The nodes of a plan, and what goes from one to another. Of blocks of which one runs, each may have written."""

    def __init__(self, plan: Json, about: Mapping[str, str]) -> None:
        self.plan, self.about = plan, about
        self.nodes: list[tuple[str, str, str, str]] = []  # kind, title, line below, tooltip
        self.edges: list[tuple[int, int, str]] = []
        self.kinds = {b["name"]: b for b in plan["buffers"]}
        made: Made = {}
        for name, b in self.kinds.items():
            if b["kind"] in ("input", "constant"):
                made[name] = frozenset([len(self.nodes)])
                self.nodes.append((b["kind"], name, b["type"], f"{b['kind']} {name}: {b['type']}, {b['bytes']} bytes"))
        given = made
        made = self.block(0, len(plan["steps"]), made, None)
        for name, b in self.kinds.items():
            written = b["kind"] == "input" and made[name] != given[name]
            if written or (b["kind"] == "output" and name in made):
                self.take(made, name, len(self.nodes))
                what = "new value of" if written else "result"
                self.nodes.append(("output", name, b["type"], f"{what} {name}: {b['type']}"))

    def take(self, made: Made, name: str, at: int) -> None:
        self.edges += [(node, at, f"{name}: {self.kinds[name]['type']}") for node in sorted(made.get(name, ()))]

    def block(self, start: int, stop: int, made: Made, owner: tuple[int, str] | None) -> Made:
        """The steps start..stop; `owner` is the node that decides whether they run, and what it says."""
        at = start
        while at < stop:
            step, node = self.plan["steps"][at], len(self.nodes)
            if owner is not None and at == start:
                self.edges.append((owner[0], node, owner[1]))
            made = self.step(at, step, made)
            at += 1
            if len(step.get("blocks", ())) == 2 and step["op"] != "loop":
                middle, end = at + step["blocks"][0], at + sum(step["blocks"])
                first = self.block(at, middle, dict(made), (node, "if so"))
                second = self.block(middle, end, dict(made), (node, "else"))
                made = {name: first.get(name, frozenset()) | second.get(name, frozenset()) for name in first | second}
                at = end
        return made

    def step(self, number: int, step: dict[str, Any], made: Made) -> Made:
        at = len(self.nodes)
        if step["op"] == "launch":
            reads, writes, grid = step["reads"], step["writes"], " x ".join(step["grid"])
            tip = f"step {number}: {step['kernel']}({', '.join(step['args'])}) on {grid} groups of {step['group']}"
            self.nodes.append(("step", step["kernel"], self.about.get(step["kernel"], grid), tip))
        else:
            reads = [step[key] for key in ("src", "on") if key in step]
            writes = [step["dst"]] if "dst" in step else []
            self.nodes.append(("step", step["op"], step_text(step), f"step {number}: {step['op']}"))
        for name in dict.fromkeys(reads):
            self.take(made, name, at)
        return made | dict.fromkeys(writes, frozenset([at]))


def _draw(nodes: Sequence[tuple[str, str, str, str]], edges: Sequence[tuple[int, int, str]]) -> str:
    depth = [0] * len(nodes)
    for source, target, _ in edges:  # edges are in order of their targets, and a source comes before its target
        depth[target] = max(depth[target], depth[source] + 1)
    for index, (kind, *_) in enumerate(nodes):  # what only one step needs stands right above it
        users = [depth[t] for s, t, _ in edges if s == index]
        if kind in ("input", "constant") and users:
            depth[index] = min(users) - 1
    rows: dict[int, list[int]] = {}
    place: dict[int, tuple[float, float]] = {}
    for index in range(len(nodes)):
        rows.setdefault(depth[index], []).append(index)
    widest = max((len(row) for row in rows.values()), default=1)
    for level in sorted(rows):
        above = {i: [place[s][0] for s, t, _ in edges if t == i and s in place] for i in rows[level]}
        inner = sorted((i for i in rows[level] if above[i]), key=lambda i: (sum(above[i]) / len(above[i]), i))
        outer = [i for i in rows[level] if not above[i]]  # what comes from nowhere stands on both sides
        row = [*outer[: len(outer) // 2], *inner, *outer[len(outer) // 2 :]]
        left = (widest - len(row)) * _COLUMN / 2
        for column, index in enumerate(row):
            place[index] = (left + column * _COLUMN + 12, level * _ROW + 8)
    width, height = widest * _COLUMN, (max(rows, default=0) + 1) * _ROW - 20
    out = [f'<svg class="graph" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">']
    for source, target, tip in edges:
        (x0, y0), (x1, y1) = place[source], place[target]
        x0, x1, y0 = x0 + _WIDTH / 2, x1 + _WIDTH / 2, y0 + _HEIGHT
        bend = max(16.0, (y1 - y0) / 2)
        out.append(
            f'<path class="edge" d="M{x0:g} {y0:g} C{x0:g} {y0 + bend:g} {x1:g} {y1 - bend:g} {x1:g} {y1:g}">'
            f"<title>{escape(tip)}</title></path>"
        )
    for index, (kind, title, line, tip) in enumerate(nodes):
        x, y = place[index]
        radius = 6 if kind == "step" else 25
        out.append(
            f'<g class="{kind}"><rect x="{x:g}" y="{y:g}" width="{_WIDTH}" height="{_HEIGHT}" rx="{radius}"/>'
            f'<text class="name" x="{x + _WIDTH / 2:g}" y="{y + 21:g}">{escape(_short(title, 21))}</text>'
            f'<text x="{x + _WIDTH / 2:g}" y="{y + 38:g}">{escape(_short(line, 23))}</text>'
            f"<title>{escape(tip)}</title></g>"
        )
    return "".join(out) + "</svg>"


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _size(count: int) -> str:
    """Bytes in the unit that leaves at most four digits."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 10240:
            return f"{count:,.4g} {unit}"
        count /= 1024  # type: ignore[assignment]
    return f"{count:,.4g} GiB"


def timeline(instance: Instance) -> str:
    """Temporaries as rectangles: from first to last step, at their place in the arena. Empty without temporaries."""
    plan = instance.plan
    steps, arena = max(len(plan.steps), 1), max(instance.arena, 1)
    cell, height = min(90, max(24, 800 // steps)), 150
    left, width = 80, steps * cell
    out = []
    for index, (buffer, (first, last)) in enumerate(zip(plan.buffers, lifetimes(plan), strict=True)):
        if buffer.kind != "temp" or not instance.nbytes[index] or last < first:
            continue
        name = buffer_name(plan, index)
        size = instance.nbytes[index]
        y = instance.offsets[index] / arena * height + 4
        tall = max(size / arena * height, 1.5)
        wide = (last - first + 1) * cell - 2
        x = left + first * cell + 1
        tip = f"{name}: {size:,} bytes at {instance.offsets[index]:,}, steps {first} to {last}"
        out.append(
            f'<g class="temp"><rect x="{x}" y="{y:.1f}" width="{wide}" height="{tall:.1f}" rx="3"/>'
            + (f'<text x="{x + 7}" y="{y + 14:.1f}">{escape(name)}</text>' if tall > 18 else "")
            + f"<title>{escape(tip)}</title></g>"
        )
    if not out:
        return ""
    axis = "".join(
        f'<line x1="{left + i * cell}" y1="4" x2="{left + i * cell}" y2="{height + 4}"/>'
        + (f'<text x="{left + (i + 0.5) * cell:g}" y="{height + 20}">{i}</text>' if i < steps else "")
        for i in range(steps + 1)
    )
    marks = f'<text x="4" y="14">0</text><text x="4" y="{height + 2}">{_size(arena)}</text>'
    return (
        f'<svg class="memory" viewBox="0 0 {left + width + 8} {height + 28}" width="{left + width + 8}" '
        f'height="{height + 28}" role="img"><g class="axis">{axis}{marks}</g>{"".join(out)}</svg>'
    )

"""Passes and pipelines. A pass is a function Module -> Module in a file of its own; a pipeline is data.

@register("fuse-elementwise", level="schedule")
def run(module: Module, context: Context, *, limit: int = 8) -> Module: ...

run_pipeline(parse_pipeline("fuse-elementwise{limit=4},remove-dead"), module, Context(arch))
"""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tessera_runtime.core.errors import TesseraError
from tesseracc import numerics
from tesseracc.arch.arch import Arch
from tesseracc.ir.value import Attr, Loc, Module, Op
from tesseracc.ir.verify import verify


@dataclass(frozen=True, slots=True)
class Note:
    """Something the compiler decided that a user may want to know (`--notes`); with a code, a warning."""

    message: str
    loc: Loc | None = None
    code: str = ""


@dataclass(slots=True)
class Context:
    """What passes may know besides the module: the target, the numeric profile, and where to leave notes."""

    arch: Arch | None = None
    numerics: str = numerics.DEFAULT
    notes: list[Note] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)

    def need_arch(self) -> Arch:
        """The target. Raises E406 where a pass that needs one runs without."""
        if self.arch is None:
            raise TesseraError("E406", "this pass needs a target", help="give --arch, for example --arch sm_90")
        return self.arch

    def note(self, message: str, loc: Loc | None = None) -> None:
        self.notes.append(Note(message, loc))

    def permit(self, rule: str, what: str, loc: Loc | None = None) -> None:
        """Notes that a rule that changes rounding was applied, and which profile allows it."""
        assert numerics.allows(self.numerics, rule), f"{rule} is not allowed by {self.numerics}"
        found = numerics.RULES[rule]
        self.note(f"{rule}: {what}; {found.equation} (from numerics {found.profile})", loc)


@dataclass(frozen=True, slots=True)
class Pass:
    name: str
    level: str
    run: Callable[..., Module]
    doc: str


@dataclass(frozen=True, slots=True)
class Step:
    """A pass with its options."""

    name: str
    options: Mapping[str, Attr] = field(default_factory=dict)

    def __str__(self) -> str:
        inside = ",".join(f"{k}={v}" for k, v in self.options.items())
        return self.name + (f"{{{inside}}}" if inside else "")


PASSES: dict[str, Pass] = {}


def register(name: str, *, level: str) -> Callable[[Callable[..., Module]], Callable[..., Module]]:
    """Registers a pass under its command-line name."""

    def enter(run: Callable[..., Module]) -> Callable[..., Module]:
        assert name not in PASSES, f"pass {name} is defined twice"
        doc = (run.__doc__ or "").strip().splitlines()
        PASSES[name] = Pass(name, level, run, doc[0] if doc else "")
        return run

    return enter


_STEP = re.compile(r"\s*([a-z][\w-]*)\s*(?:\{([^{}]*)\})?\s*(,|$)")


def parse_pipeline(text: str) -> tuple[Step, ...]:
    """`a,b{n=2,on=true}` -> steps. Raises E405 for an unknown pass or broken syntax."""
    steps = []
    at = 0
    while at < len(text):
        match = _STEP.match(text, at)
        if match is None:
            raise TesseraError("E405", f"cannot read the pass list at `{text[at : at + 20]}`", help="write a,b{n=2}")
        options: dict[str, Attr] = {}
        for item in filter(None, (match.group(2) or "").split(",")):
            key, _, value = item.partition("=")
            options[key.strip()] = _option(value.strip())
        steps.append(Step(match.group(1), options))
        at = match.end()
    return tuple(steps)


def _option(text: str) -> Attr:
    if text in ("true", "false"):
        return text == "true"
    try:
        return int(text)
    except ValueError:
        return text


Observer = Callable[[Step, Module], None]


def run_pipeline(
    steps: Sequence[Step],
    module: Module,
    context: Context,
    *,
    verify_each: bool = True,
    observe: Observer | None = None,
) -> Module:
    """Runs the passes in order, verifying after each; `observe` sees the module after each pass."""
    with collector_paused():
        return _run_steps(steps, module, context, verify_each, observe)


def _run_steps(
    steps: Sequence[Step], module: Module, context: Context, verify_each: bool, observe: Observer | None
) -> Module:
    right: set[Op] = set()  # operations that a pass leaves alone are looked at once
    for step in steps:
        found = PASSES.get(step.name)
        if found is None:
            from difflib import get_close_matches

            near = get_close_matches(step.name, PASSES, 1)
            raise TesseraError(
                "E405", f"unknown pass `{step.name}`", help=f"did you mean `{near[0]}`?" if near else None
            )
        start = time.perf_counter()
        try:
            module = found.run(module, context, **_checked(found, step))
        finally:
            context.timings[step.name] = context.timings.get(step.name, 0.0) + time.perf_counter() - start
        if verify_each:
            verify(module, right)
        if observe is not None:
            observe(step, module)
    return module


@contextmanager
def collector_paused() -> Iterator[None]:
    """Without the garbage collector: a pass makes many objects that all live on, and no cycles, so that looking for
    garbage takes a third of its time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _checked(found: Pass, step: Step) -> dict[str, Any]:
    import inspect

    known = inspect.signature(found.run).parameters
    for key in step.options:
        if key not in known:
            raise TesseraError("E405", f"pass `{step.name}` has no option `{key}`")
    return dict(step.options)

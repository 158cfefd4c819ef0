"""The compiler from end to end, as named stages: front end, graph, schedule, tile, target, images, bundle.

    build = Build(load("model.py"), archs)            what is to be built
    build.tile(arch), build.target(arch)              the module at a level, computed once
    build.bundle()                                    the bundle's bytes

A stage takes a module of an earlier level and gives one of its own; passes leave functions of other levels alone, so a
build can start from the text of any level.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from tessera import types as lang
from tessera.decorators import Function, Kernel
from tessera.errors import SourceError, SourceErrors, Span, each_error
from tessera.pytree import Tree, flatten, unflatten
from tessera.tensor import Tensor
from tessera_runtime.core.errors import DeviceError
from tessera_runtime.core.manifest import Provenance
from tesseracc.arch.arch import Arch, load, names, resolve
from tesseracc.frontend.limits import check_names, is_name
from tesseracc.frontend.merge import merge
from tesseracc.frontend.variants import with_variants
from tesseracc.ir.pipeline import Context, Note, Step, run_pipeline
from tesseracc.ir.printer import module_text
from tesseracc.ir.value import Module
from tesseracc.ir.verify import verify
from tesseracc.numerics import DEFAULT, profile_of
from tesseracc.passes import pipelines
from tesseracc.python_warnings import Warnings
from tesseracc.specialisation import Specialisation, is_tensor, specialise
from tesseracc.tuning.choice import Tuning

#: levels of IR and code that can be shown, in order
LEVELS = ("graph", "schedule", "tile", "target", "llvm", "ptx", "sass")
DEFAULT_TARGETS = ("cpu", "sm_90")

Observer = Callable[[str, str, Module], None]  # (level, pass, module after it)
Progress = Callable[[str], None]


@dataclass(slots=True)
class Log:
    """What a build has to tell: notes of passes, seconds per stage, and what the assembler found."""

    notes: list[Note] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    findings: list[object] = field(default_factory=list)
    untested: Sequence[tuple[str, str]] = ()  # functions, and why

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


class Build:
    """One module on its way to a bundle. Every level is computed when it is first asked for."""

    def __init__(
        self,
        module: Module,
        archs: Sequence[Arch],
        *,
        jobs: int = 2,
        verify_each: bool = True,
        observe: Observer | None = None,
        progress: Progress | None = None,
        provenance: Provenance | None = None,
        sources: Mapping[str, bytes] | None = None,
        embed_tests: bool = False,
        numerics: str = DEFAULT,
        root: str = "",
    ) -> None:
        self.module = module
        self.archs = tuple(archs)
        self.jobs = jobs
        self.verify_each = verify_each
        self.observe = observe
        self.progress = progress or (lambda _: None)
        self.provenance = provenance or Provenance()
        self.sources = dict(sources or {})  # files that the bundle carries
        self.embed_tests = embed_tests
        self.numerics = numerics
        self.root = root  # the folder of the source, for messages
        self.log = Log()
        self._levels: dict[tuple[str, str], Module] = {}

    # -- levels --------------------------------------------------------------------------------------------------

    def _run(self, level: str, steps: Sequence[Step], module: Module, arch: Arch | None) -> Module:
        context = Context(arch, self.numerics, notes=self.log.notes)
        name = f"{level}.{arch.name}" if arch else level

        def observe(step: Step, after: Module) -> None:
            if self.observe is not None:
                self.observe(name, step.name, after)

        self.progress(f"{level} {arch.name}" if arch else level)
        with self.log.timed(level):
            return run_pipeline(steps, module, context, verify_each=self.verify_each, observe=observe)

    @cached_property
    def graph(self) -> Module:
        """After the graph passes."""
        return self._run("graph", pipelines.GRAPH, self.module, None)

    @cached_property
    def schedule(self) -> Module:
        """After fusion: groups of loop nests, for any target."""
        return self._run("schedule", pipelines.SCHEDULE, self.graph, None)

    def _per_arch(self, level: str, arch: Arch, make: Callable[[], Module]) -> Module:
        key = (level, arch.name)
        if key not in self._levels:
            self._levels[key] = make()
        return self._levels[key]

    def tile(self, arch: Arch) -> Module:
        """Kernels and programs for one target."""
        return self._per_arch("tile", arch, lambda: self._run("tile", pipelines.TILE, self.schedule, arch))

    def target(self, arch: Arch) -> Module:
        """Machine-near functions for one target."""
        steps = pipelines.TARGET[arch.kind]
        return self._per_arch("target", arch, lambda: self._run("target", steps, self.tile(arch), arch))

    # -- code ----------------------------------------------------------------------------------------------------

    @cached_property
    def images(self) -> tuple[object, ...]:
        """The code of every target. Raises E5xx, also for findings of the assembler that are errors."""
        from tesseracc.codegen.image import build_images

        # GPUs first: their code takes longest, and is made while other targets are lowered
        order = sorted(self.archs, key=lambda arch: arch.kind != "cuda")
        start, before = time.perf_counter(), sum(self.log.seconds.values())
        made = build_images(((self.target(arch), arch) for arch in order), jobs=min(self.jobs, len(order)))
        lowering = sum(self.log.seconds.values()) - before
        self.log.seconds["code"] = time.perf_counter() - start - lowering  # what is not hidden behind lowering
        images = sorted(made, key=lambda image: self.archs.index(image.arch))
        for image in images:
            for finding in image.findings:
                if finding.is_error:
                    raise finding.error()
            self.log.findings += image.findings
        return tuple(images)

    def bundle(self) -> bytes:
        """The bundle's bytes."""
        from tesseracc.bundle import plan
        from tesseracc.bundle.write import Contents, TestCase, bundle_of
        from tesseracc.codegen.image import Image

        images = self.images
        self.progress("bundle")
        with self.log.timed("bundle"):
            targets, entries = [], {}
            for image in images:
                assert isinstance(image, Image)
                record, files = plan.target(self.target(image.arch), image)
                targets.append(record)
                entries.update(files)
            tile = [self.tile(arch) for arch in self.archs]
            used = plan.constants_used(tile)
            # passes add constants: those that folding has computed
            held = {name: array for module in tile for name, array in module.constants.items()}
            constants = {name: array for name, array in held.items() if name in used}
            functions = plan.functions(tile[0])
            tests: Sequence[TestCase] = ()
            if self.embed_tests:
                from tesseracc.vectors import test_cases

                tests, self.log.untested = test_cases(self.module, functions, self.root)
            contents = Contents(
                functions, targets, entries, constants,
                provenance=self.provenance, tests=tests, sources=self.sources,
            )  # fmt: skip
            return bundle_of(contents)

    # -- text ----------------------------------------------------------------------------------------------------

    def text(self, level: str, arch: Arch | None = None, *, locations: bool = False) -> str:
        """The text of a level; from `tile` on for one target."""
        if level == "graph":
            return module_text(self.graph, locations=locations)
        if level == "schedule":
            return module_text(self.schedule, locations=locations)
        arch = arch or self.archs[0]
        if level in ("tile", "target"):
            return module_text(self.tile(arch) if level == "tile" else self.target(arch), locations=locations)
        from tesseracc.codegen import image as images

        if level == "llvm":
            return images.request(self.target(arch), arch).ir
        if level == "asm":
            return images.assembly(self.target(arch), arch)
        found = images.build_image(self.target(arch), arch)
        return images.named_ptx(found, self.target(arch)) if level == "ptx" else images.listing(found)


# -- the front end -----------------------------------------------------------------------------------------------


def front(
    entries: Mapping[str, Function | Kernel],
    specs: Mapping[str, Mapping[str, lang.TensorType]] | None = None,
    notes: list[Note] | None = None,
    fixed: Mapping[str, int] | None = None,
    variants: Sequence[Mapping[str, int]] = (),
    tuning: Tuning | None = None,
) -> Module:
    """The module of all entries: functions traced to graphs, kernels lowered to tiles.

    `specs` gives types of parameters without annotation, by entry and parameter name; `notes` receives what rules of
    the language decided; `fixed` gives dims of kernels a number, `variants`
    sizes for which functions get code of their own; without `tuning` kernels have the first point of
    their space. Errors of several entries are raised together.
    """
    parts: list[Module] = []
    errors: list[SourceError] = []
    for name, entry in entries.items():
        try:
            part = _front_entry(_called(entry, name), (specs or {}).get(name, {}), notes, fixed or {}, variants, tuning)
            check_names(part, Span(entry.file, entry.line))
            parts.append(part)
        except SourceError as error:
            errors += [found for found in each_error(error) if isinstance(found, SourceError)]
        except RecursionError:
            place = Span(entry.file, entry.line)
            errors.append(SourceError("E106", f"`{name}` nests expressions or calls too deeply", span=place))
    if errors:
        raise SourceErrors(errors) if len(errors) > 1 else errors[0]
    return verify(merge(parts))


def _called(entry: Function | Kernel, name: str) -> Function | Kernel:
    """The entry under another name: a module may hold it in a variable that is not the name of its `def`."""
    if entry.name != name:
        entry = copy.copy(entry)
        entry.name = name
    return entry


def _front_entry(
    entry: Function | Kernel,
    types: Mapping[str, lang.TensorType],
    notes: list[Note] | None,
    fixed: Mapping[str, int],
    variants: Sequence[Mapping[str, int]],
    tuning: Tuning | None = None,
) -> Module:
    root = os.path.dirname(entry.file)
    if isinstance(entry, Kernel):
        from tesseracc.frontend.tuned import kernel_module

        return kernel_module(entry, tuning, fixed, notes)
    from tesseracc.frontend import trace
    return with_variants(trace.trace(entry, types, root).module, entry, variants)


def inspect_ir(entry: Function | Kernel, level: str, *, arch: str | None = None) -> str:
    """The text of one function at one level (`fn.inspect_ir("tile")`), for sm_90 or another target."""
    from tesseracc.frontend.tuned import tuning_for

    archs = (load(arch or "sm_90"),)
    return Build(front({entry.name: entry}, tuning=tuning_for(entry, archs)[0]), archs).text(level)


def jit(entry: Function | Kernel) -> Callable[..., object]:
    """A compiled form of a function or kernel, run through the runtime on this machine's CPU or `options["device"]`.

    Parameters without annotations take the types of the arguments, and every combination of types is compiled once.
    """
    return _Jit(entry)


class _Jit:
    def __init__(self, entry: Function | Kernel) -> None:
        self.entry = entry if is_name(entry.name) else _called(entry, "function")
        self._compiled: dict[Hashable, tuple[Callable[..., object], Tree | None]] = {}
        self._warnings = Warnings(entry)

    def __call__(self, *args: object, **kwargs: object) -> object:
        bound = self.entry.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        wanted = specialise(self.entry, bound.arguments)
        if (key := wanted.key) not in self._compiled:
            self._compiled[key] = self._compile(wanted)
        run, tree = self._compiled[key]
        found = run(*_flat(self.entry, bound.arguments, wanted))
        if tree is None:
            return found
        return unflatten(tree, found if isinstance(found, tuple) else (found,))

    def _compile(self, wanted: Specialisation) -> tuple[Callable[..., object], Tree | None]:
        from tessera_runtime import load as load_bundle
        from tesseracc.frontend.tuned import tuning_for

        device, arch = place_of(str(self.entry.options.get("device", "cpu")))
        notes: list[Note] = []
        module, tree = lowered(self.entry, wanted, tuning_for(self.entry, (arch,))[0], notes)
        self._warnings.of_program(notes)
        data = Build(module, (arch,), numerics=profile_of(self.entry.options)).bundle()
        capture = self.entry.options.get("capture_graph", False)
        bundle = load_bundle(data, device=device, require_signature=(), capture_graph=capture)
        return bundle[self.entry.name], tree


def lowered(
    entry: Function | Kernel, wanted: Specialisation, tuning: Tuning | None = None, notes: list[Note] | None = None
) -> tuple[Module, Tree | None]:
    """The entry's module at the front end's level, and the structure of its results. `notes` are those of `front`."""
    if isinstance(entry, Kernel):
        from tesseracc.frontend.tuned import kernel_module

        return kernel_module(entry, tuning, wanted.fixed, notes, wanted.static), None
    from tesseracc.frontend import trace

    traced = trace.trace(entry, wanted.types, static=wanted.static)
    return with_variants(traced.module, entry, ()), traced.tree


def host_level() -> Arch:
    """The most preferred CPU level that this machine runs."""
    from tessera_runtime.devices.cpu import cpu_features, machine

    fitting = [a for a in resolve(["cpu"]) if a.toolchain.machine == machine() and set(a.requires) <= cpu_features()]
    if not fitting:
        raise DeviceError("E902", f"no CPU level of the compiler runs on this {machine()} machine")
    return max(fitting, key=lambda a: a.preference)


def place_of(device: str) -> tuple[Any, Arch]:
    """A device by its name, and the most preferred target that it runs. E901 to E904."""
    from tessera_runtime.devices import open_device

    if device == "cpu":
        return device, host_level()
    kind, _, rest = device.partition(":")
    if kind in ("cpu", "emulator"):
        return device, load(rest or "sm_90")
    from tessera_runtime.devices.cuda import runs_on

    found: Any = open_device(device)
    major, minor = found.capability
    fitting = [a for a in map(load, names()) if a.capability is not None and runs_on(a.capability, major, minor)]  # type: ignore[arg-type]
    if not fitting:
        raise DeviceError("E904", f"no target of the compiler is for compute capability {major}.{minor}")
    return found, max(fitting, key=lambda a: a.preference)


def _flat(entry: Function | Kernel, arguments: Mapping[str, object], wanted: Specialisation) -> list[object]:
    """The arguments of a compiled call: of trees the tensors. State is copied, for a call of a function is pure."""
    states = {p.name for p in entry.parameters if p.state}
    found: list[object] = []
    for name, value in arguments.items():
        if name in wanted.static:
            continue
        leaves = [x for x in flatten(value)[0] if is_tensor(x)] if isinstance(value, (dict, list, tuple)) else [value]
        found += [np.array(_plain(x)) if name in states else _plain(x) for x in leaves]
    return found


def _plain(value: object) -> object:
    return value.numpy() if isinstance(value, Tensor) else value

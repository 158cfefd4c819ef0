"""What `tessera-run` does with a loaded bundle: choose a function, run it, store, compare, time and print."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tessera_runtime.api import Bundle, BundleFunction
from tessera_runtime.audit import vectors
from tessera_runtime.compare import compare, number, readable
from tessera_runtime.core import safetensors
from tessera_runtime.core.dtypes import DTYPES, dtype_of, np_dtype
from tessera_runtime.core.errors import InputError, UsageError
from tessera_runtime.core.exitcodes import Exit
from tessera_runtime.core.files import check_apart, check_output, same_file, write_atomic
from tessera_runtime.core.inputspec import GRAMMAR, InputSpec, cast_f64, load_array, parse
from tessera_runtime.core.manifest import Input, Output, Test
from tessera_runtime.guards import signature, tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Runner", "expected_array"]

Report = dict[str, Any]
Wanted = tuple[Output, Any]  # a result, and what it is to be
_ATOL, _RTOL = 1e-6, 1e-5  # of --expected
_SHOWN = 1000  # results with more elements are shortened; --json then leaves the values out


class Runner:
    """One command line, understood; `run` carries it out."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.inputs = [parse(text) for text in options.input]
        self.expected = [parse(text) for text in options.expected]
        self.outputs = dict(_output(text) for text in options.output)
        if len(self.outputs) != len(options.output):
            raise UsageError("E801", "one result is stored twice by --output")
        timed = options.benchmark is not None or options.profile
        measured = timed or options.bisect  # then a state is read and not written
        if options.bisect and (self.outputs or self.expected or timed or options.validate):
            raise UsageError("E801", "--bisect compares steps only", help="give it --function and --input")
        if options.reference and not options.bisect:
            raise UsageError("E801", "--reference goes with --bisect")
        if options.validate and (self.inputs or self.outputs or self.expected or timed):
            raise UsageError("E801", "--validate takes its inputs and bounds from the bundle")
        self.repeated = options.repeat is not None or bool(options.state and not measured)
        if (options.repeat is not None and measured) or (self.repeated and options.validate):
            raise UsageError("E801", "--repeat runs a function; it times and compares nothing")
        if options.save_every is not None and not (self.repeated and options.state):
            raise UsageError("E801", "--save-every goes with --repeat and --state")
        if options.init and not (options.state or measured):
            raise UsageError("E801", "--init goes with --state, --benchmark, --profile or --bisect")
        if options.log and not self.repeated:
            raise UsageError("E801", "--log goes with --repeat")
        written = {"--profile": options.profile, "--log": options.log}
        written |= {f"--output {name}": path for name, path in self.outputs.items()}
        if self.repeated:
            written["--state"] = options.state
        read = [options.bundle, *(spec.path for spec in self.expected), *([options.state] if measured else [])]
        for one, path in written.items():
            check_apart(path, *read)
            for other in [name for name in written if name < one]:
                if path and written[other] and same_file(path, written[other]):
                    raise UsageError("E801", f"{other} and {one} would both write '{path}'")
        check_output(*written.values())
        self.say = (lambda *_: None) if options.json else print

    def run(self, bundle: Bundle) -> tuple[Report, int]:
        """The report for --json, and the exit code."""
        counters = getattr(bundle.device, "counters", None)
        if self.options.counters and counters is None:
            raise UsageError(
                "E801", f"device {bundle.device.name} counts nothing", help="--counters goes with --device emulator"
            )
        report, code = self._run(bundle)
        if self.options.counters and counters is not None:
            report["counters"] = counters()
            self._show_counters(report["counters"])
        return report, code

    def _show_counters(self, counters: Mapping[str, Any]) -> None:
        rows = [(f"{row['kernel']} {'x'.join(map(str, row['grid']))}", row) for row in counters["launches"]]
        for title, row in [*rows, ("total", counters["total"])]:
            self.say(f"{title}:")
            for name, value in row.items():
                if name in ("kernel", "grid") or not value:
                    continue
                text = ", ".join(f"{k} {v:,}" for k, v in value.items()) if isinstance(value, dict) else f"{value:,}"
                self.say(f"  {name.replace('_', ' ')}: {text}")

    def _run(self, bundle: Bundle) -> tuple[Report, int]:
        report: Report = {
            "bundle": bundle.file.digest, "device": bundle.device.name, "target": bundle.target.name,
        }  # fmt: skip
        if self.options.verify:
            self.say(f"verified sha256:{bundle.file.digest}")
        if self.options.list:
            self._list(bundle, report)
            return report, int(Exit.OK)
        if self.options.validate:
            return self._tests(bundle, report)
        if self.options.bisect:
            return self._bisect(bundle, report)
        wanted = (self.options.function, self.options.profile, self.repeated)
        bare = not (self.inputs or self.outputs or self.expected or any(wanted))
        if bare and self.options.benchmark is None:
            if bundle.manifest.tests:
                return self._tests(bundle, report)
            callable_ = [f for f in bundle.values() if not f.function.inputs]
            if len(callable_) != 1:
                if self.options.verify:
                    return report, int(Exit.OK)
                self._list(bundle, report)
                error = UsageError(
                    "E804", "no function is chosen, and none can be called without inputs",
                    help=f"choose one with --function, and give its inputs: --input {GRAMMAR}",
                )  # fmt: skip
                report["errors"] = [error.to_json()]  # beside the list, from which to choose
                if not self.options.json:
                    print(error.render(), file=sys.stderr)
                return report, error.exit_code
            return self._call(bundle, callable_[0], report)
        return self._call(bundle, self._choose(bundle), report)

    def _choose(self, bundle: Bundle) -> BundleFunction:
        if self.options.function:
            return bundle[self.options.function]
        if len(bundle) == 1:
            return next(iter(bundle.values()))
        raise UsageError(
            "E804", f"the bundle has {len(bundle)} functions: {', '.join(bundle)}", help="choose one with --function"
        )

    def _list(self, bundle: Bundle, report: Report) -> None:
        report["functions"] = [
            {"name": f.name, "signature": signature(f), "doc": f.doc} for f in bundle.functions.values()
        ]
        report["targets"] = [target.name for target in bundle.manifest.targets]
        self.say("functions:")
        for function in bundle.functions.values():
            self.say(f"  {signature(function)}")
            for line in function.doc.strip().splitlines()[:1]:
                self.say(f"      {line}")
        self.say(f"targets: {', '.join(target.name for target in bundle.manifest.targets)}")

    def _call(self, bundle: Bundle, function: BundleFunction, report: Report) -> tuple[Report, int]:
        report["function"] = function.name
        declared = {output.name: output for output in function.function.outputs}
        only = next(iter(declared)) if len(declared) == 1 else "out"
        self.outputs = {name or only: path for name, path in self.outputs.items()}
        if len(self.outputs) != len(self.options.output):
            raise UsageError("E801", "one result is stored twice by --output")
        self.expected = [spec._replace(name=spec.name or only) for spec in self.expected]
        for name in (*self.outputs, *(spec.name or "" for spec in self.expected)):
            if name not in declared:
                known = ", ".join(declared) or "none"
                raise UsageError("E801", f"{function.name} has no result '{name}'", help=f"its results: {known}")
        wanted = [self._wanted(spec, declared[spec.name or ""]) for spec in self.expected]
        arguments = self._arguments(function)
        if self.repeated:
            return self._repeat(bundle, function, arguments, wanted, report)
        arguments |= self._state(bundle, function, arguments)
        start = time.perf_counter()
        results = _results(function, function(**arguments))
        report["first_call_ms"] = round((time.perf_counter() - start) * 1e3, 6)
        if self.options.benchmark is not None or self.options.profile:
            results = {name: array.copy() for name, array in results.items()}
        if self.options.profile:
            from tessera_runtime.measure import profiled

            report["profile"] = profiled(function, arguments, self.options.profile, self.options.benchmark, self.say)
        elif self.options.benchmark is not None:
            from tessera_runtime.measure import benchmark

            report["benchmark"] = benchmark(function, arguments, self.options.benchmark, self.say)
        report["outputs"] = [self._show(declared[name], array) for name, array in results.items()]
        return report, self._compare(wanted, results, report)

    def _repeat(
        self, bundle: Bundle, function: BundleFunction, arguments: dict[str, Any], wanted: list[Wanted], report: Report
    ) -> tuple[Report, int]:
        """Calls that carry the state on, and its file."""
        from tessera_runtime import repeat as repeating

        path = self.options.state
        if not path:
            updated = [item for item in function.function.inputs if item.inout and item.name in arguments]
            state = {i.name: np.array(tensor(function.function, i, arguments.pop(i.name)), order="C") for i in updated}
        else:
            state = self._state(bundle, function, arguments)
        done = repeating.repeat(
            function, arguments, state, self.options.repeat or 1, path=path, every=self.options.save_every or 0,
            log=self.options.log, say=self.say,
        )  # fmt: skip
        report["repeat"] = done.to_json()
        if done.interrupted:
            return report, repeating.INTERRUPTED
        declared = {output.name: output for output in function.function.outputs}
        aliases = {output.name for output in function.function.outputs if output.alias is not None}
        shown = [name for name in done.results if name in self.outputs or name not in (aliases if path else ())]
        report["outputs"] = [self._show(declared[name], done.results[name]) for name in shown]
        return report, self._compare(wanted, done.results, report)

    def _state(self, bundle: Bundle, function: BundleFunction, given: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """The in/out inputs: from the file of --state, or what --init makes; none where neither is asked for."""
        if not (self.options.state or self.options.init):
            return {}
        from tessera_runtime import state as states

        both = [item.name for item in states.state_inputs(function) if item.name in given]
        if both:
            raise UsageError("E801", f"the state gives {', '.join(both)}", help="leave these inputs out")
        if self.options.state and os.path.exists(self.options.state):
            return states.read_state(function, self.options.state)
        return states.first_state(bundle, function, self.options.init)

    def _arguments(self, function: BundleFunction) -> dict[str, Any]:
        items = {item.name: item for item in function.function.inputs}
        free = [item.name for item in function.function.inputs]
        for spec in self.inputs:
            if spec.name is not None:
                if spec.name not in items:
                    known = ", ".join(items) or "none"
                    raise InputError(
                        "E701", f"{function.name}: has no input '{spec.name}'", help=f"its inputs: {known}"
                    )
                if spec.name not in free:
                    raise InputError("E701", f"{function.name}: input '{spec.name}' is given twice")
                free.remove(spec.name)
        arguments: dict[str, Any] = {}
        for index, spec in enumerate(self.inputs):
            name = spec.name
            if name is None:
                if not free:
                    raise InputError(
                        "E701",
                        f"{function.name}: takes {len(items)} inputs, got more",
                        help=f"its signature is {function.signature}",
                    )
                name = free.pop(0)
            # Each input draws from its own stream, so that two of one shape differ.
            arguments[name] = _suited(
                load_array(spec._replace(name=name), seed=self.options.seed + (index << 32)), spec, items[name]
            )
        return arguments

    def _show(self, output: Output, array: NDArray[Any]) -> Report:
        kind = f"{output.dtype}[{', '.join(map(str, array.shape))}]"
        entry: Report = {"name": output.name, "dtype": output.dtype, "shape": list(array.shape)}
        path = self.outputs.get(output.name)
        if path is not None:
            _store(path, output, array)
            entry["file"] = path
            self.say(f"{output.name}: {kind} -> {path}")
            return entry
        shown = readable(array, output.dtype)
        if array.size <= _SHOWN:
            entry["values"] = _nested(shown)
        text = np.array2string(shown, threshold=64, precision=6, max_line_width=110)
        self.say(f"{output.name}: {kind}")
        self.say("  " + text.replace("\n", "\n  "))
        return entry

    def _wanted(self, spec: InputSpec, output: Output) -> Wanted:
        """What a result is to be, read before the function runs."""
        item = Input(output.name, "tensor", output.dtype, output.shape)
        return output, _suited(load_array(spec, seed=self.options.seed), spec, item)

    def _compare(self, wanted: list[Wanted], results: Mapping[str, NDArray[Any]], report: Report) -> int:
        code = Exit.OK
        report["comparisons"] = comparisons = []
        for output, value in wanted:
            name = output.name
            expected = expected_array(name, value, output.dtype, results[name])
            atol = _ATOL if self.options.atol is None else self.options.atol
            rtol = _RTOL if self.options.rtol is None else self.options.rtol
            found = compare(results[name], expected, output.dtype, atol, rtol)
            comparisons.append({"name": name, "equal": found is None, **({} if found is None else found._asdict())})
            if found is None:
                self.say(f"{name}: as expected")
            else:
                self.say(f"mismatch: {name} {found.message}")
                code = Exit.MISMATCH
        return int(code)

    def _bisect(self, bundle: Bundle, report: Report) -> tuple[Report, int]:
        """Step by step against a reference, on the inputs given or those of the embedded tests."""
        from tessera_runtime.bisect_report import bisect_report

        if self.inputs or self.options.state or self.options.init:
            function = self._choose(bundle)
            arguments = self._arguments(function)
            arguments |= self._state(bundle, function, arguments)
            cases = [(function.name, function.name, arguments)]
        else:
            cases = [(test.name, test.function, vectors(bundle.file, test)[0]) for test in self._embedded(bundle)]
        report["bisect"], code = bisect_report(bundle, cases, self.options, self.say)
        return report, code

    def _embedded(self, bundle: Bundle) -> list[Test]:
        """The embedded tests of the function asked for or of all; E807 where there are none."""
        if self.options.function:
            bundle[self.options.function]
        tests = [t for t in bundle.manifest.tests if self.options.function in (None, t.function)]
        if not tests:
            of = f" of {self.options.function}" if self.options.function else ""
            tried = "--embed-tests" in bundle.manifest.provenance.options
            help = "its build has told why: warning W807" if tried else "build it with `--embed-tests`"
            raise UsageError("E807", f"the bundle has no tests{of}", help=help)
        return tests

    def _tests(self, bundle: Bundle, report: Report) -> tuple[Report, int]:
        """Run the embedded test vectors, of one function or all."""
        report["tests"] = []
        failed = 0
        tests = self._embedded(bundle)
        for test in tests:
            function = bundle[test.function]
            inputs, wanted = vectors(bundle.file, test)
            results = _results(function, function(**{name: array.copy() for name, array in inputs.items()}))
            messages = []
            for output in function.function.outputs:
                expected = wanted.get(output.name)
                if expected is None:
                    continue
                found = compare(results[output.name], expected, output.dtype, float(test.atol), float(test.rtol))
                if found is not None:
                    messages.append(f"{output.name} {found.message}")
            report["tests"].append(
                {"name": test.name, "function": test.function, "passed": not messages, "messages": messages}
            )
            self.say(f"{'FAIL' if messages else 'pass'} {test.name}")
            for message in messages:
                self.say(f"     {message}")
            failed += bool(messages)
        count = len(tests)
        report["passed"], report["failed"] = count - failed, failed
        self.say(f"{count - failed} of {count} embedded tests passed on {bundle.device.name} ({bundle.target.name})")
        return report, int(Exit.MISMATCH if failed else Exit.OK)


def _output(text: str) -> tuple[str, str]:
    """The result's name, empty where none is given, and the path."""
    name, equals, value = text.partition("=")
    if not equals:
        name, value = "", text
    if not value.startswith("@") or not value[1:].lower().endswith((".npy", ".safetensors")):
        raise UsageError("E801", f"--output {text[:80]}: write NAME=@file.npy or NAME=@file.safetensors")
    return name, value[1:]


def _suited(value: Any, spec: InputSpec, item: Input) -> Any:
    """Narrow floats come from .npy files as raw integers; a one-element array serves as a scalar."""
    if isinstance(value, np.ndarray):
        entry = DTYPES[item.dtype]
        raw = spec.kind == "file" and entry.numpy != entry.raw and value.dtype == np.dtype(entry.raw)
        if raw:
            value = value.view(np_dtype(item.dtype))
        if item.kind == "scalar" and value.size == 1:
            return value.reshape(())[()]
    return value


def expected_array(name: str, value: Any, dtype: str, result: NDArray[Any]) -> NDArray[Any]:
    """What a result is compared with; a number stands for every element.

    Raises E711 for a number that is none of the result's type, E703 for floats beside a result of an int type.
    """
    exact = DTYPES[dtype].kind != "f"
    if isinstance(value, np.ndarray):
        if exact and DTYPES[dtype_of(value.dtype)].kind == "f":
            raise InputError("E703", f"what is expected of '{name}' is {value.dtype}, the result {dtype}")
        return value
    try:
        if not exact:
            return np.full(result.shape, cast_f64(np.array([float(value)]), dtype)[0])
        if int(value) == value:
            return np.full(result.shape, int(value), np.int64 if value < 2**63 else np.uint64)
    except (ValueError, OverflowError):
        pass
    raise InputError("E711", f"what is expected of '{name}', {str(value)[:40]}, is no number of {dtype}")


def _results(function: BundleFunction, values: Any) -> dict[str, NDArray[Any]]:
    if values is None:
        return {}
    return dict(zip(function.outputs, values if isinstance(values, tuple) else (values,), strict=True))


def _nested(array: NDArray[Any]) -> Any:
    """Nested lists of Python numbers."""
    if array.ndim == 0:
        return number(array[()])
    return [_nested(item if isinstance(item, np.ndarray) else np.asarray(item)) for item in array]


def _store(path: str, output: Output, array: NDArray[Any]) -> None:
    if path.lower().endswith(".safetensors"):
        data = safetensors.save({output.name: array}, {output.name: output.dtype})
    else:
        import io

        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        data = buffer.getvalue()
    write_atomic(path, data)

"""Loading a bundle and calling its functions."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from tessera_runtime import guards
from tessera_runtime.bundle import BundleFile
from tessera_runtime.core import recording
from tessera_runtime.core.dtypes import accepts, np_dtype
from tessera_runtime.core.errors import DeviceError, InputError, UsageError, about
from tessera_runtime.core.locks import lock
from tessera_runtime.core.manifest import Function, Manifest, Output, Target
from tessera_runtime.devices import Device, Program, open_device
from tessera_runtime.memory import aligned_empty
from tessera_runtime.plan import Instance, extents, instantiate

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Bundle", "BundleFunction", "load"]

_INSTANCES = 64  # evaluated plans kept per function


class BundleFunction:
    """A function of a loaded bundle: call it with arrays, get an array, a tuple of arrays, or None.

    An in/out parameter is updated in place when the array given is writable and contiguous, else a copy is; either way
    it is returned where the function returns it. Calls from several threads are safe.

    Arguments may be arrays of any library with `__dlpack__`. On a GPU those that lie on it are used as they lie; if any
    does, results stay there too (`devices.cuda_memory.DeviceArray`), and if all do, the call returns before they are
    computed: faults then show when somebody waits.
    """

    def __init__(self, bundle: Bundle, function: Function, index: int) -> None:
        self._bundle = bundle
        self.function = function
        self.name = function.name
        self._plan = bundle.plans[function.name]
        self._from_scalars = any(symbol.axis < 0 for symbol in function.symbols)
        self._cache: dict[tuple[Any, ...], tuple[Instance, tuple[tuple[int, ...], ...]]] = {}
        self._lock = lock()
        self._importer = getattr(bundle.device, "import_array", None)

    @property
    def signature(self) -> str:
        """`f(x: f32[B, 64]) -> out: f32[B]`."""
        return guards.signature(self.function)

    @property
    def doc(self) -> str:
        """What the source says of it: the function's docstring on one line, or nothing."""
        return self.function.doc

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the results, in the order in which a call gives them."""
        return tuple(output.name for output in self.function.outputs)

    def __repr__(self) -> str:
        return f"<tessera function {self.signature}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run on the bundle's device. E7xx for unsuitable arguments, E9xx when the device fails."""
        return self._recorded(None, args, kwargs)

    def into(self, results: Mapping[str, NDArray[Any]], /, *args: Any, **kwargs: Any) -> Any:
        """The same call, with arrays for results by name: `f.into({"out": y}, x)`. Results not named get fresh memory.

        Memory that is used again costs no page faults, which for large results take longer than the computation.
        An array must be contiguous, writable, of the result's shape and element type, and share memory with no other
        argument; E708.
        """
        return self._recorded(results, args, kwargs)

    def _recorded(
        self, given: Mapping[str, NDArray[Any]] | None, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        recorder = recording.active()
        if recorder is None:
            return self._call(given, args, kwargs)
        start = time.perf_counter_ns()
        try:
            return self._call(given, args, kwargs)
        finally:
            where, thread = self._bundle.device.name, threading.get_ident()
            for attribute, known in (("bandwidth", recorder.bandwidths), ("clock", recorder.clocks)):
                measure = getattr(self._bundle.device, attribute, None)
                if measure is not None:
                    known.setdefault(where, measure)
            recorder.add(recording.Span("call", self.name, start, time.perf_counter_ns(), where, thread, self.name))

    def _call(self, given: Mapping[str, NDArray[Any]] | None, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        function = self.function
        arrays: dict[str, Any] = {}
        scalars: dict[str, int] = {}
        if given is not None and not isinstance(given, Mapping):
            raise InputError("E708", f"{self.name}: arrays for results are a {type(given).__name__}, expected a dict")
        for item, value in zip(function.inputs, guards.arrange(function, args, kwargs), strict=True):
            if item.kind == "scalar":
                scalars[item.name] = guards.scalar_bits(function, item, value)
            else:
                arrays[item.name] = guards.tensor(function, item, value, self._importer)
        numbers = guards.scalar_extents(function, scalars) if self._from_scalars else {}
        instance, shapes = self._instance(arrays, numbers)
        _prepare(function, arrays)
        # Results lie where arguments lie.
        on_device = any(not isinstance(array, np.ndarray) for array in arrays.values())
        results: dict[str, Any] = {}
        for output, shape in zip(function.outputs, shapes, strict=True):
            if output.alias is not None:
                results[output.name] = arrays[output.alias]
                continue
            if given is not None and output.name in given:
                results[output.name] = _result(function, output, shape, given[output.name])
                continue
            if on_device:
                results[output.name] = self._bundle.device_array(output.dtype, shape, instance)
                continue
            try:
                results[output.name] = aligned_empty(shape, np_dtype(output.dtype))
            except (MemoryError, ValueError) as error:
                raise InputError(
                    "E713", f"{self.name}: no memory for the result '{output.name}' of shape {shape}"
                ) from error
        if given is not None:
            _check_results(function, given, arrays)
        bound = [
            arrays[buffer.ref] if buffer.kind == "input" else results[buffer.ref] if buffer.kind == "output" else None
            for buffer in self._plan.buffers
        ]
        self._bundle.program.run(instance, bound, scalars)
        values = tuple(results.values())
        return values if len(values) > 1 else values[0] if values else None

    def _instance(
        self, arrays: Mapping[str, Any], numbers: Mapping[str, int]
    ) -> tuple[Instance, tuple[tuple[int, ...], ...]]:
        """The plan at these extents and the results' shapes. Checked and evaluated once per set of extents."""
        key = (*(array.shape for array in arrays.values()), *numbers.values())
        found = self._cache.get(key)
        if found is None:
            env = guards.solve(self.function, {name: array.shape for name, array in arrays.items()}, numbers)
            shapes = tuple(extents(o.shape, env, f"{self.name}: result '{o.name}'") for o in self.function.outputs)
            found = instantiate(self._plan, self._bundle.target.kernels, env), shapes
            with self._lock:
                if len(self._cache) >= _INSTANCES:
                    self._cache.pop(next(iter(self._cache)))
                self._cache[key] = found
        return found


def _result(function: Function, output: Output, shape: tuple[int, ...], array: Any) -> NDArray[Any]:
    """An array that the caller gives for a result, checked."""
    where = f"{function.name}: the array for the result '{output.name}'"
    guards.check_unmasked(where, array)
    if not isinstance(array, np.ndarray) or not accepts(output.dtype, array.dtype) or array.shape != shape:
        found = f"{array.dtype}{list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
        raise InputError("E708", f"{where} is {found}, expected {guards.type_text(output.dtype, shape)}")
    if not (array.flags.c_contiguous and array.flags.aligned and array.flags.writeable):
        raise InputError("E708", f"{where} is not contiguous, aligned and writable")
    return array


def _check_results(function: Function, given: Mapping[str, NDArray[Any]], arrays: Mapping[str, Any]) -> None:
    """Arrays for results belong to results that are not parameters, and share memory with nothing; E708."""
    free = {output.name for output in function.outputs if output.alias is None}
    for name, array in given.items():
        if name not in free:
            known = ", ".join(sorted(free)) or "none"
            raise InputError("E708", f"{function.name}: no array can be given for '{name}'", help=f"for these: {known}")
        others = [*arrays.items(), *(item for item in given.items() if item[0] != name)]
        for other, used in others:
            if _overlap(array, used):
                raise InputError("E708", f"{function.name}: result '{name}' and '{other}' share memory")


def _prepare(function: Function, arrays: dict[str, Any]) -> None:
    """Make every array contiguous and aligned. Raises E708 where what is written shares memory with another argument,
    as eager execution refuses it: a copy would hide that the two are one."""
    for name in [item.name for item in function.inputs if item.inout and item.name in arrays]:
        for other, array in arrays.items():
            if other != name and _overlap(arrays[name], array):
                raise InputError(
                    "E708", f"{function.name}: inputs '{name}' and '{other}' share memory, and '{name}' is written",
                    help="give a copy for one of them",
                )  # fmt: skip
    for item in function.inputs:
        array = arrays.get(item.name)
        if array is None:
            continue
        if not isinstance(array, np.ndarray):
            if item.inout and array.readonly:
                arrays[item.name] = array.copy()
            continue
        usable = array.flags.c_contiguous and array.flags.aligned
        if not usable or (item.inout and not array.flags.writeable):
            try:
                arrays[item.name] = np.array(array, order="C", copy=True)
            except (MemoryError, ValueError) as error:
                told = f"{function.name}: no memory for a dense copy of input '{item.name}' of shape {array.shape}"
                raise InputError("E713", told) from error


def _overlap(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        if not np.may_share_memory(a, b):
            return False
        if a.flags.c_contiguous and b.flags.c_contiguous:  # then what their bounds share they share
            return True
        try:
            return bool(np.shares_memory(a, b, max_work=10_000))  # type: ignore[arg-type]
        except np.exceptions.TooHardError:
            return True
    return not isinstance(a, np.ndarray) and bool(a.overlaps(b))


class Bundle(Mapping[str, BundleFunction]):
    """A loaded bundle: `bundle["f"](x)`. A mapping from function names to functions."""

    def __init__(self, file: BundleFile, device: Device) -> None:
        self.file = file
        self.device = device
        self.target: Target = device.select(file.manifest)
        self.program: Program = device.load(file, self.target)
        self.plans = {plan.function: plan for plan in self.target.plans}
        self._functions = {f.name: BundleFunction(self, f, i) for i, f in enumerate(file.manifest.functions)}

    def device_array(self, dtype: str, shape: tuple[int, ...], instance: Instance) -> Any:
        """Memory on the device for a result of a call."""
        program: Any = self.program
        device: Any = self.device
        return device.empty(dtype, shape, program.origin(instance))

    @property
    def manifest(self) -> Manifest:
        """What the bundle says about itself."""
        return self.file.manifest

    @property
    def functions(self) -> Mapping[str, Function]:
        """Signatures by name."""
        return MappingProxyType({name: f.function for name, f in self._functions.items()})

    def __getitem__(self, name: str) -> BundleFunction:
        function = self._functions.get(name)
        if function is None:
            known = ", ".join(self._functions)
            raise InputError("E714", f"the bundle has no function '{name}'", help=f"its functions: {known}")
        return function

    def __contains__(self, name: object) -> bool:
        return name in self._functions

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)

    def __repr__(self) -> str:
        return f"<tessera bundle {', '.join(self._functions)} on {self.device.name} ({self.target.name})>"


def _check_options(
    source: Any, device: Any, threads: Any, require_signature: Any, weights: Any, capture_graph: Any, graph_limit: Any
) -> None:
    """E801 for an argument of `load` that is nothing of the kind; what its value means is found out later."""
    path = (str, os.PathLike)
    keys = (bytes, *path)
    several = isinstance(require_signature, (list, tuple, set, frozenset))
    for name, value, fits, expected in (
        ("source", source, isinstance(source, (*keys, bytearray, memoryview)) or _is_integer(source),
         "a path, bytes or a file descriptor"),
        ("device", device, isinstance(device, str) or (hasattr(device, "select") and hasattr(device, "load")),
         "a device's name or a Device"),
        ("threads", threads, threads is None or _is_integer(threads), "a number of threads or None"),
        ("require_signature", require_signature,
         require_signature is None or isinstance(require_signature, keys)
         or (several and all(isinstance(item, keys) for item in require_signature)), "a key, a folder or a list"),
        ("weights", weights, weights is None or isinstance(weights, path), "a folder or None"),
        ("capture_graph", capture_graph, isinstance(capture_graph, bool) or capture_graph == "strict",
         'True, False or "strict"'),
        ("graph_limit", graph_limit, _is_integer(graph_limit) and graph_limit >= 1, "a number from 1"),
    ):  # fmt: skip
        if not fits:
            shown = repr(value) if isinstance(value, (bool, int, float, str)) else f"a {type(value).__name__}"
            raise UsageError("E801", f"load: {name} is {shown[:80]}, expected {expected}")


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def load(
    source: Any,
    device: str | Device = "cpu",
    threads: int | None = None,
    *,
    verify_weights: bool = False,
    require_signature: Any = None,
    weights: Any = None,
    capture_graph: bool | str = False,
    graph_limit: int = 16,
) -> Bundle:
    """Load and verify a bundle from a path, bytes or a file descriptor, for a device.

    `device` is `cpu`, `cuda`, `cuda:N`, `emulator` (with the compiler installed) or a `Device`; `threads` is for the
    CPU, by default all that this process may use. Raises TesseraError (E6xx, E8xx, E9xx).

    `require_signature` is a public key (its file, or 32 bytes), a folder of public keys of which any will do, or a list
    of these that must all be met; by default what the environment variable TESSERA_REQUIRE_SIGNATURE lists, `()` for
    nothing. E651 and E652 when the bundle is not signed so; then nothing of its manifest was looked at.

    `weights` is the folder with the weights of a bundle that does not hold them, by default the bundle's own; E614.

    With `capture_graph`, calls on a GPU run as CUDA graphs, one per function and extents, `graph_limit` at most; the
    one that was not used for longest is given up. `"strict"` refuses what would run otherwise (E909). Other devices
    have none, and ignore it unless it is strict.

    Arguments of other types or values are E801.
    """
    _check_options(source, device, threads, require_signature, weights, capture_graph, graph_limit)
    if require_signature is None and "TESSERA_REQUIRE_SIGNATURE" not in os.environ:
        require_signature = ()
    file = BundleFile(source, verify_weights=verify_weights, require_signature=require_signature, weights=weights)
    with about(file.path):
        bundle = Bundle(file, open_device(device, threads) if isinstance(device, str) else device)
    if capture_graph:
        strict = capture_graph == "strict"
        enable = getattr(bundle.program, "capture_graphs", None)
        if enable is not None:
            from tessera_runtime.devices.cuda_graphs import Capture

            enable(Capture(graph_limit, strict))
        elif strict:
            raise DeviceError("E909", f"device {bundle.device.name} has no graphs", help="capture_graph goes with cuda")
    return bundle

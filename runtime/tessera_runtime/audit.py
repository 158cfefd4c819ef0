"""What loading leaves for later or to other machines: every image in its strict form, every test well formed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tessera_runtime.core import safetensors
from tessera_runtime.core.dtypes import from_file
from tessera_runtime.core.errors import BundleError, about

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tessera_runtime.bundle import BundleFile
    from tessera_runtime.core.manifest import Test

__all__ = ["audit", "vectors"]


def audit(file: BundleFile) -> None:
    """Check the CPU images of all targets (E630, E631, E633) and the embedded tests (E640, E641). Runs nothing."""
    with about(file.path):
        _audit(file)


def _audit(file: BundleFile) -> None:
    from tessera_runtime.devices.elf import check_description, read_symbols

    for target in file.manifest.targets:
        if target.kind != "cpu":
            continue
        code = file.entry(target.image)
        symbols = read_symbols(code, target.machine)
        for kernel in target.kernels:
            if kernel.symbol not in symbols:
                raise BundleError("E631", f"the image of {target.name} has no function '{kernel.symbol}'")
        check_description(code, target.kernels)
    for test in file.manifest.tests:
        vectors(file, test)


def vectors(file: BundleFile, test: Test) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """The inputs and the expected results of an embedded test, by name. E640, E641."""
    with about(file.path):
        return _vectors(file, test)


def _vectors(file: BundleFile, test: Test) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    function = file.manifest.function(test.function)
    assert function is not None, "the manifest was checked"
    tensors = safetensors.load(file.entry(test.entry))
    inputs = {name[3:]: array for name, array in tensors.items() if name.startswith("in/")}
    expected = {name[4:]: array for name, array in tensors.items() if name.startswith("out/")}
    outputs = {item.name for item in function.outputs}
    if inputs.keys() != {item.name for item in function.inputs} or not expected.keys() <= outputs:
        raise BundleError("E641", f"test '{test.name}' does not give the inputs and results of {function.name}")
    if len(inputs) + len(expected) != len(tensors):
        raise BundleError("E641", f"test '{test.name}' has tensors that are neither inputs nor results")
    types = {item.name: item.dtype for item in function.outputs}
    wanted = {name: from_file(array, types[name]) for name, array in expected.items()}
    return {item.name: from_file(inputs[item.name], item.dtype) for item in function.inputs}, wanted

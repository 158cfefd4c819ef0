"""Tensors and other libraries' arrays over one memory: DLPack and NumPy's array protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tessera.errors import SourceError
from tessera_runtime.core.errors import InputError

if TYPE_CHECKING:
    from tessera.arrays import Array
    from tessera.tensor import Tensor

__all__ = ["Exchange", "from_dlpack"]


class Exchange:
    """What an eager tensor offers: `torch.from_dlpack(x)`, `np.from_dlpack(x)`. The memory is shared and read-only."""

    __slots__ = ()
    _data: Array

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0

    def __dlpack__(
        self, *, stream: Any = None, max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None, copy: bool | None = None,
    ) -> Any:  # fmt: skip
        from tessera_runtime.dlpack import Exported

        # Tensors are immutable. A consumer that cannot be told so (before DLPack 1) gets a copy.
        old = max_version is None or max_version[0] < 1
        shared = Exported(self._data, readonly=True)
        return shared.__dlpack__(stream=stream, max_version=max_version, dl_device=dl_device, copy=copy or old)


def from_dlpack(x: Any) -> Tensor:
    """A tensor over the memory of any object with `__dlpack__` on the CPU, without a copy. SourceError E311.

    Tensors are immutable: do not write to that memory while the tensor is in use.
    """
    from tessera.tensor import EagerTensor, Tensor

    if isinstance(x, Tensor):
        return x
    if not hasattr(x, "__dlpack__"):
        raise SourceError("E311", f"an object of type {type(x).__name__} has no __dlpack__")
    from tessera_runtime.dlpack import from_dlpack as taken

    try:
        return EagerTensor(taken(x))
    except InputError as error:
        raise SourceError("E311", error.message, help=error.help) from None

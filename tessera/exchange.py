"""Tensors for other libraries, over one memory: DLPack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tessera_runtime.dlpack import Exported

if TYPE_CHECKING:
    from tessera.arrays import Array

__all__ = ["Exchange"]


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
        # Tensors are immutable. A consumer that cannot be told so (before DLPack 1) gets a copy.
        old = max_version is None or max_version[0] < 1
        shared = Exported(self._data, readonly=True)
        return shared.__dlpack__(stream=stream, max_version=max_version, dl_device=dl_device, copy=copy or old)

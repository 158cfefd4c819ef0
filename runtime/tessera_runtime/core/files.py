"""Writing files so that nobody ever sees a part of one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from tessera_runtime.core.errors import UsageError

__all__ = ["check_apart", "write_atomic"]


def check_apart(written: str | None, *read: str | None) -> None:
    """E803 where a file that is to be written is one of those that are read, by whatever name: a report over what it
    is of."""
    for path in read:
        with suppress(OSError):
            if written and path and os.path.samefile(written, path):
                raise UsageError("E803", f"cannot write '{written}': it is what is read")


def write_atomic(path: str, data: bytes | Sequence[bytes | memoryview], *, mode: int = 0o666) -> None:
    """Write beside the target and rename: `data`, or its pieces one after the other. E803 when that is not possible.

    Then nothing is left behind. `mode` is the file's before the process's mask is applied. A link stays, and what it
    points to is written; a device or a pipe is written to, never replaced, which root could do.
    """
    import tempfile  # slow to import, and most processes write nothing

    parts = [data] if isinstance(data, bytes) else data
    temporary: str | None = None
    try:
        if not path:
            raise FileNotFoundError(2, "No such file or directory")
        if os.path.isdir(path):
            raise IsADirectoryError(21, "Is a directory")
        if os.path.exists(path) and not os.path.isfile(path):
            with open(path, "wb") as file:
                file.writelines(parts)
            return
        target = os.path.realpath(path)
        descriptor, temporary = tempfile.mkstemp(prefix=".tessera-", dir=os.path.dirname(target))
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, mode & ~mask)
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise UsageError("E803", f"cannot write '{path}': {error.strerror}") from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)

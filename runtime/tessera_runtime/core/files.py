"""Writing files so that nobody ever sees a part of one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from tessera_runtime.core.errors import UsageError

__all__ = ["check_apart", "same_file", "write_atomic"]


def same_file(a: str, b: str) -> bool:
    """Whether two paths name one regular file, or one that is still to be made, by whatever names."""
    try:
        return os.path.samefile(a, b) and os.path.isfile(a)
    except (OSError, ValueError):  # one of them, at least, is not there yet
        return os.path.realpath(a) == os.path.realpath(b)


def check_apart(written: str | None, *read: str | None) -> None:
    """E803 where a file that is to be written is one of those that are read: a report over what it is of."""
    for path in read:
        if written and path and same_file(written, path):
            raise UsageError("E803", f"cannot write '{written}': it is what is read")


def write_atomic(
    path: str, data: bytes | Sequence[bytes | memoryview], *, mode: int = 0o666, new: bool = False
) -> None:
    """Write beside the target and rename: `data`, or its pieces one after the other. E803 when that is not possible.

    Then nothing is left behind. `mode` is the file's before the process's mask is applied. A link stays, and what it
    points to is written; a device or a pipe is written to, never replaced, which root could do. `new` refuses whatever
    is there already: of several writers at once one succeeds.
    """
    import tempfile  # slow to import, and most processes write nothing

    parts = [data] if isinstance(data, bytes) else data
    temporary: str | None = None
    try:
        if not path:
            raise FileNotFoundError(2, "No such file or directory")
        if os.path.isdir(path):
            raise IsADirectoryError(21, "Is a directory")
        if not new and os.path.exists(path) and not os.path.isfile(path):
            with open(path, "wb") as file:
                file.writelines(parts)
            return
        target = os.path.abspath(path) if new else os.path.realpath(path)
        descriptor, temporary = tempfile.mkstemp(prefix=".tessera-", dir=os.path.dirname(target))
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, mode & ~mask)
        if new:
            os.link(temporary, target)  # unlike a rename, never over what another has made meanwhile
        else:
            os.replace(temporary, target)
            temporary = None
    except FileExistsError:
        raise UsageError("E803", f"'{path}' exists already, and is not overwritten") from None
    except OSError as error:
        raise UsageError("E803", f"cannot write '{path}': {error.strerror}") from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)

"""Files of every command: reading bounded, writing so that nobody ever sees a part of one."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO, NoReturn

from tessera_runtime.core import streams
from tessera_runtime.core.errors import UsageError

if TYPE_CHECKING:
    from io import BufferedReader

__all__ = [
    "TEXT_LIMIT", "alone", "as_text", "check_apart", "check_output", "is_file_name", "open_regular", "read_bytes",
    "read_text", "same_file", "write_atomic",
]  # fmt: skip

TEXT_LIMIT = 256 << 20  # bytes of a text: no source, IR or PTX is larger, and a device without end is


def read_bytes(path: str | os.PathLike[str], limit: int = TEXT_LIMIT, *, regular: bool = False) -> bytes:
    """What a file holds; `-` is stdin, and a pipe is read to its end unless the file must be `regular`.

    E802 where it cannot be read, or has more bytes than `limit`.
    """
    try:
        if regular:
            with open_regular(path) as file:
                return _whole(file, limit)
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
            return _whole(file, limit)
    except (OSError, ValueError) as error:
        _cannot_read(path, error)


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """A regular file, open for reading. E802 for any other, which reading might wait for, or never end."""
    try:
        # opening a pipe would wait for somebody to write into it
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, f"it is {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}")
        return open(descriptor, "rb")
    except (OSError, ValueError) as error:
        if path == "-" and isinstance(error, FileNotFoundError):
            error = OSError(errno.EINVAL, "a file is needed, which can be read again")
        _cannot_read(path, error)


def _cannot_read(path: str | os.PathLike[str], error: OSError | ValueError) -> NoReturn:
    shown = "the standard input" if path == "-" else f"'{os.fspath(path)}'"
    raise UsageError("E802", f"cannot read {shown}: {_reason(error)}") from error


def _whole(file: BinaryIO, limit: int) -> bytes:
    about = os.fstat(file.fileno())
    if stat.S_ISREG(about.st_mode) and about.st_size <= limit:
        return file.read()
    data = bytearray()  # a device may have no end
    while about.st_size <= limit and len(data) <= limit:
        part = file.read(1 << 20)
        if not part:
            return bytes(data)
        data += part
    raise OSError(errno.EFBIG, f"it is larger than {limit >> 20} MiB")


def read_text(path: str | os.PathLike[str], limit: int = TEXT_LIMIT) -> str:
    """The text of a file, UTF-8. E802."""
    return as_text(read_bytes(path, limit), path)


def as_text(data: bytes, path: str | os.PathLike[str]) -> str:
    """The text that bytes of a file are, its lines ended as Python ends them. E802."""
    try:
        return data.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise UsageError("E802", f"'{os.fspath(path)}' is not UTF-8 text (byte {error.start})") from None


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


def check_output(*paths: str | None) -> None:
    """Find out before the work, not after it, that a command cannot write a file, or two results to one. E803.

    If one is the process's own stdout, what the command says from now on goes to stderr.
    """
    written = [path for path in paths if path is not None]
    for number, path in enumerate(written):
        if any(same_file(path, other) for other in written[:number]):
            raise UsageError("E803", f"cannot write '{path}': two results would be in one file")
        try:
            _check(path)
        except (OSError, ValueError) as error:
            _cannot_write(path, error)
        if _descriptor(path) == streams.STDOUT:
            streams.give_up_stdout()


@contextmanager
def alone(*paths: str) -> Iterator[None]:
    """Around reading files and writing them anew: others that do it under these locks wait, and read what was written.

    A lock is on the file itself, or on its folder where there is none yet. `write_atomic` puts another file in its
    place, so one who has waited looks again whether what was locked still has the name. Files come before folders and
    otherwise by number, so that nobody waits in a circle. Nobody waits where a file system has no locks, nor for what
    is no regular file.
    """
    import fcntl

    while True:
        with ExitStack() as held:
            locks = [_lockable(path, held) for path in paths]
            found = {(stat.S_ISDIR(about.st_mode), about.st_dev, about.st_ino): fd for fd, about in filter(None, locks)}
            for _, descriptor in sorted(found.items()):
                with suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
            if all(lock is None or _still(path, lock[1]) for path, lock in zip(paths, locks, strict=True)):
                yield
                return


def _lockable(path: str, held: ExitStack) -> tuple[int, os.stat_result] | None:
    """A descriptor of the file, or of its folder where there is no file of the name, until `held` is left; None where
    it is neither, which reading or writing will tell."""
    try:
        name = path if os.path.exists(path) else os.path.dirname(os.path.realpath(path))
        if name == path and not os.path.isfile(path):
            return None
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return None
    held.callback(os.close, descriptor)
    return descriptor, os.fstat(descriptor)


def _still(path: str, locked: os.stat_result) -> bool:
    """Whether what was locked for a name is what has to be: the file of that name, or the folder, and no file."""
    try:
        found = os.stat(path)
    except OSError:  # a file that was removed: reading it will tell
        return True
    return os.path.samestat(found, locked)


def write_atomic(
    path: str, data: bytes | Sequence[bytes | memoryview], *, mode: int = 0o666, new: bool = False
) -> None:
    """Write beside the target and rename: `data`, or its pieces one after the other. E803 when that is not possible.

    Then nothing is left behind. `mode` is the file's before the process's mask is applied. A link stays, and what it
    points to is written; a device, a pipe or an open descriptor (`/dev/stdout`, or `-`) is written to, never replaced.
    `new` refuses whatever is there already: of several writers at once one succeeds.
    """
    import tempfile  # slow to import, and most processes write nothing

    parts = [data] if isinstance(data, bytes) else data
    temporary: str | None = None
    try:
        _check(path)
        number = _descriptor(path)
        if not new and not is_file_name(path):
            with streams.binary(number) if number is not None else open(path, "wb") as file:
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
    except (OSError, ValueError) as error:
        _cannot_write(path, error)
    finally:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)


def _check(path: str) -> None:
    """OSError where a file of this name cannot be written, as far as that can be known without writing."""
    if not path:
        raise FileNotFoundError(errno.ENOENT, "its name is empty")
    if path == "-":
        return
    try:
        if stat.S_ISDIR(os.stat(path).st_mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if not os.path.isfile(path):
            return  # a device or a pipe
    except FileNotFoundError:
        if path.endswith(os.sep):
            raise IsADirectoryError(errno.EISDIR, "it is a folder") from None
    folder = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, "no such folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "permission denied")


def is_file_name(path: str) -> bool:
    """Whether what is written under this name is a regular file: no device, pipe or open descriptor."""
    return _descriptor(path) is None and (os.path.isfile(path) or not os.path.exists(path))


def _descriptor(path: str) -> int | None:
    """The open descriptor of this process that a name stands for: `-`, `/dev/stdout`, `/dev/fd/3`."""
    if path == "-":
        return streams.STDOUT
    own = os.path.realpath("/proc/self/fd")
    while os.path.islink(path):
        folder, name = os.path.realpath(os.path.dirname(path)), os.path.basename(path)
        if folder == own and name.isascii() and name.isdigit():
            return int(name)
        path = os.path.join(folder, os.readlink(path))
    return None


def _cannot_write(path: str, error: OSError | ValueError) -> NoReturn:
    raise UsageError("E803", f"cannot write '{path}': {_reason(error)}") from error


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.errno == errno.EBADF:
        return "it is closed"
    return getattr(error, "strerror", None) or str(error)

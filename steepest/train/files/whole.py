"""Files that are whole or absent, whenever the process or the machine stops.

A file is written under another name in the same folder, waited for until it is on disk, and renamed
over the old one; then the folder is waited for. No other file system, as that of `$TMPDIR`, has a
part in it.
"""

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import safetensors

from steepest.errors import CheckpointError

if os.name == "posix":
    import fcntl

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
BINARY = getattr(os, "O_BINARY", 0)
NO_LINK = getattr(os, "O_NOFOLLOW", 0)
NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # for the other end of a FIFO


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary file beside `path` and put it in place once it is on disk.

    Killed at any moment, `path` holds the old file or the new one; what a killed write leaves
    behind, the next one overwrites.

    Raises:
        CheckpointError: the file cannot be written; what `path` held stays as it was.
    """
    with replacing(path) as file:
        mode = os.fstat(file.fileno()).st_mode  # what the user's umask gives, and no other
        write(Path(file.name))
        os.chmod(file.name, mode)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file of these bytes, whole or not at all.

    Raises:
        CheckpointError: as `write_whole`.
    """
    with replacing(path, len(content)) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write a file of this text, in UTF-8, whole or not at all.

    Raises:
        CheckpointError: as `write_whole`.
    """
    write_bytes(path, text.encode())


@contextmanager
def replacing(path: Path, size: int | None = None) -> Iterator[BinaryIO]:
    """Give a file to fill with (`size`) bytes, which takes the place of `path` once it is on disk.

    It is locked, as two processes that write to one path would mix their bytes.

    Raises:
        CheckpointError: as `write_whole`.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "r+b", opener=_open_own) as file:
            try:
                yield file
                file.flush()
                sync(temporary)
                if os.name == "nt":
                    file.close()  # Windows renames no open file
                os.replace(temporary, path)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink()
                raise
        sync(path.parent)
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        raise CheckpointError(why_unwritten(path, error, size)) from error


def open_plain(path: Path | str) -> BinaryIO:
    """Open a file to read it, unbuffered; a FIFO, device or folder is refused at once.

    Raises:
        CheckpointError: it is none that can be read.
    """
    try:
        file = open(path, "rb", buffering=0, opener=_open_at_once)  # noqa: SIM115
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file
        file.close()
    except OSError as error:
        raise CheckpointError(f"cannot be read: {first_line(error)}") from None
    raise CheckpointError("is not a plain file")


def read_plain(path: Path | str, most: int = 2**24) -> bytes:
    """Return the bytes of a plain file of at most so many.

    Raises:
        CheckpointError: it has more, or is none that can be read; the message lacks its name.
    """
    with open_plain(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise CheckpointError(f"has more than {most:,} bytes")
    return content


def sync(path: Path) -> None:
    """Wait until a file or a folder is on disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folder
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that syncs no folders
            raise
    finally:
        os.close(descriptor)


def first_line(error: BaseException) -> str:
    """Return what an error says, as a part of a sentence."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | BINARY | NO_WAIT)


def _open_own(path: str, flags: int) -> int:
    """Open a plain file for this process alone, empty; never one that a link leads to."""
    while True:
        descriptor = os.open(path, flags | os.O_CREAT | BINARY | NO_LINK | NO_WAIT, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EEXIST, f"{path} is there and is not a plain file")
            _lock(descriptor, path)
            if _is_at(descriptor, path):
                os.ftruncate(descriptor, 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its writer has put it in place meanwhile


def _lock(descriptor: int, path: str) -> None:
    if os.name != "posix":
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError(errno.EBUSY, f"another process or thread is writing {path}") from None
    except OSError:  # a file system without locks
        return


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def why_unwritten(path: Path, error: Exception, size: int | None = None) -> str:
    """Return the sentence that says why a file (of so many bytes) could not be written."""
    reason = first_line(error)
    if isinstance(error, OSError) and error.errno in FULL:
        with suppress(OSError):
            free = shutil.disk_usage(path.parent).free
            needs = "" if size is None else f"it needs {size:,} bytes and "
            reason += f" ({needs}{free:,} are free)"
    return f"{path} could not be written: {reason}; free or choose another place"
